"""What a run came to: results.json, a table, figures and report.md. Reads files of the run directory only.

Whatever a run has not made is left out, so a report of an unfinished run is possible at any time.
"""

import json
import platform
import subprocess
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rleif.figures import draw_figures
from rleif.pipeline.stages import NAMES
from rleif.pipeline.state import read_done, write_json
from rleif.records import read_rows
from rleif.settings import load_yaml

MODELS = ("sft", "ppo")
PACKAGES = ("rleif", "torch", "transformers", "trl", "accelerate", "datasets", "tokenizers", "peft", "math-verify")
NUM_EXAMPLES = 4

Say = Callable[[str], None]


def write_report(run_dir: str | Path, *, seed: int | None = None, say: Say = print) -> dict[str, Any]:
    """Write results.json, figures/*.png and report.md; print the table. Returns the content of results.json."""
    folder = Path(run_dir)
    if not (folder / "config.yaml").is_file():
        raise ValueError(f"{folder} is no run directory: there is no config.yaml in it")
    if seed is None:
        seed = (load_yaml(folder / "config.yaml").get("run") or {}).get("seed", 0)
    results = collect(folder, seed=seed)
    write_json(folder / "results.json", results)
    figures = draw_figures(folder, results)
    (folder / "report.md").write_text(markdown(folder, results, figures), encoding="utf-8")
    say("\n".join(table(results)))
    say(f"results: {folder / 'results.json'}   report: {folder / 'report.md'}")
    return results


def collect(folder: Path, *, seed: int | None) -> dict[str, Any]:
    """The content of results.json."""
    results: dict[str, Any] = {}
    for name in MODELS:
        if metrics := _json(folder / "eval" / name / "metrics.json"):
            results[name] = metrics
    if comparison := _json(folder / "eval" / "comparison.json"):
        results["comparison"] = comparison
    for name, keys in (("irm", ("pair_accuracy",)), ("prm", ("step_accuracy", "first_error_f1"))):
        metrics = _json(folder / name / "metrics.json")
        if found := {key: metrics[key] for key in keys if key in metrics}:
            results[name] = found
    results["seconds"] = _seconds(folder)
    results["versions"] = _versions()
    results["commit"] = _commit()
    results["seed"] = seed
    return results


def _seconds(folder: Path) -> dict[str, float]:
    done = {name: read_done(folder, name) for name in NAMES}
    seconds = {name: record.seconds for name, record in done.items() if record is not None}
    return seconds | {"total": round(sum(seconds.values()), 2)}


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _commit() -> str | None:
    """The commit of the source tree, with a mark for uncommitted changes; None outside a checkout."""
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        found = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    except OSError:  # no git
        return None
    return found.stdout.strip() or None


def table(results: Mapping[str, Any]) -> list[str]:
    """The lines that a run prints at its end."""
    lines = [""]
    present = [name for name in MODELS if name in results]
    if present:
        lines += _model_table(results, present)
    comparison = results.get("comparison") or {}
    for name in ("greedy", "sampled"):
        if part := comparison.get(name):
            lines.append(f"{name} pass@1, ppo - sft, same problems: {_points(part['difference'], part['interval'])}")
    if comparison.get("mcnemar_p") is not None:
        lines.append(
            f"greedy: {comparison['only_after']} problems solved by ppo alone, {comparison['only_before']} by sft "
            f"alone, McNemar p = {comparison['mcnemar_p']:.2g}"
        )
    for name in ("irm", "prm"):
        lines += [f"{name} {key}: {value:.3f}" for key, value in (results.get(name) or {}).items()]
    seconds = results["seconds"]
    lines.append("seconds: " + ", ".join(f"{name} {value:.0f}" for name, value in seconds.items()))
    return lines


def _model_table(results: Mapping[str, Any], present: Sequence[str]) -> list[str]:
    metrics = [name for name in results[present[0]] if name in results[present[0]].get("intervals", {})]
    rows = [["metric", *present]]
    for metric in metrics:
        cells = [_percent(results[name][metric], results[name]["intervals"].get(metric)) for name in present]
        rows.append([metric, *cells])
    rows.append(["problems", *(str(results[name]["n"]) for name in present)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _percent(value: float, interval: Sequence[float] | None) -> str:
    text = f"{100 * value:5.1f}%"
    return text if interval is None else f"{text} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"


def _points(value: float, interval: Sequence[float]) -> str:
    return f"{100 * value:+.1f} points [{100 * interval[0]:+.1f}, {100 * interval[1]:+.1f}]"


def markdown(folder: Path, results: Mapping[str, Any], figures: Sequence[Path]) -> str:
    """The content of report.md."""
    parts = [f"# {folder.name}", "", "```", *table(results)[1:], "```", ""]
    parts.append(f"Seed {results['seed']}, commit {results['commit'] or 'unknown'}. Intervals are 95%.")
    parts += ["", *(f"![{path.stem.replace('_', ' ')}]({path.relative_to(folder)})\n" for path in figures)]
    if examples := _examples(folder):
        parts += ["## Greedy completions before and after", "", *examples]
    return "\n".join(parts).rstrip() + "\n"


def _examples(folder: Path) -> list[str]:
    """Problems on which the two models differ first: half gained, half lost, so that the choice flatters neither."""
    paths = [folder / "eval" / name / "samples.jsonl" for name in MODELS]
    if not all(path.is_file() for path in [*paths, folder / "heldout.jsonl"]):
        return []
    before, after = ({row["problem_id"]: row for row in read_rows(path) if row["mode"] == "greedy"} for path in paths)
    groups: dict[tuple[bool, bool], list[str]] = defaultdict(list)
    for name in before.keys() & after.keys():
        groups[before[name]["grade"] == "correct", after[name]["grade"] == "correct"].append(name)
    half = NUM_EXAMPLES // 2
    chosen = [*sorted(groups[False, True])[:half], *sorted(groups[True, False])[:half]]
    chosen = chosen or [*sorted(groups[True, True])[:1], *sorted(groups[False, False])[:1]]
    texts = {row["id"]: row["instruction"] for row in read_rows(folder / "heldout.jsonl")}
    lines = []
    for name in chosen:
        lines += [f"**Problem.** {texts.get(name, name)} (answer: {before[name]['gold']})", ""]
        for title, row in (("SFT", before[name]), ("PPO", after[name])):
            # Four backticks: a completion may hold three.
            lines += [f"{title}, {row['grade']}:", "", "````text", row["text"].strip(), "````", ""]
    return lines


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
