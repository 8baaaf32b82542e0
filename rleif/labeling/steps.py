"""Step labels for the PRM: reference solutions, solutions with known errors, and samples of the SFT model."""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from reward_models.records import LabeledSolution
from reward_models.steps import split_steps
from rleif.grading import Grade, grade
from rleif.labeling.checker import check_steps
from rleif.labeling.common import STEP_NAMES_HELP, ask, check_fraction, is_held_out, pool_of, sample_by_hash
from rleif.labeling.injections import INJECTIONS, inject
from rleif.records import DataError, Problem, Solution, read_rows, stable_hash, write_jsonl
from rleif.settings import require_positive
from rleif.sources import gold_solution
from rleif.teachers.base import Teacher
from rleif.teachers.named import teacher_by_name


@dataclass(frozen=True, slots=True, kw_only=True)
class StepArguments:
    """Arguments of the steps stage.

    >>> arguments = StepArguments(output_dir="runs/toy", samples="runs/toy/label/samples.jsonl")
    """

    output_dir: str = field(metadata={"help": "run directory that holds evolve/pool.jsonl"})
    teacher: Literal["symbolic", "none"] = field(
        default="symbolic", metadata={"help": "who labels; none: exact check against marked equations"}
    )
    samples: str | None = field(
        default=None, metadata={"help": "JSONL of {problem_id, text}: solutions sampled from the SFT model"}
    )
    step_names: bool = field(default=True, metadata={"help": STEP_NAMES_HELP})
    corruptions_per_problem: int = field(default=2, metadata={"help": "solutions with a known error, per problem"})
    max_problems: int | None = field(default=None, metadata={"help": "use at most so many problems (not for samples)"})
    heldout_fraction: float = field(default=0.1, metadata={"help": "share of the seeds whose solutions are held out"})
    seed: int = field(default=0, metadata={"help": "decides every random draw"})
    concurrency: int = field(default=64, metadata={"help": "teacher calls in flight at most"})
    progress: bool = field(default=True, metadata={"help": "show progress bars"})

    def __post_init__(self) -> None:
        require_positive(self, "max_problems", "concurrency")
        check_fraction("heldout_fraction", self.heldout_fraction)
        if self.corruptions_per_problem < 0:
            raise ValueError(f"corruptions_per_problem must be >= 0, got {self.corruptions_per_problem}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Draft:
    """A solution to be labelled; `first_error` and `labels` are what is known of it by construction."""

    problem: Problem
    steps: tuple[str, ...]
    source: str  # "reference", "sample", or the kind of the error
    first_error: int | None = None  # from 0, -1 for none; None when unknown
    labels: tuple[int, ...] | None = None


def label_steps(arguments: StepArguments) -> dict[str, Any]:
    """Run the stage. Writes label/stepped.jsonl and label/stepped_heldout.jsonl (LabeledSolution).

    All solutions of one seed's problems are on the same side of the split. Returns counts; `agreement` is, by source,
    the share of solutions in which the first step that the teacher calls wrong is the one made wrong, or is none. It is
    None without a teacher: injected errors are screened by the same reader of equations that checks samples, so that
    their agreement would say nothing.
    """
    pool = pool_of(arguments.output_dir)
    problems = sample_by_hash(pool, arguments.max_problems, arguments.seed, lambda problem: problem.id)
    teacher = teacher_by_name(arguments.teacher, seed=arguments.seed)
    skipped: Counter[str] = Counter()
    drafts = _symbolic_drafts(problems, arguments, skipped) if teacher else _text_drafts(problems, arguments, skipped)
    if arguments.samples is not None:
        drafts += _samples(arguments.samples, {problem.id: problem for problem in pool}, skipped)
    parts: dict[bool, list[LabeledSolution]] = {False: [], True: []}
    counts, labels_seen, agreement = Counter[str](), Counter[int](), _Agreement()
    for draft, labels in zip(drafts, _labels(teacher, drafts, arguments), strict=True):
        if isinstance(labels, Exception):
            skipped[f"failed: {type(labels).__name__}"] += 1
            continue
        agreement.add(draft, labels)
        kept = draft.labels or labels
        held_out = is_held_out(draft.problem.root, arguments.heldout_fraction, arguments.seed)
        parts[held_out].append(_record(draft, kept))
        counts[draft.source] += 1
        labels_seen.update(kept)
    folder = Path(arguments.output_dir) / "label"
    write_jsonl(folder / "stepped.jsonl", parts[False])
    write_jsonl(folder / "stepped_heldout.jsonl", parts[True])
    return {
        "solutions": len(parts[False]),
        "heldout_solutions": len(parts[True]),
        "by_source": dict(sorted(counts.items())),
        "by_label": {str(label): count for label, count in sorted(labels_seen.items())},
        "left_out": dict(sorted(skipped.items())),
        "agreement": agreement.shares() if teacher is not None else None,
    }


def _record(draft: _Draft, labels: Sequence[int]) -> LabeledSolution:
    outcome = None
    if draft.problem.answer is not None:
        outcome = grade("\n".join(draft.steps), draft.problem.answer) is Grade.correct
    return LabeledSolution(
        instruction=draft.problem.instruction, steps=draft.steps, labels=tuple(labels), outcome=outcome
    )


class _Agreement:
    """How often a labeller and the construction agree on the first wrong step."""

    def __init__(self) -> None:
        self.right: Counter[str] = Counter()
        self.total: Counter[str] = Counter()

    def add(self, draft: _Draft, labels: Sequence[int]) -> None:
        if draft.first_error is None:
            return
        first = next((index for index, label in enumerate(labels) if label < 0), -1)
        self.total[draft.source] += 1
        self.right[draft.source] += first == draft.first_error

    def shares(self) -> dict[str, float]:
        return {source: self.right[source] / count for source, count in sorted(self.total.items())}


def _labels(
    teacher: Teacher | None, drafts: Sequence[_Draft], arguments: StepArguments
) -> list[tuple[int, ...] | Exception]:
    if teacher is not None:
        return ask(
            teacher,
            lambda draft: teacher.label(draft.problem, draft.steps),
            drafts,
            concurrency=arguments.concurrency,
            progress=arguments.progress,
            what="label",
        )
    return [check_steps(draft.problem, draft.steps) for draft in drafts]


def _symbolic_drafts(problems: Sequence[Problem], arguments: StepArguments, skipped: Counter[str]) -> list[_Draft]:
    """The teacher's solution of every problem, and corruptions of it whose kinds follow in turn."""
    from rleif.teachers.symbolic import CORRUPTIONS, SymbolicTeacher, corrupt

    teacher = SymbolicTeacher(arguments.seed, step_names=arguments.step_names)
    answers = ask(
        teacher, teacher.answer, problems, concurrency=arguments.concurrency, progress=arguments.progress, what="answer"
    )
    drafts = []
    for problem, solution in zip(problems, answers, strict=True):
        if not isinstance(solution, Solution):
            skipped[f"no answer: {type(solution).__name__}"] += 1
            continue
        if problem.meta.get("defect") is not None:  # noise of the teacher: nothing is known of its solution
            drafts.append(_Draft(problem=problem, steps=solution.steps, source="ill_posed"))
            continue
        drafts.append(_Draft(problem=problem, steps=solution.steps, source="reference", first_error=-1))
        for kind, rng in _kinds(CORRUPTIONS, problem, arguments):
            try:
                wrong = corrupt(problem, solution, rng, kind)
            except ValueError:  # this kind of error does not fit this problem
                skipped[f"no {kind} fits"] += 1
                continue
            drafts.append(
                _Draft(problem=problem, steps=wrong.steps, source=kind, first_error=_first_change(solution, wrong))
            )
    return drafts


def _first_change(right: Solution, wrong: Solution) -> int:
    pairs = zip(right.steps, wrong.steps, strict=False)
    return next(index for index, (first, second) in enumerate(pairs) if first != second)


def _text_drafts(problems: Sequence[Problem], arguments: StepArguments, skipped: Counter[str]) -> list[_Draft]:
    """The reference solution of every problem, and versions of it with an injected error."""
    drafts = []
    for problem in problems:
        steps = gold_solution(problem).steps
        if -1 in check_steps(problem, steps):  # published solutions have a few false equations of their own
            skipped["reference with a false equation"] += 1
            continue
        right = (1,) * len(steps)
        drafts.append(_Draft(problem=problem, steps=steps, source="reference", first_error=-1, labels=right))
        for kind, rng in _kinds(INJECTIONS, problem, arguments):
            wrong = inject(problem, rng, kind)
            if wrong is None:
                skipped[f"no {kind} fits"] += 1
                continue
            drafts.append(
                _Draft(problem=problem, steps=wrong.steps, source=kind, first_error=wrong.place, labels=wrong.labels)
            )
    return drafts


def _kinds(kinds: Sequence[str], problem: Problem, arguments: StepArguments) -> Iterator[tuple[str, random.Random]]:
    """For one problem: as many kinds as asked for, starting anywhere so that all are equally frequent."""
    start = stable_hash(arguments.seed, "kinds", problem.id)
    for number in range(arguments.corruptions_per_problem):
        rng = random.Random(stable_hash(arguments.seed, "corrupt", problem.id, number))
        yield kinds[(start + number) % len(kinds)], rng


def _samples(path: str, problems: dict[str, Problem], skipped: Counter[str]) -> list[_Draft]:
    """Sampled solutions, split into steps. Raises DataError for a problem that is not in the pool."""
    drafts = []
    for number, row in enumerate(read_rows(path, required=("problem_id", "text")), start=1):
        problem, text = problems.get(row["problem_id"]), row["text"]
        if problem is None or not isinstance(text, str):
            raise DataError(
                f"{path}, row {number}: problem_id {row['problem_id']!r} must name one of the {len(problems)} problems "
                f"of the pool and text must be a string (found {type(text).__name__})"
            )
        steps = tuple(text[step.start : step.end] for step in split_steps(text))
        if not steps:
            skipped["sample without text"] += 1
            continue
        drafts.append(_Draft(problem=problem, steps=steps, source="sample"))
    return drafts
