"""Upward evolution: harder problems from each seed."""

from collections.abc import Iterable, Mapping
from typing import Any

from rleif.evolution.evolve import EvolInstruct
from rleif.evolution.operators import MATH_UP
from rleif.evolution.schedules import Schedule, repeat
from rleif.teachers.base import Operator, Teacher


class UpwardEvolution(EvolInstruct):
    """One chain of upward rounds, each from the result of the round before.

    rounds: 3, as WizardMath v3, section 3.1. operators: add constraints, concretize, increase reasoning.
    evolutions_per_round: 1 (the paper: 6). Other options as in `EvolInstruct`.
    """

    def __init__(
        self,
        teacher: Teacher,
        *,
        rounds: int = 3,
        operators: Mapping[str, Operator] | Iterable[Operator] = MATH_UP,
        evolutions_per_round: int = 1,
        **options: Any,
    ) -> None:
        schedule = Schedule(
            name="upward", chains=(repeat(operators, rounds),), evolutions_per_round=evolutions_per_round
        )
        super().__init__(teacher, schedule, **options)
