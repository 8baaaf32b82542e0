"""Completions to reward parts: the frozen reward models and the grader, asked in batches."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rleif.prompting import COMPLETION_PREFIX
from rleif.records import Completion
from rleif.rewards import Aggregation, InstructionScores, RewardParts, StepScorer, process_scores

Grader = Callable[[Sequence[str], Sequence[str]], Sequence[Any]]
"""(solutions, gold answers) to grades; a grade counts as right if it equals "correct" or True."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A completion with what it is judged by.

    >>> Sample(prompt=17, instruction="1 + 1?", answer="2", completion=completion)
    """

    prompt: int  # row of the dataset
    instruction: str
    answer: str | None
    completion: Completion

    @property
    def solution(self) -> str:
        """What the reward models and the grader read: the text without the separator that the policy writes first."""
        return self.completion.text.removeprefix(COMPLETION_PREFIX)


class Scorer:
    """Both reward models and the grader behind one call."""

    def __init__(
        self, irm: InstructionScores, prm: StepScorer | None, aggregation: Aggregation, grade: Grader | None = None
    ) -> None:
        self.irm = irm
        self.prm = prm
        self.aggregation: Aggregation = aggregation
        self.grade = grade

    def __call__(self, samples: Sequence[Sample]) -> RewardParts:
        """One row per sample, on the CPU."""
        self.irm.ensure(sample.instruction for sample in samples)
        solutions = [sample.solution for sample in samples]
        prm = process_scores(self.prm, [sample.instruction for sample in samples], solutions, self.aggregation)
        return RewardParts(
            irm=torch.tensor([self.irm[sample.instruction] for sample in samples]),
            prm=torch.tensor(prm),
            is_correct=torch.tensor(self._correctness(samples)),
            is_finished=torch.tensor([sample.completion.finish_reason == "stop" for sample in samples]),
        )

    def _correctness(self, samples: Sequence[Sample]) -> list[float]:
        known = [i for i, sample in enumerate(samples) if sample.answer is not None]
        results = [math.nan] * len(samples)
        if known:
            grade = self.grade or _default_grader()
            grades = grade([samples[i].solution for i in known], [str(samples[i].answer) for i in known])
            for i, verdict in zip(known, grades, strict=True):
                results[i] = float(verdict is True or verdict == "correct")
        return results


def _default_grader() -> Grader:
    from rleif.grading import grade_many

    return grade_many
