"""Find the answer that a text states.

Every pattern runs in linear time on any input.
"""

import re
from dataclasses import dataclass
from typing import Literal

from rleif.grading.exact import read_answer, tidy
from rleif.grading.limits import MAX_CHARS

Mark = Literal["answer_is", "hashes", "boxed", "answer_colon", "bare", "last_number"]

_ANSWER_IS = re.compile(r"\b(?:the|final)\s{1,4}answer\s{1,4}is\b\s{0,4}:?", re.IGNORECASE)
_HASHES = re.compile(r"^[ \t]{0,8}####(?!#)", re.MULTILINE)
_ANSWER_COLON = re.compile(r"^[ \t>*#]{0,8}(?:A|(?:final )?answer)[* ]{0,4}:", re.MULTILINE | re.IGNORECASE)
_BRACES = re.compile(r"\\(?:boxed|fbox)\s{0,4}\{|\\(?:boxed|fbox)\s{0,4}[A-Za-z\d]|\\.|[{}]", re.DOTALL)
_NEXT_QUESTION = re.compile(
    r"^[ \t*]{0,8}(?:#{1,6} ?(?:Instruction|Question|Problem)\b|(?:Question|Problem|Q)\s?:)", re.M
)
_STATEMENT_END = re.compile(r"[.!]\s{1,4}(?=[^\W\d])|,? (?:because|since|which|where)\b")
_CALCULATION = re.compile(r"<<[^<>\n]*>>")
_LAST_NUMBER = re.compile(
    r"(?:(?<![\w.)\]}])[-−])?\$?(?:"
    r"\\[dt]?frac\{\d+\}\{\d+\}"
    r"|\d+ \d+/\d+"
    r"|(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?: ?/ ?\d+)?"
    r"|\.\d+"
    r")%?"
)
_STARTS_LIKE_AN_ANSWER = re.compile(r"[\d.+\-−–$€£\\(\[{]|[A-Za-z](?:\s*=|\W*$)")
_WORDS = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")
_LETTER = re.compile(r"[(\[*$]*[A-Za-z][)\]*$.]*")
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

    1. The mark that stands last in the text: `The answer is: X` (also `The final answer is X`) to the end of the line
       or sentence; `#### X` (GSM8K), though not a Markdown heading; `\\boxed{X}` with balanced braces.
    2. Without any of these, the last `A: X` or `Answer: X` at the start of a line.
    3. The whole text, if it is one line that is nothing but an answer.
    4. With `last_number`, the stated fallback: the last number of the text.

    A text that runs on into a new question after its answer is read up to that question only. GSM8K's calculation
    marks (`<<2+3=5>>`) are ignored.
    """
    text = _CALCULATION.sub("", _before_the_next_question(text))
    finders: tuple[tuple[Mark, tuple[int, str] | None], ...] = (
        ("answer_is", _last_marked(text, _ANSWER_IS, anything=True)),
        ("hashes", _last_marked(text, _HASHES, anything=False)),
        ("boxed", _boxed(text)),
    )
    marked: list[tuple[int, Mark, str]] = [(found[0], mark, found[1]) for mark, found in finders if found]
    if marked:
        _, mark, answer = max(marked)
        return Extraction(answer=answer, mark=mark)
    if found := _last_marked(text, _ANSWER_COLON, anything=False):
        return Extraction(answer=found[1], mark="answer_colon")
    if answer := _bare(text):
        return Extraction(answer=answer, mark="bare")
    if last_number and (answer := _last_number(text)):
        return Extraction(answer=answer, mark="last_number")
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


def _last_marked(text: str, mark: re.Pattern[str], anything: bool) -> tuple[int, str] | None:
    """(position, answer) of the last such mark with an answer behind it; not `anything`: a heading or the first
    sentence of a worked solution is no answer."""
    for match in reversed(list(mark.finditer(text))[-8:]):
        line = _line_after(text, match.end())
        answer = _clean(line)
        if answer and (anything or (_looks_like_an_answer(answer) and not _NUMBERED_HEADING.match(line))):
            return match.start(), answer
    return None


def _looks_like_an_answer(text: str) -> bool:
    return len(text) <= MAX_CHARS and bool(_STARTS_LIKE_AN_ANSWER.match(text) or len(text.split()) <= 2)


def _line_after(text: str, start: int) -> str:
    """The rest of the line, or the next line that says something (`The answer is:` above a display formula)."""
    for line in text[start : start + 20 * MAX_CHARS].lstrip("*_: \t").split("\n")[:4]:
        if line.strip().strip("*_$:") not in ("", "\\[", "\\("):
            return line
    return ""


def _clean(line: str) -> str:
    """Without Markdown, mathematics delimiters, a following sentence and the full stop."""
    if boxed := _boxed(line):
        return boxed[1]
    end = _STATEMENT_END.search(line)
    if end and end.start() > 0:
        line = line[: end.start()]
    line = line.strip().strip("*_`").strip()
    for opening, closing in (("\\[", "\\]"), ("\\(", "\\)"), ("$$", "$$"), ("$", "$")):
        bare = line.rstrip(".,;: ")
        if bare.startswith(opening) and bare.endswith(closing) and len(bare) > len(opening + closing):
            line = bare[len(opening) : -len(closing)].strip()
    return line.rstrip(".,;: ").strip()


def _boxed(text: str) -> tuple[int, str] | None:
    """Position and content of the `\\boxed{...}` that opens last among those that close; one pass over the text."""
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
    return (start, answer) if answer else None


def _bare(text: str) -> str | None:
    """The whole text when it is a number with its unit, a formula or a single letter."""
    text = text.strip()
    if "\n" in text or "\\boxed" in text or len(text) > MAX_CHARS:
        return None
    read = read_answer(text)
    if read.kind == "number":
        is_answer = bool(_STARTS_LIKE_AN_ANSWER.match(text)) and not ("=" in text and _WORDS.search(text))
    else:
        is_answer = read.kind == "symbolic" and bool(re.search(r"[\d\\=^*/+-]", text) or _LETTER.fullmatch(text))
    return _clean(text) if is_answer else None


def _last_number(text: str) -> str | None:
    last = None
    for match in _LAST_NUMBER.finditer(text):
        last = match
    return tidy(last.group()) if last else None
