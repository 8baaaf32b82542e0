"""Label the steps of a solution, written by anyone, against a problem's program.

+1 right; 0 right arithmetic on a wrong earlier value, or a step without an equation; -1 wrong. A step with several
equations gets the lowest of their labels.
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from fractions import Fraction

from rleif.teachers.symbolic.expressions import Equation, equations, is_answer_line, matches, stated_answer
from rleif.teachers.symbolic.grammar import NAMES, UNITS
from rleif.teachers.symbolic.program import Program, Quantity, evaluate, needed

_WORD = re.compile(r"[^\W\d]+")
_VERBS = "|".join(sorted({"has", *(unit.verb for unit in UNITS.values())}))
_SUBJECT = re.compile(rf"\b({'|'.join(NAMES)}) (?:{_VERBS}) [($]*\d")


def label_steps(program: Program, steps: Sequence[str]) -> tuple[int, ...]:
    """One label per step.

    An equation is -1 when its arithmetic is false, or when it is no equation of the program: a number that belongs
    elsewhere, another operation, or another person ("Hugo bakes 12 + 5 = 17" where that is Greta's). It is 0 when it is
    an equation of the program with an argument that an earlier step got wrong, else +1. Several operations in one
    equation are right when all numbers belong to the problem and the result is a quantity on the way to the target.
    The answer line is +1 with the right answer, 0 when it restates the wrong value that the steps arrived at, else -1.
    """
    judge = _Judge(program)
    return tuple(judge.label(step) for step in steps)


class _Judge:
    """Reads a solution from the start and remembers what it holds for true."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.truth = evaluate(program)
        self.derived = [q for q in program.quantities if q.relation != "given"]
        self.on_the_way = {q.id for q in needed(program)}
        self.stated: dict[int, Fraction] = {}
        self.loose: set[Fraction] = set()  # wrong values of which it is not clear what they stand for
        self.numbers = set(self.truth.values()) | {Fraction(n) for q in program.quantities for n in q.numbers}
        self.last: tuple[Fraction, int] | None = None  # result and label of the last equation

    def label(self, step: str) -> int:
        found = equations(step)
        labels = [self._label_equation(equation, step) for equation in found]
        if is_answer_line(step):
            labels.append(self._label_answer(step))
        return min(labels, default=0)

    def _label_answer(self, step: str) -> int:
        value = stated_answer(step)
        if value == self.truth[self.program.target]:
            return 1
        if value is None:
            return -1
        if self.stated.get(self.program.target) == value:
            return 0
        return 0 if self.last is not None and self.last[0] == value and self.last[1] < 1 else -1

    def _label_equation(self, equation: Equation, step: str) -> int:
        hinted = self._hinted(step)
        allowed = self._claimed(step) or self.derived
        q, rests_on_wrong = self._find(equation, [q for q in hinted if q in allowed], allowed)
        if not equation.holds:
            label = -1
        elif q is not None:
            label = 0 if rests_on_wrong else 1
        else:
            label, q = self._label_unusual(equation, allowed)
        intended = [q for q in hinted if q in allowed] or hinted
        self._remember(q or next(iter(intended), None), equation.result, label)
        self.last = (equation.result, label)
        return label

    def _remember(self, q: Quantity | None, value: Fraction, label: int) -> None:
        if q is not None:
            self.stated[q.id] = value
        elif label < 1 and value not in self.numbers:
            self.loose.add(value)

    def _hinted(self, step: str) -> list[Quantity]:
        """Derived quantities of the persons that the step names; those spoken of as left first when it says so."""
        words = set(_WORD.findall(step))
        named = [q for q in self.derived if q.owner in words]
        return sorted(named, key=lambda q: (q.left != ("left" in words), q.id in self.stated))

    def _claimed(self, step: str) -> list[Quantity]:
        """The derived quantities of the persons of whom the step says outright that an amount is theirs."""
        subjects = set(_SUBJECT.findall(step))
        return [q for q in self.derived if q.owner in subjects]

    def _find(
        self, equation: Equation, hinted: list[Quantity], allowed: list[Quantity]
    ) -> tuple[Quantity | None, bool]:
        """The quantity that the left side computes, and whether it uses a wrong earlier value."""
        for q in hinted:
            for arguments, is_true in self._arguments(q):
                if matches(equation, q.relation, arguments, q.numbers):
                    return q, not is_true
        found: Quantity | None = None
        for q in sorted(allowed, key=lambda q: q.id in self.stated):
            for arguments, is_true in self._arguments(q):
                if matches(equation, q.relation, arguments, q.numbers):
                    if is_true:
                        return q, False
                    found = found or q
        return found, found is not None

    def _arguments(self, q: Quantity) -> Iterator[tuple[tuple[Fraction, ...], bool]]:
        """Values that the arguments may have in this solution, with whether all of them are true."""
        options: list[list[Fraction]] = []
        for a in q.args:
            values = [self.stated.get(a, self.truth[a]), self.truth[a], *sorted(self.loose)]
            options.append(list(dict.fromkeys(values)))
        truth = tuple(self.truth[a] for a in q.args)
        for arguments in itertools.product(*options):
            yield arguments, arguments == truth

    def _label_unusual(self, equation: Equation, allowed: list[Quantity]) -> tuple[int, Quantity | None]:
        """An equation that is no single relation: right if it joins several, neutral if it rests on a wrong value."""
        if len([operand for operand in equation.operands if operand != 100]) < 3:  # "a * p / 100" is one relation
            return -1, None
        wrong = self.loose | {v for id, v in self.stated.items() if v != self.truth[id]}
        if not all(operand in self.numbers | wrong | {Fraction(100)} for operand in equation.operands):
            return -1, None
        for q in allowed:
            if q.id in self.on_the_way and q.id not in self.stated and self.truth[q.id] == equation.result:
                return 1, q
        return (0 if wrong & set(equation.operands) - self.numbers else -1), None
