"""The result of an evolution: what was kept, what was rejected and why, and reports over both."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rleif.records import Problem, Rejection


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Kept problems (seeds included, each lineage together) and rejections. Nothing is dropped silently:
    problems + rejections = seeds + evolutions tried.

    >>> ann = Problem(id="p1", root="p1", instruction="Ann has 3 pens and buys 2. How many has she?")
    >>> pool = Pool(problems=(ann,), rejections=(), seeds=1, tried=0)
    """

    problems: tuple[Problem, ...]
    rejections: tuple[Rejection, ...]
    seeds: int  # seeds given
    tried: int  # evolutions tried, whatever came of them

    def __post_init__(self) -> None:
        found = len(self.problems) + len(self.rejections)
        assert found == self.seeds + self.tried, f"{found} records for {self.seeds} seeds and {self.tried} evolutions"

    @cached_property
    def _by_id(self) -> dict[str, Problem]:
        rejected = {rejection.problem.id: rejection.problem for rejection in self.rejections}
        return rejected | {problem.id: problem for problem in self.problems}

    def lineage(self, problem_id: str) -> tuple[Problem, ...]:
        """The chain from the root to this problem, both included.

        An ancestor may be a rejection: a problem found to repeat another seed's child after its own children were made.
        """
        if problem_id not in self._by_id:
            raise ValueError(f"no problem {problem_id!r} among the {len(self._by_id)} of this pool")
        chain = [self._by_id[problem_id]]
        while chain[-1].parent is not None and chain[-1].parent in self._by_id:
            chain.append(self._by_id[chain[-1].parent])
        return tuple(reversed(chain))

    def report(self) -> dict[str, Any]:
        """Survival by round x operator x rule, and the mean number of steps by round where problems state it."""
        kept = [problem for problem in self.problems if problem.operator is not None]
        lost = [rejection for rejection in self.rejections if rejection.problem.operator is not None]
        seed_rejections = [rejection for rejection in self.rejections if rejection.problem.operator is None]
        rows = _survival(kept, lost)
        assert sum(row["tried"] for row in rows) == self.tried, "survival rows do not add up to the evolutions tried"
        return {
            "seeds": {
                "given": self.seeds,
                "kept": len(self.problems) - len(kept),
                "rejected": _by_rule(seed_rejections),
            },
            "children": {"tried": self.tried, "kept": len(kept), "rejected": _by_rule(lost)},
            "survival": rows,
            "steps": _steps(self.problems),
        }


def _by_rule(rejections: Iterable[Rejection]) -> dict[str, int]:
    return dict(sorted(Counter(f"{rejection.status}/{rejection.rule}" for rejection in rejections).items()))


def _group(problem: Problem) -> tuple[int, str, str]:
    return problem.round, str(problem.direction), str(problem.operator)


def _survival(kept: Iterable[Problem], lost: Iterable[Rejection]) -> list[dict[str, Any]]:
    """One row per round, direction and operator: tried = kept + the rejections of each rule."""
    survivors = Counter(map(_group, kept))
    rejected: dict[tuple[int, str, str], list[Rejection]] = defaultdict(list)
    for rejection in lost:
        rejected[_group(rejection.problem)].append(rejection)
    return [
        {
            "round": group[0],
            "direction": group[1],
            "operator": group[2],
            "tried": survivors[group] + len(rejected[group]),
            "kept": survivors[group],
            "rejected": _by_rule(rejected[group]),
        }
        for group in sorted(set(survivors) | set(rejected))
    ]


def _steps(problems: Iterable[Problem]) -> list[dict[str, Any]]:
    """Mean of `meta["steps"]` over the kept problems of each direction and round (round 0: seeds) that state it."""
    found: dict[tuple[str, int], list[int]] = defaultdict(list)
    for problem in problems:
        if isinstance(problem.meta.get("steps"), int):
            found[str(problem.direction or "seed"), problem.round].append(problem.meta["steps"])
    return [
        {"direction": direction, "round": number, "n": len(steps), "mean_steps": sum(steps) / len(steps)}
        for (direction, number), steps in sorted(found.items())
    ]
