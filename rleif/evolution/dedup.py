"""Duplicates by a key of the text: exact up to letter case, white space and punctuation, or also with digits masked."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from rleif.records import Problem, Rejection


class Key(Protocol):
    """Problems with equal keys are duplicates. `name` is the rule that a rejection records."""

    @property
    def name(self) -> str: ...

    def __call__(self, text: str) -> str: ...


@dataclass(frozen=True, slots=True)
class Exact:
    """The words in order; letter case, white space and punctuation do not count, operators before a number do.

    >>> Exact()("Ann has 3 pens.") == Exact()("ann  has 3 pens")
    True
    """

    name: str = "exact"

    def __call__(self, text: str) -> str:
        # "1,080" is one number; in "3.5" the point belongs to the number; + * / ^ % = and a minus sign carry meaning.
        text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text.casefold())
        return " ".join(re.findall(r"\d+(?:\.\d+)?|[^\W\d_]+|[+*/^%=<>×÷−-](?=\s*[\d(])", text))


@dataclass(frozen=True, slots=True)
class MaskDigits:
    """As `Exact`, with every number replaced by one mark: the same story with other numbers is a duplicate.

    >>> MaskDigits()("Ann has 3 pens.") == MaskDigits()("Ann has 1,250 pens.")
    True
    """

    name: str = "digit_masked"

    def __call__(self, text: str) -> str:
        return re.sub(r"\d+(?:\.\d+)?", "#", Exact()(text))


class Seen:
    """The keys met so far, each with the problem that holds it."""

    def __init__(self, keys: Sequence[Key]) -> None:
        self.keys = tuple(keys)
        self._first: dict[tuple[str, str], str] = {}

    def find(self, problem: Problem) -> Rejection | None:
        """The rejection of a problem whose key is held by another one, else None."""
        for key in self.keys:
            first = self._first.get((key.name, key(problem.instruction)))
            if first is not None and first != problem.id:
                return Rejection(problem=problem, status="duplicate", rule=key.name, evidence=f"same as {first}")
        return None

    def add(self, problem: Problem) -> None:
        for key in self.keys:
            self._first.setdefault((key.name, key(problem.instruction)), problem.id)
