"""The program behind a problem: from its meta, or read back from the text."""

from rleif.records import Problem
from rleif.teachers.symbolic.grammar import THEMES
from rleif.teachers.symbolic.program import Program, Quantity
from rleif.teachers.symbolic.reader import Amount, Parsed, Question, Reference, candidates, parse, read


def program_of(problem: Problem) -> Program:
    """The program in meta["program"]; where there is none, the one that the text spells out.

    Raises ValueError when the text is not of this language or has no single answer.
    """
    if "program" in problem.meta:
        return Program.from_json(problem.meta["program"])
    parsed = parse(problem.instruction)
    if parsed is None or read(problem.instruction) is None:
        raise ValueError(
            f"problem {problem.id!r} has no program in its meta and its text is not a well-posed problem of the "
            f"symbolic world: {problem.instruction[:120]!r}"
        )
    return _from_text(parsed)


def _from_text(parsed: Parsed) -> Program:
    ids: dict[Amount, int] = {}
    quantities: list[Quantity] = []
    for i, s in enumerate(parsed.statements):
        if s.subject in ids:  # said again; the reader has found it consistent
            continue
        owner, unit, left = s.subject
        quantities.append(
            Quantity(
                id=i,
                relation=s.relation,
                args=tuple(ids[candidates(parsed.statements, i, m)[0]] for m in s.mentions),
                numbers=s.numbers,
                owner=owner,
                unit=unit,
                left=left,
                phrasing=s.phrasing,
                pronoun=any(_is_pronoun(m) for m in s.mentions),
            )
        )
        ids[s.subject] = i
    return _with_question(parsed, quantities, ids)


def _with_question(parsed: Parsed, quantities: list[Quantity], ids: dict[Amount, int]) -> Program:
    question: Question = parsed.question
    asked = tuple(ids[candidates(parsed.statements, None, m)[0]] for m in question.mentions)
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
