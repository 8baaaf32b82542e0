"""The written forms of an answer and their exact value: no floats, no sympy, no evaluation.

Every pattern here runs in linear time, and `read_answer` is only called on text that passed `limits.MAX_CHARS`.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

_CHARACTERS = str.maketrans(
    {
        **dict.fromkeys("−–—‐‑﹣－", "-"),
        **dict.fromkeys("\u00a0\u2007\u2009\u202f\u3000\t\n\r", " "),
        **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff", ""),
        **{chr(0xFF10 + digit): str(digit) for digit in range(10)},
        **dict.fromkeys("€£¥₹", " "),
        **{"½": " 1/2", "⅓": " 1/3", "⅔": " 2/3", "¼": " 1/4", "¾": " 3/4", "⁄": "/", "∕": "/"},
        **{"π": r"\pi ", "∞": r"\infty ", "×": r"\times ", "·": r"\cdot ", "°": "", "％": "%", "’": "'"},
        **{"²": "^2", "³": "^3", "≤": r"\le ", "≥": r"\ge ", "≈": "=", "，": ","},
    }
)
_REWRITES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\*\*|__|`", ""),  # Markdown emphasis
        (r"\bUS\s*(?=\\?\$)", " "),
        (r"\\?\$|(?<!\\)\\[()\[\]]|\\pounds\b|\\euro\b", " "),  # currency signs and mathematics delimiters
        (r"\\(?:left|right|displaystyle|limits|big|Big)\b|\\!", ""),
        (r"\\(?:quad|qquad)\b|(?<!\\)\\[,;: ]|~", " "),
        (r"\{,\}", ","),
        (r"\\[dtc]frac\b", r"\\frac"),
        (r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}", r" \1 "),
        (r"\^\s*\{?\s*\\circ\s*\}?|\\degrees?\b", ""),
        (r"\\%", "%"),
        (r"√ ?(\d+|[A-Za-z])", r"\\sqrt{\1}"),
        (r"\\approx\b", "="),
        (r"\s+", " "),
    )
)

_PLAIN = r"(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+|\d+)(?:\.\d*)?|\.\d+"
_NUMBER = re.compile(
    rf"""
    (?<![\w.,/^\\{{(\[|!+*-])                         # not the tail of another number, name, power or bracket
    (?P<sign>[+-]?)\ ?
    (?: (?:(?P<whole>\d+)\ ?)? \\frac\ ?
          (?: \{{\ ?(?P<top>{_PLAIN})\ ?\}}\ ?\{{\ ?(?P<bottom>{_PLAIN})\ ?\}} | \ ?(?P<top1>\d)\ ?(?P<bottom1>\d) )
      | (?:(?P<whole2>\d+)\ )? (?P<top2>{_PLAIN})\ ?/\ ?(?P<bottom2>{_PLAIN})
      | (?P<plain>{_PLAIN})
          (?: [eE](?P<exponent>[+-]?\d{{1,4}})\b
            | \ ?(?:\\times|\\cdot|\*|x)\ ?10\ ?\^\ ?(?:\{{(?P<power>[+-]?\d{{1,4}})\}}|(?P<power1>-?\d{{1,4}})) )?
    )
    (?![\d\\^{{/])                                    # the number ends here
    """,
    re.VERBOSE,
)
_SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_MATH_WORD = re.compile(
    r"(?:arc)?(?:sin|cos|tan)h?|cot|sec|csc|log|l[ng]|exp|sqrt|cbrt|pi|theta|alpha|beta|gamma|phi|infty|inf|infinity"
    r"|mod|floor|ceil|max|min|gcd|lcm|det|and|or"
)
_CHANGES_MEANING = re.compile(_MATH_WORD.pattern + r"|not|no|than|least|most|between|from|to|either|neither")
_UNIT_LETTERS = frozenset("aAghHlLmsVWJKNIi")  # "per a day", g, h, l, m, s and SI units; x, y, n are unknowns
_SHORT_WORD = re.compile(r"no|is|am|pm|of|to|in|at|by|on|it")
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]+")
_BEFORE = re.compile(r"[A-Za-z' :,;-]*[ :]")
_AFTER = re.compile(r"(?:[A-Za-z '\"(),./%;-]|\^ ?\{?[23]\}?)*")
_NAME = re.compile(r"\\?[A-Za-z]+(?:_\{?\w+\}?)?(?:\([A-Za-z]\))?|[A-Za-z]{2,}(?: [A-Za-z]{2,})*")
_MEMBER = re.compile(r"([A-Za-z]) ?\\in\b ?")
_TRAILING_WORDS = re.compile(r"(?: [A-Za-z]{2,}\.?)+$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer, read.

    >>> read_answer("x = $1,234.50")
    Answer(kind='number', text='2469/2', value=Fraction(2469, 2), name='x')
    """

    kind: Literal["number", "words", "symbolic"]
    text: str  # canonical: two answers of one kind with the same text are equal
    value: Fraction | None = None  # for numbers
    name: str = ""  # the one-letter unknown it was assigned to, if any


def tidy(text: str) -> str:
    """Presentation removed: currency and mathematics delimiters, Markdown, spacing commands, degree signs, the full
    stop at the end, Unicode look-alikes of minus and spaces."""
    text = text.translate(_CHARACTERS)
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    text = text.strip().rstrip(".,;: ")
    if text.endswith("!") and text[:-1].rstrip()[-1:].isalpha():
        text = text[:-1].rstrip()
    return _unwrap(text)


def read_number(text: str) -> Fraction | None:
    """The exact value of a text that states one number, else None.

    Understood: thousands separators, decimals, fractions, mixed numbers, powers of ten, currency signs, a percent
    sign or unit after the number (dropped: `50%` is 50, not 1/2), words around it ("Ann has 5 pens"), the words
    hundred to trillion. Not a number: two numbers, an expression, an inequality.
    """
    return _number(_split_name(tidy(text))[1])


def read_answer(text: str) -> Answer:
    """Any answer in its canonical form."""
    name, rest = _split_name(tidy(text))
    value = _number(rest)
    if value is not None:
        return Answer(kind="number", text=str(value), value=value, name=name)
    if not _has_words(rest):
        return Answer(kind="symbolic", text=_symbolic(rest), name=name)
    bare = _TRAILING_WORDS.sub("", rest)  # 6\sqrt{2} square units
    if bare != rest and re.search(r"[\\\d]", bare) and not _has_words(bare):
        return Answer(kind="symbolic", text=_symbolic(bare), name=name)
    return Answer(kind="words", text=re.sub(r"\s*([,;:])\s*", r"\1 ", rest.casefold()).strip(" .\"'"), name="")


def _unwrap(text: str) -> str:
    """Without the one pair of parentheses around a single item: `(-5)`, `(C)`; a tuple keeps its own."""
    while len(text) > 2 and text[0] == "(" and text[-1] == ")" and not set(text[1:-1]) & set("(),"):
        text = text[1:-1].strip()
    return text


def _split_name(text: str) -> tuple[str, str]:
    """("x", "5") for `x = 5`; ("", "5") for `3 + 2 = 5` and `Total cost = 5`; ("", text) for any other text."""
    if member := _MEMBER.match(text):
        return member.group(1), text[member.end() :]
    left, equals, right = text.rpartition("=")
    left, right = left.strip(), right.strip()
    if not equals or not right or left[-1:] in ("<", ">", "!", ":", "\\"):
        return "", text
    if not left or not re.search(r"[A-Za-z,;]", left):  # a bare `= 5`, an arithmetic line
        return "", _unwrap(right)
    first = left.split("=")[0].strip()
    if _NAME.fullmatch(first) and not re.search(r"[,;]", left):
        return (first if len(first) == 1 else ""), _unwrap(right)
    return "", text


def _number(text: str) -> Fraction | None:
    match = _NUMBER.search(text)
    if match is None:
        return None
    before, after = text[: match.start()], text[match.end() :]
    if before and not (_BEFORE.fullmatch(before) and _are_plain_words(before, attached=False)):
        return None
    if after and not (_AFTER.fullmatch(after) and _are_plain_words(after, attached=after[0].isalpha())):
        return None
    value = _value(match)
    scale = _WORD.match(after.lstrip())
    if value is not None and scale:
        value *= _SCALES.get(scale.group().lower(), 1)
    return value


def _are_plain_words(text: str, attached: bool) -> bool:
    """Words of ordinary language and units around a number, none of which changes what number is meant."""
    words = _WORD.findall(text)
    if attached and len(words[0]) == 1:  # 5m: a product as likely as five metres
        return False
    return all(
        (len(word) > 1 or word in _UNIT_LETTERS) and not _CHANGES_MEANING.fullmatch(word.lower()) for word in words
    ) and bool(words or not re.search(r"[/(-]", text))


def _value(match: re.Match[str]) -> Fraction | None:
    part = match.groupdict()
    top = part["top"] or part["top1"] or part["top2"]
    if top:
        bottom = _fraction(part["bottom"] or part["bottom1"] or part["bottom2"])
        if bottom == 0:
            return None
        value = _fraction(top) / bottom + int(part["whole"] or part["whole2"] or 0)
    else:
        power = int(part["exponent"] or part["power"] or part["power1"] or 0)
        if abs(power) > 1000:
            return None
        value = _fraction(part["plain"]) * Fraction(10) ** power
    return -value if part["sign"] == "-" else value


def _fraction(digits: str) -> Fraction:
    return Fraction(digits.replace(",", "").replace(" ", "").rstrip(".") or "0")


def _has_words(text: str) -> bool:
    """Ordinary words, which must never reach a mathematics parser: it reads `listen` and `silent` as one product."""
    words = (word.lower() for word in _WORD.findall(re.sub(r"\\(?:begin|end)\s*\{[A-Za-z]*\}", "", text)))
    return any((len(word) > 2 or _SHORT_WORD.fullmatch(word)) and not _MATH_WORD.fullmatch(word) for word in words)


def _symbolic(text: str) -> str:
    text = re.sub(r",? ?\b(?:and|or)\b ?,?", ",", text).replace("%", "")
    return re.sub(r"(\\[A-Za-z]+) (?=[A-Za-z])|\s+", lambda m: m.group() if m.group(1) else "", text.strip())
