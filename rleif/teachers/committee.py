"""Several teachers as one: they vote on judgements, and take turns at making things."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from rleif.records import Problem, Solution
from rleif.teachers.base import Draft, NoEvolution, Operator, Ranking, Teacher
from rleif.teachers.chat import StopAskingError, TeacherError

Value = TypeVar("Value")
NEUTRAL = 0


class Committee:
    """rank: who wins more comparisons stands higher; a comparison is decided by the majority of members, and members
    who tie the two abstain. label: the label with most votes for each step, 0 where none has the most. same: more than
    half say so. answer: the first member's solution among those with the answer that most members give. evolve: one
    member, drawn by `rng`.

    A member that fails abstains; when all do, the last failure is raised. A member that must stop asking (a wrong key,
    a used-up budget) stops the committee.

    >>> Committee([LLMTeacher(one), LLMTeacher(two), LLMTeacher(three)])
    """

    def __init__(self, members: Sequence[Teacher], name: str | None = None) -> None:
        if not members:
            raise ValueError("a committee needs at least one member")
        self.members = tuple(members)
        self.name = name or "+".join(member.name for member in members)

    async def evolve(self, problem: Problem, operator: Operator, rng: random.Random) -> Draft | NoEvolution:
        return await rng.choice(self.members).evolve(problem, operator, rng)

    async def answer(self, problem: Problem) -> Solution:
        solutions = await self._votes(lambda member: member.answer(problem))
        votes = Counter(_canonical(solution.answer) for solution in solutions)
        most = max(votes.values())
        return next(solution for solution in solutions if votes[_canonical(solution.answer)] == most)

    async def rank(self, problems: Sequence[Problem]) -> Ranking:
        rankings = await self._votes(lambda member: member.rank(problems))
        places = [{index: place for place, tier in enumerate(one.tiers) for index in tier} for one in rankings]
        everyone = range(len(problems))
        wins = [sum(_wins(first, second, places) for second in everyone) for first in everyone]
        scores = sorted(set(wins), reverse=True)
        tiers = tuple(tuple(index for index in everyone if wins[index] == score) for score in scores)
        return Ranking(tiers=tiers, aspects=_mean_aspects(rankings))

    async def label(self, problem: Problem, steps: Sequence[str]) -> tuple[int, ...]:
        votes = await self._votes(lambda member: member.label(problem, steps))
        return tuple(_most_common(column) for column in zip(*votes, strict=True))

    async def same(self, first: Problem, second: Problem) -> bool:
        votes = await self._votes(lambda member: member.same(first, second))
        return 2 * sum(votes) > len(votes)

    async def aclose(self) -> None:
        for member in self.members:
            aclose = getattr(member, "aclose", None)
            if aclose is not None:
                await aclose()

    async def _votes(self, call: Callable[[Teacher], Coroutine[Any, Any, Value]]) -> list[Value]:
        """What the members say, in their order, without those that failed."""
        found = await asyncio.gather(*map(call, self.members), return_exceptions=True)
        failures = [value for value in found if isinstance(value, BaseException)]
        for failure in failures:
            if isinstance(failure, StopAskingError) or not isinstance(failure, TeacherError):
                raise failure
        if len(failures) == len(found):
            raise failures[-1]
        return [value for value in found if not isinstance(value, BaseException)]


def _canonical(answer: str | None) -> str | None:
    from rleif.grading import canonical

    return None if answer is None else canonical(answer)


def _wins(first: int, second: int, places: Sequence[dict[int, int]]) -> float:
    """1 where the majority puts the first above the second, 0 where below, one half where neither."""
    above = sum(place[first] < place[second] for place in places)
    below = sum(place[first] > place[second] for place in places)
    return 0.5 if above == below else float(above > below)


def _most_common(votes: Sequence[int]) -> int:
    (label, most), *others = Counter(votes).most_common()
    return NEUTRAL if others and others[0][1] == most else label


def _mean_aspects(rankings: Sequence[Ranking]) -> dict[str, list[float]]:
    """The mean of each aspect over the members that gave it."""
    names = dict.fromkeys(name for one in rankings for name in one.aspects)
    means = {}
    for name in names:
        given = [one.aspects[name] for one in rankings if name in one.aspects]
        means[name] = [sum(values) / len(given) for values in zip(*given, strict=True)]
    return means
