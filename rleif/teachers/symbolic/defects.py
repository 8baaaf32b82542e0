"""Problems with a known defect, for instruction rankings whose truth is known and for a dirty teacher."""

import random
from collections.abc import Callable, Iterator
from dataclasses import replace

from rleif.records import Problem, stable_id
from rleif.teachers.symbolic.grammar import FORMS, NAMES
from rleif.teachers.symbolic.program import Program, Quantity, evaluate, needed
from rleif.teachers.symbolic.render import render
from rleif.teachers.symbolic.restore import program_of
from rleif.teachers.symbolic.sample import SIZES, Sizes, draw_given, draw_number, free_names, meta_of, next_id

ILL_POSED = ("missing_premise", "contradiction", "ambiguous_referent")
DEFECTS = (*ILL_POSED, "redundant_clause")
"""No solution or many: a needed sentence is gone; a needed amount is told twice, differently; a pronoun fits two
persons. Well posed but not clean: a sentence that says nothing new, or nothing to the point."""


def defective(problem: Problem, rng: random.Random, defect: str) -> Problem:
    """A child with the defect; meta["defect"] names it, and the answer is None unless the child is well posed.

    meta["program"] of an ill-posed child is that of the intact parent. Raises ValueError for an unknown defect.
    """
    program, text = spoil(program_of(problem), rng, defect)
    return Problem(
        id=stable_id(problem.id, defect, text),
        instruction=text,
        answer=None if defect in ILL_POSED else problem.answer,
        parent=problem.id,
        root=problem.root,
        round=problem.round,
        operator=defect,
        teacher="symbolic",
        meta={**meta_of(program), "defect": defect},
    )


def spoil(program: Program, rng: random.Random, defect: str, sizes: Sizes = SIZES) -> tuple[Program, str]:
    """The program to remember the child by, and the child's text."""
    if defect not in DEFECTS:
        raise ValueError(f"unknown defect {defect!r}; known: {', '.join(DEFECTS)}")
    # Pronouns are written out first: a sentence added or taken away could change whom they mean.
    plain = replace(
        program, quantities=tuple(replace(q, pronoun=False) for q in program.quantities), question_pronoun=False
    )
    if defect == "missing_premise":
        gone = rng.choice([q for q in needed(plain) if q.owner is not None])
        return program, render(plain, without={gone.id})
    spoiled = _SPOIL[defect](plain, rng, sizes)
    return (spoiled if defect == "redundant_clause" else program), render(spoiled)


def _insert(program: Program, new: Quantity, rng: random.Random) -> Program:
    """The program with one more sentence, told somewhere after all that it mentions."""
    places = {q.id: i for i, q in enumerate(program.quantities)}
    # a total or comparison that only the question states has no sentence; nothing is told after it
    end = len(program.quantities) - (program.quantities[-1].owner is None)
    first = 1 + max((places[a] for a in new.args), default=-1)
    at = rng.randint(first, end)
    quantities = (*program.quantities[:at], new, *program.quantities[at:])
    return replace(program, quantities=quantities)


def _contradict(program: Program, rng: random.Random, sizes: Sizes) -> Program:
    """Tell a needed amount a second time: as another number, or by the same relation with another number."""
    values = evaluate(program)
    q = rng.choice([q for q in needed(program) if q.owner is not None and not q.left])
    if q.relation in ("more", "fewer") and rng.random() < 0.5:
        numbers = [n for n in range(sizes.addend[0], sizes.addend[1] + 1) if n != q.numbers[0]]
        again = replace(_again(program, q, rng), numbers=(rng.choice(numbers),))
    else:
        value = int(values[q.id])
        near = {value + d for d in (-10, -5, -3, -2, 2, 3, 4, 5, 10, 20) if value + d >= 2}
        again = replace(_again(program, q, rng), relation="given", args=(), numbers=(rng.choice(sorted(near)),))
        again = replace(again, phrasing=rng.randrange(len(FORMS["given"].sentences)))
    return _insert_after(program, q, again, rng)


def _again(program: Program, q: Quantity, rng: random.Random) -> Quantity:
    """The same amount told in other words."""
    others = [i for i in range(len(FORMS[q.relation].sentences)) if i != q.phrasing]
    return replace(q, id=next_id(program), phrasing=rng.choice(others))


def _insert_after(program: Program, q: Quantity, again: Quantity, rng: random.Random) -> Program:
    quantities = list(program.quantities)
    end = len(quantities) - (quantities[-1].owner is None)
    quantities.insert(rng.randint(quantities.index(q) + 1, end), again)
    return replace(program, quantities=tuple(quantities))


def _add_redundant(program: Program, rng: random.Random, sizes: Sizes) -> Program:
    """Repeat a sentence in other words, or tell an amount that the question does not rest on."""
    if rng.random() < 0.5:
        q = rng.choice([q for q in needed(program) if q.owner is not None and not q.left])
        return _insert_after(program, q, _again(program, q, rng), rng)
    return _insert(program, _bystander(program, rng, sizes), rng)


def _bystander(program: Program, rng: random.Random, sizes: Sizes) -> Quantity:
    values = evaluate(program)
    base = rng.choice([q for q in program.quantities if q.owner is not None and not q.left])
    relation = rng.choice(("given", "more", "fewer", "times"))
    n = draw_given(rng, sizes) if relation == "given" else draw_number(relation, values[base.id], rng, sizes)
    if n is None:
        relation, n = "given", draw_given(rng, sizes)
    return Quantity(
        id=next_id(program),
        relation=relation,
        args=() if relation == "given" else (base.id,),
        numbers=(n,),
        owner=rng.choice(free_names(program)),
        unit=base.unit,
        phrasing=rng.randrange(len(FORMS[relation].sentences)),
    )


def _blur(program: Program, rng: random.Random, sizes: Sizes) -> Program:
    """Write a pronoun where two persons fit and it matters which."""
    drafts = [*_blurred_sentences(program, rng), *_blurred_question(program, rng)]
    if drafts:
        return rng.choice(drafts)
    # Nobody else counts this noun: let somebody, then ask "how many does she ...?"
    asked = rng.choice([q for q in needed(program) if q.owner is not None and not q.left])
    other = _stranger(program, asked, rng, sizes)
    quantities = (other, *program.quantities)
    return replace(program, quantities=quantities, target=asked.id, question_pronoun=True)


def _stranger(program: Program, q: Quantity, rng: random.Random, sizes: Sizes) -> Quantity:
    value = evaluate(program)[q.id]
    gender = NAMES[str(q.owner)]
    return Quantity(
        id=next_id(program),
        relation="given",
        numbers=(next(n for n in iter(lambda: draw_given(rng, sizes), None) if n != value),),
        owner=rng.choice([name for name in free_names(program) if NAMES[name] == gender]),
        unit=q.unit,
        phrasing=rng.randrange(len(FORMS["given"].sentences)),
    )


def _blurred_sentences(program: Program, rng: random.Random) -> Iterator[Program]:
    answer = evaluate(program)[program.target]
    for i, q in enumerate(program.quantities):
        if len(q.args) != 1 or q.relation == "left" or q.owner is None or program[q.args[0]].left:
            continue
        meant = program[q.args[0]]
        for other in program.quantities[:i]:
            if other.owner in (None, meant.owner, q.owner) or other.unit != meant.unit or other.left:
                continue
            misread = _swap(program, replace(q, args=(other.id,)))
            if evaluate(misread)[program.target] == answer:
                continue
            blurred = _swap(program, replace(q, pronoun=True))
            yield _same_gender(blurred, str(meant.owner), str(other.owner), rng)


def _blurred_question(program: Program, rng: random.Random) -> Iterator[Program]:
    values = evaluate(program)
    target = program[program.target]
    if target.owner is None or target.left:
        return
    for other in program.quantities:
        same_noun = other.unit == target.unit and not other.left and other.owner not in (None, target.owner)
        if same_noun and values[other.id] != values[target.id]:
            yield _same_gender(replace(program, question_pronoun=True), target.owner, str(other.owner), rng)


def _swap(program: Program, new: Quantity) -> Program:
    return replace(program, quantities=tuple(new if q.id == new.id else q for q in program.quantities))


def _same_gender(program: Program, model: str, person: str, rng: random.Random) -> Program:
    """The program with `person` renamed, if need be, to a name of model's gender."""
    if NAMES[person] == NAMES[model]:
        return program
    name = rng.choice([n for n in free_names(program) if NAMES[n] == NAMES[model]])
    quantities = tuple(replace(q, owner=name) if q.owner == person else q for q in program.quantities)
    return replace(program, quantities=quantities)


_SPOIL: dict[str, Callable[[Program, random.Random, Sizes], Program]] = {
    "contradiction": _contradict,
    "redundant_clause": _add_redundant,
    "ambiguous_referent": _blur,
}
