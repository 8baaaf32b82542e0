"""Wrong solutions of a known kind, for process labels whose truth is known."""

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction

from rleif.records import Problem, Solution
from rleif.teachers.symbolic.expressions import Equation, equations, matches
from rleif.teachers.symbolic.program import Program, Quantity, compute, evaluate, operations
from rleif.teachers.symbolic.render import ANSWER_LINE, bare, equation, number, step
from rleif.teachers.symbolic.restore import program_of

CORRUPTIONS = ("arithmetic", "operand", "operation", "skipped", "compensating", "answer")
"""A false result; a wrong number; a wrong operation; a step left out, its argument used in its place; two errors that
cancel, so that the answer is right by a wrong path; right steps with a wrong answer line."""

MISREAD = "misread"
"""A habit, not a slip: "fewer than" is read as more, "half as many" as twice, a difference as a sum, wherever they
occur in the problem."""

Fault = Callable[[tuple[Fraction, ...]], tuple[str, Fraction]]
"""From the values of a quantity's arguments to what is written instead: left side and result."""

MOST = 9999  # no number of a corrupted solution is larger
_OTHER_SIGNS = {"+": "-*/", "-": "+*", "*": "+-/", "/": "*-"}


def corrupt(problem: Problem, solution: Solution, rng: random.Random, kind: str) -> Solution:
    """The solution with one error (one cancelling pair, or one habit) and all that follows from it.

    Its steps are worded as the given ones, with names or without. The first step that is not +1 under `label` is the
    injected one. `kind` is one of CORRUPTIONS or MISREAD. Raises ValueError for an unknown kind, and where the kind
    does not fit the problem.
    """
    if kind not in _KINDS:
        raise ValueError(f"unknown corruption {kind!r}; known: {', '.join(_KINDS)}")
    program = program_of(problem)
    right = answer_line(program)
    drafts = (steps for steps in _KINDS[kind](program, rng) if (steps[-1] == right) == (kind == "compensating"))
    steps = next(drafts, None)
    if steps is None:
        raise ValueError(f"no {kind!r} corruption fits problem {problem.id!r}: {problem.instruction}")
    if all(line == bare(line) for line in solution.steps):
        steps = tuple(map(bare, steps))
    return replace(solution, steps=steps, answer=steps[-1].removeprefix(ANSWER_LINE.format("")))


def answer_line(program: Program) -> str:
    return ANSWER_LINE.format(number(evaluate(program)[program.target]))


def _write(program: Program, faults: dict[int, Fault], skipped: int | None = None) -> tuple[str, ...] | None:
    """The steps with the faults in place; None when a number is not whole, not positive or too large."""
    truth, values, lines = evaluate(program), dict[int, Fraction](), []
    needed_ids = {q.id for q in operations(program)}
    for q in program.quantities:
        arguments = tuple(values[a] for a in q.args)
        if q.id not in needed_ids:
            values[q.id] = truth[q.id]
            continue
        if q.id == skipped:
            values[q.id] = arguments[0] if arguments else Fraction(q.numbers[0])
            continue
        if q.id in faults:
            left_side, values[q.id] = faults[q.id](arguments)
        else:
            left_side, values[q.id] = equation(q, arguments), compute(q.relation, arguments, q.numbers)
        lines.append(step(len(lines) + 1, q, left_side, values[q.id]))
    if not all(v.denominator == 1 and 0 < v <= MOST for v in values.values()):
        return None
    return (*lines, ANSWER_LINE.format(number(values[program.target])))


def _shuffled(program: Program, rng: random.Random) -> list[Quantity]:
    order = list(operations(program))
    rng.shuffle(order)
    return order


def _is_right(program: Program, left_side: str) -> bool:
    """Whether some quantity of the program is computed by this left side."""
    found = _parse(left_side)
    truth = evaluate(program)
    return any(matches(found, q.relation, tuple(truth[a] for a in q.args), q.numbers) for q in program.quantities)


def _parse(left_side: str) -> Equation:
    return equations(f"{left_side} = 0")[0]


def _wrong_result(q: Quantity, delta: int) -> Fault:
    return lambda arguments: (equation(q, arguments), compute(q.relation, arguments, q.numbers) + delta)


def _deltas(rng: random.Random, program: Program) -> list[int]:
    """Slips of small size first; then multiples of all later divisors, which always come out whole."""
    small = [d for d in (1, -1, 2, -2, 3, -3, 4, -5, 10, -10, 20, 9) if d]
    rng.shuffle(small)
    unit = math.lcm(*(q.numbers[0] for q in program.quantities if q.relation == "share"))
    unit = math.lcm(unit, *(100 // math.gcd(100, q.numbers[0]) for q in program.quantities if q.relation == "percent"))
    return [*small, unit, -unit, 2 * unit]


def _arithmetic(program: Program, rng: random.Random) -> Iterator[tuple[str, ...]]:
    for q in _shuffled(program, rng):
        for delta in _deltas(rng, program):
            steps = _write(program, {q.id: _wrong_result(q, delta)})
            if steps is not None:
                yield steps


def _rewrite(left_side: str) -> Fault:
    value = _parse(left_side).left
    return lambda arguments: (left_side, Fraction(-1) if value is None else value)


def _with_left_sides(program: Program, q: Quantity, candidates: list[str]) -> Iterator[tuple[str, ...]]:
    truth = evaluate(program)[q.id]
    for left_side in candidates:
        value = _parse(left_side).left
        if value is None or value == truth or _is_right(program, left_side):
            continue
        steps = _write(program, {q.id: _rewrite(left_side)})
        if steps is not None:
            yield steps


def _operand(program: Program, rng: random.Random) -> Iterator[tuple[str, ...]]:
    for q in _shuffled(program, rng):
        candidates = _other_operands(program, q, rng)
        rng.shuffle(candidates)
        yield from _with_left_sides(program, q, candidates)


def _other_operands(program: Program, q: Quantity, rng: random.Random) -> list[str]:
    """The quantity's equation with one operand replaced by another number of the problem, or by a near one."""
    truth = evaluate(program)
    earlier = program.quantities[: program.quantities.index(q)]
    pool = {int(truth[o.id]) for o in earlier} | {n for o in program.quantities for n in o.numbers}
    operands = equation(q, tuple(truth[a] for a in q.args)).split(" ")
    unit = {"share": q.numbers[:1], "percent": (100,)}.get(q.relation, (1,))[0]  # such a change keeps a division whole
    candidates = []
    for place in (0, 2):
        old = int(operands[place])
        near = {old + d for d in (-2, -1, 1, 2, 10, -unit, unit) if old + d > 1}
        for new in sorted((pool | near) - {old}):
            candidates.append(" ".join([*operands[:place], str(new), *operands[place + 1 :]]))
    return candidates


def _operation(program: Program, rng: random.Random) -> Iterator[tuple[str, ...]]:
    truth = evaluate(program)
    for q in _shuffled(program, rng):
        operands = equation(q, tuple(truth[a] for a in q.args)).split(" ")
        if q.relation == "percent":  # "a * p / 100" keeps its shape for the reader: take p off, or forget the 100
            operands = [operands[0], "*", operands[2]]
            candidates = [f"{operands[0]} {sign} {operands[2]}" for sign in "-+/"]
        else:
            candidates = [f"{operands[0]} {sign} {operands[2]}" for sign in _OTHER_SIGNS[operands[1]]]
        rng.shuffle(candidates)
        yield from _with_left_sides(program, q, candidates)


def _skipped(program: Program, rng: random.Random) -> Iterator[tuple[str, ...]]:
    order = sorted(_shuffled(program, rng), key=lambda q: q.id == program.target)
    for q in order:
        steps = _write(program, {}, skipped=q.id)
        if steps is not None:
            yield steps


_READ_AS = {"fewer": "+", "share": "*", "comparison": "+"}


def _misread(program: Program, rng: random.Random) -> Iterator[tuple[str, ...]]:
    """One draft, nothing about it is drawn: a habit errs everywhere in the same way."""
    truth = evaluate(program)
    faults: dict[int, Fault] = {}
    for q in operations(program):
        fault = _misreading(q) if q.relation in _READ_AS else None
        if fault is not None and not _is_right(program, fault(tuple(truth[a] for a in q.args))[0]):
            faults[q.id] = fault
    steps = _write(program, faults) if faults else None
    if steps is not None:
        yield steps


def _misreading(q: Quantity) -> Fault:
    def fault(arguments: tuple[Fraction, ...]) -> tuple[str, Fraction]:
        first, _, second = equation(q, arguments).split(" ")
        left_side = f"{first} {_READ_AS[q.relation]} {second}"
        value = _parse(left_side).left
        assert value is not None
        return left_side, value

    return fault


def _compensating(program: Program, rng: random.Random) -> Iterator[tuple[str, ...]]:
    order = operations(program)
    truth = evaluate(program)
    if len(order) == 1:  # both errors in the one step: a wrong operand and a false result
        q = order[0]
        for left_side in rng.sample(candidates := _other_operands(program, q, rng), len(candidates)):
            if _parse(left_side).left != truth[q.id] and not _is_right(program, left_side):
                yield from filter(None, [_write(program, {q.id: lambda _, text=left_side: (text, truth[q.id])})])
    pairs = [(p, q) for i, p in enumerate(order) for q in order[i + 1 :]]
    rng.shuffle(pairs)
    for p, q in pairs:
        for delta in _deltas(rng, program):
            first = _wrong_result(p, delta)
            steps = _write(program, {p.id: first, q.id: _cancel(q, truth[q.id])})
            wrong = _write(program, {p.id: first})
            if steps and wrong and wrong[-1] != steps[-1]:
                yield steps


def _cancel(q: Quantity, goal: Fraction) -> Fault:
    """Reach the true value from wrong arguments: by a wrong number where one fits, else by a false result."""

    def fault(arguments: tuple[Fraction, ...]) -> tuple[str, Fraction]:
        if q.relation in ("more", "fewer", "left"):
            n = goal - arguments[0] if q.relation == "more" else arguments[0] - goal
            if n > 0:
                return equation(q, arguments, (int(n),)), goal
        return equation(q, arguments), goal

    return fault


def _answer(program: Program, rng: random.Random) -> Iterator[tuple[str, ...]]:
    truth = evaluate(program)
    steps = _write(program, {})
    assert steps is not None
    right = truth[program.target]
    others = set(truth.values()) | {right + d for d in (-10, -1, 1, 10)}
    for value in rng.sample(choices := sorted(v for v in others if v > 0 and v != right), len(choices)):
        yield (*steps[:-1], ANSWER_LINE.format(number(value)))


_KINDS = {
    "arithmetic": _arithmetic,
    "operand": _operand,
    "operation": _operation,
    "skipped": _skipped,
    "compensating": _compensating,
    "answer": _answer,
    MISREAD: _misread,
}
