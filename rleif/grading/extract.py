"""Find the answer that a text states.

Every pattern runs in linear time on any input.
"""

import re
from dataclasses import dataclass
from typing import Literal

from rleif.grading.exact import read_answer, read_number, tidy
from rleif.grading.limits import MAX_CHARS

Mark = Literal["answer_is", "hashes", "boxed", "answer_colon", "bare", "last_number"]

_ANSWER_IS = re.compile(r"\b(?:the|final)\s{1,4}answer\s{1,4}is\b\s{0,4}:?", re.IGNORECASE)
_HASHES = re.compile(r"^[ \t]{0,8}####(?!#)", re.MULTILINE)
_ANSWER_COLON = re.compile(r"^[ \t>*#]{0,8}(?:A|(?:final )?answer)[* ]{0,4}:", re.MULTILINE | re.IGNORECASE)
_BRACES = re.compile(r"\\(?:boxed|fbox)\s{0,4}\{|\\(?:boxed|fbox)\s{0,4}[A-Za-z\d]|\\.|[{}]", re.DOTALL)
_NEXT_QUESTION = re.compile(
    r"^[ \t*]{0,8}(?:#{1,6} ?(?:Instruction|Question|Problem)\b|(?:Question|Problem|Q)\s?:)", re.M
)
_SENTENCE_END = re.compile(r"[.!]\s+(?=[^\W\d])")
_LAST_NUMBER = re.compile(
    r"(?:(?<![\w.)\]}])[-−])?\$?(?:\d{1,3}(?:(?:,|\{,\})\d{3})+(?!\d)|\d+)?(?:\.\d+|(?<=\d))(?:\s?/\s?\d+(?![\d.]))?%?"
)
_STARTS_LIKE_AN_ANSWER = re.compile(r"[\d.+\-−–$€£\\(\[{]|[A-Za-z](?:\s*=|\W*$)")
_NUMBERED_HEADING = re.compile(r"\d+[.):]\s+\S")


@dataclass(frozen=True, slots=True, kw_only=True)
class Extraction:
    """The stated answer and by which mark it was found.

    >>> extract("5 + 3 = 8 pens")
    Extraction(answer='8', mark='last_number')
    """

    answer: str
    mark: Mark

    @property
    def is_fallback(self) -> bool:
        """True when nothing in the text says that this is the answer."""
        return self.mark == "last_number"


def extract(text: str, *, last_number: bool = True) -> Extraction | None:
    """The answer stated in a solution; None if there is none.

    In this order, and of each mark the last occurrence that has something behind it:

    1. `The answer is: X` (also `The final answer is X`): to the end of the line or sentence
    2. `#### X` (GSM8K); a Markdown heading is not an answer
    3. `\\boxed{X}`, braces balanced
    4. `A: X`, `Answer: X` at the start of a line
    5. the whole text, if it is a single line that is nothing but an answer
    6. with `last_number` (the stated fallback): the last number of the text

    A text that runs on into a new question after its answer is read up to that question only.
    """
    text = _before_the_next_question(text)
    boxed = _boxed(text)
    finders = (
        ("answer_is", _last_marked(text, _ANSWER_IS, anything=True)),
        ("hashes", _last_marked(text, _HASHES, anything=False)),
        ("boxed", boxed),
        ("answer_colon", _last_marked(text, _ANSWER_COLON, anything=False)),
        ("bare", _bare(text)),
        ("last_number", _last_number(text) if last_number else None),
    )
    for mark, answer in finders:
        if answer:
            return Extraction(answer=answer, mark=mark)
    return None


def extract_answer(text: str, *, last_number: bool = True) -> str | None:
    """The answer stated in a solution as text, None if there is none; see `extract` for where it is looked for."""
    found = extract(text, last_number=last_number)
    return found.answer if found else None


def _before_the_next_question(text: str) -> str:
    """Cut where a model that failed to stop begins a new question. A text that opens with questions (recited examples)
    is left whole: there the last answer is its own."""
    question = _NEXT_QUESTION.search(text)
    if question is None:
        return text
    head = text[: question.start()]
    marked = _ANSWER_IS.search(head) or _HASHES.search(head) or _ANSWER_COLON.search(head) or "\\boxed" in head
    return head if marked else text


def _last_marked(text: str, mark: re.Pattern[str], anything: bool) -> str | None:
    matches = list(mark.finditer(text))
    last_line = text.rstrip().rfind("\n") + 1
    for match in reversed(matches[-8:]):
        answer = _clean(_line_after(text, match.end()))
        if not answer:
            continue
        is_heading = _NUMBERED_HEADING.match(answer) or not _STARTS_LIKE_AN_ANSWER.match(answer)
        if anything or match.start() >= last_line or not is_heading:
            return answer
    return None


def _line_after(text: str, start: int) -> str:
    """The rest of the line, or the next line that says something (`The answer is:` above a display formula)."""
    for line in text[start : start + 20 * MAX_CHARS].lstrip("*_: \t").split("\n")[:4]:
        if line.strip().strip("*_$:") not in ("", "\\[", "\\("):
            return line
    return ""


def _clean(line: str) -> str:
    """Without Markdown, mathematics delimiters, a following sentence and the full stop."""
    boxed = _boxed(line)
    if boxed:
        return boxed
    sentence = _SENTENCE_END.search(line)
    if sentence and sentence.start() > 0:
        line = line[: sentence.start()]
    line = line.strip().strip("*_`").strip()
    for opening, closing in (("\\[", "\\]"), ("\\(", "\\)"), ("$$", "$$"), ("$", "$")):
        bare = line.rstrip(".,;: ")
        if bare.startswith(opening) and bare.endswith(closing) and len(bare) > len(opening + closing):
            line = bare[len(opening) : -len(closing)].strip()
    return line.rstrip(".,;: ").strip()


def _boxed(text: str) -> str | None:
    """The content of the `\\boxed{...}` that opens last among those that close; one pass over the text."""
    if "box" not in text:
        return None
    open_braces: list[int] = []  # where the content of a box starts, -1 for any other brace
    start, content = -1, None
    for match in _BRACES.finditer(text):
        token = match.group()
        if token == "}":
            opened = open_braces.pop() if open_braces else -1
            if opened > start:
                start, content = opened, (opened, match.start())
        elif token.endswith("{") and token != "\\{":
            open_braces.append(match.end() if len(token) > 1 else -1)
        elif token.startswith(("\\boxed", "\\fbox")) and match.start() > start:  # \boxed 5
            start, content = match.start(), (match.end() - 1, match.end())
    answer = text[slice(*content)].strip() if content else ""
    return answer or None


def _bare(text: str) -> str | None:
    """The whole text when it is a number with its unit, a formula or a single letter."""
    text = text.strip()
    if not text or "\n" in text or len(text) > MAX_CHARS:
        return None
    if _STARTS_LIKE_AN_ANSWER.match(text) and read_number(text) is not None:
        return _clean(text)
    is_formula = re.search(r"[\d\\=^]", text) and read_answer(text).kind != "words"
    return _clean(text) if is_formula or re.fullmatch(r"\W*[A-Za-z]\W*", text) else None


def _last_number(text: str) -> str | None:
    last = None
    for match in _LAST_NUMBER.finditer(text):
        if match.group().strip("$-−%"):
            last = match
    return tidy(last.group()) if last else None
