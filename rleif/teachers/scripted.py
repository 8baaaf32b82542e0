"""A teacher that answers from tables or functions: for tests, demonstrations and replays."""

import inspect
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rleif.records import Problem, Solution
from rleif.teachers.base import Draft, NoEvolution, Operator, Ranking

Script = Mapping[Any, Any] | Callable[..., Any]


class ScriptedTeacher:
    """Each verb is a table or a function (plain or async); a value that is an exception is raised.

    Tables are keyed by text: evolve by (instruction, operator name) or instruction; answer and label by instruction;
    rank by the tuple of instructions; same by the pair. A function takes the verb's own arguments. Evolve may give
    plain text for a draft. A verb without a script, or a key that is not in its table, raises KeyError.
    `calls` counts the calls of each verb.

    >>> teacher = ScriptedTeacher(evolve={"1 + 1?": "1 + 1 + 1?"}, same=lambda first, second: False)
    """

    def __init__(
        self,
        *,
        evolve: Script | None = None,
        answer: Script | None = None,
        rank: Script | None = None,
        label: Script | None = None,
        same: Script | None = None,
        name: str = "scripted",
    ) -> None:
        self.name = name
        self.calls: Counter[str] = Counter()
        scripts = {"evolve": evolve, "answer": answer, "rank": rank, "label": label, "same": same}
        self._scripts = {verb: script for verb, script in scripts.items() if script is not None}

    async def _play(self, verb: str, keys: Sequence[Any], arguments: Sequence[Any]) -> Any:
        self.calls[verb] += 1
        if verb not in self._scripts:
            raise KeyError(f"teacher {self.name!r} has no script for {verb!r}")
        script = self._scripts[verb]
        if callable(script):
            value = script(*arguments)
        else:
            key = next((key for key in keys if key in script), None)
            if key is None:
                raise KeyError(f"the {verb!r} table of teacher {self.name!r} has no entry for {keys[0]!r}")
            value = script[key]
        value = await value if inspect.isawaitable(value) else value
        if isinstance(value, BaseException):
            raise value
        return value

    async def evolve(self, problem: Problem, operator: Operator, rng: random.Random) -> Draft | NoEvolution:
        keys = ((problem.instruction, operator.name), problem.instruction)
        value = await self._play("evolve", keys, (problem, operator, rng))
        return Draft(instruction=value) if isinstance(value, str) else value

    async def answer(self, problem: Problem) -> Solution:
        return await self._play("answer", (problem.instruction,), (problem,))

    async def rank(self, problems: Sequence[Problem]) -> Ranking:
        return await self._play("rank", (tuple(problem.instruction for problem in problems),), (problems,))

    async def label(self, problem: Problem, steps: Sequence[str]) -> tuple[int, ...]:
        return tuple(await self._play("label", (problem.instruction,), (problem, steps)))

    async def same(self, first: Problem, second: Problem) -> bool:
        return await self._play("same", ((first.instruction, second.instruction),), (first, second))
