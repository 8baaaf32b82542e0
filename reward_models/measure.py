"""Measure a saved reward model on a file: the functions of `evaluate.py` on the scores of a checkpoint."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reward_models.evaluate import first_error, first_error_shares, pair_accuracy, step_accuracy
from reward_models.formats import read_kind, write_json
from reward_models.irm import InstructionRewardModel
from reward_models.prm import ProcessRewardModel, step_targets
from reward_models.records import LabeledSolution, LocatedError, RankedInstructions, read_judged, read_ranked


@dataclass(frozen=True, kw_only=True)
class EvalArguments:
    """What `evaluate_file` reads and writes."""

    model: str = field(metadata={"help": "Folder or hub id of an instruction or a process reward model."})
    data_file: str = field(
        metadata={"help": "Ranked lists for an IRM; judged solutions or ProcessBench rows for a PRM. JSONL or JSON."}
    )
    output_file: str | None = field(default=None, metadata={"help": "Where the metrics are written as JSON."})
    threshold: float | None = field(
        default=None, metadata={"help": "A step scored below is wrong. Default: what the model states, one half."}
    )
    batch_size: int = field(default=64, metadata={"help": "Texts scored at once."})
    device: str | None = field(default=None, metadata={"help": "Default: cuda where there is one, else cpu."})
    dtype: str | None = field(default=None, metadata={"help": "Default: bfloat16 on cuda, float32 on cpu."})


def evaluate_file(arguments: EvalArguments) -> dict[str, Any]:
    """The metrics of the model on the file; `pair_accuracy`, or `step_accuracy` and `first_error_f1`."""
    kind, options = read_kind(arguments.model), {"device": arguments.device, "dtype": arguments.dtype}
    if kind == "irm":
        irm = InstructionRewardModel.from_pretrained(arguments.model, **options)
        metrics = measure_irm(irm, read_ranked(arguments.data_file), arguments.batch_size)
    else:
        prm = ProcessRewardModel.from_pretrained(arguments.model, **options)
        judged = read_judged(arguments.data_file)
        metrics = measure_prm(prm, judged, arguments.batch_size, arguments.threshold)
    metrics = {"model": arguments.model, "data_file": str(Path(arguments.data_file)), **metrics}
    if arguments.output_file:
        write_json(metrics, arguments.output_file)
    return metrics


def measure_irm(
    irm: InstructionRewardModel, ranked: Sequence[RankedInstructions], batch_size: int = 64
) -> dict[str, Any]:
    """Pair accuracy over all untied pairs, and the mean score of the best and of the worst tiers, in (0, 1)."""
    texts = [text for record in ranked for tier in record.tiers for text in tier]
    flat = iter(irm.score(texts, batch_size))
    scores = [[next(flat) for tier in record.tiers for _ in tier] for record in ranked]
    ranks = [[rank for rank, tier in enumerate(record.tiers) for _ in tier] for record in ranked]
    placed = [
        (score, rank, row[-1])
        for row_scores, row in zip(scores, ranks, strict=True)
        for score, rank in zip(row_scores, row, strict=True)
    ]
    best = [score for score, rank, _ in placed if rank == 0]
    worst = [score for score, rank, last in placed if rank == last]
    return {
        "lists": len(ranked),
        "pairs": sum(1 for record in ranked for _ in record.pairs()),
        "pair_accuracy": pair_accuracy(scores, ranks),
        "mean_score_best_tier": sum(best) / len(best),
        "mean_score_worst_tier": sum(worst) / len(worst),
    }


def measure_prm(
    prm: ProcessRewardModel,
    judged: Sequence[LabeledSolution | LocatedError],
    batch_size: int = 64,
    threshold: float | None = None,
) -> dict[str, Any]:
    """First-error F1 and, over the steps whose label is known, step accuracy.

    A solution with only the place of its first error says nothing of the steps behind it. Labels are read as the
    model's own format says (`neutral_as`). Steps that the model could not read score 0 and count.
    """
    threshold = prm.format.threshold if threshold is None else threshold
    results = prm.score_given_steps([row.instruction for row in judged], [row.steps for row in judged], batch_size)
    targets = [_targets(row, prm) for row in judged]
    scores = [result.scores for result in results]
    # A step nobody judged can neither be nor hide the first error.
    seen = [
        [None if target is None else score for score, target in zip(row_scores, row_targets, strict=True)]
        for row_scores, row_targets in zip(scores, targets, strict=True)
    ]
    gold = [first_error(row) for row in targets]
    return {
        "solutions": len(judged),
        "with_error": sum(place >= 0 for place in gold),
        "steps_unread": sum(result.unread for result in results),
        "threshold": threshold,
        "step_accuracy": step_accuracy(scores, targets, threshold),
        **first_error_shares([first_error(row, threshold) for row in seen], gold),
    }


def _targets(row: LabeledSolution | LocatedError, prm: ProcessRewardModel) -> list[float | None]:
    """1 right, 0 wrong, None unknown, for each step."""
    if isinstance(row, LabeledSolution):
        return step_targets(row, prm.format.neutral_as)
    right = len(row.steps) if row.first_error < 0 else row.first_error
    return [1.0 if index < right else 0.0 if index == right else None for index in range(len(row.steps))]
