"""The statistics of an evaluation: pure functions of counts and correctness, no models and no files."""

import math
from collections.abc import Sequence

import numpy as np

Z_95 = 1.959963984540054  # the 97.5th percentile of the standard normal
RESAMPLES = 10_000
_CHUNK = 2_000_000  # random indices drawn at a time, so that memory does not grow with the resamples


def pass_at_k(n: int, c: int, k: int) -> float:
    """Probability that k of n samples, c of them correct, drawn without replacement, contain a correct one.

    `1 - C(n - c, k) / C(n, k)`, which is unbiased; `1 - (1 - c/n)^k` is not.
    *Source:* Chen et al. 2021 (arXiv 2107.03374), eq. 1.
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"pass@{k} of {n} samples, {c} correct: needs 0 <= correct <= samples, 1 <= k <= samples")
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def vote(answers: Sequence[str | None], weights: Sequence[float] | None = None) -> int | None:
    """The position of the first sample that gives the elected answer; None if no sample gives any.

    `argmax_a sum_i 1[a_i = a] w_i`. With PRM scores as weights: *Source:* WizardMath v3, eq. 4; without: majority vote.
    A sample without an answer does not vote. Tie rule: of equal sums, the answer that was given first.
    """
    if weights is None:
        weights = [1.0] * len(answers)
    votes: dict[str, list[float]] = {}
    for answer, weight in zip(answers, weights, strict=True):
        if answer is not None:
            votes.setdefault(answer, []).append(weight)
    if not votes:
        return None
    return answers.index(max(votes, key=lambda answer: math.fsum(votes[answer])))  # max keeps the first of equals


def wilson(successes: float, n: int) -> tuple[float, float]:
    """95% score interval of a proportion, in [0, 1]; unlike the normal one it is right near 0 and 1.

    `(p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)`. *Source:* Wilson 1927.
    """
    if n < 1:
        raise ValueError("an interval needs at least one problem")
    p, z = successes / n, Z_95
    centre = p + z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def bootstrap(values: Sequence[float], seed: int, resamples: int = RESAMPLES) -> tuple[float, float]:
    """95% percentile interval of the mean of per-problem values; problems are drawn with replacement.

    For a paired comparison give the per-problem differences.
    """
    data = np.asarray(values, dtype=np.float64)
    if not len(data):
        raise ValueError("an interval needs at least one problem")
    rng = np.random.default_rng(seed)
    rows = max(1, _CHUNK // len(data))
    means = [
        data[rng.integers(0, len(data), size=(min(rows, resamples - start), len(data)))].mean(axis=1)
        for start in range(0, resamples, rows)
    ]
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return float(low), float(high)


def mcnemar(only_before: int, only_after: int) -> float:
    """Exact two-sided p-value that two models differ, from the problems that exactly one of them solves.

    `min(1, 2 sum_{i <= min(b, c)} C(b + c, i) / 2^(b + c))`: under equality each such problem is a fair coin.
    *Source:* McNemar 1947, in its exact binomial form.
    """
    n, fewer = only_before + only_after, min(only_before, only_after)
    if fewer < 0:
        raise ValueError(f"counts cannot be negative: {only_before}, {only_after}")
    tail = sum(math.comb(n, i) for i in range(fewer + 1))
    return min(1.0, 2 * tail / 2**n)
