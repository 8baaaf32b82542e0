"""What an evaluation keeps of every completion, and all metrics computed from that alone: no model is needed again."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from reward_models.evaluate import Aggregation, aggregate
from rleif.evaluate.formulas import RESAMPLES, bootstrap, pass_at_k, vote, wilson
from rleif.grading import Grade, Mark, canonical
from rleif.records import DataError, FinishReason, read_rows

Mode = Literal["greedy", "sampled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One completion and its grade: a row of samples.jsonl.

    >>> Sample(
    ...     problem_id="p1",
    ...     mode="sampled",
    ...     index=0,
    ...     text="...The answer is: 7",
    ...     finish_reason="stop",
    ...     tokens=42,
    ...     grade=Grade.correct,
    ...     answer="7",
    ...     mark="answer_is",
    ...     gold="7",
    ...     step_scores=(0.98, 0.91),
    ...     steps=2,
    ... )
    """

    problem_id: str
    mode: Mode
    index: int  # position among the samples of the problem; 0 for greedy
    text: str
    finish_reason: FinishReason
    tokens: int  # completion tokens, EOS included
    grade: Grade
    answer: str | None  # as extracted
    mark: Mark | None
    gold: str
    detail: str = ""  # why there is no decision, for a timeout or an error
    step_scores: tuple[float, ...] | None = None  # of the process reward model, in (0, 1); None without one
    steps: int | None = None  # difficulty of the problem (`meta["steps"]`)

    @property
    def is_correct(self) -> bool:
        return self.grade is Grade.correct


def read_samples(path: str | Path) -> list[Sample]:
    """Samples written by `EvalResult.write`."""
    names = {field.name for field in fields(Sample)}
    required = ("problem_id", "mode", "index", "text", "finish_reason", "tokens", "grade", "answer", "mark", "gold")
    return [_sample({name: row[name] for name in names & row.keys()}, path) for row in read_rows(path, required)]


def _sample(row: dict[str, Any], path: str | Path) -> Sample:
    if row["grade"] not in list(Grade):
        raise DataError(f"{path}: {row['grade']!r} is no grade; expected one of {', '.join(Grade)}")
    scores = row.get("step_scores")
    return Sample(**row | {"grade": Grade(row["grade"]), "step_scores": None if scores is None else tuple(scores)})


def by_problem(samples: Iterable[Sample], mode: Mode) -> dict[str, list[Sample]]:
    """The samples of one mode for each problem, in order of `index`. Raises DataError if the problems have different
    numbers of samples: means over them would not be comparable."""
    found: dict[str, list[Sample]] = {}
    for sample in samples:
        if sample.mode == mode:
            found.setdefault(sample.problem_id, []).append(sample)
    counts = Counter(len(group) for group in found.values())
    if len(counts) > 1 or (mode == "greedy" and counts.keys() - {1}):
        raise DataError(
            f"{mode} samples per problem differ or repeat: {dict(counts)} (samples: problems); expected the same "
            f"number for every problem, and one if greedy. Was samples.jsonl cut off or joined from two runs?"
        )
    return {name: sorted(group, key=lambda sample: sample.index) for name, group in found.items()}


def metrics_from_samples(
    samples: Sequence[Sample], *, aggregation: Aggregation = "min", seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, Any]:
    """All metrics of an evaluation; the ones that were not measured (no greedy, no PRM ...) are left out.

    pass1_greedy: share of problems solved by the greedy completion. pass1_sampled: share of correct samples.
    pass_at_k: unbiased. majN: majority vote over canonical answers. prm_best_of_N: the sample with the highest score.
    prm_weighted_N: vote weighted by score. A truncated completion is graded like any other; truncation_rate says how
    many there are. All means are over problems. Intervals are 95%: Wilson where a problem is solved or not, else a
    bootstrap over problems with `seed`.
    """
    if not samples:
        raise ValueError("there are no samples to compute metrics from")
    greedy, sampled = by_problem(samples, "greedy"), by_problem(samples, "sampled")
    if greedy and sampled and greedy.keys() != sampled.keys():
        raise DataError(f"{len(greedy.keys() ^ sampled.keys())} problems have only greedy or only sampled completions")
    values = _per_problem(greedy, sampled, aggregation)
    metrics: dict[str, Any] = {"n": len(greedy or sampled), "truncation_rate": fmean(map(_is_cut, samples))}
    metrics |= {name: fmean(solved) for name, solved in values.items() if not name.startswith("pass@")}
    metrics["pass_at_k"] = {name[5:]: fmean(v) for name, v in values.items() if name.startswith("pass@")}
    metrics["by_difficulty"] = _by_difficulty(greedy, sampled)
    metrics["grades"] = {
        mode: dict(Counter(str(sample.grade) for sample in samples if sample.mode == mode))
        for mode, group in (("greedy", greedy), ("sampled", sampled))
        if group
    }
    metrics["mean_tokens"] = fmean(sample.tokens for sample in samples)
    metrics |= _intervals(values, seed, resamples)
    return metrics


def _per_problem(
    greedy: dict[str, list[Sample]], sampled: dict[str, list[Sample]], aggregation: Aggregation
) -> dict[str, list[float]]:
    """For each metric the value of every problem, whose mean it is."""
    values: dict[str, list[float]] = {}
    if greedy:
        values["pass1_greedy"] = [float(group[0].is_correct) for group in greedy.values()]
    if not sampled:
        return values
    groups = list(sampled.values())
    n = len(groups[0])
    correct = [sum(sample.is_correct for sample in group) for group in groups]
    values["pass1_sampled"] = [c / n for c in correct]
    for k in sorted({2**i for i in range(n.bit_length())} | {n}):
        values[f"pass@{k}"] = [pass_at_k(n, c, k) for c in correct]
    values[f"maj{n}"] = [_elected(group) for group in groups]
    if all(sample.step_scores is not None for group in groups for sample in group):
        scores = [[aggregate(sample.step_scores or (), aggregation) for sample in group] for group in groups]
        values[f"prm_best_of_{n}"] = [
            float(group[max(range(n), key=marks.__getitem__)].is_correct)
            for group, marks in zip(groups, scores, strict=True)
        ]
        values[f"prm_weighted_{n}"] = [_elected(group, marks) for group, marks in zip(groups, scores, strict=True)]
    return values


def _elected(group: Sequence[Sample], weights: Sequence[float] | None = None) -> float:
    answers = [None if sample.answer is None else canonical(sample.answer) for sample in group]
    winner = vote(answers, weights)
    return 0.0 if winner is None else float(group[winner].is_correct)


def _is_cut(sample: Sample) -> bool:
    return sample.finish_reason == "length"


def _by_difficulty(greedy: dict[str, list[Sample]], sampled: dict[str, list[Sample]]) -> dict[str, dict[str, float]]:
    """Per number of steps: n and the two pass@1. Keys are text, as in JSON. Empty if no problem states its steps."""
    levels = {name: group[0].steps for name, group in (greedy or sampled).items() if group[0].steps is not None}
    table: dict[str, dict[str, float]] = {}
    for level in sorted(set(levels.values())):
        names = [name for name in levels if levels[name] == level]
        row: dict[str, float] = {"n": len(names)}
        for metric, groups in (("pass1_greedy", greedy), ("pass1_sampled", sampled)):
            if groups:
                row[metric] = fmean(sample.is_correct for name in names for sample in groups[name])
        table[str(level)] = row
    return table


def _intervals(values: dict[str, list[float]], seed: int, resamples: int) -> dict[str, Any]:
    intervals, methods = {}, {}
    for name, solved in values.items():
        if name == "pass1_greedy" or not name.startswith("pass"):  # each problem is solved or not
            intervals[name], methods[name] = list(wilson(sum(solved), len(solved))), "wilson 95%"
        else:
            intervals[name] = list(bootstrap(solved, seed, resamples))
            methods[name] = f"bootstrap over problems 95%, {resamples} resamples, seed {seed}"
    return {"intervals": intervals, "interval_methods": methods}
