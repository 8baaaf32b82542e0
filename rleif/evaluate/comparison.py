"""Whether one model is better than another on the same problems."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from rleif.evaluate.formulas import RESAMPLES, bootstrap, mcnemar
from rleif.evaluate.samples import Mode, Sample, by_problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One metric before and after; the interval is of the difference, 95%, bootstrapped over problems in pairs.

    >>> Difference(before=0.48, after=0.53, difference=0.05, interval=(0.02, 0.08))
    """

    before: float
    after: float
    difference: float
    interval: tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two models on the same n problems. A part is None where one of the two was not evaluated that way.

    >>> Comparison(
    ...     n=500, greedy=Difference(...), sampled=Difference(...), only_before=20, only_after=45, mcnemar_p=0.003
    ... )
    """

    n: int
    greedy: Difference | None
    sampled: Difference | None
    only_before: int | None  # problems that only the first solves greedily
    only_after: int | None  # problems that only the second solves greedily
    mcnemar_p: float | None  # exact, two-sided, greedy

    def to_dict(self) -> dict[str, Any]:
        """For comparison.json."""
        return asdict(self)


def compare_samples(
    before: Sequence[Sample], after: Sequence[Sample], *, seed: int = 0, resamples: int = RESAMPLES
) -> Comparison:
    """The paired comparison of two evaluations. Raises ValueError unless both hold the same problems."""
    solved = {mode: (_solved(before, mode), _solved(after, mode)) for mode in ("greedy", "sampled")}
    ids = {sample.problem_id for sample in before}
    others = {sample.problem_id for sample in after}
    if ids != others:
        raise ValueError(
            f"a paired comparison needs the same problems on both sides: {len(ids - others)} only before, "
            f"{len(others - ids)} only after, {len(ids & others)} common. Evaluate both on one file"
        )
    greedy = _difference(*solved["greedy"], seed, resamples)
    only_before = only_after = p = None
    if greedy:
        first, second = solved["greedy"]
        only_before = sum(first[name] > second[name] for name in first)
        only_after = sum(first[name] < second[name] for name in first)
        p = mcnemar(only_before, only_after)
    return Comparison(
        n=len(ids),
        greedy=greedy,
        sampled=_difference(*solved["sampled"], seed, resamples),
        only_before=only_before,
        only_after=only_after,
        mcnemar_p=p,
    )


def _solved(samples: Sequence[Sample], mode: Mode) -> dict[str, float]:
    """The share of correct completions of each problem."""
    return {name: fmean(sample.is_correct for sample in group) for name, group in by_problem(samples, mode).items()}


def _difference(before: dict[str, float], after: dict[str, float], seed: int, resamples: int) -> Difference | None:
    if not before or not after:
        return None
    names = sorted(before)  # the resamples must not depend on the order of rows in a file
    first, second = fmean(before.values()), fmean(after.values())
    interval = bootstrap([after[name] - before[name] for name in names], seed, resamples)
    return Difference(before=first, after=second, difference=second - first, interval=interval)
