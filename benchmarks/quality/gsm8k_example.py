"""Does PPO on IRM x PRM help? The bundled example over several seeds, with a control on shuffled rewards.

    python benchmarks/quality/gsm8k_example.py --seeds 3

The budget is longer than the example's own (`BUDGET`): more data for every model and more PPO iterations. `--as-is`
keeps the example's.

Each seed is a whole run of the configuration (own problems, own SFT model, own reward models). The control takes that
seed's SFT and reward models and trains PPO on rewards permuted over the samples of each iteration: what is left of an
improvement there did not come from the rewards. Runs are kept, so the same command continues after an interruption.

Writes a JSON with command, commit, versions, seeds and the results of every run, and prints a table.
"""

import argparse
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
RUNS = ROOT / "runs" / "quality"
BUDGET = (
    "run.threads=1",
    "evolve.num_seeds=48000",
    "answers.max_problems=60000",
    "samples.num_problems=4000",
    "ranks.max_lists=40000",
    "steps.max_problems=30000",
    "steps.corruptions_per_problem=3",
    "ppo.num_iterations=30",
    "ppo.learning_rate=1.5e-4",
)


def main() -> int:
    arguments = parse_arguments()
    content = yaml.safe_load((ROOT / arguments.config).read_text(encoding="utf-8"))
    changes = [*(() if arguments.as_is else BUDGET), *arguments.set]
    for item in changes:
        path, _, value = item.partition("=")
        section, _, key = path.partition(".")
        content.setdefault(section, {})[key] = yaml.safe_load(value)
    with ThreadPoolExecutor(arguments.jobs) as pool:
        seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
        rows = list(pool.map(lambda seed: run_seed(content, seed, arguments), seeds))
    report = summary(rows, arguments.config, changes)
    out = ROOT / arguments.output
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print("\n".join(table(rows)), f"\nwritten: {out}")
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="seeds at a time, each with run.threads threads")
    parser.add_argument("--no-control", action="store_true", help="leave out the runs on shuffled rewards")
    parser.add_argument("--config", default="examples/configs/gsm8k_symbolic.yaml", help="YAML")
    parser.add_argument("--as-is", action="store_true", help="the configuration's own budget")
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="section.key=value", help="changes to the configuration"
    )
    parser.add_argument("--name", default="example", help="folder of the runs, below runs/quality")
    parser.add_argument("--output", default="benchmarks/results/gsm8k_example.json")
    return parser.parse_args()


def run_seed(content: dict[str, Any], seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """The results of one seed and of its control."""
    folder = RUNS / arguments.name / f"seed-{seed}"
    full = content | {"run": content["run"] | {"output_dir": str(folder), "seed": seed}}
    row = {"seed": seed, "rleif": rleif_run(full, folder)}
    if not arguments.no_control:
        row["shuffled"] = rleif_run(control_of(full, folder), folder.with_name(f"seed-{seed}-shuffled"))
    return row


def control_of(content: dict[str, Any], folder: Path) -> dict[str, Any]:
    """PPO and evaluation alone, on the models of `folder`, with shuffled rewards."""
    made = {name: str(folder / name) for name in ("sft", "irm", "prm")}
    out = folder.with_name(f"{folder.name}-shuffled")
    ppo = {
        "model": made["sft"],
        "irm": made["irm"],
        "prm": made["prm"],
        "train_file": str(folder / "evolve/pool.jsonl"),
    }
    return {
        "run": content["run"] | {"output_dir": str(out), "stages": ["ppo", "eval"]},
        "ppo": content.get("ppo", {}) | ppo | {"shuffle_rewards": True},
        "eval": content.get("eval", {})
        | {
            "models": [f"sft={made['sft']}", f"ppo={out / 'ppo'}"],
            "prm": made["prm"],
            "problems": str(folder / "heldout.jsonl"),
        },
    }


def rleif_run(content: dict[str, Any], folder: Path) -> dict[str, Any]:
    """`rleif run` in its own process, so that no run sees another's memory; its results.json."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    with folder.with_suffix(".log").open("a", encoding="utf-8") as log:
        print(f"running {folder.name}; log in {log.name}", flush=True)
        command = [sys.executable, "-m", "rleif", "run", str(path)]
        result = subprocess.run(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, check=False)
    if result.returncode:
        raise SystemExit(f"{folder.name} failed with exit code {result.returncode}; see {folder.with_suffix('.log')}")
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def summary(rows: list[dict[str, Any]], config: str, changes: list[str]) -> dict[str, Any]:
    first = rows[0]["rleif"]
    return {
        "command": " ".join(["python", *sys.argv]),
        "commit": first["commit"],
        "versions": first["versions"],
        "seeds": [row["seed"] for row in rows],
        "settings": {"config": config, "changes": changes},
        "rows": rows,
    }


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Before and after of every run, in points."""
    lines = [f"{'run':<18}{'greedy SFT':>11}{'PPO':>7}{'change, 95%':>22}{'sampled SFT':>13}{'PPO':>7}{'change':>8}"]
    for row in rows:
        for name in ("rleif", "shuffled"):
            if name in row:
                lines.append(_line(f"{name}, seed {row['seed']}", row[name]))
    lines += ["", f"{'run':<18}{'IRM pairs':>11}{'PRM steps':>11}{'F1':>7}{'maj@8':>15}{'best-of-8':>15}{'seconds':>9}"]
    return lines + [_rewards_line(f"rleif, seed {row['seed']}", row["rleif"]) for row in rows]


def _rewards_line(name: str, results: dict[str, Any]) -> str:
    """The reward models on held-out data, and what they are worth in choosing one of eight samples."""
    irm, prm = results["irm"]["pair_accuracy"], results["prm"]
    votes, best = (
        " -> ".join(f"{100 * results[model][key]:.1f}" for model in ("sft", "ppo")) for key in ("maj8", "prm_best_of_8")
    )
    return (
        f"{name:<18}{irm:>11.3f}{prm['step_accuracy']:>11.3f}{prm['first_error_f1']:>7.3f}{votes:>15}{best:>15}"
        f"{results['seconds']['total']:>9.0f}"
    )


def _line(name: str, results: dict[str, Any]) -> str:
    sft, ppo, pair = results["sft"], results["ppo"], results["comparison"]
    low, high = (100 * bound for bound in pair["greedy"]["interval"])
    points = [100 * result[key] for key in ("pass1_greedy", "pass1_sampled") for result in (sft, ppo)]
    change = f"{points[1] - points[0]:+.1f} [{low:+.1f}, {high:+.1f}]"
    return (
        f"{name:<18}{points[0]:>11.1f}{points[1]:>7.1f}{change:>22}{points[2]:>13.1f}{points[3]:>7.1f}"
        f"{points[3] - points[2]:>+8.1f}"
    )


if __name__ == "__main__":
    sys.exit(main())
