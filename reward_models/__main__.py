"""`python -m reward_models {irm,prm,eval}`: train a reward model from JSONL, or measure one."""

import json
import sys
from collections.abc import Sequence

from reward_models.arguments import parse_arguments, run_command

USAGE = """usage: python -m reward_models {irm,prm,eval} [--config file.yaml] [--flag value ...]

commands:
  irm    train an instruction reward model on ranked lists:      --model --train_file --eval_file --output_dir ...
  prm    train a process reward model on judged solutions:       --model --train_file --eval_file --output_dir ...
  eval   measure a saved reward model on a file:                 --model --data_file --output_file ...

Every flag is also a key of the YAML file; `python -m reward_models irm --help` lists all of them. On several
processes: `accelerate launch -m reward_models irm --config file.yaml`."""


def _irm(argv: Sequence[str]) -> None:
    from reward_models.irm import IRMArguments, IRMConfig, train_irm

    arguments, config = parse_arguments((IRMArguments, IRMConfig), argv, "python -m reward_models irm")
    _print(train_irm(arguments, config))


def _prm(argv: Sequence[str]) -> None:
    from reward_models.prm import PRMArguments, PRMConfig, train_prm

    arguments, config = parse_arguments((PRMArguments, PRMConfig), argv, "python -m reward_models prm")
    _print(train_prm(arguments, config))


def _eval(argv: Sequence[str]) -> None:
    from reward_models.measure import EvalArguments, evaluate_file

    (arguments,) = parse_arguments((EvalArguments,), argv, "python -m reward_models eval")
    _print(evaluate_file(arguments))


def _print(metrics: dict) -> None:
    print(json.dumps(metrics, indent=2))


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: 0 done, 2 for a mistake in the call or in the data (told on stderr)."""
    return run_command({"irm": _irm, "prm": _prm, "eval": _eval}, USAGE, argv)


if __name__ == "__main__":
    sys.exit(main())
