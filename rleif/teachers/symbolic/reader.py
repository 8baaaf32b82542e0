"""Read a problem's English and answer it, independently of whoever wrote it.

Shares with the writer the grammar table and nothing else: sentences are recognised by patterns compiled from the table,
become linear equations over (person, noun, in all or left), and the system is solved by exact Gaussian elimination. So
it is the oracle for "the text says what the program says" and for well-posedness.
"""

import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Literal

from rleif.teachers.symbolic.grammar import FORMS, FRACTIONS, NAMES, QUESTIONS, THEMES, UNITS

Status = Literal["solved", "unreadable", "underdetermined", "contradictory", "ambiguous"]
Amount = tuple[str, str, bool]  # person, plural noun, whether what is left is meant

_ONE = {unit.one: unit.many for unit in UNITS.values()}
_SHARES = {words: n for n, words in FRACTIONS.items()}
_SCENES = {scene: theme.name for theme in THEMES for scene in theme.scenes}
_MOST_READINGS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A mention of an amount. person "she" or "he" stands for whoever it may be."""

    person: str
    noun: str
    left: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One sentence understood: it defines the subject's amount by a relation over the amounts it mentions.

    >>> Statement(
    ...     relation="more",
    ...     phrasing=0,
    ...     subject=("Bruno", "tarts", False),
    ...     numbers=(5,),
    ...     mentions=(Reference(person="Greta", noun="tarts"),),
    ... )
    """

    relation: str
    phrasing: int
    subject: Amount
    numbers: tuple[int, ...] = ()
    mentions: tuple[Reference, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    kind: str  # a key of grammar.QUESTIONS
    phrasing: int
    mentions: tuple[Reference, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    scene: str | None
    statements: tuple[Statement, ...]
    question: Question


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a text amounts to. `answer` is None unless solved.

    >>> analyse("Greta bakes 12 tarts. How many tarts does Hugo bake?").status
    'underdetermined'
    """

    status: Status
    answer: Fraction | None = None
    steps: int = 0  # operations that the question needs
    redundant: int = 0  # statements that say again what was said, or that the question does not rest on


def read(text: str) -> Fraction | None:
    """The answer of a problem; None when it has none or many, or is not of this language."""
    parsed = parse(text)
    if parsed is None:
        return None
    _, answer = _answer(parsed.statements, parsed.question)
    return answer


def analyse(text: str) -> Reading:
    """Why a problem has or has not one answer, how many operations it takes, and how much of it is redundant."""
    parsed = parse(text)
    if parsed is None:
        return Reading(status="unreadable")
    status, answer = _answer(parsed.statements, parsed.question)
    if answer is None:
        return Reading(status=status)
    needed = _needed(parsed)
    steps = sum(parsed.statements[i].relation != "given" for i in needed)
    steps += parsed.question.kind in ("total", "comparison")
    return Reading(status=status, answer=answer, steps=steps, redundant=len(parsed.statements) - len(needed))


# --- from sentences to statements ---


def parse(text: str) -> Parsed | None:
    """The sentences understood; None when one is not of the language or the question is missing."""
    sentences = [s.strip() for s in re.findall(r"[^.?]+[.?]?", text) if s.strip()]
    if not sentences:
        return None
    question = _parse_question(sentences[-1])
    if question is None:
        return None
    scene, statements = None, []
    for sentence in sentences[:-1]:
        if sentence in _SCENES:
            scene = sentence
            continue
        statement = _parse_statement(sentence)
        if statement is None:
            return None
        statements.append(statement)
    return Parsed(scene=scene, statements=tuple(statements), question=question)


def _any(words: Iterable[str]) -> str:
    return "|".join(sorted(map(re.escape, set(words)), key=len, reverse=True))


_NAME = _any(NAMES)
_VERB = _any(unit.verb for unit in UNITS.values())
_SLOTS = {
    "S": _NAME,
    "A": _NAME,
    "B": _NAME,
    "U": _any(UNITS),
    "u": _any(_ONE),
    "x": _any(_ONE),
    "V": _VERB,
    "b": _any(unit.base for unit in UNITS.values()),
    "L": _any(unit.loss for unit in UNITS.values()),
    "G": _any(unit.group for unit in UNITS.values()),
    "N": r"[0-9]{1,9}",
    "M": r"[0-9]{1,9}",
    "T": r"twice|[0-9]{1,9} times",
    "F": _any(FRACTIONS.values()),
    "R": rf"(?:{_NAME})(?: has left)?|(?:she|he) does",
    "W": rf"(?:{_NAME}) has left|(?:{_NAME}|she|he) (?:{_VERB})",
}


def _pattern(template: str, slots: Mapping[str, str]) -> re.Pattern[str]:
    seen: set[str] = set()

    def slot(match: re.Match[str]) -> str:
        name = match[1]
        if name in seen:
            return f"(?P={name})"
        seen.add(name)
        return f"(?P<{name}>{slots[name]})"

    literal = re.sub(r"([.?])", r"\\\1", template)
    return re.compile(re.sub(r"\{(\w)\}", slot, literal))


_STATEMENTS = [
    (relation, i, _pattern(template, _SLOTS))
    for relation, form in FORMS.items()
    for i, template in enumerate(form.sentences)
]
_QUESTIONS = [
    (kind, i, _pattern(template, _SLOTS | {"S": f"{_NAME}|she|he"}))
    for kind, templates in QUESTIONS.items()
    for i, template in enumerate(templates)
]


@lru_cache(maxsize=4096)
def _parse_statement(sentence: str) -> Statement | None:
    """The sentence's one meaning; None when it has none, or two."""
    found = set()
    for relation, phrasing, pattern in _STATEMENTS:
        if match := pattern.fullmatch(sentence):
            statement = _understand(relation, phrasing, match.groupdict())
            if statement is not None:
                found.add(statement)
    return found.pop() if len(found) == 1 else None


def _understand(relation: str, phrasing: int, slots: dict[str, str]) -> Statement | None:
    noun = slots.get("U") or _ONE[slots["u"]]
    mentioned = _ONE[slots["x"]] if "x" in slots else noun
    unit = UNITS[noun]
    agree = {"u": unit.one, "V": unit.verb, "b": unit.base, "L": unit.loss, "G": unit.group}
    if any(slots.get(slot, word) != word for slot, word in agree.items()):
        return None
    if relation == "left":
        mentions = (Reference(person=slots["S"], noun=noun),)
    elif "A" in slots:
        mentions = (Reference(person=slots["A"], noun=noun), Reference(person=slots["B"], noun=noun))
    elif "R" in slots:
        mentions = (_reference(slots["R"], mentioned, "does"),)
    elif "W" in slots:
        mentions = (_reference(slots["W"], mentioned, UNITS[mentioned].verb),)
    else:
        mentions = ()
    if None in mentions:
        return None
    return Statement(
        relation=relation,
        phrasing=phrasing,
        subject=(slots["S"], noun, relation == "left"),
        numbers=_numbers(slots),
        mentions=mentions,  # pyright: ignore[reportArgumentType]
    )


def _numbers(slots: dict[str, str]) -> tuple[int, ...]:
    if "F" in slots:
        return (_SHARES[slots["F"]],)
    if "T" in slots:
        return (2 if slots["T"] == "twice" else int(slots["T"].split()[0]),)
    return tuple(int(slots[slot]) for slot in "MN" if slot in slots)


def _reference(words: str, noun: str, verb: str) -> Reference | None:
    """ "Greta", "Greta has left", or a person with `verb`; None for a verb that does not go with the noun."""
    person, _, rest = words.partition(" ")
    if rest not in ("", "has left", verb):
        return None
    return Reference(person=person, noun=noun, left=rest == "has left")


@lru_cache(maxsize=4096)
def _parse_question(sentence: str) -> Question | None:
    for kind, phrasing, pattern in _QUESTIONS:
        if match := pattern.fullmatch(sentence):
            slots = match.groupdict()
            unit = UNITS[slots["U"]]
            if slots.get("V", unit.verb) != unit.verb or slots.get("b", unit.base) != unit.base:
                continue
            persons = [slots["A"], slots["B"]] if "A" in slots else [slots["S"]]
            mentions = tuple(Reference(person=p, noun=unit.many, left=kind == "left") for p in persons)
            return Question(kind=kind, phrasing=phrasing, mentions=mentions)
    return None


# --- from statements to an answer ---

Row = tuple[dict[Amount, Fraction], Fraction]  # sum of coefficient * amount = constant


def candidates(statements: Sequence[Statement], at: int | None, mention: Reference) -> list[Amount]:
    """The amounts that a mention may stand for; `at` is the index of its sentence, None for the question."""
    if mention.person in NAMES:
        return [(mention.person, mention.noun, mention.left)]
    before = statements if at is None else statements[:at]
    own = None if at is None else statements[at].subject
    found = [
        s.subject
        for s in before
        if s.subject[1] == mention.noun
        and not s.subject[2]
        and NAMES[s.subject[0]] == mention.person
        and s.subject != own
    ]
    return list(dict.fromkeys(found))


def _answer(statements: Sequence[Statement], question: Question) -> tuple[Status, Fraction | None]:
    """Status and answer over all readings of the pronouns: solved only when they agree."""
    choices = [candidates(statements, i, m) for i, s in enumerate(statements) for m in s.mentions]
    choices += [candidates(statements, None, m) for m in question.mentions]
    if not all(choices):
        return "underdetermined", None
    readings = itertools.islice(itertools.product(*choices), _MOST_READINGS + 1)
    outcomes = {_answer_reading(statements, question, reading) for reading in readings}
    if len(outcomes) > 1 or math.prod(map(len, choices)) > _MOST_READINGS:
        return "ambiguous", None
    return outcomes.pop()


def _answer_reading(
    statements: Sequence[Statement], question: Question, reading: Sequence[Amount]
) -> tuple[Status, Fraction | None]:
    amounts = iter(reading)
    rows = [_row(s, [next(amounts) for _ in s.mentions]) for s in statements]
    asked = list(amounts)
    goal = {asked[0]: Fraction(1)}
    for amount in asked[1:]:
        goal[amount] = goal.get(amount, Fraction(0)) + (1 if question.kind == "total" else -1)
    solved = _eliminate(rows)
    if solved is None:
        return "contradictory", None
    rest, value = _reduce(goal, Fraction(0), solved)
    if rest:
        return "underdetermined", None
    return ("solved", -value) if _is_count(-value) else ("contradictory", None)


def _row(s: Statement, mentions: Sequence[Amount]) -> Row:
    """The statement as a linear equation."""
    n = [Fraction(v) for v in s.numbers]
    sign, scale, constant = 1, Fraction(1), Fraction(0)
    match s.relation:
        case "given":
            constant = n[0]
        case "groups":
            constant = n[0] * n[1]
        case "parts":
            constant = n[0] + n[1]
        case "more":
            constant = n[0]
        case "fewer" | "left":
            constant = -n[0]
        case "times" | "rate":
            scale = n[0]
        case "share":
            scale = 1 / n[0]
        case "percent":
            scale = n[0] / 100
        case "comparison":
            sign = -1
    row = {s.subject: Fraction(1)}
    for i, amount in enumerate(mentions):
        row[amount] = row.get(amount, Fraction(0)) - (scale if i == 0 else sign)
    return row, constant


def _eliminate(rows: Iterable[Row]) -> dict[Amount, Row] | None:
    """Reduced row echelon form by pivot; None when the system has no solution in counts."""
    solved: dict[Amount, Row] = {}
    for coefficients, constant in rows:
        left, right = _reduce(coefficients, constant, solved)
        if not left:
            if right != 0:
                return None
            continue
        pivot = next(iter(left))
        by = left[pivot]
        row = {a: c / by for a, c in left.items()}, right / by
        for amount, (old, old_constant) in solved.items():
            if pivot in old:
                solved[amount] = _reduce(old, old_constant, {pivot: row})
        solved[pivot] = row
    known = (constant for row, constant in solved.values() if len(row) == 1)
    return solved if all(map(_is_count, known)) else None


def _reduce(row: Mapping[Amount, Fraction], constant: Fraction, solved: Mapping[Amount, Row]) -> Row:
    """The row with every solved amount replaced, zero coefficients gone."""
    rest = dict(row)
    for amount in row:
        if amount in solved:
            factor = rest.pop(amount)  # pivots stand in no other row, so no earlier round has changed it
            other, other_constant = solved[amount]
            for a, c in other.items():
                if a != amount:
                    rest[a] = rest.get(a, 0) - factor * c
            constant -= factor * other_constant
    return {a: c for a, c in rest.items() if c}, constant


def _is_count(value: Fraction) -> bool:
    return value.denominator == 1 and value >= 0


def _needed(parsed: Parsed) -> set[int]:
    """Indices of the statements that the question rests on; of two about one amount, the first."""
    defined: dict[Amount, int] = {}
    for i, s in enumerate(parsed.statements):
        defined.setdefault(s.subject, i)
    needed: set[int] = set()
    stack = list(_mentioned(parsed, None, parsed.question.mentions))
    while stack:
        at = defined.get(stack.pop())
        if at is not None and at not in needed:
            needed.add(at)
            stack.extend(_mentioned(parsed, at, parsed.statements[at].mentions))
    return needed


def _mentioned(parsed: Parsed, at: int | None, mentions: Sequence[Reference]) -> Iterator[Amount]:
    for mention in mentions:
        yield from candidates(parsed.statements, at, mention)[:1]
