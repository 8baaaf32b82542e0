"""Write a program as English and its solution as steps."""

import re
from collections.abc import Mapping, Set
from fractions import Fraction

from rleif.teachers.symbolic.grammar import FORMS, FRACTIONS, NAMES, QUESTIONS, THEMES, UNITS
from rleif.teachers.symbolic.program import Program, Quantity, evaluate, operations

ANSWER_LINE = "The answer is: {}"
_THEMES = {theme.name: theme for theme in THEMES}
_WORDS_OF_A_STEP = re.compile(r"^(Step \d+: )\D+")


def render(program: Program, without: Set[int] = frozenset()) -> str:
    """The problem's text. Quantities in `without` are left unsaid (a missing premise)."""
    sentences = []
    if program.scene is not None:
        sentences.append(_THEMES[program.theme].scenes[program.scene])
    sentences += [sentence(program, q) for q in program.quantities if q.owner is not None and q.id not in without]
    return " ".join([*sentences, question(program)])


def sentence(program: Program, q: Quantity) -> str:
    """The statement that defines a quantity."""
    unit = UNITS[q.unit]
    slots = {
        "S": q.owner,
        "U": unit.many,
        "u": unit.one,
        "V": unit.verb,
        "b": unit.base,
        "G": unit.group,
        "L": unit.loss,
    }
    if len(q.numbers) == 2:
        slots["M"], slots["N"] = map(str, q.numbers)
    elif q.numbers:
        slots["N"] = str(q.numbers[0])
    if q.relation == "times":
        slots["T"] = "twice" if q.numbers[0] == 2 else f"{q.numbers[0]} times"
    if q.relation == "share":
        slots["F"] = FRACTIONS[q.numbers[0]]
    if len(q.args) == 2:
        slots["A"], slots["B"] = (program[a].owner for a in q.args)
    elif q.args:
        referent = program[q.args[0]]
        slots["x"] = UNITS[referent.unit].one
        slots["R"], slots["W"] = references(referent, q.pronoun)
    return FORMS[q.relation].sentences[q.phrasing].format(**slots)


def references(q: Quantity, pronoun: bool) -> tuple[str, str]:
    """How another sentence speaks of a quantity: alone, and with its verb."""
    if q.left:
        return f"{q.owner} has left", f"{q.owner} has left"
    verb = UNITS[q.unit].verb
    if pronoun:
        word = NAMES[str(q.owner)]
        return f"{word} does", f"{word} {verb}"
    return str(q.owner), f"{q.owner} {verb}"


def question(program: Program) -> str:
    target = program[program.target]
    unit = UNITS[target.unit]
    slots = {"S": target.owner, "U": unit.many, "V": unit.verb, "b": unit.base}
    if target.owner is None:
        kind = target.relation
        slots["A"], slots["B"] = (program[a].owner for a in target.args)
    else:
        kind = "left" if target.left else "plain"
        if program.question_pronoun:
            slots["S"] = NAMES[target.owner]
    return QUESTIONS[kind][program.question].format(**slots)


def number(value: Fraction) -> str:
    return str(value)


def equation(q: Quantity, arguments: tuple[Fraction, ...], numbers: tuple[int, ...] | None = None) -> str:
    """The left side of a step's equation.

    >>> equation(Quantity(id=1, relation="more", args=(0,), numbers=(5,), owner="Bruno", unit="tarts"), (Fraction(12),))
    '12 + 5'
    """
    numbers = q.numbers if numbers is None else numbers
    slots = {"n": numbers[-1], "m": numbers[0]} if numbers else {}
    return FORMS[q.relation].equation.format(*map(number, arguments), **slots)


def step(index: int, q: Quantity, left_side: str, value: Fraction) -> str:
    """One line of a solution; `index` counts from 1."""
    unit = UNITS[q.unit]
    body = f"{left_side} = {number(value)} {unit.many}"
    if q.owner is not None:
        who = f"{q.owner} has {body} left" if q.left else f"{q.owner} {unit.verb} {body}"
    elif q.relation == "total":
        who = f"Together they {unit.base} {body}"
    else:
        who = f"The difference is {body}"
    return f"Step {index}: {who}."


def bare(line: str) -> str:
    """A line of a solution without the words before its equation; other lines as they are.

    >>> bare("Step 1: Hugo bakes 12 + 5 = 17 tarts.")
    'Step 1: 12 + 5 = 17 tarts.'
    """
    return _WORDS_OF_A_STEP.sub(r"\1", line)


def solution_steps(program: Program, values: Mapping[int, Fraction] | None = None) -> tuple[str, ...]:
    """The worked solution: one line per needed operation, then the answer line."""
    values = evaluate(program) if values is None else values
    lines = [
        step(i, q, equation(q, tuple(values[a] for a in q.args)), values[q.id])
        for i, q in enumerate(operations(program), start=1)
    ]
    return (*lines, ANSWER_LINE.format(number(values[program.target])))
