"""Draw new problems, and grow a program by one operation."""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from rleif.records import Problem, stable_id
from rleif.teachers.symbolic.grammar import FORMS, FRACTIONS, NAMES, QUESTIONS, THEMES, Theme
from rleif.teachers.symbolic.program import (
    Program,
    Quantity,
    can_ask_with_pronoun,
    can_use_pronoun,
    count_steps,
    evaluate,
    is_sound,
    program_key,
)
from rleif.teachers.symbolic.render import number, render

TEACHER_NAME = "symbolic"
MAX_STEPS = 10  # leaves names enough for one more owner


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How large numbers get and which relations occur: the difficulty in one place. Pairs are inclusive ranges."""

    given: tuple[int, int] = (2, 60)
    addend: tuple[int, int] = (2, 40)
    factor: tuple[int, int] = (2, 6)
    divisors: tuple[int, ...] = (2, 3, 4, 5, 6)
    percents: tuple[int, ...] = (10, 20, 25, 30, 40, 50, 60, 75, 80)
    price: tuple[int, int] = (2, 9)
    groups: tuple[int, int] = (2, 9)
    most: int = 999  # no value of a problem is larger
    relations: frozenset[str] = frozenset(FORMS)  # that new quantities are defined by; "given" always may


SIZES = Sizes()
SMALL_SIZES = Sizes(
    given=(2, 15),
    addend=(2, 9),
    factor=(2, 4),
    divisors=(2, 3, 4),
    percents=(25, 50),
    price=(2, 5),
    groups=(2, 5),
    most=60,
)
TINY_SIZES = Sizes(
    given=(2, 9), addend=(1, 5), factor=(2, 3), divisors=(2, 3), percents=(50,), price=(2, 3), groups=(2, 3), most=20
)
NUMBERS = {"full": SIZES, "small": SMALL_SIZES, "tiny": TINY_SIZES}
"""Ranges of numbers by name. A model of less than a million parameters learns the sums of "tiny" in some ten thousand
problems; of "small" it needs several times as many."""


def sizes_of(numbers: str = "full", relations: Iterable[str] | None = None) -> Sizes:
    """Sizes by name, of these relations alone if any are given.

    Raises ValueError for an unknown name, and where no relation could ask anything.
    """
    if numbers not in NUMBERS:
        raise ValueError(f"unknown numbers {numbers!r}; known: {', '.join(NUMBERS)}")
    if relations is None:
        return NUMBERS[numbers]
    chosen = frozenset(relations)
    if unknown := sorted(chosen - set(FORMS)):
        raise ValueError(f"unknown relations {', '.join(unknown)}; known: {', '.join(FORMS)}")
    if not chosen & set(_GROW):
        raise ValueError(f"relations {sorted(chosen)} make no problem; give at least one of {', '.join(_GROW)}")
    return replace(NUMBERS[numbers], relations=chosen)


_THEMES = {theme.name: theme for theme in THEMES}
_START = {"given": 6, "groups": 1, "parts": 1}  # the relation of the first quantity, and its weight


def sample_problem(rng: random.Random, steps: int, sizes: Sizes = SIZES) -> Problem:
    """A seed problem that takes exactly `steps` operations.

    >>> sample_problem(random.Random(1), steps=2).meta["steps"]
    2
    """
    return as_seed(sample_program(rng, steps, sizes=sizes))


def as_seed(program: Program) -> Problem:
    instruction = render(program)
    id = stable_id(instruction)
    return Problem(
        id=id,
        instruction=instruction,
        answer=answer_of(program),
        root=id,
        teacher=TEACHER_NAME,
        meta=meta_of(program),
    )


def answer_of(program: Program) -> str:
    return number(evaluate(program)[program.target])


def meta_of(program: Program) -> dict[str, Any]:
    return {
        "program": program.to_json(),
        "steps": count_steps(program),
        "theme": program.theme,
        "program_key": program_key(program),
    }


def sample_program(rng: random.Random, steps: int, themes: Iterable[Theme] = THEMES, sizes: Sizes = SIZES) -> Program:
    """A program with `steps` operations, every quantity needed.

    Raises ValueError for steps outside 1..MAX_STEPS.
    """
    if not 1 <= steps <= MAX_STEPS:
        raise ValueError(f"steps = {steps}: a problem takes 1 to {MAX_STEPS} operations")
    theme = rng.choice(list(themes))
    program = _start(rng, theme, sizes)
    while (missing := steps - count_steps(program)) > 0:
        program = extend(program, rng, sizes, may_ask=missing == 1)
    return word(program, rng)


def _start(rng: random.Random, theme: Theme, sizes: Sizes) -> Program:
    starts = {name: weight for name, weight in _START.items() if name == "given" or name in sizes.relations}
    relation = rng.choices(list(starts), list(starts.values()))[0]
    first = Quantity(
        id=0,
        relation=relation,
        numbers=_start_numbers(relation, rng, sizes),
        owner=rng.choice(list(NAMES)),
        unit=rng.choice(theme.items),
    )
    scene = rng.choice((None, *range(len(theme.scenes))))
    return Program(theme=theme.name, quantities=(first,), target=0, scene=scene)


def _start_numbers(relation: str, rng: random.Random, sizes: Sizes) -> tuple[int, ...]:
    if relation == "groups":
        return rng.randint(*sizes.groups), rng.randint(*sizes.groups)
    if relation == "parts":
        return rng.randint(*sizes.given), rng.randint(*sizes.given)
    return (draw_given(rng, sizes),)


def draw_given(rng: random.Random, sizes: Sizes) -> int:
    """Half of the givens are multiples of 4, 5, 6 or 10, else shares and percentages would seldom come out whole."""
    low, high = sizes.given
    value = rng.randint(low, high)
    if rng.random() < 0.5:
        factor = rng.choice((4, 5, 6, 10))
        rounded = value - value % factor
        return rounded if rounded >= max(low, 2) else value
    return value


def word(program: Program, rng: random.Random) -> Program:
    """Choose among the phrasings of question and sentences; use a pronoun now and then where it is clear."""
    quantities = tuple(replace(q, phrasing=rng.randrange(len(FORMS[q.relation].sentences))) for q in program.quantities)
    program = replace(program, quantities=quantities, question=rng.randrange(len(QUESTIONS["plain"])))
    quantities = tuple(
        replace(q, pronoun=rng.random() < 0.2 and can_use_pronoun(program, i)) for i, q in enumerate(quantities)
    )
    program = replace(program, quantities=quantities)
    return replace(program, question_pronoun=rng.random() < 0.1 and can_ask_with_pronoun(program))


def free_names(program: Program) -> list[str]:
    used = {q.owner for q in program.quantities}
    return [name for name in NAMES if name not in used]


def next_id(program: Program) -> int:
    return 1 + max(q.id for q in program.quantities)


def extend(program: Program, rng: random.Random, sizes: Sizes = SIZES, may_ask: bool = False) -> Program:
    """The program with one more operation on its target, which becomes the target; nothing else changes.

    may_ask: a new total or comparison may be stated by the question instead of getting an owner.
    Raises ValueError when no relation fits.
    """
    allowed = [relation for relation in _GROW if relation in sizes.relations]
    order = sorted(allowed, key=lambda relation: rng.random() ** (1 / _GROW[relation][0]), reverse=True)
    for relation in order:
        grown = _GROW[relation][1](program, rng, sizes, relation)
        if grown is None:
            continue
        if may_ask and relation in ("total", "comparison") and rng.random() < 0.6:
            target = replace(grown[grown.target], owner=None)
            grown = replace(grown, quantities=(*grown.quantities[:-1], target))
        if is_sound(grown, sizes.most):
            return grown
    raise ValueError(f"no relation fits on top of the target of {program.to_json()}")


def _append(program: Program, q: Quantity, *before: Quantity) -> Program:
    return replace(program, quantities=(*program.quantities, *before, q), target=q.id)


def _grow_by_number(program: Program, rng: random.Random, sizes: Sizes, relation: str) -> Program | None:
    target = program[program.target]
    n = draw_number(relation, evaluate(program)[target.id], rng, sizes)
    names = free_names(program)
    if n is None or not names:
        return None
    owner, unit, left = rng.choice(names), target.unit, False
    if relation == "left":
        if target.left:
            return None
        owner, left = target.owner, True
    if relation == "rate":
        theme = _THEMES[program.theme]
        if unit not in theme.items:
            return None
        unit = rng.choice(theme.rewards)
        owner = target.owner if rng.random() < 0.4 else owner
    return _append(
        program,
        Quantity(
            id=next_id(program),
            relation=relation,
            args=(target.id,),
            numbers=(n,),
            owner=owner,
            unit=unit,
            left=left,
            phrasing=rng.randrange(len(FORMS[relation].sentences)),
        ),
    )


def draw_number(relation: str, value: Fraction, rng: random.Random, sizes: Sizes) -> int | None:
    """A number for a relation on `value` such that the result is whole and in range; None when there is none."""
    low, high = sizes.addend
    v, most = int(value), sizes.most
    choices: list[int] = []
    match relation:
        case "more":
            choices = list(range(low, min(high, most - v) + 1))
        case "fewer" | "left":
            choices = list(range(low, min(high, v - 2) + 1))
        case "times":
            choices = list(range(sizes.factor[0], min(sizes.factor[1], most // v) + 1))
        case "rate":
            choices = list(range(sizes.price[0], min(sizes.price[1], most // v) + 1))
        case "share":
            choices = [n for n in sizes.divisors if n in FRACTIONS and v % n == 0 and v // n >= 2]
        case "percent":
            choices = [p for p in sizes.percents if v * p % 100 == 0 and v * p // 100 >= 2]
    return rng.choice(choices) if choices else None


def _grow_by_pair(program: Program, rng: random.Random, sizes: Sizes, relation: str) -> Program | None:
    """Total or comparison of the target and another amount of the same noun: an earlier one, or a new given."""
    target = program[program.target]
    names = free_names(program)
    if target.left or len(names) < 2:
        return None
    rng.shuffle(names)
    others = [q for q in program.quantities if q.id != target.id and q.unit == target.unit and not q.left]
    id, before = next_id(program), ()
    if others and rng.random() < 0.6:
        other = rng.choice(others)
    else:
        other = Quantity(
            id=id,
            relation="given",
            numbers=(draw_given(rng, sizes),),
            owner=names[0],
            unit=target.unit,
            phrasing=rng.randrange(len(FORMS["given"].sentences)),
        )
        id, before = id + 1, (other,)
    values = evaluate(replace(program, quantities=(*program.quantities, *before)))
    pair = [target.id, other.id]
    if relation == "comparison":
        pair.sort(key=lambda a: values[a], reverse=True)
    else:
        rng.shuffle(pair)
    q = Quantity(
        id=id,
        relation=relation,
        args=(pair[0], pair[1]),
        owner=names[1],
        unit=target.unit,
        phrasing=rng.randrange(len(FORMS[relation].sentences)),
    )
    return _append(program, q, *before)


_Grow = Callable[[Program, random.Random, Sizes, str], Program | None]
_GROW: dict[str, tuple[float, _Grow]] = {  # weight, rule; shares and percentages fit seldom, so they weigh more
    "more": (1.0, _grow_by_number),
    "fewer": (1.0, _grow_by_number),
    "times": (1.0, _grow_by_number),
    "share": (1.6, _grow_by_number),
    "percent": (1.6, _grow_by_number),
    "rate": (1.0, _grow_by_number),
    "left": (1.0, _grow_by_number),
    "total": (1.0, _grow_by_pair),
    "comparison": (0.8, _grow_by_pair),
}
