"""What the next-token loss (`lm_coef`) does for both reward models: each trained with and without, on one run's data.

    python benchmarks/quality/lm_loss.py --run runs/gsm8k

Takes the SFT model, the labels and the settings of a finished run, and changes `lm_coef` alone. Writes a JSON with
command, commit, settings and the metrics on the run's held-out labels, and prints a table.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
DATA = {"irm": "ranked", "prm": "stepped"}
SHOWN = {"irm": ("pair_accuracy",), "prm": ("step_accuracy", "first_error_f1")}


def main() -> int:
    arguments = parse_arguments()
    run = Path(arguments.run).resolve()
    settings = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    rows = [
        {"kind": kind, "lm_coef": coefficient, **trained(run, kind, settings[kind], coefficient, arguments.threads)}
        for kind in arguments.kinds
        for coefficient in (0.0, settings[kind].get("lm_coef", 0.0))
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
        print(f"{row['kind']}  lm_coef {row['lm_coef']:<5}  {metrics}  {row['train_runtime']:.0f} s")
    print(f"written: {out}")
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="runs/gsm8k", help="folder of a finished run")
    parser.add_argument("--kinds", nargs="+", choices=tuple(DATA), default=list(DATA))
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--output", default="benchmarks/results/lm_loss.json")
    return parser.parse_args()


def trained(run: Path, kind: str, settings: dict[str, Any], coefficient: float, threads: int) -> dict[str, Any]:
    """The metrics of one reward model, trained by the command line in a process of its own."""
    files = {
        "model": run / "sft",
        "train_file": run / f"label/{DATA[kind]}.jsonl",
        "eval_file": run / f"label/{DATA[kind]}_heldout.jsonl",
        "output_dir": run.with_name(f"{run.name}-lm_loss") / f"{kind}-{coefficient}",
    }
    options = settings | files | {"lm_coef": coefficient, "report_to": "none", "disable_tqdm": True}
    flags = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "reward_models", kind, *flags]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    print(" ".join(command), flush=True)
    subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, check=True)
    return json.loads((files["output_dir"] / "metrics.json").read_text(encoding="utf-8"))


if __name__ == "__main__":
    sys.exit(main())
