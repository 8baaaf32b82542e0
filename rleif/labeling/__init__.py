"""Labels, files to files: answers for SFT, ranked lists for the IRM, step labels for the PRM."""

from rleif.labeling.answers import AnswerArguments, label_answers
from rleif.labeling.checker import check_steps
from rleif.labeling.equations import Equation, evaluate, find_equations
from rleif.labeling.ranks import RankArguments, label_ranks
from rleif.labeling.steps import StepArguments, label_steps

__all__ = [
    "AnswerArguments",
    "Equation",
    "RankArguments",
    "StepArguments",
    "check_steps",
    "evaluate",
    "find_equations",
    "label_answers",
    "label_ranks",
    "label_steps",
]
