"""Schedules as data: which operators are drawn in which round, how many evolutions, which eliminations.

seed ─> turn 1 ─> turn 2 ─> ...      one chain; each turn draws one of its operators uniformly
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from rleif.evolution.eliminate import WIZARDMATH, Rule
from rleif.evolution.operators import MATH_DOWN, MATH_UP
from rleif.teachers.base import Operator

Turn = tuple[Operator, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Chains of turns that start from every seed.

    >>> Schedule(name="two_up", chains=((tuple(MATH_UP.values()), tuple(MATH_UP.values())),))
    """

    name: str
    chains: tuple[tuple[Turn, ...], ...]  # one or more chains; a turn is the operators it draws from
    evolutions_per_round: int = 1  # samples per seed, chain and round; each continues on its own
    eliminate: tuple[Rule, ...] = WIZARDMATH
    source: str = ""

    def __post_init__(self) -> None:
        if not self.chains or not all(self.chains) or not all(turn for chain in self.chains for turn in chain):
            raise ValueError(f"schedule {self.name!r}: every chain needs a turn and every turn an operator")
        if self.evolutions_per_round < 1:
            raise ValueError(
                f"schedule {self.name!r}: evolutions_per_round must be >= 1, got {self.evolutions_per_round}"
            )

    @property
    def evolutions_per_seed(self) -> int:
        """How many children are tried for each seed over the whole schedule."""
        return self.evolutions_per_round * sum(map(len, self.chains))


def repeat(operators: Mapping[str, Operator] | Iterable[Operator], rounds: int) -> tuple[Turn, ...]:
    """`rounds` turns that each draw from the same operators."""
    if rounds < 1:
        raise ValueError(f"rounds must be >= 1, got {rounds}")
    turn = tuple(operators.values() if isinstance(operators, Mapping) else operators)
    return (turn,) * rounds


def wizardmath_v1(evolutions_per_round: int = 1) -> Schedule:
    """Eight turns, upward and downward operators drawn uniformly.

    *Source:* WizardMath v1 (arXiv 2308.09583v1), section 2.2: 8 turns, 15k -> 96k problems. How up and down alternate
    is not stated; uniform over the five operators is ours.
    """
    turns = repeat((*MATH_UP.values(), *MATH_DOWN.values()), 8)
    return Schedule(
        name="wizardmath_v1",
        chains=(turns,),
        evolutions_per_round=evolutions_per_round,
        source="WizardMath v1 (arXiv 2308.09583v1), section 2.2",
    )


def wizardmath_v3(evolutions_per_round: int = 6, chains: Literal["one", "two"] = "two") -> Schedule:
    """Two downward and three upward rounds, each from the result of the round before.

    *Source:* WizardMath v3 (arXiv 2308.09583v3), section 3.1; six evolutions per round. Whether the first upward round
    starts from the seed or from the second downward result is not stated. "two": seed -> D1 -> D2 and
    seed -> U1 -> U2 -> U3 (default, ours, because the paper's table 6 tests "original + U1" alone); "one":
    seed -> D1 -> D2 -> U1 -> U2 -> U3.
    """
    if chains not in ("one", "two"):
        raise ValueError(f"chains must be 'one' or 'two', got {chains!r}")
    down, up = repeat(MATH_DOWN, 2), repeat(MATH_UP, 3)
    return Schedule(
        name="wizardmath_v3",
        chains=(down, up) if chains == "two" else (down + up,),
        evolutions_per_round=evolutions_per_round,
        source="WizardMath v3 (arXiv 2308.09583v3), section 3.1",
    )


SCHEDULES = {"wizardmath_v1": wizardmath_v1, "wizardmath_v3": wizardmath_v3}
