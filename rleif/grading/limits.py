"""What is refused before any mathematics parser sees it: answers whose size alone can stall or exhaust a machine."""

import re

MAX_CHARS = 200
MAX_NESTING = 20
MAX_DIGITS = 60  # of one number
MAX_EXPONENT = 1000
MAX_FACTORIAL = 1000

_POWER = re.compile(r"(?:\^|\*\*)\s*\{?\s*[+-]?(\d+)")
_TOWER = re.compile(r"(?:\^|\*\*)\s*[{(]*\s*[\d.]+\s*[)}]*\s*(?:\^|\*\*)")
_FACTORIAL = re.compile(r"(\d+)\s*!")


def refusal(expression: str) -> str | None:
    """Why this expression is not evaluated, or None if it may be."""
    if len(expression) > MAX_CHARS:
        return f"{len(expression)} characters, at most {MAX_CHARS} are read"
    if _nesting(expression) > MAX_NESTING:
        return f"brackets nested {_nesting(expression)} deep, at most {MAX_NESTING} are read"
    if any(len(run) > MAX_DIGITS for run in re.findall(r"\d+", expression)):
        return f"a number of more than {MAX_DIGITS} digits"
    if any(int(power) > MAX_EXPONENT for power in _POWER.findall(expression)):
        return f"an exponent above {MAX_EXPONENT}"
    if _TOWER.search(expression):
        return "a tower of exponents"
    if any(int(number) > MAX_FACTORIAL for number in _FACTORIAL.findall(expression)) or "!!" in expression:
        return f"a factorial above {MAX_FACTORIAL}, or of a factorial"
    return None


def _nesting(text: str) -> int:
    depth = deepest = 0
    for character in text:
        if character in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in ")]}":
            depth -= 1
    return deepest
