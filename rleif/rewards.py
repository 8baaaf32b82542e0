"""IRM x PRM: from texts to one score a sample, and from there onto tokens."""

import itertools
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rleif.losses import kl_k1

Aggregation = Literal["min", "product", "mean", "last"]
AGGREGATIONS: tuple[Aggregation, ...] = ("min", "product", "mean", "last")
Placement = Literal["outcome", "step"]
PLACEMENTS: tuple[Placement, ...] = ("outcome", "step")


class NonFiniteError(ArithmeticError):
    """A reward, a loss or a gradient is NaN or infinite; raised before the weights are touched."""


@runtime_checkable
class InstructionScorer(Protocol):
    """What the trainer needs of an instruction reward model."""

    def score(self, instructions: Sequence[str], /) -> Sequence[float]: ...


@runtime_checkable
class StepScorer(Protocol):
    """What the trainer needs of a process reward model: per solution, an object with `.scores` or a plain sequence."""

    def score_steps(self, instructions: Sequence[str], solutions: Sequence[str], /) -> Sequence[Any]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardParts:
    """What a sample's score is made from, one row per sample.

    >>> RewardParts(
    ...     irm=torch.tensor([0.9]),
    ...     prm=torch.tensor([0.5]),
    ...     is_correct=torch.tensor([1.0]),
    ...     is_finished=torch.tensor([True]),
    ...     step_ends=torch.tensor([[14, 27]]),
    ...     step_shares=torch.tensor([[-0.1, -0.4]]),
    ... )
    """

    irm: Float[Tensor, " samples"]  # r_q in [0, 1]; 1 without an instruction reward model; NaN = could not be scored
    prm: Float[Tensor, " samples"]  # r_a in [0, 1]; 1 without a process reward model; NaN = could not be scored
    is_correct: Float[Tensor, " samples"]  # 1 or 0 by the grader; NaN where no answer is known
    is_finished: Bool[Tensor, " samples"]  # True where the completion ended with EOS
    step_ends: Int[Tensor, "samples steps"]  # 1 + index of the response token that ends the step; 0 = no step
    step_shares: Float[Tensor, "samples steps"]  # `prefix_shares` of the steps, 0 where there is none


Combine = Callable[[RewardParts], Tensor]


def irm_times_prm(parts: RewardParts) -> Float[Tensor, " samples"]:
    """r = r_q r_a. *Source:* WizardMath v3, eq. 3."""
    return parts.irm * parts.prm


def aggregate(scores: Sequence[float], how: Aggregation) -> float:
    """One score in [0, 1] from the scores of the steps. A text without any step gets 0.

    *Source:* min: WizardMath v3, section 3.3; product: Lightman et al. 2023, appendix F; last: outcome-style reading.
    """
    if how not in AGGREGATIONS:
        raise ValueError(f"aggregation is {how!r}; allowed: {', '.join(AGGREGATIONS)}")
    if not len(scores):
        return 0.0
    if any(math.isnan(score) for score in scores):
        return math.nan  # min() would hide it, depending on its place
    if how == "min":
        return min(scores)
    if how == "product":
        return math.prod(scores)
    return sum(scores) / len(scores) if how == "mean" else scores[-1]


def prefix_shares(scores: Sequence[float], how: Aggregation) -> list[float]:
    """What each step does to the aggregate: A(p_1 .. p_k) - A(p_1 .. p_(k-1)), with A() = 1.

    They add up to A(p_1 .. p_n) - 1. Under "min" and "product" a share is never positive, so further steps cannot
    earn anything.

    >>> prefix_shares([0.75, 0.5, 0.75], "min")
    [-0.25, -0.25, 0.0]
    """
    prefixes = [1.0] + [aggregate(scores[:count], how) for count in range(1, len(scores) + 1)]
    return [after - before for before, after in itertools.pairwise(prefixes)]


def require_unit_interval(score: float, what: str) -> float:
    """The score, if it lies in [0, 1] or is NaN (which the caller sets aside).

    Raises ValueError otherwise: outside the interval a product can reward a wrong answer, since two negatives are
    positive.
    """
    if score < 0.0 or score > 1.0:
        raise ValueError(
            f"{what} is {score}, outside [0, 1]. Both factors of the reward must be probabilities: return "
            "sigmoid(logit) instead of the logit."
        )
    return float(score)


class InstructionScores:
    """r_q of instructions, each distinct text scored once in the life of the object.

    r_q depends on the instruction alone and the model is frozen, so nothing is ever scored again. Without a model
    every score is 1.
    """

    def __init__(self, irm: InstructionScorer | None) -> None:
        self.irm = irm
        self._by_text: dict[str, float] = {}

    def ensure(self, instructions: Iterable[str]) -> int:
        """Score what is new, in order of first appearance. Returns how many texts were scored."""
        if self.irm is None:
            return 0
        new = [text for text in dict.fromkeys(instructions) if text not in self._by_text]
        if not new:
            return 0
        scores = self.irm.score(new)
        if len(scores) != len(new):
            raise ValueError(f"the instruction reward model returned {len(scores)} scores for {len(new)} instructions")
        for text, score in zip(new, scores, strict=True):
            what = f"the instruction reward model's score of {text[:80]!r}"
            self._by_text[text] = require_unit_interval(float(score), what)
        return len(new)

    def __getitem__(self, instruction: str) -> float:
        return 1.0 if self.irm is None else self._by_text[instruction]


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedSteps:
    """What the process reward model says of one solution.

    >>> JudgedSteps(scores=(0.9, 0.5), ends=(30, 52))
    """

    scores: tuple[float, ...]  # in [0, 1] or NaN, one per step
    ends: tuple[int, ...] | None  # character in the solution behind each step; None if the model does not say


def judge_steps(prm: StepScorer, instructions: Sequence[str], solutions: Sequence[str]) -> list[JudgedSteps]:
    """The step scores of each solution, checked. Raises ValueError for a wrong count or a score outside [0, 1]."""
    scored = prm.score_steps(list(instructions), list(solutions))
    if len(scored) != len(solutions):
        raise ValueError(f"the process reward model returned {len(scored)} results for {len(solutions)} solutions")
    judged = []
    for number, item in enumerate(scored):
        scores = tuple(float(score) for score in getattr(item, "scores", item))
        for step, score in enumerate(scores):
            require_unit_interval(score, f"the process reward model's score of sample {number}, step {step}")
        spans = getattr(item, "steps", None)
        judged.append(JudgedSteps(scores=scores, ends=None if spans is None else tuple(span.end for span in spans)))
    return judged


def place_terminal(
    scores: Float[Tensor, " rollouts"], lengths: Int[Tensor, " rollouts"], width: int
) -> Float[Tensor, "rollouts {width}"]:
    """Each score on the last token of its response (the EOS where there is one), 0 elsewhere.

    lengths: response tokens, EOS included. A response of length 0 gets nothing.
    """
    positions = torch.arange(width, device=scores.device)
    is_last = positions[None, :] == (lengths - 1)[:, None]
    return torch.where(is_last, scores[:, None], 0.0)


def place_steps(
    scores: Float[Tensor, " rollouts"],
    irm: Float[Tensor, " rollouts"],
    step_shares: Float[Tensor, "rollouts steps"],
    step_ends: Int[Tensor, "rollouts steps"],
    lengths: Int[Tensor, " rollouts"],
    width: int,
) -> Float[Tensor, "rollouts {width}"]:
    """r_q times each step's share on the token that ends it, and what is left of the score on the last token.

    A row adds up to score - r_q: the terminal score but for a constant of the prompt, so the best policy is the same;
    what differs is that the token whose step lowers the minimum is the one that pays. With the product of both
    models and a finished completion nothing is left for the last token.

    *Source:* the potential-based shaping of Ng, Harada and Russell 1999, section 3, with the potential
    r_q A(steps so far); placing PRM scores at step ends follows Math-Shepherd (arXiv 2312.08935), section 3.4.
    *Differs:* shares instead of the raw scores, whose sum would pay for more steps.
    """
    parts = irm[:, None] * step_shares
    last = (lengths - 1).clamp(min=0)
    positions = torch.where(step_ends > 0, step_ends - 1, last[:, None])
    placed = torch.zeros((len(scores), width), dtype=scores.dtype, device=scores.device)
    placed = placed.scatter_add(1, positions, parts.to(scores.dtype))
    return placed + place_terminal(scores - irm - parts.sum(dim=1), lengths, width)


def token_rewards(
    scores: Float[Tensor, "rollouts tokens"],
    logprobs: Float[Tensor, "rollouts tokens"],
    ref_logprobs: Float[Tensor, "rollouts tokens"] | None,
    is_response: Bool[Tensor, "rollouts tokens"],
    kl_coef: float,
) -> Float[Tensor, "rollouts tokens"]:
    """r_t = the score placed at token t - kl_coef (log pi - log pi_ref) at every response token.

    *Source:* Ziegler et al. 2019, Fine-Tuning Language Models from Human Preferences, eq. 2 (KL within the reward).
    """
    rewards = scores
    if ref_logprobs is not None:
        rewards = rewards - kl_coef * kl_k1(logprobs, ref_logprobs)
    return torch.where(is_response, rewards, 0.0)


def load_irm(irm: Any) -> InstructionScorer | None:
    """A path becomes an InstructionRewardModel; an object with `.score` is taken as it is."""
    if irm is None or isinstance(irm, InstructionScorer):
        return irm
    if isinstance(irm, str | os.PathLike):
        from reward_models.irm import InstructionRewardModel

        return InstructionRewardModel.from_pretrained(str(irm))
    raise ValueError(f"irm is {type(irm).__name__}: give a path, an object with .score(instructions), or None")


def load_prm(prm: Any) -> StepScorer | None:
    """A path becomes a ProcessRewardModel; an object with `.score_steps` is taken as it is."""
    if prm is None or isinstance(prm, StepScorer):
        return prm
    if isinstance(prm, str | os.PathLike):
        from reward_models.prm import ProcessRewardModel

        return ProcessRewardModel.from_pretrained(str(prm))
    raise ValueError(
        f"prm is {type(prm).__name__}: give a path, an object with .score_steps(instructions, solutions), or None"
    )
