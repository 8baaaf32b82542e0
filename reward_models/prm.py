"""The process reward model: is each step right? It reads problem and solution once and is asked at the step ends."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from reward_models.backbone import load_for_scoring, pad_batch, padding_id, score_rows, usable_length
from reward_models.evaluate import Aggregation, first_error, first_error_f1, step_accuracy
from reward_models.formats import PROMPT_TEMPLATE, AfterFirstError, NeutralAs, ProcessFormat, read_format
from reward_models.losses import step_loss
from reward_models.records import ON_THE_RIGHT_SIDE, LabeledSolution, labeled_from_row, read_labeled
from reward_models.shared_prompts import PADDING, branch_mask, mask_for, require_branches, share_prompts
from reward_models.steps import Step, join_steps, split_steps, step_end_tokens
from reward_models.training import NO_LABEL, RewardTrainer, RewardTrainingConfig, fit, next_tokens, padded

logger = logging.getLogger(__name__)

NEUTRAL_TARGETS = {"wrong": 0.0, "right": 1.0, "ignore": None}


@dataclass(frozen=True, slots=True, kw_only=True)
class StepScores:
    """The scores of one solution's steps, in order.

    >>> StepScores(scores=(0.98, 0.02), steps=(Step(0, 17), Step(18, 34)))
    """

    scores: tuple[float, ...]  # in (0, 1); exactly 0.0 for the steps that did not fit
    steps: tuple[Step, ...]  # character spans in the solution, one per score
    unread: int = 0  # the last so many steps end beyond the model's max_length and were not read


@dataclass(frozen=True, slots=True, kw_only=True)
class SolutionTokens:
    """Prompt and solution as the model reads them."""

    ids: list[int]
    ends: list[int]  # token index of the end of each step that fits; shorter than the steps when some do not
    start: int  # token index of the solution's first token


def encode_solution(
    instruction: str,
    solution: str,
    steps: Sequence[Step],
    tokenizer: PreTrainedTokenizerBase,
    format: ProcessFormat,
) -> SolutionTokens:
    """Token ids of prompt and solution, and where the steps (spans in the solution) end in them.

    The text is tokenised once, as a whole, and cut after `format.max_length` tokens; steps that end beyond are left
    out. Nothing after the last step that fits is kept: a causal model's scores do not depend on it.
    """
    prompt = format.render(instruction)
    encoding: Any = tokenizer(prompt + solution, return_offsets_mapping=True, verbose=False)
    moved = [Step(step.start + len(prompt), step.end + len(prompt)) for step in steps]
    offsets = encoding["offset_mapping"]
    ends = [end for end in step_end_tokens(moved, offsets) if end < format.max_length]
    start = next((place for place, (_, stop) in enumerate(offsets) if stop > len(prompt)), len(offsets))
    return SolutionTokens(ids=encoding["input_ids"][: ends[-1] + 1] if ends else [], ends=ends, start=start)


def step_targets(
    solution: LabeledSolution, neutral_as: NeutralAs = "wrong", after_first_error: AfterFirstError = "keep"
) -> list[float | None]:
    """What each step is trained towards, in [0, 1]; None is not trained on.

    Label +1 is 1, -1 is 0, and 0 what `neutral_as` says: "wrong" is 0 (WizardMath v3, eq. 2: y = 1 if the step is
    correct, otherwise 0), "right" is 1 (the habit of PRM800K users), "ignore" is None. Soft values stay as they are.
    With `after_first_error="drop"` the steps behind the first one below one half are not trained on (arXiv 2501.07301).
    """
    if solution.values is not None:
        targets: list[float | None] = [float(value) for value in solution.values]
    else:
        meaning = {-1: 0.0, 0: NEUTRAL_TARGETS[neutral_as], 1: 1.0}
        targets = [meaning[label] for label in solution.labels or ()]
    wrong_at = first_error(targets, ON_THE_RIGHT_SIDE)
    if after_first_error == "drop" and wrong_at >= 0:
        targets[wrong_at + 1 :] = [None] * (len(targets) - wrong_at - 1)
    return targets


def right_tokens(tokens: SolutionTokens, targets: Sequence[float | None]) -> list[int]:
    """Token indices of the steps known to be right (target of one half or more) before the first wrong one."""
    wrong_at = first_error(targets, ON_THE_RIGHT_SIDE)
    starts = [tokens.start, *(end + 1 for end in tokens.ends)]
    steps = list(zip(starts, tokens.ends, targets, strict=False))[: wrong_at if wrong_at >= 0 else None]
    return [place for start, end, target in steps if target is not None for place in range(start, end + 1) if place]


class ProcessRewardModel:
    """A trained process reward model, frozen.

    >>> prm = ProcessRewardModel.from_pretrained("runs/gsm8k/prm")
    >>> prm.score_steps(["What is 2 + 3?"], ["Step 1: 2 + 3 = 6\\nThe answer is: 6"])[0].scores
    (0.03, 0.05)
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, format: ProcessFormat) -> None:
        require_offsets(tokenizer)
        self.model = model
        self.tokenizer = tokenizer
        self.format = format

    @classmethod
    def from_pretrained(
        cls, path: str, device: str | torch.device | None = None, dtype: torch.dtype | str | None = None
    ) -> "ProcessRewardModel":
        """path: a folder written by PRMTrainer, or its hub id. Default: CUDA in bfloat16, else CPU in float32.

        Raises ValueError when the path is no process reward model.
        """
        format = read_format(path, ProcessFormat)
        model, tokenizer = load_for_scoring(str(path), "prm", device, dtype)
        return cls(model, tokenizer, format)

    def score_steps(
        self, instructions: Sequence[str], solutions: Sequence[str], batch_size: int = 64
    ) -> list[StepScores]:
        """The scores of each solution's steps, for solutions as a model wrote them. See `score_spans`."""
        return self.score_spans(instructions, solutions, [split_steps(text) for text in solutions], batch_size)

    def score_given_steps(
        self, instructions: Sequence[str], solutions: Sequence[Sequence[str]], batch_size: int = 64
    ) -> list[StepScores]:
        """The same for solutions that come as steps; spans are those in the steps joined by `format.joiner`."""
        joined = [join_steps(steps, self.format.joiner) for steps in solutions]
        return self.score_spans(instructions, [text for text, _ in joined], [spans for _, spans in joined], batch_size)

    def score_spans(
        self,
        instructions: Sequence[str],
        solutions: Sequence[str],
        spans: Sequence[Sequence[Step]],
        batch_size: int = 64,
    ) -> list[StepScores]:
        """The sigmoid of the logit at the last token of every span, in (0, 1); one forward pass per solution.

        Results are in the order of the input; in float32 they do not depend on the batch to 1e-6. A text without
        steps has no scores. Steps that do not fit into `format.max_length` tokens get 0.0, so that a minimum, product
        or last step rewards nothing that was not read; they are counted in `unread`, and logged.
        """
        if len(instructions) != len(solutions):
            raise ValueError(f"{len(instructions)} instructions but {len(solutions)} solutions; give one for each")
        tokens = [
            encode_solution(instruction, solution, steps, self.tokenizer, self.format)
            for instruction, solution, steps in zip(instructions, solutions, spans, strict=True)
        ]
        rows = score_rows(
            *(self.model, [item.ids for item in tokens], [item.ends for item in tokens]),
            *(padding_id(self.tokenizer), batch_size),
        )
        results = [_with_unread(tuple(row), tuple(steps)) for row, steps in zip(rows, spans, strict=True)]
        if cut := sum(result.unread > 0 for result in results):
            logger.warning(
                "%d of %d solutions are longer than %d tokens with their prompt: the steps beyond got score 0",
                *(cut, len(results), self.format.max_length),
            )
        return results


def _with_unread(scores: tuple[float, ...], steps: tuple[Step, ...]) -> StepScores:
    unread = len(steps) - len(scores)
    return StepScores(scores=scores + (0.0,) * unread, steps=steps, unread=unread)


def require_offsets(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises ValueError for a tokenizer that cannot say where in the text its tokens are."""
    if not tokenizer.is_fast:
        raise ValueError(
            f"{type(tokenizer).__name__} gives no character offsets; a process reward model needs a fast tokenizer "
            f"(PreTrainedTokenizerFast) to find the ends of steps"
        )


@dataclass
class PRMConfig(RewardTrainingConfig):
    """`transformers.TrainingArguments` and what is particular to the process reward model."""

    neutral_as: NeutralAs = field(
        default="wrong",
        metadata={"help": "What label 0 means: wrong (WizardMath v3, eq. 2), right (PRM800K users), or ignore."},
    )
    after_first_error: AfterFirstError = field(
        default="keep",
        metadata={
            "help": "Whether steps behind the first wrong one are trained on: keep (ours: the paper does not say) or "
            "drop (arXiv 2501.07301)."
        },
    )
    aggregation: Aggregation = field(
        default="min", metadata={"help": "Stored with the model: min (WizardMath v3, eq. 3), product, mean or last."}
    )
    prompt_template: str = field(
        default=PROMPT_TEMPLATE, metadata={"help": "What stands before the solution, with one {instruction}."}
    )
    solutions_per_row: int = field(
        default=1,
        metadata={
            "help": "So many solutions of one problem share a row, which reads the problem once: the same gradient, "
            "sooner. per_device_train_batch_size counts rows. Needs sdpa or eager attention."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.solutions_per_row < 1:
            raise ValueError(f"solutions_per_row must be at least 1, got {self.solutions_per_row}")


@dataclass(frozen=True, kw_only=True)
class PRMArguments:
    """What `train_prm` reads."""

    model: str = field(metadata={"help": "Path or hub id of the checkpoint to start from: any causal LM."})
    train_file: str = field(
        metadata={"help": 'Judged solutions, JSONL: {"instruction", "steps": [...], "labels" or "values": [...]}.'}
    )
    eval_file: str | None = field(default=None, metadata={"help": "Held-out judged solutions, in the same form."})


class PRMTrainer(RewardTrainer):
    """Trains a process reward model on judged solutions: binary cross-entropy at the last token of every step, mean
    over all steps of the optimizer batch. A row of a batch is one solution. With `lm_coef`, right steps are also
    predicted token by token.

    >>> PRMTrainer("sft-model", PRMConfig(output_dir="prm"), read_labeled("stepped.jsonl")).train()
    """

    kind = "prm"
    reported = ("step_accuracy", "first_error_f1")
    format: ProcessFormat
    args: PRMConfig

    def _format(self, network: PreTrainedModel, args: PRMConfig) -> ProcessFormat:
        return ProcessFormat(
            max_length=usable_length(network, args.max_length),
            prompt_template=args.prompt_template,
            aggregation=args.aggregation,
            neutral_as=args.neutral_as,
            after_first_error=args.after_first_error,
        )

    def _from_row(self, row: Mapping[str, Any]) -> LabeledSolution:
        return labeled_from_row(row)

    def _rows(self, records: Sequence[LabeledSolution]) -> tuple[list[dict[str, Any]], dict[str, int]]:
        require_offsets(self.tokenizer)
        numbers: dict[str, int] = {}
        rows, counts = [], {"refused_without_label": 0, "refused_too_long": 0, "steps_cut": 0}
        for record in records:
            targets = step_targets(record, self.format.neutral_as, self.format.after_first_error)
            if all(target is None for target in targets):
                counts["refused_without_label"] += 1
                continue
            text, spans = join_steps(record.steps, self.format.joiner)
            tokens = encode_solution(record.instruction, text, spans, self.tokenizer, self.format)
            counts["steps_cut"] += len(spans) - len(tokens.ends)
            labels = [NO_LABEL if target is None else target for target in targets[: len(tokens.ends)]]
            if all(label == NO_LABEL for label in labels):
                counts["refused_too_long"] += 1
                continue
            rows.append(
                {
                    "input_ids": tokens.ids,
                    "positions": tokens.ends,
                    "labels": [float(label) for label in labels],
                    "length": len(tokens.ids),
                    "prompt": numbers.setdefault(record.instruction, len(numbers)),
                }
            )
            if self.args.lm_coef:
                places = right_tokens(tokens, targets)
                rows[-1] |= {
                    "next_from": [place - 1 for place in places],
                    "next_to": [tokens.ids[place] for place in places],
                }
        return rows, counts

    def _arranged(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if self.args.solutions_per_row == 1:
            return rows
        require_branches(self.network)
        return share_prompts(rows, self.args.solutions_per_row)

    def _collate(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """`labels` [solutions, steps], NO_LABEL where there is no step or no supervision."""
        batch = {
            "labels": padded([row["labels"] for row in rows], NO_LABEL),
            **pad_batch(
                [row["input_ids"] for row in rows], [row["positions"] for row in rows], padding_id(self.tokenizer)
            ),
        }
        if "branch" in rows[0]:
            batch["position_ids"] = padded([row["position_ids"] for row in rows], 0)
            is_seen = branch_mask(padded([row["branch"] for row in rows], PADDING))
            batch["attention_mask"] = mask_for(self.network, is_seen)
        if "next_from" in rows[0]:
            weights = [row.get("next_weight", [1.0] * len(row["next_from"])) for row in rows]
            batch |= next_tokens([row["next_from"] for row in rows], [row["next_to"] for row in rows], weights)
        return batch

    def _losses(self, logits: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        return step_loss(logits, batch["labels"], batch["labels"] != NO_LABEL).sum()

    def _predictions(self, logits: Tensor, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        return torch.sigmoid(logits), batch["labels"]

    def _metrics(self, predictions: Any) -> dict[str, float]:
        """The first error is looked for among the supervised steps only, in the scores and in the labels."""
        targets = [[None if t == NO_LABEL else t for t in row] for row in predictions.label_ids.tolist()]
        scores = predictions.predictions.tolist()
        judged = [
            [None if target is None else score for score, target in zip(*pair, strict=True)]
            for pair in zip(scores, targets, strict=True)
        ]
        return {
            "step_accuracy": step_accuracy(scores, targets, self.format.threshold),
            "first_error_f1": first_error_f1(
                [first_error(row, self.format.threshold) for row in judged], [first_error(row) for row in targets]
            ),
        }


def train_prm(
    arguments: PRMArguments, config: PRMConfig, peft_config: Any = None, **trainer_options: Any
) -> dict[str, Any]:
    """Judged solutions (files) to a process reward model: checkpoint, tokenizer, reward_model.json, metrics.json.

    Returns the metrics; held-out `step_accuracy` and `first_error_f1` are among them when `eval_file` is given.
    """
    train = read_labeled(arguments.train_file)
    heldout = read_labeled(arguments.eval_file) if arguments.eval_file else None
    return fit(PRMTrainer(arguments.model, config, train, heldout, peft_config=peft_config, **trainer_options))
