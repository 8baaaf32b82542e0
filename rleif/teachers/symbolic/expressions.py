"""Find and evaluate the equations of a written step, exactly."""

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction

from rleif.grading.exact import read_number
from rleif.grading.extract import extract
from rleif.grading.limits import MAX_CHARS

_MARK = re.compile(r"<<[^<>]*>>")
_LABEL = re.compile(r"^\s*(?:[-*•]\s+)?(?:[Ss]tep\s*\d+\s*(?:[:.)]|[-–—](?=\s))|\d+\s*[.):](?=\s))?\s*")
_NUMBER = r"[0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?"
_TOKEN = re.compile(rf"\$?(?P<number>{_NUMBER})(?P<percent>\s?%)?|(?P<op>[-+*/=()×÷])|(?P<word>[^\W\d]+)|(?P<other>\S)")
_LONGEST_RUN = 60  # tokens; bounds the recursion on hostile text
_LONGEST_NUMBER = 24  # digits; Python refuses to read numbers beyond some thousands of digits
_SIGNS = {"×": "*", "÷": "/", "x": "*"}
_OTHER_SCRIPTS = (  # of the same signs: Markdown bold away from numbers, LaTeX, Unicode
    (re.compile(r"(?<![\d)])\*\*|\*\*(?![\d(])"), ""),
    (re.compile(r"\\(?:times|cdot)\b|[·⋅∗]"), "*"),
    (re.compile(r"\\div\b"), "/"),
    (re.compile(r"−"), "-"),
    (re.compile(r"\\([$%])"), r"\1"),
)
_ANSWER_MARK = re.compile(r"\b(?:the|final)\s+answer\s+is\b|####", re.IGNORECASE)
_MAY_ANSWER = re.compile(r"answer|####|box|\bA\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Equation:
    """`left = result` as written; `sums` and `factors` are the left side's operands when it is of one kind only.

    sums: (added, subtracted); factors: (multiplied, divided by), a percentage counts as n and 1/100.

    >>> equations("Bruno has 12 + 5 = 17 tarts.")[0].sums
    ((Fraction(12, 1), Fraction(5, 1)), ())
    """

    left: Fraction | None  # None: division by zero
    result: Fraction
    operands: tuple[Fraction, ...]
    sums: tuple[tuple[Fraction, ...], tuple[Fraction, ...]] | None
    factors: tuple[tuple[Fraction, ...], tuple[Fraction, ...]] | None

    @property
    def holds(self) -> bool:
        return self.left == self.result


class _UnreadableError(Exception):
    """Not an arithmetic expression."""


def equations(step: str) -> list[Equation]:
    """The equations of one step, in order. `a + b = c = d` and `a + b = c * d` are judged link by link."""
    found: list[Equation] = []
    for run in _runs(_LABEL.sub("", _plain(step))):
        if "=" not in run or len(run) > _LONGEST_RUN or any(len(token) > _LONGEST_NUMBER for token in run):
            continue
        try:
            found.extend(_read_run(run))
        except _UnreadableError:
            continue
    return found


def _plain(step: str) -> str:
    text = _MARK.sub("", step)
    for pattern, replacement in _OTHER_SCRIPTS:
        text = pattern.sub(replacement, text)
    return text


def stated_answer(step: str) -> Fraction | None:
    """The number of an answer line, found by the marks of `rleif.grading`; None when the line states none."""
    answer = _marked(step)
    return None if answer is None or len(answer) > MAX_CHARS else read_number(answer)


def is_answer_line(step: str) -> bool:
    return _ANSWER_MARK.search(step) is not None or _marked(step) is not None


def _marked(step: str) -> str | None:
    found = extract(step, last_number=False) if _MAY_ANSWER.search(step) else None
    if found is None or found.mark == "bare":
        return None
    # "A: 12 + 5 = 17" is a step, for all that it begins with.
    return None if found.mark == "answer_colon" and "=" in found.answer else found.answer


def _runs(text: str) -> Iterator[list[str]]:
    """Stretches of numbers and signs; up to two words after a number ("12 ripe pears + 5 = 17") are passed over."""
    run: list[str] = []
    words = 0
    for match in _TOKEN.finditer(text):
        after_value = bool(run) and (_is_number(run[-1]) or run[-1] in "%)")
        word = match["word"]
        if match["number"]:
            if after_value:  # two numbers in a row: what came before stands alone
                yield run
                run = []
            run += [match["number"].replace(",", ""), *("%" if match["percent"] else "")]
            words = 0
        elif match["op"] or (after_value and word == "x"):
            run.append(_SIGNS.get(match[0], match[0]))
            words = 0
        elif word == "of" and after_value and words == 0 and (run[-1] == "%" or "/" in run[-2:-1]):
            run.append("*")  # "25% of 40", "1/2 of 40"
        elif word and after_value and words < 2:
            words += 1
        else:
            yield run
            run, words = [], 0
    yield run


def _is_number(token: str) -> bool:
    return token[0].isdigit()


def _read_run(run: list[str]) -> Iterator[Equation]:
    sides: list[list[str]] = [[]]
    for token in run:
        if token == "=":
            sides.append([])
        else:
            sides[-1].append(token)
    trees = [_Parser(side).tree() for side in map(_trim, sides) if side]
    for left, right in itertools.pairwise(trees):
        if isinstance(left, Fraction):
            left, right = right, left  # "17 = 12 + 5"
        result = _value(right)
        if result is None:
            raise _UnreadableError
        # Of two bare numbers only "12 + 5 = 17 = 18" says anything, and only when it is false.
        if isinstance(left, Fraction) and (left == result or len(trees) == 2):
            continue
        yield Equation(
            left=_value(left),
            result=result,
            operands=tuple(_leaves(left)),
            sums=_flatten(left, "+", "-"),
            factors=_flatten(left, "*", "/"),
        )


def _trim(side: list[str]) -> list[str]:
    """A side without a sign that only follows it ("= 17 - so") and without brackets around the whole equation."""
    while side and side[-1] in "+-*/(":
        side = side[:-1]
    if side.count("(") > side.count(")") and side[0] == "(":
        return side[1:]
    if side.count(")") > side.count("(") and side[-1] == ")":
        return side[:-1]
    return side


Tree = Fraction | tuple[str, "Tree", "Tree"]


class _Parser:
    """Recursive descent over `+ - * / ( )` with the usual precedence."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.at = 0

    def tree(self) -> Tree:
        tree = self._chain(("+", "-"), lambda: self._chain(("*", "/"), self._atom))
        if self.at != len(self.tokens):
            raise _UnreadableError
        return tree

    def _peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def _chain(self, signs: tuple[str, ...], operand: Callable[[], Tree]) -> Tree:
        tree = operand()
        while self._peek() in signs:
            sign = self._peek()
            self.at += 1
            tree = (sign, tree, operand())
        return tree

    def _atom(self) -> Tree:
        token = self._peek()
        self.at += 1
        if token == "(":
            tree = self._chain(("+", "-"), lambda: self._chain(("*", "/"), self._atom))
            if self._peek() != ")":
                raise _UnreadableError
            self.at += 1
            return tree
        if token == "-":
            value = self._atom()
            return -value if isinstance(value, Fraction) else ("-", Fraction(0), value)
        if not token or not _is_number(token):
            raise _UnreadableError
        value: Tree = Fraction(token)
        if self._peek() == "%":
            self.at += 1
            value = ("/", value, Fraction(100))
        return value


def _value(tree: Tree) -> Fraction | None:
    if isinstance(tree, Fraction):
        return tree
    sign, first, second = tree
    left, right = _value(first), _value(second)
    if left is None or right is None or (sign == "/" and right == 0):
        return None
    return {"+": left.__add__, "-": left.__sub__, "*": left.__mul__, "/": left.__truediv__}[sign](right)


def _leaves(tree: Tree) -> Iterator[Fraction]:
    if isinstance(tree, Fraction):
        yield tree
    else:
        yield from _leaves(tree[1])
        yield from _leaves(tree[2])


def _flatten(tree: Tree, plus: str, minus: str) -> tuple[tuple[Fraction, ...], tuple[Fraction, ...]] | None:
    """Operands on either side of one kind of operation, sorted; None when another kind occurs."""
    sides: tuple[list[Fraction], list[Fraction]] = ([], [])

    def walk(node: Tree, side: int) -> bool:
        if isinstance(node, Fraction):
            sides[side].append(node)
            return True
        sign, first, second = node
        if sign not in (plus, minus):
            return False
        return walk(first, side) and walk(second, side if sign == plus else 1 - side)

    if not walk(tree, 0):
        return None
    return tuple(sorted(sides[0])), tuple(sorted(sides[1]))


def matches(equation: Equation, relation: str, arguments: tuple[Fraction, ...], numbers: tuple[int, ...]) -> bool:
    """Whether the left side is this relation on these arguments, in any usual way of writing it.

    Order does not matter in sums and products; half may be `/ 2` or `* 0.5`, 25% `* 25 / 100`, `/ 4` or `25% *`, and
    a small multiple may be a repeated sum.
    """
    n = tuple(map(Fraction, numbers))
    match relation:
        case "more":
            return equation.sums == (tuple(sorted((arguments[0], n[0]))), ())
        case "total":
            return equation.sums == (tuple(sorted(arguments)), ())
        case "parts":
            return equation.sums == (tuple(sorted(n)), ())
        case "fewer" | "left":
            return equation.sums == ((arguments[0],), (n[0],))
        case "comparison":
            return equation.sums == ((arguments[0],), (arguments[1],))
        case "groups":
            return equation.factors == (tuple(sorted(n)), ()) or _is_repeated(equation, n[0], n[1])
        case "times" | "rate":
            return _is_scaled(equation, arguments[0], n[0]) or _is_repeated(equation, arguments[0], n[0])
        case "share":
            return _is_scaled(equation, arguments[0], 1 / n[0])
        case "percent":
            return _is_scaled(equation, arguments[0], n[0] / 100)
    return False


def _is_scaled(equation: Equation, argument: Fraction, by: Fraction) -> bool:
    if equation.factors is None or argument not in equation.factors[0]:
        return False
    rest = Counter(equation.factors[0])
    rest[argument] -= 1
    scale = Fraction(1)
    for factor in rest.elements():
        scale *= factor
    for divisor in equation.factors[1]:
        if divisor == 0:
            return False
        scale /= divisor
    return scale == by


def _is_repeated(equation: Equation, first: Fraction, second: Fraction) -> bool:
    if equation.sums is None or equation.sums[1]:
        return False
    added = equation.sums[0]
    return len(set(added)) == 1 and (len(added), added[0]) in ((first, second), (second, first))
