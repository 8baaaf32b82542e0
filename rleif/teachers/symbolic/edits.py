"""The evolution operators as edits of the program.

add_constraints     a further condition on the old target becomes the target          steps + 1, new answer
concretize          a plain number becomes concrete: groups of a size, or two parts   steps + 1, same answer
increase_reasoning  a number becomes a relation to a new amount, or falls in two      steps + 1, same answer
lower_difficulty    tell a derived amount outright, or ask for an earlier one         fewer steps
new_topic           a new, easier problem of another theme                            fewer steps, another theme

The first four keep the theme. Each returns None where no such evolution exists.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import replace

from rleif.teachers.symbolic.grammar import FORMS, QUESTIONS, THEMES
from rleif.teachers.symbolic.program import (
    Program,
    Quantity,
    count_steps,
    evaluate,
    is_sound,
    needed,
    tidy,
)
from rleif.teachers.symbolic.sample import MAX_STEPS, Sizes, extend, free_names, next_id, sample_program

_TRIES = 8
Edit = Callable[[Program, random.Random, Sizes], Program | None]


def add_constraints(program: Program, rng: random.Random, sizes: Sizes) -> Program | None:
    if count_steps(program) >= MAX_STEPS:
        return None
    program = _name_target(program, rng)
    answer = evaluate(program)[program.target]
    for _ in range(_TRIES):
        try:
            child = extend(program, rng, sizes, may_ask=True)
        except ValueError:
            return None
        if evaluate(child)[child.target] != answer:  # 40 - 20 = 20 would look as if nothing had been added
            return _ask_anew(child, rng)
    return None


def _name_target(program: Program, rng: random.Random) -> Program:
    """A total or comparison that only the question states becomes an amount of a new person."""
    target = program[program.target]
    if target.owner is not None:
        return program
    phrasing = rng.randrange(len(FORMS[target.relation].sentences))
    return _replaced(program, replace(target, owner=rng.choice(free_names(program)), phrasing=phrasing))


def _replaced(program: Program, new: Quantity, *before: Quantity) -> Program:
    """The program with the quantity of new's id replaced, and `before` told just before it."""
    quantities: list[Quantity] = []
    for q in program.quantities:
        quantities += [*before, new] if q.id == new.id else [q]
    return replace(program, quantities=tuple(quantities))


def _ask_anew(program: Program, rng: random.Random) -> Program:
    return replace(program, question=rng.randrange(len(QUESTIONS["plain"])), question_pronoun=False)


def concretize(program: Program, rng: random.Random, sizes: Sizes) -> Program | None:
    for q in _givens(program, rng):
        drafts = [d for d in (*_as_groups(q, sizes), *_as_parts(q, rng)) if d[0] in sizes.relations]
        if drafts:
            relation, numbers = rng.choice(drafts)
            phrasing = rng.randrange(len(FORMS[relation].sentences))
            return _replaced(program, replace(q, relation=relation, numbers=numbers, phrasing=phrasing))
    return None


def _givens(program: Program, rng: random.Random) -> list[Quantity]:
    """The plain numbers, in random order; none when the problem is long enough."""
    if count_steps(program) >= MAX_STEPS:
        return []
    givens = [q for q in needed(program) if q.relation == "given"]
    rng.shuffle(givens)
    return givens


def _as_groups(q: Quantity, sizes: Sizes) -> Iterator[tuple[str, tuple[int, int]]]:
    low, high = sizes.groups
    for m in range(low, high + 1):
        n, rest = divmod(q.numbers[0], m)
        if rest == 0 and n >= 2:
            yield "groups", (m, n)


def _as_parts(q: Quantity, rng: random.Random) -> Iterator[tuple[str, tuple[int, int]]]:
    for _ in range(2 if q.numbers[0] >= 4 else 0):
        m = rng.randint(2, q.numbers[0] - 2)
        yield "parts", (m, q.numbers[0] - m)


def increase_reasoning(program: Program, rng: random.Random, sizes: Sizes) -> Program | None:
    if count_steps(program) >= MAX_STEPS:
        return None
    for q in rng.sample(needed(program), len(needed(program))):
        drafts = _derived(program, q, rng, sizes) if q.relation == "given" else _split(program, q, rng)
        sound = next((draft for draft in drafts if is_sound(draft, sizes.most)), None)
        if sound is not None:
            return sound
    return None


def _derived(program: Program, q: Quantity, rng: random.Random, sizes: Sizes) -> Iterator[Program]:
    """q's plain number follows from another amount, which is told first."""
    relations = [r for r in ("more", "fewer", "times", "share", "percent") if r in sizes.relations]
    for relation in rng.sample(relations, len(relations)):
        sources = list(_sources(relation, q, sizes))
        if sources:
            n, source = rng.choice(sources)
            told = _link(program, q, "given", (), source, rng)
            phrasing = rng.randrange(len(FORMS[relation].sentences))
            new = replace(q, relation=relation, args=(told.id,), numbers=(n,), phrasing=phrasing)
            yield _replaced(program, new, told)


def _split(program: Program, q: Quantity, rng: random.Random) -> Iterator[Program]:
    """q's number falls in two, with another amount half-way: 5 more becomes 2 more, then 3 more."""
    if q.relation in ("more", "fewer"):
        halves = [(n, q.numbers[0] - n) for n in range(2, q.numbers[0] - 1)]
    elif q.relation == "times":
        halves = [(n, q.numbers[0] // n) for n in range(2, q.numbers[0]) if q.numbers[0] % n == 0]
    else:
        return
    for first, second in rng.sample(halves, min(len(halves), 1)):
        half_way = _link(program, q, q.relation, q.args, first, rng)
        yield _replaced(program, replace(q, args=(half_way.id,), numbers=(second,), pronoun=False), half_way)


def _link(program: Program, q: Quantity, relation: str, args: tuple[int, ...], n: int, rng: random.Random) -> Quantity:
    """A new person's amount of q's noun."""
    return Quantity(
        id=next_id(program),
        relation=relation,
        args=args,
        numbers=(n,),
        owner=rng.choice(free_names(program)),
        unit=q.unit,
        phrasing=rng.randrange(len(FORMS[relation].sentences)),
    )


def _sources(relation: str, q: Quantity, sizes: Sizes) -> Iterator[tuple[int, int]]:
    """(the relation's number, the amount to start from) such that the relation gives q's number."""
    v = q.numbers[0]
    match relation:
        case "more":
            found = [(n, v - n) for n in range(sizes.addend[0], min(sizes.addend[1], v - 2) + 1)]
        case "fewer":
            found = [(n, v + n) for n in range(sizes.addend[0], sizes.addend[1] + 1)]
        case "times":
            found = [(n, v // n) for n in range(sizes.factor[0], sizes.factor[1] + 1) if v % n == 0 and v // n >= 2]
        case "share":
            found = [(n, v * n) for n in sizes.divisors]
        case _:
            found = [(p, v * 100 // p) for p in sizes.percents if v * 100 % p == 0]
    yield from ((n, source) for n, source in found if source <= sizes.most)


def lower_difficulty(program: Program, rng: random.Random, sizes: Sizes) -> Program | None:
    drafts = [*_told_outright(program, rng), *_asked_earlier(program, rng)]
    rng.shuffle(drafts)
    steps = count_steps(program)
    return next((d for d in drafts if 1 <= count_steps(d) < steps and is_sound(tidy(d), sizes.most)), None)


def _told_outright(program: Program, rng: random.Random) -> Iterator[Program]:
    values = evaluate(program)
    for q in needed(program):
        if q.relation != "given" and q.id != program.target and not q.left:
            phrasing = rng.randrange(len(FORMS["given"].sentences))
            told = replace(q, relation="given", args=(), numbers=(int(values[q.id]),), phrasing=phrasing, pronoun=False)
            yield _replaced(program, told)


def _asked_earlier(program: Program, rng: random.Random) -> Iterator[Program]:
    for q in needed(program):
        if q.relation != "given" and q.id != program.target:
            yield _ask_anew(replace(program, target=q.id), rng)


def new_topic(program: Program, rng: random.Random, sizes: Sizes) -> Program | None:
    steps = count_steps(program)
    if steps < 2:
        return None
    others = [theme for theme in THEMES if theme.name != program.theme]
    return sample_program(rng, rng.randint(1, steps - 1), others, sizes)


EDITS: dict[str, tuple[Edit, str]] = {  # operator: edit, and why it may be impossible
    "add_constraints": (add_constraints, f"the problem has {MAX_STEPS} steps already, or no relation fits"),
    "concretize": (concretize, f"no plain number is left to put in concrete terms, or {MAX_STEPS} steps already"),
    "increase_reasoning": (
        increase_reasoning,
        f"no number is left to derive or to split, or {MAX_STEPS} steps already",
    ),
    "lower_difficulty": (lower_difficulty, "a one-step problem cannot be made easier"),
    "new_topic": (new_topic, "no problem is easier than one of a single step"),
}


def edit(program: Program, operator: str, rng: random.Random, sizes: Sizes) -> Program | None:
    """The edited program, tidied; None where no such evolution exists. Raises ValueError for an unknown operator."""
    if operator not in EDITS:
        raise ValueError(f"the symbolic teacher has no operator {operator!r}; known: {', '.join(EDITS)}")
    child = EDITS[operator][0](program, rng, sizes)
    return None if child is None else tidy(child)
