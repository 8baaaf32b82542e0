"""Known errors in real solutions with marked equations: what is changed, and the label of every step, by construction.

slip      a false result, used nowhere else                    -1, the other steps stay right
carried   a false result that all later equations go on with   -1, then 0 wherever it is used
operand   a wrong operand, right arithmetic, carried on        -1, then 0 wherever it is used
"""

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from rleif.labeling.defects import numbers, numbers_of
from rleif.labeling.equations import evaluate, find_equations
from rleif.records import Problem

INJECTIONS = ("slip", "carried", "operand")

_NUMBER = re.compile(r"(?<![\d.,])(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?!\d)|(?<![\d.])\.\d+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Injected:
    """A solution with one error and its consequences.

    >>> Injected(steps=("Step 1: 48/2 = 25", "The answer is: 25"), labels=(-1, 0), kind="carried", place=0)
    """

    steps: tuple[str, ...]
    labels: tuple[int, ...]  # -1 wrong, 0 right arithmetic on a wrong value, +1 right
    kind: str
    place: int  # the step with the error, from 0


def inject(problem: Problem, rng: random.Random, kind: str) -> Injected | None:
    """One error of this kind in the problem's reference solution; None where none fits with certainty.

    Raises ValueError for an unknown kind.
    """
    if kind not in INJECTIONS:
        raise ValueError(f"unknown injection {kind!r}; known: {', '.join(INJECTIONS)}")
    marks = list(problem.meta.get("equations", ()))
    rng.shuffle(marks)
    attempts = (_slip if kind == "slip" else _carry)(problem, rng, marks, kind)
    return next((attempt for attempt in attempts if attempt is not None and _is_sound(attempt)), None)


def _is_sound(injected: Injected) -> bool:
    """Whether the text bears the labels out: no equation after the error that reads as false or cannot be a number."""
    later = (equation for step in injected.steps[injected.place + 1 :] for equation in find_equations(step))
    here = [equation.holds for equation in find_equations(injected.steps[injected.place])]
    return all(equation.holds for equation in later) and bool(here) and all(here) == (injected.kind == "operand")


def _slip(
    problem: Problem, rng: random.Random, marks: Sequence[Mapping[str, Any]], kind: str
) -> Iterator[Injected | None]:
    steps = list(problem.meta["solution"])
    for mark in marks:
        step = steps[mark["step"]]
        literal = _NUMBER.match(step, mark["at"])
        if literal is None:
            continue
        changed = step[: literal.start()] + _wrong(literal.group(), rng) + step[literal.end() :]
        labels = [1] * len(steps)
        labels[mark["step"]] = -1
        texts = (*steps[: mark["step"]], changed, *steps[mark["step"] + 1 :])
        yield Injected(steps=texts, labels=tuple(labels), kind=kind, place=mark["step"])


def _carry(
    problem: Problem, rng: random.Random, marks: Sequence[Mapping[str, Any]], kind: str
) -> Iterator[Injected | None]:
    for mark in marks:
        steps = list(problem.meta["solution"])
        place, value = mark["step"], mark["right"]
        if not _is_distinctive(problem, mark):
            continue
        if kind == "operand":
            start = _swap_operand(problem, mark, steps, rng)
            if start is None:
                continue
            new = start
        else:
            new = _wrong(value, rng)
        yield _with_consequences(problem, mark, steps, {value: new}, kind, place)


def _is_distinctive(problem: Problem, mark: Mapping[str, Any]) -> bool:
    """Whether this result's digits stand for nothing else, so that replacing them later replaces this value only."""
    marks = problem.meta["equations"]
    value = mark["right"]
    taken = numbers(problem.instruction) + [other["right"] for other in marks if other is not mark]
    before = [number for step in problem.meta["solution"][: mark["step"]] for number in numbers_of(step)]
    same_step = numbers_of(mark["left"])
    return value not in taken and value not in before and value not in same_step and evaluate(value) is not None


def _swap_operand(problem: Problem, mark: Mapping[str, Any], steps: list[str], rng: random.Random) -> str | None:
    """Put another number of the problem in the place of one operand, in the text too; returns the new result."""
    step, operands = steps[mark["step"]], numbers_of(mark["left"])
    others = sorted(set(numbers(problem.instruction)) - set(operands))
    if not operands or not others:
        return None
    old, new = rng.choice(operands), rng.choice(others)
    spots = [match for match in _NUMBER.finditer(step, 0, mark["at"]) if match.group().replace(",", "") == old]
    result = _written(evaluate(_replace(mark["left"], {old: new}, count=1)))
    literal = _NUMBER.match(step, mark["at"])
    if not spots or operands.count(old) > 1 or literal is None or result is None or result == mark["right"]:
        return None
    spot = spots[-1]
    head = step[: spot.start()] + new + step[spot.end() : literal.start()]
    steps[mark["step"]] = head + literal.group() + step[literal.end() :]
    return result


def _with_consequences(
    problem: Problem, mark: Mapping[str, Any], steps: list[str], changes: dict[str, str], kind: str, place: int
) -> Injected | None:
    """Go on with the changed value: every later equation that takes it is computed anew, exactly."""
    labels = [1] * len(steps)
    labels[place] = -1
    shift = len(steps[place]) - len(problem.meta["solution"][place])
    for later in problem.meta["equations"]:
        if (later["step"], later["at"]) <= (place, mark["at"]):
            continue
        left = _replace(later["left"], changes)
        if left == later["left"]:
            continue
        result = _written(evaluate(left))
        if result is None or not _is_distinctive(problem, later):
            return None
        changes[later["right"]] = result
    steps[place] = steps[place][: mark["at"] + shift] + _replace(steps[place][mark["at"] + shift :], changes)
    for index in range(place + 1, len(steps)):
        changed = _replace(steps[index], changes)
        if changed != steps[index] and labels[index] == 1:
            labels[index] = 0
        steps[index] = changed
    if steps[-1] == problem.meta["solution"][-1] and labels[-1] != 1:
        return None
    return Injected(steps=tuple(steps), labels=tuple(labels), kind=kind, place=place)


def _replace(text: str, changes: Mapping[str, str], count: int = 0) -> str:
    """The text with whole numbers exchanged; `Step 24:` keeps its number."""
    head = re.match(r"Step \d+:", text)
    start = head.end() if head else 0
    new = _NUMBER.sub(
        lambda match: changes.get(match.group().replace(",", ""), match.group()), text[start:], count=count
    )
    return text[:start] + new


def _wrong(number: str, rng: random.Random) -> str:
    """A wrong result that a person might write: a little off, a digit changed, or a factor of ten."""
    decimals = len(number.partition(".")[2])
    value = Fraction(number.replace(",", ""))
    unit = Fraction(1, 10**decimals)
    step = rng.choice([1, 1, 2, 3, 5, 10]) * unit
    candidates = [value + step, value - step, value * 10, value + 10 ** max(len(str(int(value))) - 1, 0)]
    candidates = [candidate for candidate in candidates if candidate > 0 and candidate != value]
    chosen = rng.choice(candidates)
    return f"{float(chosen):.{decimals}f}" if decimals else str(int(chosen))


def _written(value: Fraction | None) -> str | None:
    """A non-negative terminating decimal of at most two places as a person writes it, else None."""
    if value is None or value < 0 or (value * 100).denominator != 1 or value >= 10**9:
        return None
    if value.denominator == 1:
        return str(value.numerator)
    return f"{value.numerator * 100 // value.denominator / 100:.2f}".rstrip("0")
