"""Step labels against hand-worked solutions, and the corruptions that make wrong solutions on purpose."""

import asyncio
import random
import re
from fractions import Fraction

import pytest

from rleif.records import Problem, Solution
from rleif.teachers.symbolic import CORRUPTIONS, MISREAD, SymbolicTeacher, corrupt, sample_problem
from rleif.teachers.symbolic.expressions import equations, stated_answer

TEACHER = SymbolicTeacher()
# Hugo 12 + 5 = 17, Ines 17 * 2 = 34
TWO_STEPS = (
    "Greta bakes 12 tarts. Hugo bakes 5 more tarts than Greta. Ines bakes twice as many tarts as Hugo. "
    "How many tarts does Ines bake?"
)
# 25% of 40 = 10
PERCENT = "Greta bakes 40 tarts. Hugo bakes 25% as many tarts as Greta. How many tarts does Hugo bake?"
# 3 * 4 = 12, 12 - 2 = 10, 10 + 12 = 22
BRANCHED = (
    "Greta bakes 3 trays of 4 tarts each. Hugo bakes 2 fewer tarts than Greta. How many tarts do Hugo and Greta bake "
    "together?"
)


def label(text: str, *steps: str) -> tuple[int, ...]:
    return asyncio.run(TEACHER.label(Problem(id="x", root="x", instruction=text), steps))


@pytest.mark.parametrize(
    ("steps", "labels"),
    [
        (("12 + 5 = 17", "17 * 2 = 34", "The answer is: 34"), (1, 1, 1)),
        (("12 + 5 = 18", "18 * 2 = 36", "The answer is: 36"), (-1, 0, 0)),  # false result, then carried
        (("12 + 6 = 18", "18 * 2 = 36", "The answer is: 36"), (-1, 0, 0)),  # wrong operand
        (("12 - 5 = 7", "7 * 2 = 14", "The answer is: 14"), (-1, 0, 0)),  # wrong operation
        (("12 + 5 = 17", "17 + 2 = 19", "The answer is: 19"), (1, -1, 0)),
        (("12 + 5 = 18", "18 * 2 = 34", "The answer is: 34"), (-1, -1, 1)),  # two errors that cancel
        (("12 + 6 = 18", "18 + 16 = 34", "The answer is: 34"), (-1, -1, 1)),
        (("12 + 5 = 17", "17 * 2 = 34", "The answer is: 17"), (1, 1, -1)),  # wrong answer line
        (("12 + 5 = 17", "17 * 2 = 34", "The answer is: many"), (1, 1, -1)),
        (("12 * 2 = 24", "The answer is: 24"), (-1, 0)),  # skipped a step
        (("12 + 5 = 17", "The answer is: 17"), (1, -1)),
        (("The answer is: 34",), (1,)),
        (("12 + 5 = 18", "17 * 2 = 34", "The answer is: 34"), (-1, 1, 1)),  # does not rest on the error
        (("I think about tarts.", "12 + 5 = 17", ""), (0, 1, 0)),  # no equation
        (("5 + 12 = 17", "17 + 17 = 34", "#### 34"), (1, 1, 1)),
        (("17 = 12 + 5", "34 = 17 * 2", "The answer is: 34"), (1, 1, 1)),
        (("2 * 17 = 34", "The answer is: 34."), (1, 1)),
        (("(12 + 5) * 2 = 34",), (1,)),  # two relations at once
        (("12 + 5 * 2 = 34",), (-1,)),  # 22
        (("12 + 5 = 17 * 2 = 34",), (-1,)),  # 17 is not 34
        (("12 + 5 = 17 and 17 * 2 = 34",), (1,)),
        (("12 + 5 = 17, then 17 * 2 = 35",), (-1,)),
    ],
)
def test_labels_of_a_two_step_problem(steps: tuple[str, ...], labels: tuple[int, ...]) -> None:
    assert label(TWO_STEPS, *steps) == labels
    numbered = [f"Step {i}: Somebody has {s}." if "=" in s else s for i, s in enumerate(steps, start=1)]
    assert label(TWO_STEPS, *numbered) == labels


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        ("40 * 25 / 100 = 10", 1),
        ("25 / 100 * 40 = 10", 1),
        ("25% of 40 = 10", 1),
        ("40 * 25% = 10", 1),
        ("40 * 0.25 = 10", 1),
        ("40 / 4 = 10", 1),
        ("1/4 of 40 = 10", 1),
        ("40 tarts × 25% = 10 tarts", 1),
        ("40 * 25 / 100 = <<40*25/100=10>>10", 1),
        ("1. Hugo bakes 40 * 25 / 100 = $10.00", 1),
        ("- (40 / 4 = 10)", 1),
        ("40 / 4 = 10 - so few", 1),
        (r"$40 \times 25\% = 10$", 1),
        (r"40 \div 4 = 10", 1),
        (r"40 \cdot 25 = 1000", -1),
        ("40 · 0.25 = 10", 1),
        ("40 − 25 = 15", -1),
        ("**Step 1:** 40 / 4 = **10**", 1),
        ("Step 1 - 40 / 4 = 10", 1),
        ("40 / 4 = 10 = 10", 1),
        ("40 / 4 = 10 = 12", -1),
        ("40 * 25 = 1,000", -1),
        ("40 - 25 = 15", -1),
        ("40 / 5 = 8", -1),
        ("40 / 0 = 10", -1),
        ("40 * 25 / 100 = 11", -1),
        ("Hugo bakes 10 tarts", 0),
        ("((((((((((40 = 10", 0),
        ("= = 10", 0),
        ("(" * 5000 + "1 = 1", 0),
        ("1 + " * 5000 + "1 = 1", 0),
        ("1" * 6000 + " + 1 = 2", 0),
    ],
)
def test_the_usual_ways_of_writing_a_step_are_understood(step: str, expected: int) -> None:
    assert label(PERCENT, step) == (expected,)


@pytest.mark.parametrize(
    "line",
    [
        "The answer is: {}",
        "So the final answer is **{}**.",
        "The answer is ${}$ tarts",
        "#### {}",
        r"\boxed{{{}}}",
        "A: {}",
    ],
)
def test_an_answer_line_is_read_by_every_mark_that_the_grader_knows(line: str) -> None:
    assert label(TWO_STEPS, line.format(34)) == (1,)
    assert label(TWO_STEPS, line.format(33)) == (-1,)
    assert label(TWO_STEPS, "A: 12 + 5 = 17") == (1,)


def test_a_wrong_value_taints_every_step_that_uses_it() -> None:
    steps = ("Greta bakes 3 * 4 = 13.", "Hugo bakes 13 - 2 = 11.", "Together 11 + 13 = 24.", "The answer is: 24")
    assert label(BRANCHED, *steps) == (-1, 0, 0, 0)
    steps = ("Greta bakes 3 * 4 = 12.", "Hugo bakes 12 - 2 = 11.", "Together 11 + 12 = 23.", "The answer is: 22")
    assert label(BRANCHED, *steps) == (1, -1, 0, 1)


def test_an_equation_given_to_the_wrong_person_is_wrong() -> None:
    assert label(TWO_STEPS, "Ines bakes 12 + 5 = 17 tarts.") == (-1,)
    assert label(TWO_STEPS, "Hugo bakes 12 + 5 = 17 tarts.") == (1,)
    assert label(TWO_STEPS, "Hugo bakes 12 + 5 = 17 and Ines bakes 17 * 2 = 34 tarts.") == (1,)
    assert label(TWO_STEPS, "Ines bakes twice what Hugo does, and 5 more than Greta is 12 + 5 = 17.") == (1,)


def test_numbers_and_answers_are_read_exactly() -> None:
    found = equations("Step 2: She pays $1,200.50 + 3 = $1,203.50 in all.")
    assert [(e.left, e.result) for e in found] == [(Fraction("1203.5"), Fraction("1203.5"))]
    assert [e.holds for e in equations("1 + 2 = 3 = 4 - 1, 5 - 3 = 1")] == [True, True, False]
    assert stated_answer("The answer is: $1,234.") == 1234
    assert stated_answer("the answer is -3/4") == Fraction(-3, 4)
    assert stated_answer("The answer is: 1/0") is None


def test_labelling_a_foreign_problem_says_why_it_cannot() -> None:
    with pytest.raises(ValueError, match="not a well-posed problem of the symbolic world"):
        label("A robe takes 2 bolts. How many?", "1 + 1 = 2")


def holds(step: str) -> bool:
    """The teacher's own equations, evaluated without the library."""
    match = re.search(r"(\d+) ([-+*/]) (\d+)(?: / (\d+))? = (\d+)", step)
    assert match is not None, step
    a, b, result = Fraction(match[1]), Fraction(match[3]), Fraction(match[5])
    return {"+": a + b, "-": a - b, "*": a * b, "/": a / b}[match[2]] / int(match[4] or 1) == result


def solved(seed: int, count: int) -> list[tuple[Problem, Solution]]:
    rng = random.Random(seed)
    problems = [sample_problem(rng, 1 + i % 7) for i in range(count)]
    return [(p, asyncio.run(TEACHER.answer(p))) for p in problems]


def test_every_step_of_the_teachers_solutions_is_true_and_labelled_right() -> None:
    for problem, solution in solved(seed=1, count=210):
        assert len(solution.steps) == problem.meta["steps"] + 1
        assert all(map(holds, solution.steps[:-1]))
        assert solution.steps[-1] == f"The answer is: {problem.answer}"
        assert solution.answer == problem.answer
        assert set(asyncio.run(TEACHER.label(problem, solution.steps))) == {1}


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_the_first_step_that_is_not_right_is_the_injected_one(kind: str) -> None:
    rng = random.Random(2)
    for problem, right in solved(seed=2, count=210):
        wrong = corrupt(problem, right, rng, kind)
        labels = asyncio.run(TEACHER.label(problem, wrong.steps))
        pairs = zip(map(unnumbered, wrong.steps), map(unnumbered, right.steps), strict=False)
        same = [a == b for a, b in pairs]
        if kind == "skipped":
            # The gap itself is no step: what was skipped is felt where its value is needed.
            gap = same.index(False)
            injected = next(
                i for i in range(gap, len(labels)) if unnumbered(wrong.steps[i]) not in unnumbered(right.text)
            )
            assert len(wrong.steps) == len(right.steps) - 1
        else:
            injected = same.index(False)
            assert len(wrong.steps) == len(right.steps)
        context = f"{problem.instruction}\n{wrong.text}\n{labels}"
        assert labels[injected] == -1, context
        assert set(labels[:injected]) <= {1}, context
        assert (wrong.answer == problem.answer) == (kind == "compensating"), context
        assert wrong.steps[-1] == f"The answer is: {wrong.answer}"


def unnumbered(step: str) -> str:
    return re.sub(r"Step \d+: ", "", step)


def test_a_compensating_pair_reaches_the_right_answer_by_two_wrong_steps() -> None:
    rng = random.Random(3)
    for problem, right in solved(seed=3, count=140):
        wrong = corrupt(problem, right, rng, "compensating")
        labels = asyncio.run(TEACHER.label(problem, wrong.steps))
        assert wrong.answer == problem.answer
        assert labels[-1] == 1
        # a one-step problem has both errors in its one step
        assert labels.count(-1) == (1 if problem.meta["steps"] == 1 else 2), wrong.text


def test_the_arithmetic_of_the_other_corruptions_is_as_their_name_says() -> None:
    rng = random.Random(4)
    for problem, right in solved(seed=4, count=140):
        assert [holds(s) for s in corrupt(problem, right, rng, "arithmetic").steps[:-1]].count(False) == 1
        for kind in ("operand", "operation", "skipped", "answer"):
            assert all(holds(s) for s in corrupt(problem, right, rng, kind).steps[:-1])


@pytest.mark.parametrize(
    ("text", "step"),
    [
        ("Greta bakes 12 tarts. Hugo bakes 5 fewer tarts than Greta. How many tarts does Hugo bake?", "12 + 5 = 17"),
        ("Greta bakes 12 tarts. Hugo bakes half as many tarts as Greta. How many tarts does Hugo bake?", "12 * 2 = 24"),
        (
            "Greta bakes 12 tarts. Hugo bakes 5 tarts. How many more tarts does Greta bake than Hugo?",
            "The difference is 12 + 5 = 17",
        ),
    ],
)
def test_a_misreading_turns_the_relation_around(text: str, step: str) -> None:
    problem = Problem(id="x", root="x", instruction=text)
    wrong = corrupt(problem, asyncio.run(TEACHER.answer(problem)), random.Random(0), MISREAD)
    assert step in wrong.steps[0]
    assert asyncio.run(TEACHER.label(problem, wrong.steps)) == (-1, 0)


def test_a_misreading_is_the_same_wherever_it_occurs_and_needs_a_relation_that_can_be_misread() -> None:
    twice = Problem(
        id="x",
        root="x",
        instruction="Greta bakes 12 tarts. Hugo bakes 5 fewer tarts than Greta. Ines bakes 2 more tarts than Hugo. "
        "Otto bakes 3 fewer tarts than Ines. How many tarts does Otto bake?",
    )
    wrong = corrupt(twice, asyncio.run(TEACHER.answer(twice)), random.Random(0), MISREAD)
    assert [line.split("bakes ")[-1] for line in wrong.steps[:-1]] == [
        "12 + 5 = 17 tarts.",
        "17 + 2 = 19 tarts.",
        "19 + 3 = 22 tarts.",
    ]
    assert asyncio.run(TEACHER.label(twice, wrong.steps)) == (-1, 0, -1, 0)
    plain = Problem(id="y", root="y", instruction=TWO_STEPS)
    with pytest.raises(ValueError, match="no 'misread' corruption fits"):
        corrupt(plain, asyncio.run(TEACHER.answer(plain)), random.Random(0), MISREAD)


def test_an_unknown_corruption_is_refused_with_the_known_ones() -> None:
    problem, solution = solved(seed=5, count=1)[0]
    with pytest.raises(ValueError, match="compensating"):
        corrupt(problem, solution, random.Random(0), "typo")


def test_steps_without_names_say_the_same_and_are_corrupted_without_names() -> None:
    problem = Problem(id="x", root="x", instruction=TWO_STEPS)
    teacher = SymbolicTeacher(step_names=False)
    right = asyncio.run(teacher.answer(problem))
    assert right.steps == ("Step 1: 12 + 5 = 17 tarts.", "Step 2: 17 * 2 = 34 tarts.", "The answer is: 34")
    assert label(TWO_STEPS, *right.steps) == (1, 1, 1)
    wrong = corrupt(problem, right, random.Random(0), "operation")
    assert all(re.fullmatch(r"Step \d: \d.*|The answer is: \d+", line) for line in wrong.steps)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_the_injected_error_is_the_first_wrong_step_without_names_too(kind: str) -> None:
    rng = random.Random(6)
    for problem, named in solved(seed=6, count=60):
        right = asyncio.run(SymbolicTeacher(step_names=False).answer(problem))
        assert set(label(problem.instruction, *right.steps)) == {1}
        assert len(right.steps) == len(named.steps)
        wrong = corrupt(problem, right, rng, kind)
        labels = label(problem.instruction, *wrong.steps)
        first = next(i for i, pair in enumerate(zip(right.steps, wrong.steps, strict=False)) if pair[0] != pair[1])
        assert labels[:first] == (1,) * first
        assert labels[first] != 1 or kind == "skipped"
