"""What each option of the reward models does: both trained as a run set them, and again with options taken out.

    python benchmarks/quality/reward_options.py --run runs/gsm8k

Takes the SFT model, the labels and the settings of a finished run. Taken out in turn: the next-token loss (`lm_coef`),
Muon (`muon_learning_rate`), the aspects (`aspect_coef`, IRM), and all of them, which leaves the ranking or the step
loss with AdamW at the run's `learning_rate`. Writes a JSON with command, commit, settings and the metrics on the run's
held-out labels, and prints a table.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
DATA = {"irm": "ranked", "prm": "stepped"}
OPTIONS = {"irm": ("lm_coef", "muon_learning_rate", "aspect_coef"), "prm": ("lm_coef", "muon_learning_rate")}
SHOWN = {"irm": ("pair_accuracy",), "prm": ("step_accuracy", "first_error_f1")}


def main() -> int:
    arguments = parse_arguments()
    run = Path(arguments.run).resolve()
    settings = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    rows = [
        {"kind": kind, "without": list(left_out), **trained(run, kind, settings[kind], left_out, arguments)}
        for kind in arguments.kinds
        for left_out in choices(settings[kind], OPTIONS[kind])
    ]
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    report = {
        "command": " ".join(["python", *sys.argv]),
        "commit": commit.stdout.strip(),
        "settings": {kind: settings[kind] for kind in arguments.kinds},
        "rows": rows,
    }
    out = ROOT / arguments.output
    out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    for row in rows:
        metrics = "  ".join(f"{name} {row[name]:.3f}" for name in SHOWN[row["kind"]])
        what = f"without {', '.join(row['without'])}" if row["without"] else "as set"
        print(f"{row['kind']}  {what:<52}  {metrics}  {row['train_runtime']:.0f} s")
    print(f"written: {out}")
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="runs/gsm8k", help="folder of a finished run")
    parser.add_argument("--kinds", nargs="+", choices=tuple(DATA), default=list(DATA))
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--output", default="benchmarks/results/reward_options.json")
    return parser.parse_args()


def choices(settings: dict[str, Any], options: Sequence[str]) -> list[tuple[str, ...]]:
    """Which of the options that are set to leave out: none, each, all."""
    chosen = [name for name in options if settings.get(name)]
    single = [(name,) for name in chosen]
    return [(), *single, *([tuple(chosen)] if len(chosen) > 1 else [])]


def trained(
    run: Path, kind: str, settings: dict[str, Any], left_out: Sequence[str], arguments: argparse.Namespace
) -> dict[str, Any]:
    """The metrics of one reward model, trained by the command line in a process of its own."""
    out = run.with_name(f"{run.name}-reward_options") / "-".join([kind, *left_out])
    options = {name: value for name, value in settings.items() if name not in left_out} | {
        "model": run / "sft",
        "train_file": run / f"label/{DATA[kind]}.jsonl",
        "eval_file": run / f"label/{DATA[kind]}_heldout.jsonl",
        "output_dir": out,
        "report_to": "none",
        "disable_tqdm": True,
    }
    flags = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "reward_models", kind, *flags]
    environment = os.environ | {"OMP_NUM_THREADS": str(arguments.threads)}
    print(" ".join(command), flush=True)
    subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, check=True)
    return json.loads((out / "metrics.json").read_text(encoding="utf-8"))


if __name__ == "__main__":
    sys.exit(main())
