"""Completions to reward parts: the frozen reward models and the grader, asked in batches."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from rleif.prompting import COMPLETION_PREFIX
from rleif.records import Completion
from rleif.rewards import (
    Aggregation,
    InstructionScores,
    JudgedSteps,
    Placement,
    RewardParts,
    StepScorer,
    aggregate,
    judge_steps,
    prefix_shares,
)
from rleif.rollout.step_tokens import token_ends

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
    """Both reward models and the grader behind one call.

    decode: token ids to text, as the engine made `Completion.text`; needed for placement "step" alone.
    """

    def __init__(
        self,
        irm: InstructionScores,
        prm: StepScorer | None,
        aggregation: Aggregation,
        grade: Grader | None = None,
        placement: Placement = "outcome",
        decode: Callable[[Sequence[int]], str] | None = None,
    ) -> None:
        if placement == "step" and (prm is None or decode is None):
            raise ValueError('placement "step" needs a process reward model: without one there are no steps to reward')
        self.irm = irm
        self.prm = prm
        self.aggregation: Aggregation = aggregation
        self.grade = grade
        self.placement: Placement = placement
        self.decode = decode

    def __call__(self, samples: Sequence[Sample]) -> RewardParts:
        """One row per sample, on the CPU."""
        self.irm.ensure(sample.instruction for sample in samples)
        judged, prm = None, [1.0] * len(samples)
        if self.prm is not None:
            judged = judge_steps(self.prm, [s.instruction for s in samples], [s.solution for s in samples])
            prm = [aggregate(steps.scores, self.aggregation) for steps in judged]
        ends, shares = self._shares(samples, judged)
        return RewardParts(
            irm=torch.tensor([self.irm[sample.instruction] for sample in samples]),
            prm=torch.tensor(prm),
            step_ends=ends,
            step_shares=shares,
            is_correct=torch.tensor(self._correctness(samples)),
            is_finished=torch.tensor([sample.completion.finish_reason == "stop" for sample in samples]),
        )

    def _shares(
        self, samples: Sequence[Sample], judged: Sequence[JudgedSteps] | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`step_ends` and `step_shares` of `RewardParts`; without columns where rewards stand at the end alone."""
        if self.placement == "outcome" or judged is None:
            return torch.zeros((len(samples), 0), dtype=torch.long), torch.zeros((len(samples), 0))
        assert self.decode is not None
        width = max((len(steps.scores) for steps in judged), default=0)
        ends = torch.zeros((len(samples), width), dtype=torch.long)
        shares = torch.zeros((len(samples), width))
        for row, (sample, steps) in enumerate(zip(samples, judged, strict=True)):
            if steps.ends is None:
                raise ValueError(
                    'placement "step" needs a process reward model whose results have `.steps` with `.end`'
                )
            offset = len(sample.completion.text) - len(sample.solution)
            places = [offset + end for end in steps.ends]
            tokens = token_ends(sample.completion.completion_ids, places, self.decode)
            count = len(steps.scores)
            ends[row, :count] = torch.tensor(tokens, dtype=torch.long) + 1
            shares[row, :count] = torch.tensor(prefix_shares(steps.scores, self.aggregation))
        return ends, shares

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

    # As in evaluation: a solution without an answer mark is not solved.
    return partial(grade_many, last_number=False)
