"""Reinforcement Learning from Evol-Instruct Feedback: evolve problems, train reward models, run PPO on IRM x PRM.

Importing this module is cheap: torch and transformers load when a name that needs them is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_EXPORTS = {
    "Completion": "rleif.records",
    "Decontaminator": "rleif.evolution.decontaminate",
    "DownwardEvolution": "rleif.evolution.downward",
    "EvolInstruct": "rleif.evolution.evolve",
    "Grade": "rleif.grading",
    "Operator": "rleif.teachers.base",
    "Problem": "rleif.records",
    "RLEIFConfig": "rleif.config",
    "RLEIFTrainer": "rleif.trainer",
    "Rejection": "rleif.records",
    "Sampling": "rleif.records",
    "Solution": "rleif.records",
    "SymbolicTeacher": "rleif.teachers.symbolic",
    "Teacher": "rleif.teachers.base",
    "TransformersEngine": "rleif.rollout",
    "UpwardEvolution": "rleif.evolution.upward",
    "extract_answer": "rleif.grading",
    "grade": "rleif.grading",
}

__all__ = sorted(_EXPORTS)  # pyright: ignore[reportUnsupportedDunderAll]

if TYPE_CHECKING:
    from rleif.config import RLEIFConfig as RLEIFConfig
    from rleif.evolution.decontaminate import Decontaminator as Decontaminator
    from rleif.evolution.downward import DownwardEvolution as DownwardEvolution
    from rleif.evolution.evolve import EvolInstruct as EvolInstruct
    from rleif.evolution.upward import UpwardEvolution as UpwardEvolution
    from rleif.grading import Grade as Grade
    from rleif.grading import extract_answer as extract_answer
    from rleif.grading import grade as grade
    from rleif.records import Completion as Completion
    from rleif.records import Problem as Problem
    from rleif.records import Rejection as Rejection
    from rleif.records import Sampling as Sampling
    from rleif.records import Solution as Solution
    from rleif.rollout import TransformersEngine as TransformersEngine
    from rleif.teachers.base import Operator as Operator
    from rleif.teachers.base import Teacher as Teacher
    from rleif.teachers.symbolic import SymbolicTeacher as SymbolicTeacher
    from rleif.trainer import RLEIFTrainer as RLEIFTrainer


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'rleif' has no attribute {name!r}; it exports {', '.join(__all__)}")
    return getattr(import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
