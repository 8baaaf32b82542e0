"""Elimination rules: small named functions that look at one candidate and return evidence when it must go.

*Source:* WizardLM (arXiv 2304.12244), section 2.2, four rules: no information gain over the parent; a response with
"sorry" in under 80 words; a response of punctuation and stop words only; copied words of the evolution prompt.
The first and last look at the instruction, the other two at the teacher's response to it.
"""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from rleif.records import Problem, Solution
from rleif.teachers.base import Teacher

MIN_WORDS = 4  # ours: no word problem states a question in fewer
MAX_REFUSAL_WORDS = 80  # WizardLM, section 2.2

COPIED_MARKS = (
    "#elements identified#",
    "#plan#",
    "#rewritten instruction#",
    "#finally rewritten instruction#",
    "#instruction#",
    "#given prompt#",
    "#the given prompt#",
    "#rewritten prompt#",
    "#created prompt#",
    "given prompt",
    "rewritten prompt",
    "created prompt",
    "rewritten instruction",
)

STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be but by for from had has have he her his i if in is it its of on or she so that the "
        "their them then there they this to was we were will with you",
    )
)


@dataclass(slots=True)
class Candidate:
    """A child under judgement. The teacher's response is asked for once, by the first rule that looks at it."""

    child: Problem
    parent: Problem
    teacher: Teacher
    _response: Solution | None = field(default=None, repr=False)

    async def response(self) -> Solution:
        if self._response is None:
            self._response = await self.teacher.answer(self.child)
        return self._response


Rule = Callable[[Candidate], Awaitable[str | None]]
"""Returns None to keep the candidate, or what it saw. The rule's `__name__` is recorded."""


async def too_short(candidate: Candidate) -> str | None:
    """An empty or truncated instruction."""
    words = candidate.child.instruction.split()
    return f"{len(words)} words, fewer than {MIN_WORDS}" if len(words) < MIN_WORDS else None


async def copied_evolver_words(candidate: Candidate) -> str | None:
    """WizardLM rule 4. A mark that the parent already holds is the problem's own and does not count."""
    child, parent = candidate.child.instruction.lower(), candidate.parent.instruction.lower()
    return next((f"contains {mark!r}" for mark in COPIED_MARKS if mark in child and mark not in parent), None)


async def no_information_gain(candidate: Candidate) -> str | None:
    """WizardLM rule 1: the teacher finds parent and child equal in constraints, depth and breadth."""
    if _normal(candidate.child.instruction) == _normal(candidate.parent.instruction):
        return f"same text as the parent {candidate.parent.id}"
    if await candidate.teacher.same(candidate.parent, candidate.child):
        return f"{candidate.teacher.name} judges it the same as the parent {candidate.parent.id}"
    return None


async def refused_response(candidate: Candidate) -> str | None:
    """WizardLM rule 2: "sorry" in a response of fewer than 80 words."""
    text = (await candidate.response()).text
    words = len(text.split())
    refused = words < MAX_REFUSAL_WORDS and re.search(r"\bsorry\b", text, re.IGNORECASE)
    return f"the response says 'sorry' in {words} words" if refused else None


async def empty_response(candidate: Candidate) -> str | None:
    """WizardLM rule 3: nothing but punctuation and stop words in the response."""
    text = (await candidate.response()).text
    content = [word for word in re.findall(r"\w+", text.lower()) if word not in STOP_WORDS]
    return None if content else f"the response {text[:60]!r} has no content word"


async def unanswered(candidate: Candidate) -> str | None:
    """The response reaches no answer, so it can neither be graded nor rewarded. Ours."""
    response = await candidate.response()
    return None if response.answer and response.answer.strip() else "the response states no answer"


async def answer_not_checkable(candidate: Candidate) -> str | None:
    """The reference answer cannot be graded: the grader does not even accept it as equal to itself. Ours, optional."""
    from rleif.grading import Grade, grade

    answer = candidate.child.answer or (await candidate.response()).answer
    if answer is None or not answer.strip():
        return "there is no reference answer"
    verdict = grade(f"The answer is: {answer}", answer)
    return None if verdict is Grade.correct else f"answer {answer!r} graded against itself is {verdict.value}"


WIZARDLM: tuple[Rule, ...] = (copied_evolver_words, no_information_gain, refused_response, empty_response)
"""WizardLM's four rules, the cheapest first."""

WIZARDMATH: tuple[Rule, ...] = (too_short, copied_evolver_words, no_information_gain)
"""The rules on the instruction alone: WizardMath v3 states no filter on answers."""

CHECKED: tuple[Rule, ...] = (*WIZARDMATH, refused_response, empty_response, unanswered)
"""Also asks for a response and drops problems that the teacher cannot answer; one more call per child."""


def _normal(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))
