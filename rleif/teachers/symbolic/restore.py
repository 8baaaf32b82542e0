"""The program behind a problem: from its meta, or read back from the text."""

from rleif.records import Problem
from rleif.teachers.symbolic.grammar import THEMES
from rleif.teachers.symbolic.program import Program, Quantity
from rleif.teachers.symbolic.reader import Amount, Parsed, Question, Reference, Statement, candidates, parse, read


def program_of(problem: Problem) -> Program:
    """The program in meta["program"]; where there is none, the one that the text spells out.

    Raises ValueError when the text is not of this language or has no single answer.
    """
    if "program" in problem.meta:
        return Program.from_json(problem.meta["program"])
    parsed = parse(problem.instruction)
    program = _from_text(parsed) if parsed is not None and read(problem.instruction) is not None else None
    if program is None:
        raise ValueError(
            f"problem {problem.id!r} has no program in its meta and its text is not a well-posed problem of the "
            f"symbolic world: {problem.instruction[:120]!r}"
        )
    return program


def _from_text(parsed: Parsed) -> Program | None:
    """None when the text gives its answer only by working backwards, which no program does."""
    ids: dict[Amount, int] = {}
    quantities: list[Quantity] = []
    waiting = list(enumerate(parsed.statements))
    while waiting:  # text order, except that a sentence may speak of an amount that only a later one defines
        ready = next(((i, s) for i, s in waiting if all(a in ids for a in _meant(parsed, i, s))), None)
        if ready is None:
            return None
        waiting.remove(ready)
        i, s = ready
        if s.subject not in ids:  # else said again; the reader has found it consistent
            quantities.append(_quantity(i, s, tuple(ids[a] for a in _meant(parsed, i, s))))
            ids[s.subject] = i
    return _with_question(parsed, quantities, ids)


def _meant(parsed: Parsed, at: int, statement: Statement) -> list[Amount]:
    return [candidates(parsed.statements, at, mention)[0] for mention in statement.mentions]


def _quantity(id: int, s: Statement, args: tuple[int, ...]) -> Quantity:
    owner, unit, left = s.subject
    return Quantity(
        id=id,
        relation=s.relation,
        args=args,
        numbers=s.numbers,
        owner=owner,
        unit=unit,
        left=left,
        phrasing=s.phrasing,
        pronoun=any(_is_pronoun(m) for m in s.mentions),
    )


def _with_question(parsed: Parsed, quantities: list[Quantity], ids: dict[Amount, int]) -> Program | None:
    question: Question = parsed.question
    meant = [candidates(parsed.statements, None, m)[0] for m in question.mentions]
    if not ids.keys() >= set(meant):
        return None
    asked = tuple(ids[amount] for amount in meant)
    target = asked[0]
    if question.kind in ("total", "comparison"):
        target = len(parsed.statements)
        unit = question.mentions[0].noun
        quantities = [*quantities, Quantity(id=target, relation=question.kind, args=asked, owner=None, unit=unit)]
    theme, scene = _theme(parsed, quantities)
    return Program(
        theme=theme,
        quantities=tuple(quantities),
        target=target,
        scene=scene,
        question=question.phrasing,
        question_pronoun=any(_is_pronoun(m) for m in question.mentions),
    )


def _is_pronoun(mention: Reference) -> bool:
    return mention.person in ("she", "he")


def _theme(parsed: Parsed, quantities: list[Quantity]) -> tuple[str, int | None]:
    for theme in THEMES:
        if parsed.scene in theme.scenes:
            return theme.name, theme.scenes.index(parsed.scene)
    for theme in THEMES:
        if any(q.unit in theme.items for q in quantities):
            return theme.name, None
    return next(theme.name for theme in THEMES if quantities[0].unit in theme.rewards), None
