"""Where the steps of a solution are, in characters and in tokens: one routine for training, scoring and credit.

Steps are found by character offsets, never by a separator token: no marker has to survive a tokenizer's merges, and a
text is tokenised once, as a whole, so that training sees the ids that generation produces.
"""

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

STEP_JOINER = "\n"
"""What stands between two steps of a training text."""

# Only these end a line: str.splitlines would also cut at form feeds and at U+2028, which occur inside a step.
_LINE_END = re.compile(r"\r\n|\n|\r")
_STEP_MARK = re.compile(r"(?:#{1,6} ?)?(?:\*\*|__)?step ?#?\d{1,3}\b", re.IGNORECASE)
_LIST_MARK = re.compile(r"(?:\*\*)?(\d{1,3})[.)](?:\*\*)?\s")
_ANSWER = re.compile(
    r"(?:\*\*)?(?:#{4} ?\S|(?:(?:so|thus|therefore|hence|finally),? )?(?:the )?(?:final )?answer(?: is\b| ?:))",
    re.IGNORECASE,
)
_OPENERS = {"\\[": "\\]", "$$": "$$", "```": "```"}


@dataclass(frozen=True, slots=True)
class Step:
    """A step as a character span of its text: `text[step.start:step.end]`, no white space at either end.

    >>> split_steps("Step 1: 2 + 3 = 5\\nThe answer is: 5")
    (Step(start=0, end=17), Step(start=18, end=34))
    """

    start: int
    end: int


def join_steps(steps: Sequence[str], joiner: str = STEP_JOINER) -> tuple[str, tuple[Step, ...]]:
    """The steps as one text, and the span of each in it. White space around a step lies outside its span.

    Raises ValueError for a step without text: it would have no token to carry its judgement.
    """
    spans, position = [], 0
    for index, step in enumerate(steps):
        inner = step.strip()
        if not inner:
            raise ValueError(f"step {index} of {len(steps)} is blank; a step needs at least one visible character")
        start = position + len(step) - len(step.lstrip())
        spans.append(Step(start, start + len(inner)))
        position += len(step) + len(joiner)
    return joiner.join(steps), tuple(spans)


def split_steps(text: str) -> tuple[Step, ...]:
    """The steps of a solution written by a model; the spans are in order and cover all visible text.

    The first rule that fits decides: `Step k` at the start of lines; a numbered list that counts 1., 2., ...;
    paragraphs, when at least half of the lines' breaks are blank lines; lines. What stands before the first mark is a
    step of its own, and so is the answer line (`The answer is: X`, `#### X`). Code fences and display mathematics stay
    whole where lines decide. Blank text has no steps.
    """
    lines = _lines(text)
    contents = [text[line.start : line.end] for line in lines]
    is_answer = [_ANSWER.match(content) is not None for content in contents]
    is_start = _starts(text, lines, contents, is_answer)
    steps: list[Step] = []
    for index, line in enumerate(lines):
        if index == 0 or is_start[index] or is_answer[index]:
            steps.append(line)
        else:
            steps[-1] = Step(steps[-1].start, line.end)
    return tuple(steps)


def step_end_tokens(steps: Sequence[Step], offsets: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    """For each step the index of the token that holds its last character.

    offsets: the character span of every token, as a fast tokenizer's `offset_mapping` gives it, for the text that the
    steps are spans of. Where a character is spread over several tokens the last of them is taken; special tokens have
    empty spans and never match. Two steps share an index only where one token reaches over both ends.

    Raises ValueError when a step has no token.
    """
    visible = [(start, index) for index, (start, end) in enumerate(offsets) if end > start]
    starts = [start for start, _ in visible]
    ends = []
    for step in steps:
        place = bisect_left(starts, step.end) - 1
        if place < 0 or offsets[visible[place][1]][1] <= step.start:
            raise ValueError(f"no token covers the step at characters {step.start} to {step.end}")
        ends.append(visible[place][1])
    return tuple(ends)


def _lines(text: str) -> list[Step]:
    """The lines that hold visible text, without the white space around them."""
    lines, start = [], 0
    for end, after in [*(match.span() for match in _LINE_END.finditer(text)), (len(text), len(text))]:
        content = text[start:end]
        inner = content.strip()
        if inner:
            left = start + len(content) - len(content.lstrip())
            lines.append(Step(left, left + len(inner)))
        start = after
    return lines


def _starts(text: str, lines: list[Step], contents: list[str], is_answer: list[bool]) -> list[bool]:
    """Which lines begin a step, answer lines aside."""
    marked = [_STEP_MARK.match(content) is not None for content in contents]
    if any(marked):
        return marked
    listed = _list_items(contents)
    if sum(listed) >= 2:
        return listed
    after_blank = [
        index > 0 and len(_LINE_END.findall(text, lines[index - 1].end, line.start)) > 1
        for index, line in enumerate(lines)
    ]
    by_line = _outside_blocks(contents)
    # One blank line must not turn ten lines into two steps, nor may the one that sets the answer apart.
    breaks = [blank for blank, new, answer in zip(after_blank, by_line, is_answer, strict=True) if new and not answer]
    return after_blank if sum(breaks) * 2 >= len(breaks[1:]) > 0 else by_line


def _list_items(contents: list[str]) -> list[bool]:
    """Which lines carry the next number of one list: a year or a value at the start of a line does not count."""
    expected, items = 1, []
    for content in contents:
        mark = _LIST_MARK.match(content)
        items.append(mark is not None and int(mark[1]) == expected)
        expected += items[-1]
    return items


def _outside_blocks(contents: list[str]) -> list[bool]:
    """Which lines do not continue a code fence or display mathematics; a block that never closes is ignored."""
    starts = [True] * len(contents)
    closer, opened = "", 0
    for index, content in enumerate(contents):
        if closer:
            if closer in content:
                starts[opened + 1 : index + 1] = [False] * (index - opened)
                closer = ""
            continue
        for opening, closing in _OPENERS.items():
            place = content.find(opening)
            if place >= 0 and closing not in content[place + len(opening) :]:
                closer, opened = closing, index
                break
    return starts
