"""How good a reward model is: pair accuracy, step accuracy, first-error F1. Pure functions of scores and labels."""

import math
from collections.abc import Sequence
from typing import Literal, get_args

from reward_models.records import ON_THE_RIGHT_SIDE

Aggregation = Literal["min", "product", "mean", "last"]


def aggregate(scores: Sequence[float], how: Aggregation = "min") -> float:
    """One score of a solution from those of its steps, in [0, 1]; a solution without steps gets 0.

    *Source:* minimum: WizardMath v3, section 3.3, eq. 3. Product: Let's Verify Step by Step (arXiv 2305.20050).
    Last: Math-Shepherd-style Monte-Carlo labels, whose value is that of the whole prefix (arXiv 2501.07301).
    """
    if how not in get_args(Aggregation):
        raise ValueError(f"unknown aggregation {how!r}; choose one of {', '.join(get_args(Aggregation))}")
    if not scores:
        return 0.0
    if how == "min":
        return min(scores)
    if how == "product":
        return math.prod(scores)
    if how == "mean":
        return math.fsum(scores) / len(scores)
    return scores[-1]


def pair_accuracy(scores: Sequence[Sequence[float]], ranks: Sequence[Sequence[int]]) -> float:
    """Share of all untied pairs that the scores order as the ranks do; equal scores count one half.

    One inner sequence per ranked list; a smaller rank is better. The mean is over pairs, not over lists. 0 when there
    is no untied pair.
    """
    right = pairs = 0.0
    for list_scores, list_ranks in zip(scores, ranks, strict=True):
        items = list(zip(list_scores, list_ranks, strict=True))
        for better, better_rank in items:
            for worse, worse_rank in items:
                if better_rank < worse_rank:
                    pairs += 1
                    right += 1.0 if better > worse else 0.5 if better == worse else 0.0
    return right / pairs if pairs else 0.0


def step_accuracy(
    scores: Sequence[Sequence[float]],
    targets: Sequence[Sequence[float | None]],
    threshold: float = ON_THE_RIGHT_SIDE,
) -> float:
    """Share of judged steps whose score lies on the side of `threshold` on which the target lies of one half.

    A target of None is not judged. The mean is over steps, not over solutions. 0 when no step is judged.
    """
    right = judged = 0
    for row_scores, row_targets in zip(scores, targets, strict=True):
        for score, target in zip(row_scores, row_targets, strict=True):
            if target is not None:
                judged += 1
                right += (score >= threshold) == (target >= ON_THE_RIGHT_SIDE)
    return right / judged if judged else 0.0


def first_error(scores: Sequence[float | None], threshold: float = ON_THE_RIGHT_SIDE) -> int:
    """Index from 0 of the first score below `threshold`, -1 when there is none; None is passed over."""
    return next((index for index, score in enumerate(scores) if score is not None and score < threshold), -1)


def first_error_shares(predicted: Sequence[int], gold: Sequence[int]) -> dict[str, float]:
    """How often the first wrong step is met. Indices from 0, -1 means no error.

    `accuracy_on_error`: share of the erroneous solutions whose first wrong step is met exactly. `accuracy_on_right`:
    share of the right solutions that are called right. `first_error_f1`: their harmonic mean; 0 when either is 0, or
    when gold holds no solution of that kind.

    *Source:* ProcessBench (arXiv 2412.06559), section 4. *Differs:* the official code divides 0 by 0 there.
    """
    on_error = _share_met(predicted, gold, on_error=True)
    on_right = _share_met(predicted, gold, on_error=False)
    total = on_error + on_right
    f1 = 2 * on_error * on_right / total if total else 0.0
    return {"accuracy_on_error": on_error, "accuracy_on_right": on_right, "first_error_f1": f1}


def first_error_f1(predicted: Sequence[int], gold: Sequence[int]) -> float:
    """ProcessBench's F1 of first-error places, in [0, 1]; see `first_error_shares`."""
    return first_error_shares(predicted, gold)["first_error_f1"]


def _share_met(predicted: Sequence[int], gold: Sequence[int], on_error: bool) -> float:
    met = [guess == truth for guess, truth in zip(predicted, gold, strict=True) if (truth != -1) == on_error]
    return sum(met) / len(met) if met else 0.0
