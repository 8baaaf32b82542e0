"""Instruction and process reward models: train them from JSONL, score with them. Knows nothing of rleif.

Importing this module is cheap: torch and transformers load when a name that needs them is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_EXPORTS = {
    "DataError": "reward_models.records",
    "IRMArguments": "reward_models.irm",
    "IRMConfig": "reward_models.irm",
    "IRMTrainer": "reward_models.irm",
    "InstructionRewardModel": "reward_models.irm",
    "LabeledSolution": "reward_models.records",
    "LocatedError": "reward_models.records",
    "PRMArguments": "reward_models.prm",
    "PRMConfig": "reward_models.prm",
    "PRMTrainer": "reward_models.prm",
    "ProcessRewardModel": "reward_models.prm",
    "RankedInstructions": "reward_models.records",
    "Step": "reward_models.steps",
    "StepScores": "reward_models.prm",
    "aggregate": "reward_models.evaluate",
    "first_error_f1": "reward_models.evaluate",
    "join_steps": "reward_models.steps",
    "pair_accuracy": "reward_models.evaluate",
    "read_labeled": "reward_models.records",
    "read_located": "reward_models.records",
    "read_ranked": "reward_models.records",
    "split_steps": "reward_models.steps",
    "step_accuracy": "reward_models.evaluate",
    "step_end_tokens": "reward_models.steps",
    "train_irm": "reward_models.irm",
    "train_prm": "reward_models.prm",
    "write_jsonl": "reward_models.records",
}

__all__ = sorted(_EXPORTS)  # pyright: ignore[reportUnsupportedDunderAll]

if TYPE_CHECKING:
    from reward_models.evaluate import aggregate as aggregate
    from reward_models.evaluate import first_error_f1 as first_error_f1
    from reward_models.evaluate import pair_accuracy as pair_accuracy
    from reward_models.evaluate import step_accuracy as step_accuracy
    from reward_models.irm import InstructionRewardModel as InstructionRewardModel
    from reward_models.irm import IRMArguments as IRMArguments
    from reward_models.irm import IRMConfig as IRMConfig
    from reward_models.irm import IRMTrainer as IRMTrainer
    from reward_models.irm import train_irm as train_irm
    from reward_models.prm import PRMArguments as PRMArguments
    from reward_models.prm import PRMConfig as PRMConfig
    from reward_models.prm import PRMTrainer as PRMTrainer
    from reward_models.prm import ProcessRewardModel as ProcessRewardModel
    from reward_models.prm import StepScores as StepScores
    from reward_models.prm import train_prm as train_prm
    from reward_models.records import DataError as DataError
    from reward_models.records import LabeledSolution as LabeledSolution
    from reward_models.records import LocatedError as LocatedError
    from reward_models.records import RankedInstructions as RankedInstructions
    from reward_models.records import read_labeled as read_labeled
    from reward_models.records import read_located as read_located
    from reward_models.records import read_ranked as read_ranked
    from reward_models.records import write_jsonl as write_jsonl
    from reward_models.steps import Step as Step
    from reward_models.steps import join_steps as join_steps
    from reward_models.steps import split_steps as split_steps
    from reward_models.steps import step_end_tokens as step_end_tokens


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'reward_models' has no attribute {name!r}; it exports {', '.join(__all__)}")
    return getattr(import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return list(__all__)
