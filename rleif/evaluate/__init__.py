"""Evaluate a model on problems with known answers. Engine and process reward model are passed in; no torch here.

Every completion is kept; `metrics_from_samples` recomputes all metrics from samples.jsonl without any model.
"""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from reward_models.evaluate import Aggregation
from rleif.evaluate.comparison import Comparison, Difference, compare_samples
from rleif.evaluate.formulas import RESAMPLES, bootstrap, mcnemar, pass_at_k, vote, wilson
from rleif.evaluate.samples import Mode, Sample, metrics_from_samples, read_samples
from rleif.grading import judge_many
from rleif.prompting import COMPLETION_PREFIX, WIZARDMATH_PROMPT, render_prompt
from rleif.records import Completion, Generate, Problem, Sampling, stable_hash, write_jsonl

__all__ = [
    "Comparison",
    "Difference",
    "EvalResult",
    "Sample",
    "ScoreSteps",
    "bootstrap",
    "compare",
    "compare_samples",
    "evaluate_model",
    "mcnemar",
    "metrics_from_samples",
    "pass_at_k",
    "read_samples",
    "vote",
    "wilson",
]

CHUNK_PROBLEMS = 64  # problems between two updates of the progress bar; no effect on the result


class ScoreSteps(Protocol):
    """What evaluation needs of a process reward model: `reward_models.ProcessRewardModel` is one."""

    def score_steps(self, instructions: Sequence[str], solutions: Sequence[str]) -> Sequence[Any]:
        """One object with `.scores` (a number in (0, 1) per step) for each solution."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalResult:
    """All completions of an evaluation, its metrics and the settings it was made with.

    >>> result = evaluate_model(problems, engine, encode, prm=prm, max_new_tokens=256)
    >>> result.metrics["pass1_greedy"], result.metrics["intervals"]["pass1_greedy"]
    (0.526, [0.482, 0.569])
    """

    samples: tuple[Sample, ...]
    metrics: dict[str, Any]  # as `metrics_from_samples` describes
    settings: dict[str, Any]  # template, sampling, seed, aggregation: JSON values

    def write(self, directory: str | Path) -> None:
        """samples.jsonl and metrics.json (metrics with `settings` among them)."""
        directory = Path(directory)
        write_jsonl(directory / "samples.jsonl", self.samples)
        text = json.dumps(self.metrics | {"settings": self.settings}, indent=2, ensure_ascii=False)
        part = directory / ".metrics.json.part"
        part.write_text(text + "\n", encoding="utf-8")
        part.replace(directory / "metrics.json")

    @classmethod
    def read(cls, directory: str | Path) -> "EvalResult":
        """What `write` wrote; the metrics are as they were then."""
        directory = Path(directory)
        metrics = json.loads((directory / "metrics.json").read_text(encoding="utf-8"))
        settings = metrics.pop("settings", {})
        return cls(samples=tuple(read_samples(directory / "samples.jsonl")), metrics=metrics, settings=settings)


def evaluate_model(
    problems: Sequence[Problem],
    generate: Generate,
    encode: Callable[[str], list[int]],
    *,
    prm: ScoreSteps | None = None,
    num_samples: int = 8,
    greedy: bool = True,
    temperature: float = 1.0,
    top_p: float = 1.0,
    max_new_tokens: int = 256,
    seed: int = 0,
    template: str = WIZARDMATH_PROMPT,
    aggregation: Aggregation = "min",
    last_number: bool = False,
    progress: bool = False,
) -> EvalResult:
    """Complete every problem once greedily and `num_samples` times at `temperature`, grade and score all of it.

    The samples of a problem depend on (seed, problem id) alone, not on the other problems or their order.

    Args:
        generate: a rollout engine.
        encode: prompt text to token ids, as in training.
        prm: adds the metrics of best-of-N and of the weighted vote.
        aggregation: of step scores into the score of a solution.
        last_number: count the last number of a completion that never says which number is its answer. Off: a solution
            without an answer mark is not solved, as in the official WizardMath evaluation.

    Raises:
        ValueError: no problems, a repeated id, a problem without answer, or nothing to sample.
    """
    _check(problems, num_samples, greedy)
    modes: list[tuple[Mode, Sampling]] = []
    if greedy:
        modes.append(("greedy", Sampling(temperature=0.0, max_new_tokens=max_new_tokens)))
    if num_samples:
        drawn = Sampling(
            temperature=temperature, top_p=top_p, max_new_tokens=max_new_tokens, num_generations=num_samples
        )
        modes.append(("sampled", drawn))
    samples: list[Sample] = []
    with tqdm(total=len(problems) * len(modes), desc="evaluate", unit="problem", disable=not progress) as bar:
        for mode, sampling in modes:
            for chunk in _chunks(problems):
                prompts = [encode(render_prompt(problem.instruction, template)) for problem in chunk]
                keys = [stable_hash(seed, mode, problem.id) for problem in chunk]
                completions = generate(prompts, sampling, keys)
                samples += _grade(chunk, completions, mode, prm, last_number)
                bar.update(len(chunk))
    settings = {
        "num_samples": num_samples, "greedy": greedy, "temperature": temperature, "top_p": top_p,
        "max_new_tokens": max_new_tokens, "seed": seed, "template": template, "aggregation": aggregation,
        "last_number": last_number, "prm": prm is not None,
    }  # fmt: skip
    metrics = metrics_from_samples(samples, aggregation=aggregation, seed=seed)
    return EvalResult(samples=tuple(samples), metrics=metrics, settings=settings)


def compare(before: EvalResult, after: EvalResult, *, seed: int = 0, resamples: int = RESAMPLES) -> Comparison:
    """The paired comparison of two evaluations of the same problems: McNemar's exact test for greedy, bootstrapped
    differences for greedy and sampled pass@1."""
    return compare_samples(before.samples, after.samples, seed=seed, resamples=resamples)


def _check(problems: Sequence[Problem], num_samples: int, greedy: bool) -> None:
    if not problems:
        raise ValueError("there are no problems to evaluate on")
    if num_samples < 0 or not (num_samples or greedy):
        raise ValueError(f"num_samples={num_samples}, greedy={greedy}: nothing to do; set greedy or num_samples >= 1")
    seen: set[str] = set()
    for problem in problems:
        if problem.answer is None or not problem.answer.strip():
            raise ValueError(f"problem {problem.id} has no answer to grade against; leave it out of the evaluation")
        if problem.id in seen:
            raise ValueError(f"problem id {problem.id} occurs twice; ids must be unique to pair results")
        seen.add(problem.id)


def _chunks(problems: Sequence[Problem]) -> Iterator[Sequence[Problem]]:
    for start in range(0, len(problems), CHUNK_PROBLEMS):
        yield problems[start : start + CHUNK_PROBLEMS]


def _grade(
    problems: Sequence[Problem],
    completions: Sequence[Sequence[Completion]],
    mode: Mode,
    prm: ScoreSteps | None,
    last_number: bool,
) -> list[Sample]:
    rows = [(p, k, c) for p, group in zip(problems, completions, strict=True) for k, c in enumerate(group)]
    texts = [completion.text.removeprefix(COMPLETION_PREFIX) for _, _, completion in rows]
    verdicts = judge_many(texts, [problem.answer or "" for problem, _, _ in rows], last_number=last_number)
    scores = _score([problem for problem, _, _ in rows], texts, prm)
    return [
        Sample(
            problem_id=problem.id,
            mode=mode,
            index=index,
            text=text,
            finish_reason=completion.finish_reason,
            tokens=len(completion.completion_ids),
            grade=verdict.grade,
            answer=verdict.answer,
            mark=verdict.mark,
            gold=verdict.gold,
            detail=verdict.detail,
            step_scores=step_scores,
            steps=problem.meta.get("steps"),
        )
        for (problem, index, completion), text, verdict, step_scores in zip(rows, texts, verdicts, scores, strict=True)
    ]


def _score(
    problems: Sequence[Problem], texts: Sequence[str], prm: ScoreSteps | None
) -> Sequence[tuple[float, ...] | None]:
    if prm is None:
        return [None] * len(texts)
    scores = [tuple(map(float, row.scores)) for row in prm.score_steps([p.instruction for p in problems], texts)]
    for problem, text, row in zip(problems, texts, scores, strict=True):
        if not all(math.isfinite(score) for score in row):
            raise ValueError(f"the process reward model gave {row} for problem {problem.id}, completion {text[:200]!r}")
    return scores
