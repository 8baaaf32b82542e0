"""Known defects for real problem text: a needed sentence removed, a number contradicted, two problems spliced.

They work on problems whose reference solution marks its equations (`meta["equations"]`), because the marks tell which
numbers of the text the solution needs.
"""

import random
import re
from collections.abc import Callable

from rleif.records import Problem

_NUMBER = re.compile(r"(?<![\w.,])\d[\d,]*(?:\.\d+)?(?![\w])")
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"'”’)]*\s+(?=[\"'“‘(]*[A-Z0-9$])")
_TITLES = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|St|Sr|Jr|vs|No|a\.m|p\.m)\.$")


def sentences(text: str) -> list[str]:
    """The sentences of a text with the white space after each, so that joined they are the text again.

    Kept white space matters: versions with a defect must not be recognisable by a tidier layout. Titles such as "Mr."
    end no sentence.

    >>> sentences("Mr. Po has 3 pens.  How many?")
    ['Mr. Po has 3 pens.  ', 'How many?']
    """
    found, start = [], 0
    for match in _SENTENCE_END.finditer(text):
        if not _TITLES.search(text[start : match.start()]):
            found.append(text[start : match.end()])
            start = match.end()
    return [*found, text[start:]]


def split_question(text: str) -> tuple[list[str], str] | None:
    """The sentences before the question, and the question, which is the last sentence; None for another shape."""
    found = sentences(text)
    if len(found) < 2 or not found[-1].rstrip("\"'”’) \n").endswith("?"):
        return None
    return found[:-1], found[-1]


def numbers(text: str) -> list[str]:
    """The numbers of a text without their separators, in order."""
    return [match.group().replace(",", "").rstrip(".") for match in _NUMBER.finditer(text)]


def needed_numbers(problem: Problem) -> set[str]:
    """The numbers that the marked equations take as operands."""
    return {number for mark in problem.meta.get("equations", ()) for number in numbers_of(mark["left"])}


def numbers_of(expression: str) -> list[str]:
    """The number literals of an expression: `48/2` -> 48, 2."""
    return re.findall(r"\d+(?:\.\d+)?|\.\d+", expression.replace(",", ""))


def remove_sentence(problem: Problem, other: Problem, rng: random.Random) -> str | None:
    """Without a sentence that holds a needed number found nowhere else: the answer can no longer be determined."""
    parts = split_question(problem.instruction)
    if parts is None:
        return None
    body, question = parts
    needed, everywhere = needed_numbers(problem), numbers(problem.instruction)
    places = [
        place
        for place, sentence in enumerate(body)
        if any(number in needed and everywhere.count(number) == 1 for number in numbers(sentence))
    ]
    if not places or len(body) == 1:  # a question alone would be recognised by its length
        return None
    place = rng.choice(places)
    return "".join([*body[:place], *body[place + 1 :], question])


def contradict(problem: Problem, other: Problem, rng: random.Random) -> str | None:
    """With a sentence said again further on and another number in it: two values for one needed quantity."""
    parts = split_question(problem.instruction)
    if parts is None:
        return None
    body, question = parts
    needed = needed_numbers(problem)
    spots = [
        (place, match)
        for place, sentence in enumerate(body)
        for match in _NUMBER.finditer(sentence)
        if match.group().replace(",", "").rstrip(".") in needed
    ]
    if not spots:
        return None
    place, match = rng.choice(spots)
    sentence = body[place]
    again = sentence[: match.start()] + _another(match.group(), rng) + sentence[match.end() :]
    later = rng.randint(place + 1, len(body))
    return "".join([*body[:later], again, *body[later:], question])


def _another(number: str, rng: random.Random) -> str:
    """A different number of the same kind, not far off."""
    if "." in number:
        whole, _, decimals = number.replace(",", "").partition(".")
        return f"{int(whole) + rng.randint(1, 9)}.{decimals}"
    value = int(number.replace(",", ""))
    other = value + rng.choice([sign * step for step in range(1, max(4, value // 2)) for sign in (1, -1)])
    other = other if other > 1 and other != value else value + rng.randint(2, 9)
    return f"{other:,}" if "," in number else str(other)


def splice(problem: Problem, other: Problem, rng: random.Random) -> str | None:
    """The body of one problem with the question of another one."""
    parts, others = split_question(problem.instruction), split_question(other.instruction)
    if parts is None or others is None or others[1] == parts[1]:
        return None
    return "".join([*parts[0], others[1]])


Defect = Callable[[Problem, Problem, random.Random], str | None]

TEXT_DEFECTS: dict[str, Defect] = {
    "missing_premise": remove_sentence,
    "contradiction": contradict,
    "spliced": splice,
}
"""Name -> (problem, another problem, rng) -> the defective text, or None where it does not fit."""
