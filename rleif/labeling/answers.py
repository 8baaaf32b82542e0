"""Answers: a worked solution for every problem of the pool, by the teacher or as it came with the data."""

import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rleif.grading import Grade, grade
from rleif.labeling.common import STEP_NAMES_HELP, ask, pool_of, sample_by_hash
from rleif.records import Problem, Rejection, Solution, stable_hash, write_jsonl
from rleif.settings import require_positive
from rleif.sources import gold_solution
from rleif.teachers.named import teacher_by_name

SLIPS = ("skipped", "operation", "operand")
"""Errors of a careless teacher. Wrong sums are not among them: they look like noise, and no teacher makes many."""
ERRORS = {"slip": SLIPS, "misread": ("misread",)}


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerArguments:
    """Arguments of the answers stage.

    >>> arguments = AnswerArguments(output_dir="runs/toy", keep="known_answer")
    """

    output_dir: str = field(metadata={"help": "run directory that holds evolve/pool.jsonl"})
    teacher: Literal["symbolic", "none"] = field(
        default="symbolic", metadata={"help": "who answers; none: the solutions that came with the data"}
    )
    keep: Literal["all", "known_answer"] = field(
        default="all",
        metadata={"help": "known_answer: only solutions graded correct against the problem's own answer"},
    )
    error_rate: float = field(
        default=0.0,
        metadata={
            "help": "share of the symbolic teacher's solutions that are made wrong on purpose. WizardMath v3 states no "
            "filter of its teacher's answers, and a reviewer notes that wrong ones are kept"
        },
    )
    error_kind: Literal["slip", "misread"] = field(
        default="slip",
        metadata={
            "help": "slip: one error somewhere (a step skipped, a wrong operation or number); misread: a habit, 'fewer "
            "than' read as more, 'half as many' as twice, a difference as a sum, which SFT teaches the policy"
        },
    )
    step_names: bool = field(default=True, metadata={"help": STEP_NAMES_HELP})
    max_problems: int | None = field(default=None, metadata={"help": "answer at most so many problems"})
    seed: int = field(default=0, metadata={"help": "decides which, when there are more"})
    concurrency: int = field(default=64, metadata={"help": "teacher calls in flight at most"})
    progress: bool = field(default=True, metadata={"help": "show progress bars"})

    def __post_init__(self) -> None:
        require_positive(self, "max_problems", "concurrency")
        if self.keep not in ("all", "known_answer"):
            raise ValueError(f"keep must be 'all' or 'known_answer', got {self.keep!r}")
        if self.error_kind not in ERRORS:
            raise ValueError(f"error_kind must be one of {', '.join(ERRORS)}, got {self.error_kind!r}")
        if not 0.0 <= self.error_rate <= 1.0:
            raise ValueError(f"error_rate must lie in [0, 1], got {self.error_rate}")
        if self.error_rate and self.teacher != "symbolic":
            raise ValueError(f"error_rate {self.error_rate} needs teacher symbolic: only it can err by a known rate")


def label_answers(arguments: AnswerArguments) -> dict[str, Any]:
    """Run the stage. Writes label/answers.jsonl (Solution) and label/answers_rejected.jsonl (Rejection).

    Returns counts; `agreement` is the share of answered problems with a known answer whose solution reaches it.
    """
    pool = pool_of(arguments.output_dir)
    problems = sample_by_hash(pool, arguments.max_problems, arguments.seed, lambda problem: problem.id)
    solutions, rejections, grades = [], [], Counter[Grade]()
    for problem, solution in zip(problems, _solutions(arguments, problems), strict=True):
        verdict = None
        if isinstance(solution, Solution) and problem.answer is not None:
            verdict = grade(solution.text, problem.answer)
            grades[verdict] += 1
        rejection = _judge(problem, solution, verdict, arguments.keep)
        if rejection is not None:
            rejections.append(rejection)
        else:
            solutions.append(solution)
    folder = Path(arguments.output_dir) / "label"
    write_jsonl(folder / "answers.jsonl", solutions)
    write_jsonl(folder / "answers_rejected.jsonl", rejections)
    assert len(solutions) + len(rejections) == len(problems)
    return {
        "problems": len(problems),
        "kept": len(solutions),
        "rejected": dict(sorted(Counter(rejection.rule for rejection in rejections).items())),
        "grades": {verdict.value: count for verdict, count in sorted(grades.items())},
        "agreement": grades[Grade.correct] / grades.total() if grades else None,
    }


def _solutions(arguments: AnswerArguments, problems: list[Problem]) -> list[Solution | Exception]:
    teacher = teacher_by_name(arguments.teacher, seed=arguments.seed, step_names=arguments.step_names)
    if teacher is None:
        return [gold_solution(problem) for problem in problems]
    solutions = ask(
        teacher, teacher.answer, problems, concurrency=arguments.concurrency, progress=arguments.progress, what="answer"
    )
    if not arguments.error_rate:
        return solutions
    return [_err(*pair, arguments) for pair in zip(problems, solutions, strict=True)]


def _err(problem: Problem, solution: Solution | Exception, arguments: AnswerArguments) -> Solution | Exception:
    """The solution, or at the stated rate one with an error; unchanged where no such error fits it."""
    from rleif.teachers.symbolic import corrupt

    rng = random.Random(stable_hash(arguments.seed, "slip", problem.id))
    if isinstance(solution, Exception) or rng.random() >= arguments.error_rate:
        return solution
    kinds = ERRORS[arguments.error_kind]
    for kind in rng.sample(kinds, len(kinds)):
        try:
            return corrupt(problem, solution, rng, kind)
        except ValueError:  # this problem offers no such error
            continue
    return solution


def _judge(problem: Problem, solution: Solution | Exception, verdict: Grade | None, keep: str) -> Rejection | None:
    if isinstance(solution, Exception):
        evidence = f"{type(solution).__name__}: {solution}"
        return Rejection(problem=problem, status="failed", rule="teacher_error", evidence=evidence)
    if keep == "known_answer" and verdict is not Grade.correct:
        found = "no known answer" if verdict is None else f"graded {verdict.value}"
        evidence = f"{found}: the solution says {solution.answer!r}, the problem {problem.answer!r}"
        return Rejection(problem=problem, status="eliminated", rule="known_answer", evidence=evidence)
    return None
