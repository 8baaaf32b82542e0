"""Find the arithmetic equations in a text and decide each exactly: an own small parser over Fractions, no evaluation.

    "She pays 3 x $4 = $12 and 12 - 2 = 11."   ->   3 * 4 = 12 holds, 12 - 2 = 11 does not

Precision comes first, because a false equation becomes the label "wrong": whatever cannot be read with certainty
(variables, a missing operand, units that convert into each other) is left out rather than guessed.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

MAX_TOKENS = 60  # of one side; bounds the work and the depth of the parser on hostile text
MAX_DIGITS = 30  # of one number
MAX_EXPONENT = 12
MAX_UNIT_WORDS = 6  # as in "4 bottles in the big box + 3 bottles"

_OPERAND = r"(?=\s*[$€£]?[\d(.])"
_TOKEN = re.compile(
    rf"""(?P<mixed>(?<![\d.,/])\d{{1,4}}[ ]\d{{1,4}}/\d{{1,4}}(?![\d/]))
    |(?P<number>(?:\d{{1,3}}(?:,\d{{3}})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)
    |(?P<bullet>(?:^|(?<=\n))[ ]*[-*•–][ ])
    |(?P<equals>=|\bequals\b)
    |(?P<operator>\*\*|[-+*/^()%]|[−–×·÷]|(?<=[\s\d€)])[xX]{_OPERAND}|\b(?:plus|minus|times|divided\ by)\b{_OPERAND})
    |(?P<money>[$€£])
    |(?P<word>[^\W\d_]+(?:['’-][^\W\d_]+)*)
    |(?P<space>\s+)
    |(?P<other>.)""",
    re.VERBOSE,
)
_SIGNS = {"−": "-", "–": "-", "×": "*", "·": "*", "÷": "/", "**": "^", "x": "*", "X": "*"}
_SIGNS |= {"plus": "+", "minus": "-", "times": "*", "divided by": "/"}
_MONEY = {"$": "dollar", "€": "euro", "£": "sterling"}
_NO_UNITS = {"and", "or", "so", "then", "because", "has", "have", "had", "is", "are", "was", "were", "which", "times"}

# Units that convert into one another: an equation that mixes two of a family may hold although its numbers differ.
_FAMILIES = tuple(
    frozenset(names.split())
    for names in (
        "second minute hour day week month year decade century",
        "inch foot yard mile millimeter centimeter meter kilometer mm cm km metre kilometre",
        "dollar cent penny nickel dime quarter euro sterling",
        "ounce pound ton gram kilogram milligram oz lb kg mg",
        "teaspoon tablespoon cup pint quart gallon liter litre milliliter ml",
        "dozen pair egg",
    )
)
_PLURALS = {"feet": "foot", "inches": "inch", "pennies": "penny", "centuries": "century"}


@dataclass(frozen=True, slots=True)
class Token:
    kind: str  # number, operator, money, word, variable, equals or break
    text: str
    start: int
    end: int
    value: Fraction | None = None  # of a number; None for one that cannot be read, as `000` or a time of day `0730`


@dataclass(frozen=True, slots=True, kw_only=True)
class Equation:
    """One `expression = expression` of a text.

    >>> find_equations("Half is 48/2 = 25.")[0].holds
    False
    """

    start: int  # characters of the text, left side to right side
    end: int
    left: Fraction
    right: Fraction
    holds: bool  # exactly, or right is left rounded or cut to the decimals that it states (at least one)


def find_equations(text: str) -> tuple[Equation, ...]:
    """The equations of a text that can be read with certainty and whose left side computes something, in order."""
    if "=" not in text and "equals" not in text:  # most prose: not worth a scan
        return ()
    tokens = list(_tokens(text))
    places = [index for index, token in enumerate(tokens) if token.kind == "equals"]
    return tuple(equation for index in places if (equation := _equation(tokens, index)) is not None)


def evaluate(expression: str) -> Fraction | None:
    """The exact value of an arithmetic expression, None when it is not one.

    >>> evaluate("(1/2) * 1,000 - 20%")
    Fraction(2499, 5)
    """
    tokens = list(_tokens(expression))
    return _value(tokens) if 0 < len(tokens) <= MAX_TOKENS else None


def _tokens(text: str) -> Iterator[Token]:
    for match in _TOKEN.finditer(text):
        kind, piece, start, end = str(match.lastgroup), match.group(), match.start(), match.end()
        if kind in ("number", "mixed"):
            yield Token("number", piece, start, end, _literal(piece))
        elif kind == "operator":
            yield Token(kind, _SIGNS.get(piece, piece), start, end)
        elif kind == "money":
            yield Token(kind, _MONEY[piece], start, end)
        elif kind == "word":
            # A letter alone is a variable, unless it is the article or the pronoun; "5a" is a variable too.
            glued = start > 0 and text[start - 1].isdigit()
            is_variable = len(piece) == 1 and (glued or piece not in "aI")
            yield Token("variable" if is_variable else kind, piece.lower(), start, end)
        elif kind == "equals":
            yield Token(kind, "=", start, end)
        elif kind != "space" or "\n" in piece:
            yield Token("break", piece, start, end)


def _literal(text: str) -> Fraction | None:
    """The value of a number; None for one that is too long, or is written with a leading zero as times of day are."""
    if len(text) > MAX_DIGITS or re.match(r"0\d", text):
        return None
    whole, _, part = text.replace(",", "").partition(" ")
    if not part:
        return Fraction(whole)
    top, bottom = part.split("/")
    return Fraction(whole) + Fraction(int(top), int(bottom)) if int(bottom) else None


def _equation(tokens: Sequence[Token], index: int) -> Equation | None:
    left, right = _left_side(tokens, index), _right_side(tokens, index)
    if left is None or right is None:
        return None
    computes = any(token.kind == "operator" and (place > 0 or token.text != "-") for place, token in enumerate(left))
    holds = _holds(left, right) if computes else None  # "5 = 5" and "-5 = 5" compute nothing
    values = _value(left), _value(right)
    if holds is None or values[0] is None or values[1] is None:
        return None
    return Equation(start=left[0].start, end=right[-1].end, left=values[0], right=values[1], holds=holds)


def _left_side(tokens: Sequence[Token], index: int) -> Sequence[Token] | None:
    """The longest run before `=` that is an expression; None when what stands before it belongs to it too."""
    first = index
    while first > 0 and tokens[first - 1].kind not in ("break", "equals") and index - first < MAX_TOKENS:
        first -= 1
    for start in range(first, index):
        if _can_start(tokens, start) and _value(tokens[start:index]) is not None:
            return None if _misses_start(tokens, start) else tokens[start:index]
    return None


def _can_start(tokens: Sequence[Token], start: int) -> bool:
    token = tokens[start]
    if token.text != "-":
        return token.kind in ("number", "money") or token.text == "("
    # A minus is a sign only when it touches its number and nothing before it.
    touches = start + 1 < len(tokens) and tokens[start + 1].start == token.end
    return touches and (start == 0 or (tokens[start - 1].end < token.start and tokens[start - 1].kind != "number"))


def _misses_start(tokens: Sequence[Token], start: int) -> bool:
    """Whether what stands before a left side belongs to it, as `n +` in `n + 5 = 7` or `14,` in `14, 400 / 80`."""
    if start == 0:
        return False
    before, earlier = tokens[start - 1], tokens[start - 2] if start > 1 else None
    if before.kind == "operator":
        return before.text != ")"
    if before.kind in ("variable", "number"):
        return True
    if before.kind == "word":
        return before.text == "and" and earlier is not None and earlier.kind == "number"
    if before.kind != "break" or earlier is None:
        return before.text in ("√", "∛", "π")
    if earlier.kind == "number" and earlier.end == before.start:
        touches = tokens[start].start == before.end and before.text in ".:"
        return touches or (before.text == "," and re.fullmatch(r"\d{3}(\.\d+)?", tokens[start].text) is not None)
    return before.text in ("√", "∛", "π") or (earlier.kind == "operator" and earlier.text not in "()%")


def _right_side(tokens: Sequence[Token], index: int) -> Sequence[Token] | None:
    """The longest run after `=` that is an expression; None when what follows it belongs to it too."""
    last = index + 1
    while last < len(tokens) and tokens[last].kind not in ("break", "equals") and last - index <= MAX_TOKENS:
        last += 1
    for end in range(last, index + 1, -1):
        if _value(tokens[index + 1 : end]) is not None:
            return None if _misses_end(tokens[end : end + 2]) else tokens[index + 1 : end]
    return None


def _misses_end(rest: Sequence[Token]) -> bool:
    """Whether what follows a right side belongs to it, as `+ n` in `5 + n`, `000` in `10 000`, `and 1/3`, `...`."""
    if not rest or rest[0].kind in ("variable", "number"):
        return bool(rest)
    if len(rest) == 1:
        return False
    starts_operand = rest[1].kind in ("number", "variable", "money") or rest[1].text in ("(", "-")
    if rest[0].kind == "operator":
        return rest[0].text != ")" and starts_operand
    return (rest[0].text == "and" and starts_operand) or (rest[0].text == "." and rest[1].text == ".")


def _holds(left: Sequence[Token], right: Sequence[Token]) -> bool | None:
    """Whether the sides are equal; None when they differ and there is a reading in which they may not."""
    for percent in (Fraction(1, 100), Fraction(1)):  # "20/100 = 20%", and "100 - 20 = 80%"
        first, second = _value(left, percent), _value(right, percent)
        if first is None or second is None:
            return None
        if first == second or _is_rounded(first, second, right):
            return True
        if first.denominator > 1 and second.denominator == 1 and abs(first - second) < 1:
            return None  # a quotient rounded to a whole number, or stated with a remainder
    if _divides_by_fraction(left) or _divides_by_fraction(right) or any(token.text == "of" for token in right):
        return None
    units = {_singular(token.text) for token in (*left, *right) if token.kind in ("word", "money")}
    return None if any(len(units & family) > 1 for family in _FAMILIES) else False


def _is_rounded(exact: Fraction, stated: Fraction, side: Sequence[Token]) -> bool:
    numbers = [token.text for token in side if token.kind == "number"]
    decimals = len(numbers[0].partition(".")[2]) if len(numbers) == 1 else 0
    unit, missing = Fraction(1, 10**decimals), abs(exact) - abs(stated)
    return decimals > 0 and exact * stated >= 0 and -unit / 2 <= missing < unit


def _divides_by_fraction(side: Sequence[Token]) -> bool:
    """`3 / 1/4`: 12 to many a writer, 3/4 by the rules."""
    signs = [token.text for token in side if token.text in ("+", "-", "*", "/", "(", ")")]
    return ("/", "/") in pairwise(signs)


def _singular(word: str) -> str:
    return _PLURALS.get(word, word[:-1] if word.endswith("s") and len(word) > 2 else word)


def _value(side: Sequence[Token], percent: Fraction = Fraction(1, 100)) -> Fraction | None:
    parser = _Parser(side, percent)
    try:
        value = parser.sum()
    except (_UnreadableError, ZeroDivisionError):
        return None
    return value if parser.position == len(side) else None


class _UnreadableError(Exception):
    pass


class _Parser:
    """Recursive descent: sum > product > sign > power > number; words after a number and money signs are skipped."""

    def __init__(self, tokens: Sequence[Token], percent: Fraction) -> None:
        self.tokens = tokens
        self.percent = percent
        self.position = 0

    def peek(self, offset: int = 0) -> Token | None:
        place = self.position + offset
        return self.tokens[place] if 0 <= place < len(self.tokens) else None

    def take(self, *texts: str) -> str | None:
        token = self.peek()
        if token is not None and token.text in texts:
            self.position += 1
            return token.text
        return None

    def sum(self) -> Fraction:
        value = self.product()
        while sign := self.take("+", "-"):
            term = self.product()
            value = value + term if sign == "+" else value - term
        return value

    def product(self) -> Fraction:
        value = self.signed()
        while sign := self.take("*", "/") or self.unwritten_times():
            factor = self.signed()
            value = value / factor if sign == "/" else value * factor
        return value

    def unwritten_times(self) -> str | None:
        """`7(.20)`; and `of` right after a percentage or a fraction: `20% of 50`, `1/2 of 8`."""
        token, before = self.peek(), self.peek(-1)
        if token is None or before is None:
            return None
        if token.text == "(" and before.end == token.start and (before.kind == "number" or before.text == ")"):
            return "*"
        return "*" if self.after_fraction() and self.take("of") else None

    def after_fraction(self) -> bool:
        before, earlier = self.peek(-1), self.peek(-2)
        if before is None or before.text == "%":
            return before is not None
        return before.kind == "number" and earlier is not None and earlier.text == "/"

    def signed(self) -> Fraction:
        return -self.signed() if self.take("-") else self.power()

    def power(self) -> Fraction:
        base = self.atom()
        if not self.take("^"):
            return base
        exponent = self.signed()
        # Towers such as 9^9^9 would grow without bound; both factors of the size are limited.
        if exponent.denominator != 1 or not 0 <= exponent <= MAX_EXPONENT or len(str(base)) > MAX_DIGITS:
            raise _UnreadableError
        return base**exponent.numerator

    def atom(self) -> Fraction:
        token = self.peek()
        if token is not None and token.kind == "money":
            self.position += 1
        if self.take("("):
            value = self.sum()
            if not self.take(")"):
                raise _UnreadableError
        else:
            value = self.number()
        if self.take("%"):
            value *= self.percent
        self.skip_unit()
        return value

    def number(self) -> Fraction:
        token = self.peek()
        if token is None or token.value is None:
            raise _UnreadableError
        self.position += 1
        return token.value

    def skip_unit(self) -> None:
        """The words after a number, as in `5 red apples`, `3€` and `$4/hour`, while no number follows them."""
        for _ in range(MAX_UNIT_WORDS):
            token, following = self.peek(), self.peek(1)
            followed_by_word = following is not None and following.kind == "word"
            if token is None:
                return
            if token.text == "of" and self.after_fraction() and followed_by_word:
                raise _UnreadableError  # "1/3 of Solomon": an operand in words
            is_word = token.kind == "word" and token.text not in _NO_UNITS and (token.text != "of" or followed_by_word)
            is_sign = token.kind == "money" and (following is None or following.kind != "number")
            is_rate = token.text == "/" and followed_by_word
            if not (is_word or is_sign or is_rate):
                return
            self.position += 2 if is_rate else 1
