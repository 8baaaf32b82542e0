"""One answer grader for elimination, reward and evaluation: extract an answer, decide equality.

Plain numbers and words are decided exactly in this process; everything else by math-verify in killable worker
processes, which start when first needed. Nothing from data is ever evaluated. Importing this module is cheap.
"""

import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum

from rleif.grading.exact import Answer, read_answer
from rleif.grading.extract import Extraction, Mark, extract, extract_answer
from rleif.grading.limits import MAX_CHARS, refusal
from rleif.grading.pool import close, shared_pool

__all__ = [
    "Extraction",
    "Grade",
    "Mark",
    "Verdict",
    "canonical",
    "close",
    "extract",
    "extract_answer",
    "grade",
    "grade_many",
    "judge",
    "judge_many",
]

TIMEOUT_S = 2.0


class Grade(StrEnum):
    """What is known about a solution. Only `correct` earns anything; the others are kept apart because they call for
    different remedies."""

    correct = "correct"
    wrong = "wrong"
    no_answer = "no_answer"  # the solution states none
    timeout = "timeout"  # not decided within the time limit
    error = "error"  # not decided: refused by a size limit, unreadable mathematics, or the worker died


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A grade with its grounds.

    >>> judge("Ann has 5 + 3 = 8 pens", "8")
    Verdict(grade=<Grade.correct: 'correct'>, answer='8', gold='8', mark='last_number', detail='')
    """

    grade: Grade
    answer: str | None  # as extracted from the solution
    gold: str
    mark: Mark | None  # how the answer was found; "last_number" is the fallback
    detail: str = ""  # why there is no decision


def grade(solution: str, gold: str, *, last_number: bool = True, timeout_s: float = TIMEOUT_S) -> Grade:
    """Whether a solution (or a bare answer) states the gold answer (an answer, or a solution that states it).

    Numbers are compared exactly: 17.6 is not 18, 7 is not 700, 0.333 is not 1/3, 3/4 is 0.75. Units, currency and
    percent signs are dropped: 50% equals 50 and does not equal 0.5, so that equality stays transitive. Words are
    compared without case. Anything else goes to math-verify (irrational values to six decimals).

    Args:
        last_number: take the last number of a solution without any answer mark.
        timeout_s: CPU seconds for math-verify, per answer.

    Raises:
        ValueError: the gold text is empty.
    """
    return judge(solution, gold, last_number=last_number, timeout_s=timeout_s).grade


def grade_many(
    solutions: Sequence[str], golds: Sequence[str], *, last_number: bool = True, timeout_s: float = TIMEOUT_S
) -> list[Grade]:
    """`grade` of each pair, the slow ones in parallel and each distinct pair of answers once."""
    verdicts = judge_many(solutions, golds, last_number=last_number, timeout_s=timeout_s)
    return [verdict.grade for verdict in verdicts]


def judge(solution: str, gold: str, *, last_number: bool = True, timeout_s: float = TIMEOUT_S) -> Verdict:
    """`grade` with its grounds."""
    return judge_many([solution], [gold], last_number=last_number, timeout_s=timeout_s)[0]


def judge_many(
    solutions: Sequence[str], golds: Sequence[str], *, last_number: bool = True, timeout_s: float = TIMEOUT_S
) -> list[Verdict]:
    """`grade_many` with the grounds."""
    if len(solutions) != len(golds):
        raise ValueError(f"{len(solutions)} solutions but {len(golds)} gold answers; give one gold answer per solution")
    stated = [_stated(gold) for gold in golds]
    found = [_found(solution, gold, last_number) for solution, gold in zip(solutions, stated, strict=True)]
    pairs = [(item.answer, gold) for item, gold in zip(found, stated, strict=True) if item]
    decided = _decide(dict.fromkeys(pairs), timeout_s)
    return [
        Verdict(grade=Grade.no_answer, answer=None, gold=gold, mark=None)
        if item is None
        else Verdict(
            grade=decided[item.answer, gold][0],
            answer=item.answer,
            gold=gold,
            mark=item.mark,
            detail=decided[item.answer, gold][1],
        )
        for item, gold in zip(found, stated, strict=True)
    ]


def canonical(answer: str) -> str:
    """One text for all ways to write the same number or words; mathematics is only tidied. For counting votes."""
    if len(answer) > MAX_CHARS:
        return answer.strip()
    return read_answer(answer).text


Decision = tuple[Grade, str]


def _stated(gold: str) -> str:
    if not isinstance(gold, str) or not gold.strip():
        raise ValueError(f"the gold answer is {gold!r}; expected a text with an answer. Leave such problems out")
    found = extract(gold, last_number=False)
    return found.answer if found else gold.strip()


def _found(solution: str, gold: str, last_number: bool) -> Extraction | None:
    found = extract(solution, last_number=last_number)
    if found is None and len(solution) <= MAX_CHARS and canonical(solution) == canonical(gold) != "":
        return Extraction(answer=solution.strip(), mark="bare")  # words that are the gold answer: `Tuesday`
    return found


def _decide(pairs: Iterable[tuple[str, str]], timeout_s: float) -> dict[tuple[str, str], Decision]:
    decided: dict[tuple[str, str], Decision] = {}
    slow: dict[tuple[str, str], tuple[str, str]] = {}
    for pair in pairs:
        outcome = _decide_here(*pair)
        if isinstance(outcome[0], Grade):
            decided[pair] = outcome  # type: ignore[assignment]
        else:
            slow[pair] = outcome  # type: ignore[assignment]
    if len(slow) == 1:
        ((pair, sides),) = slow.items()
        decided[pair] = _decide_in_worker(sides, timeout_s)
    elif slow:
        with ThreadPoolExecutor(shared_pool().size, thread_name_prefix="grading") as threads:
            decisions = threads.map(lambda sides: _decide_in_worker(sides, timeout_s), slow.values())
            decided |= dict(zip(slow, decisions, strict=True))
    return decided


def _decide_here(answer: str, gold: str) -> Decision | tuple[str, str]:
    """A decision without mathematics, or the two expressions to hand to a worker."""
    for side, text in (("answer", answer), ("gold answer", gold)):
        if len(text) > MAX_CHARS:
            return Grade.error, f"{side}: {len(text)} characters, at most {MAX_CHARS} are read"
    left, right = read_answer(answer), read_answer(gold)
    if left.kind == right.kind and left.text == right.text and _same_name(left, right):
        return Grade.correct, ""
    if "words" in (left.kind, right.kind) or left.kind == right.kind == "number":
        return Grade.wrong, ""
    for side, read in (("answer", left), ("gold answer", right)):
        if reason := refusal(read.text):
            return Grade.error, f"{side}: {reason}"
    if not left.text or not right.text or not _same_name(left, right) or _is_equation(left) != _is_equation(right):
        return Grade.wrong, ""
    return right.text, left.text


def _same_name(left: Answer, right: Answer) -> bool:
    """`y = 5` is not `x = 5`; `5` is either."""
    return not left.name or not right.name or left.name == right.name


def _is_equation(read: Answer) -> bool:
    """`2x = 10`, which math-verify would take for 10. By now `x = 10` has been read as 10; `x = 1, x = 2` is a list."""
    return "=" in read.text and not re.search(r"[<>!,]", read.text)


def _decide_in_worker(sides: tuple[str, str], timeout_s: float) -> Decision:
    gold, answer = sides
    reply = shared_pool().compare(gold, answer, timeout_s)
    if reply.outcome == "equal":
        return Grade.correct, ""
    if reply.outcome == "different":
        return Grade.wrong, ""
    if reply.outcome == "timeout":
        return Grade.timeout, reply.detail
    return Grade.error, f"{reply.outcome}: {reply.detail}"
