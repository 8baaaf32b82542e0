"""The Teacher protocol: five verbs that an LLM answers by prompt and the symbolic teacher computes exactly."""

import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from rleif.records import Direction, Problem, Solution


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """One way to evolve a problem, as data. `template` is the prompt for teachers that work by prompt, `reply_after`
    the heading behind which their reply holds the evolved instruction ("" takes the whole reply).

    >>> Operator(name="add_constraints", direction="up", source="WizardMath v3, section 3.1")
    """

    name: str
    direction: Direction
    version: str = "1"
    source: str = ""
    template: str | None = None
    reply_after: str = "#Finally Rewritten Instruction#:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What a teacher returns for an evolution that worked: a child without lineage, which the loop adds."""

    instruction: str
    answer: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class NoEvolution:
    """The operator does not apply to this problem: an outcome that is recorded, not an error."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """Indices of the ranked problems, best tier first; problems of one tier tie.

    >>> Ranking(tiers=((2,), (0, 4), (1, 3)))  # C > A = E > B = D
    """

    tiers: tuple[tuple[int, ...], ...]
    aspects: Mapping[str, Sequence[float]] = field(default_factory=dict)  # e.g. {"definition": [1, 0, 1]}


class Teacher(Protocol):
    """Whoever makes and judges data. Results depend on the arguments (and `rng`) alone, never on call order."""

    name: str

    async def evolve(self, problem: Problem, operator: Operator, rng: random.Random) -> Draft | NoEvolution: ...

    async def answer(self, problem: Problem) -> Solution: ...

    async def rank(self, problems: Sequence[Problem]) -> Ranking: ...

    async def label(self, problem: Problem, steps: Sequence[str]) -> tuple[int, ...]:
        """+1 right, 0 neutral (right arithmetic on a wrong earlier value), -1 wrong; one label per step."""
        ...

    async def same(self, first: Problem, second: Problem) -> bool: ...


@asynccontextmanager
async def closing_calls(teacher: Teacher) -> AsyncIterator[None]:
    """At the end, waits for the teacher's calls in flight and closes its connections, where it has such (`aclose`).

    A teacher may be used again afterwards, also in another event loop.
    """
    try:
        yield
    finally:
        aclose = getattr(teacher, "aclose", None)
        if aclose is not None:
            await aclose()
