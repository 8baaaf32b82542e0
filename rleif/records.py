"""What crosses a module boundary: problems with lineage, solutions, rejections, rankings, completions; and their JSONL.

Nothing here imports torch, so reading and checking data stays cheap.
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from reward_models.records import DataError as DataError
from reward_models.records import read_rows as read_rows
from reward_models.records import write_jsonl as write_jsonl

Direction = Literal["up", "down", "depth", "breadth", "auto"]
FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """An instruction and where it comes from.

    >>> seed = Problem(id="p1", instruction="Ann has 3 pens and buys 2. How many?", answer="5", root="p1")
    >>> child = Problem(
    ...     id="p2",
    ...     instruction="...",
    ...     parent="p1",
    ...     root="p1",
    ...     round=1,
    ...     operator="add_constraints",
    ...     direction="up",
    ...     teacher="symbolic",
    ... )
    """

    id: str
    instruction: str
    answer: str | None = None  # reference answer as text, None when unknown
    parent: str | None = None  # id of the problem this one was evolved from, None for a seed
    root: str  # id of the seed at the start of the chain (its own id for a seed)
    round: int = 0  # evolution rounds between the root and this problem
    operator: str | None = None  # name of the operator that made it
    direction: Direction | None = None
    teacher: str | None = None  # name of the teacher that made it
    meta: Mapping[str, Any] = field(default_factory=dict)  # JSON values only: source, symbolic program, steps ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """A worked solution in steps; the last step is the answer line.

    >>> Solution(
    ...     problem_id="p1",
    ...     instruction="Ann ...",
    ...     by="symbolic",
    ...     answer="5",
    ...     steps=("Step 1: Ann has 3 + 2 = 5 pens.", "The answer is: 5"),
    ... )
    """

    problem_id: str
    instruction: str
    steps: tuple[str, ...]
    answer: str | None
    by: str  # who wrote it: a teacher's or a model's name

    @property
    def text(self) -> str:
        return "\n".join(self.steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """A child that did not enter the pool, kept whole with the reason.

    >>> Rejection(problem=child, status="duplicate", rule="exact", evidence="same text as p7")
    """

    problem: Problem
    status: Literal["eliminated", "duplicate", "contaminated", "failed"]
    rule: str  # the rule that fired: "no_information_gain", "digit_masked", "8gram", "no_such_evolution" ...
    evidence: str  # what it saw, readable by a person


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How completions are drawn. temperature 0 is greedy."""

    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 256
    num_generations: int = 1  # completions per prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One sampled completion. Tokens are the truth, `text` is a view (special tokens left out).

    >>> Completion(prompt_ids=(5, 9), completion_ids=(7, 2), logprobs=(-0.1, -0.3), finish_reason="stop", text="7")
    """

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]  # EOS included when finish_reason is "stop"
    logprobs: tuple[float, ...]  # log pi(token) under the sampling temperature, one per completion id
    finish_reason: FinishReason
    text: str


class Generate(Protocol):
    """A rollout engine.

    keys: one integer per prompt; sample k of a prompt draws from a random stream that depends on (key, k) alone, so
    a completion does not depend on the other prompts of the call. Returns one list of `num_generations` per prompt.
    """

    def __call__(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, keys: Sequence[int]
    ) -> list[list[Completion]]: ...


Record = TypeVar("Record")


def stable_hash(*parts: object, bits: int = 63) -> int:
    """A non-negative integer that depends only on the parts' text: the same on every machine and in every process."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> (64 - bits)


def stable_id(*parts: object) -> str:
    """Sixteen hex digits that depend only on the parts' text."""
    return f"{stable_hash(*parts, bits=64):016x}"


def read_problems(path: str | Path) -> list[Problem]:
    """Problems written by `write_jsonl`. A row without id gets one from its text.

    Raises DataError as `read_rows` does, and naming file and line for an instruction that is no text.
    """
    problems = []
    for line, row in enumerate(read_rows(path, required=("instruction",)), start=1):
        if not isinstance(row["instruction"], str) or not row["instruction"].strip():
            raise DataError(f"{path}, line {line}: 'instruction' is {row['instruction']!r}; expected a text")
        problems.append(problem_from_row(row))
    return problems


def problem_from_row(row: Mapping[str, Any]) -> Problem:
    names = {f.name for f in dataclasses.fields(Problem)}
    known = {name: value for name, value in row.items() if name in names}
    known.setdefault("id", stable_id(row["instruction"]))
    known.setdefault("root", known["id"])
    return Problem(**known)


def read_solutions(path: str | Path) -> list[Solution]:
    """Solutions written by `write_jsonl`."""
    rows = read_rows(path, required=("problem_id", "instruction", "steps", "answer", "by"))
    names = [f.name for f in dataclasses.fields(Solution)]
    kept: list[dict[str, Any]] = [{name: row[name] for name in names} for row in rows]
    for values in kept:
        values["steps"] = tuple(values["steps"])
    return [Solution(**values) for values in kept]


def read_rejections(path: str | Path) -> list[Rejection]:
    """Rejections written by `write_jsonl`."""
    rows = read_rows(path, required=("problem", "status", "rule", "evidence"))
    return [
        Rejection(
            problem=problem_from_row(row["problem"]), status=row["status"], rule=row["rule"], evidence=row["evidence"]
        )
        for row in rows
    ]
