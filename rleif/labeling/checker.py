"""Label free-form steps against a reference solution with marked equations, as far as arithmetic decides.

an equation is false                                      -1
true, and its result is among the reference's values      +1
true with an unknown result, or no readable equation       0
the answer line: right +1; wrong, but restating the last result, 0; else -1

What it cannot see: a wrong operation or operand with right arithmetic is 0, and so is a right step in prose. On the 400
GSM8K solutions of ProcessBench (free prose of many models) it calls 3 of 1361 right steps wrong and 450 right, and
finds the first error in place in 24 of 207 wrong solutions: a -1 can be trusted, a 0 says little.
"""

import re
from collections.abc import Sequence
from fractions import Fraction

from rleif.grading import Grade, extract_answer, grade
from rleif.labeling.equations import evaluate, find_equations
from rleif.records import DataError, Problem

_ANSWER_LINE = re.compile(r"answer|####|\\boxed|(?:^|\s)A:", re.IGNORECASE)  # a bare number is not yet an answer


def known_values(problem: Problem) -> frozenset[Fraction]:
    """The results of the marked equations and the answer. Raises DataError for a problem without marks."""
    if "equations" not in problem.meta or problem.answer is None:
        raise DataError(
            f"problem {problem.id} has no marked equations (meta['equations']) or no answer; steps can be checked "
            "exactly only against a reference solution such as GSM8K's"
        )
    texts = [mark["right"] for mark in problem.meta["equations"]] + [problem.answer]
    return frozenset(value for text in texts if (value := evaluate(text)) is not None)


def check_steps(problem: Problem, steps: Sequence[str]) -> tuple[int, ...]:
    """One label per step, by the rules above."""
    known, labels, last = known_values(problem), [], None
    assert problem.answer is not None
    for step in steps:
        equations = find_equations(step)
        stated = extract_answer(step, last_number=False) if _ANSWER_LINE.search(step) else None
        if not all(equation.holds for equation in equations):
            labels.append(-1)
        elif stated is not None:
            labels.append(_answer_label(stated, problem.answer, last))
        else:
            labels.append(int(bool(equations) and equations[-1].right in known))
        last = equations[-1].right if equations else last
    return tuple(labels)


def _answer_label(stated: str, gold: str, last: Fraction | None) -> int:
    if grade(f"The answer is: {stated}", gold) is Grade.correct:
        return 1
    return 0 if last is not None and evaluate(stated.strip("$ .")) == last else -1
