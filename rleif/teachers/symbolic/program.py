"""A problem as a small program: quantities, each given or defined by one relation over earlier ones, and a target."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from rleif.records import stable_id
from rleif.teachers.symbolic.grammar import FORMS, NAMES, UNITS

COMMUTATIVE = frozenset({"total", "parts"})
Key = tuple[str | None, str, bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """One amount and the sentence that defines it.

    >>> Quantity(id=1, relation="more", args=(0,), numbers=(5,), owner="Bruno", unit="muffins")
    """

    id: int
    relation: str  # a key of grammar.FORMS
    args: tuple[int, ...] = ()  # ids of earlier quantities
    numbers: tuple[int, ...] = ()  # the numbers that stand in the sentence
    owner: str | None  # None: stated by the question only (a last total or comparison)
    unit: str  # plural noun
    left: bool = False  # True for what the owner has left
    phrasing: int = 0  # which sentence of the form
    pronoun: bool = False  # the reference is written "she" or "he"

    @property
    def key(self) -> Key:
        return self.owner, self.unit, self.left


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """Quantities in the order of the text, the target's id, and how scene and question are worded."""

    theme: str
    quantities: tuple[Quantity, ...]
    target: int
    scene: int | None = None  # which opening sentence, None for none
    question: int = 0  # which phrasing of the question
    question_pronoun: bool = False

    def __getitem__(self, id: int) -> Quantity:
        for quantity in self.quantities:
            if quantity.id == id:
                return quantity
        raise KeyError(id)

    def to_json(self) -> dict[str, Any]:
        rows = [
            [q.id, q.relation, list(q.args), list(q.numbers), q.owner, q.unit, q.left, q.phrasing, q.pronoun]
            for q in self.quantities
        ]
        return {
            "theme": self.theme,
            "quantities": rows,
            "target": self.target,
            "scene": self.scene,
            "question": [self.question, self.question_pronoun],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Program":
        """Raises ValueError when the value is not what `to_json` writes."""
        try:
            quantities = tuple(
                Quantity(
                    id=id,
                    relation=relation,
                    args=tuple(args),
                    numbers=tuple(numbers),
                    owner=owner,
                    unit=unit,
                    left=left,
                    phrasing=phrasing,
                    pronoun=pronoun,
                )
                for id, relation, args, numbers, owner, unit, left, phrasing, pronoun in value["quantities"]
            )
            question, question_pronoun = value["question"]
            program = cls(
                theme=value["theme"],
                quantities=quantities,
                target=value["target"],
                scene=value["scene"],
                question=question,
                question_pronoun=question_pronoun,
            )
            program._check()
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not a symbolic program ({error!r}): {json.dumps(value, default=str)[:200]}") from None
        return program

    def _check(self) -> None:
        """Programs come from files: every word must be of the grammar and every argument must be told before."""
        told: set[int] = set()
        for q in self.quantities:
            form = FORMS[q.relation]
            if (len(q.args), len(q.numbers)) != (form.n_args, form.n_numbers) or not told.issuperset(q.args):
                raise ValueError(f"quantity {q.id} does not fit the relation {q.relation!r}, or rests on a later one")
            if q.unit not in UNITS or q.owner not in (None, *NAMES) or q.id in told:
                raise ValueError(f"quantity {q.id} has an unknown noun or name, or its id twice")
            told.add(q.id)
        if self.target not in told:
            raise ValueError(f"the target {self.target} is not among the quantities")


def compute(relation: str, arguments: tuple[Fraction, ...], numbers: tuple[int, ...]) -> Fraction:
    """The value of a relation on the values of its arguments."""
    match relation:
        case "given":
            return Fraction(numbers[0])
        case "groups":
            return Fraction(numbers[0] * numbers[1])
        case "parts":
            return Fraction(numbers[0] + numbers[1])
        case "more":
            return arguments[0] + numbers[0]
        case "fewer" | "left":
            return arguments[0] - numbers[0]
        case "times" | "rate":
            return arguments[0] * numbers[0]
        case "share":
            return arguments[0] / numbers[0]
        case "percent":
            return arguments[0] * numbers[0] / 100
        case "total":
            return arguments[0] + arguments[1]
        case "comparison":
            return arguments[0] - arguments[1]
    raise ValueError(f"unknown relation {relation!r}; known: {', '.join(FORMS)}")


def evaluate(program: Program) -> dict[int, Fraction]:
    """The value of every quantity, by id."""
    values: dict[int, Fraction] = {}
    for q in program.quantities:
        values[q.id] = compute(q.relation, tuple(values[a] for a in q.args), q.numbers)
    return values


def needed(program: Program) -> tuple[Quantity, ...]:
    """The quantities that the target rests on, itself included, in text order."""
    by_id = {q.id: q for q in program.quantities}
    wanted: set[int] = set()
    stack = [program.target]
    while stack:
        id = stack.pop()
        if id not in wanted:
            wanted.add(id)
            stack.extend(by_id[id].args)
    return tuple(q for q in program.quantities if q.id in wanted)


def operations(program: Program) -> tuple[Quantity, ...]:
    """The needed quantities that take an operation: one step of the solution each."""
    return tuple(q for q in needed(program) if q.relation != "given")


def count_steps(program: Program) -> int:
    return len(operations(program))


def is_sound(program: Program, most: int) -> bool:
    """All values whole and between 2 and `most` (so that every noun is a plural), and every quantity matters."""
    if not all(v.denominator == 1 and 2 <= v <= most for v in evaluate(program).values()):
        return False
    return all(slope != 0 for slope in slopes(program).values())


def slopes(program: Program) -> dict[int, Fraction]:
    """d target / d quantity for every needed quantity, all paths together: 0 where it cancels out.

    The difference between Ann and one who has 5 more than Ann is 5 whatever Ann has: no question to ask.
    """
    values = evaluate(program)
    slope = {q.id: Fraction(0) for q in needed(program)}
    slope[program.target] = Fraction(1)
    for q in reversed(needed(program)):
        for place, a in enumerate(q.args):
            # every relation is affine in its arguments, so a unit change gives the partial derivative
            moved = tuple(values[b] + (i == place) for i, b in enumerate(q.args))
            slope[a] += slope[q.id] * (compute(q.relation, moved, q.numbers) - values[q.id])
    return slope


def pronoun_candidates(before: Iterable[Quantity], gender: str, unit: str, key: Key | None) -> list[Quantity]:
    """Those of `before` that a pronoun may stand for: that gender and noun, in all (not left), other than `key`."""
    return [
        q
        for q in before
        if q.owner is not None and not q.left and q.unit == unit and NAMES[q.owner] == gender and q.key != key
    ]


def can_use_pronoun(program: Program, index: int) -> bool:
    """Whether a pronoun in the sentence at `index` has exactly one reading."""
    q = program.quantities[index]
    if len(q.args) != 1 or q.relation == "left" or q.owner is None:
        return False
    referent = program[q.args[0]]
    if referent.left or referent.owner is None:
        return False
    candidates = pronoun_candidates(program.quantities[:index], NAMES[referent.owner], referent.unit, q.key)
    return [c.id for c in candidates] == [referent.id]


def can_ask_with_pronoun(program: Program) -> bool:
    target = program[program.target]
    if target.owner is None or target.left:
        return False
    candidates = pronoun_candidates(program.quantities, NAMES[target.owner], target.unit, None)
    return [c.id for c in candidates] == [target.id]


def tidy(program: Program) -> Program:
    """The program without unneeded quantities and without pronouns that have become unclear."""
    program = replace(program, quantities=needed(program))
    quantities = tuple(
        replace(q, pronoun=q.pronoun and can_use_pronoun(program, i)) for i, q in enumerate(program.quantities)
    )
    program = replace(program, quantities=quantities)
    return replace(program, question_pronoun=program.question_pronoun and can_ask_with_pronoun(program))


def program_key(program: Program) -> str:
    """A hash of the computation alone: names, theme, wording, text order and unneeded quantities leave it unchanged."""
    by_id = {q.id: q for q in program.quantities}

    def canonical(id: int) -> str:
        q = by_id[id]
        parts = [canonical(a) for a in q.args] + [str(n) for n in q.numbers]
        if q.relation in COMMUTATIVE:
            parts.sort()
        return f"{q.relation}({','.join(parts)})"

    return stable_id("symbolic program", canonical(program.target))
