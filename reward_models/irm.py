"""The instruction reward model: how good is this problem? It reads the instruction alone, never an answer."""

import itertools
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from reward_models.backbone import (
    QUALITY,
    label_names,
    load_for_scoring,
    names_in_order,
    pad_batch,
    padding_id,
    score_rows,
    usable_length,
)
from reward_models.evaluate import pair_accuracy
from reward_models.formats import InstructionFormat, read_format
from reward_models.losses import centering_loss, list_ranking_loss, step_loss
from reward_models.records import DataError, RankedInstructions, ranked_from_row, read_ranked
from reward_models.training import NO_LABEL, RewardTrainer, RewardTrainingConfig, fit, next_tokens

logger = logging.getLogger(__name__)

LARGEST = 1e100  # of an aspect: the difference of two must still be a float


@dataclass(frozen=True, slots=True, kw_only=True)
class InstructionTokens:
    """One instruction as the model reads it; its score stands at the last token."""

    ids: list[int]  # EOS last, when the tokenizer has one
    is_cut: bool  # True when the instruction was longer than the model reads and lost its end


def encode_instruction(
    instruction: str, tokenizer: PreTrainedTokenizerBase, format: InstructionFormat
) -> InstructionTokens:
    """Token ids of the raw instruction and EOS; too long an instruction keeps its beginning and the EOS."""
    ids: Any = tokenizer(instruction, verbose=False)["input_ids"]
    eos: Any = tokenizer.eos_token_id
    if eos is not None and ids[-1:] == [eos]:
        ids = ids[:-1]  # this tokenizer adds EOS by itself
    end = [] if eos is None else [eos]
    room = format.max_length - len(end)
    return InstructionTokens(ids=[*ids[:room], *end], is_cut=len(ids) > room)


class InstructionRewardModel:
    """A trained instruction reward model, frozen.

    >>> irm = InstructionRewardModel.from_pretrained("runs/gsm8k/irm")
    >>> irm.score(["Ann has 3 pens and buys 2 more. How many pens does she have?"])
    [0.83]
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, format: InstructionFormat) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.format = format

    @classmethod
    def from_pretrained(
        cls, path: str, device: str | torch.device | None = None, dtype: torch.dtype | str | None = None
    ) -> "InstructionRewardModel":
        """path: a folder written by IRMTrainer, or its hub id. Default: CUDA in bfloat16, else CPU in float32.

        Raises ValueError when the path is no instruction reward model.
        """
        format = read_format(path, InstructionFormat)
        model, tokenizer = load_for_scoring(str(path), "irm", device, dtype)
        return cls(model, tokenizer, format)

    def score(self, instructions: Sequence[str], batch_size: int = 64) -> list[float]:
        """r_q in (0, 1) of each instruction: the sigmoid of its logit. In float32 the batch does not matter to 1e-6.

        An instruction longer than `format.max_length` is read from its beginning, as in training; how many were is
        logged.
        """
        return [row[0] for row in self._read(instructions, batch_size, all_labels=False)]

    @property
    def aspect_names(self) -> tuple[str, ...]:
        """What `aspects` tells beside the score; empty for a model trained without `aspect_coef`."""
        return names_in_order(self.model.config)[1:]

    def aspects(self, instructions: Sequence[str], batch_size: int = 64) -> list[dict[str, float]]:
        """Each aspect of each instruction, such as definition, in (0, 1): 0 and 1 are the lowest and the highest value
        of the training lists."""
        names = self.aspect_names
        if not names:
            return [{} for _ in instructions]
        rows = self._read(instructions, batch_size, all_labels=True)
        return [dict(zip(names, row[1:], strict=True)) for row in rows]

    def _read(self, instructions: Sequence[str], batch_size: int, all_labels: bool) -> list[list[float]]:
        tokens = [encode_instruction(text, self.tokenizer, self.format) for text in instructions]
        if cut := sum(item.is_cut for item in tokens):
            logger.warning(
                "%d of %d instructions are longer than %d tokens: only their beginning is scored",
                *(cut, len(tokens), self.format.max_length),
            )
        ids = [item.ids for item in tokens]
        if blank := [index for index, row in enumerate(ids) if not row]:
            raise ValueError(f"instructions {blank[:5]} have no tokens; give text to score")
        ends = [[len(row) - 1] for row in ids]
        return score_rows(self.model, ids, ends, padding_id(self.tokenizer), batch_size, all_labels=all_labels)


@dataclass
class IRMConfig(RewardTrainingConfig):
    """`transformers.TrainingArguments` and what is particular to the instruction reward model."""

    margin: float = field(
        default=0.1,
        metadata={"help": "m of -log sigmoid(r_better - r_worse - m). Ours: WizardMath v3, eq. 1 does not state it."},
    )
    center_coefficient: float = field(
        default=0.01,
        metadata={
            "help": "Weight of the squared mean score of a list, which keeps the sigmoid from saturating. 0 is off. "
            "arXiv 2312.09244, section 4."
        },
    )
    aspect_coef: float = field(
        default=0.0,
        metadata={
            "help": "Weight of the loss of the lists' `aspects` (definition, precision, integrity ...), each predicted "
            "by a further output of the head: they say what is wrong, where a rank says that something is. Mean over "
            "a list, relative to the list's ranking loss. 0 is WizardMath v3, which uses them for the ranks alone."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.aspect_coef >= 0:
            raise ValueError(f"aspect_coef must be at least 0, got {self.aspect_coef}")


@dataclass(frozen=True, kw_only=True)
class IRMArguments:
    """What `train_irm` reads."""

    model: str = field(metadata={"help": "Path or hub id of the checkpoint to start from: any causal LM."})
    train_file: str = field(metadata={"help": 'Ranked lists, JSONL: {"tiers": [[best], [tied, tied], ...]}.'})
    eval_file: str | None = field(default=None, metadata={"help": "Held-out ranked lists, in the same form."})


class IRMTrainer(RewardTrainer):
    """Trains an instruction reward model on ranked lists: each instruction of a list is encoded once, and all its
    untied pairs are in the loss. A row of a batch is one list. With `aspect_coef`, the model has an output for each
    aspect that varies in the training lists, the last labels of its head; the first stays the score.

    >>> IRMTrainer("sft-model", IRMConfig(output_dir="irm"), read_ranked("ranked.jsonl")).train()
    """

    kind = "irm"
    reported = ("pair_accuracy",)
    format: InstructionFormat
    args: IRMConfig

    def __init__(
        self,
        model: str | PreTrainedModel,
        args: IRMConfig,
        train_dataset: Sequence[RankedInstructions] | Dataset | None = None,
        eval_dataset: Any = None,
        **options: Any,
    ) -> None:
        """As `RewardTrainer`."""
        records: Any = [self._from_row(row) if isinstance(row, Mapping) else row for row in train_dataset or ()]
        self.is_training = bool(records)
        self.aspects = aspect_ranges(records) if args.aspect_coef and records else {}
        if args.aspect_coef and records and not self.aspects:
            raise DataError(
                "aspect_coef above 0 needs `aspects` in the training lists (numbers, one for each instruction in the "
                f"tiers' order, not all the same); none of the {len(records)} lists has such: set aspect_coef to 0"
            )
        super().__init__(model, args, None if train_dataset is None else records, eval_dataset, **options)

    def _network(self, model: str | PreTrainedModel, args: IRMConfig) -> PreTrainedModel:
        network = super()._network(model, args)
        found = names_in_order(network.config)[1:]
        if self.aspects and found != tuple(self.aspects):
            raise ValueError(
                f"the network has outputs for the aspects {', '.join(found) or 'none'}, but those of the lists are "
                f"{', '.join(self.aspects)}: give load_network these, in this order, or give a path"
            )
        return network

    def _head_aspects(self, path: str) -> Sequence[str]:
        return tuple(self.aspects) if self.is_training else label_names(path)[1:]

    def _format(self, network: PreTrainedModel, args: IRMConfig) -> InstructionFormat:
        return InstructionFormat(max_length=usable_length(network, args.max_length))

    def _from_row(self, row: Mapping[str, Any]) -> RankedInstructions:
        return ranked_from_row(row)

    def _rows(self, records: Sequence[RankedInstructions]) -> tuple[list[dict[str, Any]], dict[str, int]]:
        rows, counts = [], {"refused_without_pair": 0, "instructions_cut": 0}
        for record in records:
            if len(record.tiers) < 2:
                counts["refused_without_pair"] += 1
                continue
            ranked = [(rank, text) for rank, tier in enumerate(record.tiers) for text in tier]
            tokens = [encode_instruction(text, self.tokenizer, self.format) for _, text in ranked]
            counts["instructions_cut"] += sum(item.is_cut for item in tokens)
            ids = [item.ids for item in tokens]
            row = {"input_ids": ids, "ranks": [rank for rank, _ in ranked], "length": max(map(len, ids))}
            rows.append(row | ({"aspects": self._aspects_of(record)} if self.aspects else {}))
        return rows, counts

    def _aspects_of(self, record: RankedInstructions) -> list[list[float | None]]:
        """For each instruction its aspects in [0, 1]: each is scaled from its range in the training lists."""
        scaled = []
        for name, (low, high) in self.aspects.items():
            values = aspect_values(record, name)
            scaled.append([None if value is None else (value - low) / (high - low) for value in values])
        return [list(of_one) for of_one in zip(*scaled, strict=True)]

    def _collate(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """`ranks` [lists, items] is padded with NO_LABEL; the instructions of all lists follow each other in
        `input_ids` [instructions, tokens], in the order of the real places of `ranks`."""
        width = max(len(row["ranks"]) for row in rows)
        ids = list(itertools.chain.from_iterable(row["input_ids"] for row in rows))
        batch = {
            "labels": torch.tensor([len(row["ranks"]) for row in rows]),
            "ranks": torch.tensor([[*row["ranks"], *[NO_LABEL] * (width - len(row["ranks"]))] for row in rows]),
            **pad_batch(ids, [[len(row) - 1] for row in ids], padding_id(self.tokenizer)),
        }
        if self.aspects:
            values = [of_one for row in rows for of_one in row["aspects"]]
            batch["aspects"] = torch.tensor([[math.nan if v is None else v for v in of_one] for of_one in values])
        if self.args.lm_coef:
            shares = [1 / len(row["ranks"]) for row in rows for _ in row["ranks"]]
            weights = [[share] * (len(row) - 1) for share, row in zip(shares, ids, strict=True)]
            batch |= next_tokens([range(len(row) - 1) for row in ids], [row[1:] for row in ids], weights)
        return batch

    def _model_inputs(self, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        return super()._model_inputs(inputs) | ({"all_labels": True} if self.aspects else {})

    def _logits_and_loss(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Aspects, like next tokens, are in the loss of training alone."""
        logits, loss = super()._logits_and_loss(model, inputs)
        if self.aspects and model.training:
            loss = loss + self.args.aspect_coef * _aspect_losses(logits[:, 0, 1:], inputs)
        return logits, loss

    def _losses(self, logits: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        scores, is_item = _by_list(logits, batch["ranks"])
        losses = list_ranking_loss(scores, batch["ranks"], is_item, self.args.margin)
        if self.args.center_coefficient:
            losses = losses + self.args.center_coefficient * centering_loss(scores, is_item)
        return losses.sum()

    def _predictions(self, logits: Tensor, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        scores, is_item = _by_list(logits, batch["ranks"])
        return scores.masked_fill(~is_item, NO_LABEL), batch["ranks"]

    def _metrics(self, predictions: Any) -> dict[str, float]:
        scores, ranks = predictions.predictions, predictions.label_ids
        is_item = ranks != NO_LABEL
        return {
            "pair_accuracy": pair_accuracy(
                [row[real].tolist() for row, real in zip(scores, is_item, strict=True)],
                [row[real].tolist() for row, real in zip(ranks, is_item, strict=True)],
            )
        }


def _by_list(logits: Tensor, ranks: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [instructions, 1] or [instructions, 1, labels], the first label's as scores [lists, items] (0 where there
    is no item), and where items are."""
    is_item = ranks != NO_LABEL
    scores = logits.new_zeros(ranks.shape).masked_scatter(is_item, logits.flatten(1)[:, 0])
    return scores, is_item


def _aspect_losses(logits: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """The sum over lists of the mean cross-entropy of the aspects of a list; unknown ones (NaN) count 0.

    logits: [instructions, aspects].
    """
    losses = step_loss(logits, batch["aspects"], ~batch["aspects"].isnan()).mean(1)
    items = (batch["ranks"] != NO_LABEL).sum(1)
    return (losses / items.repeat_interleave(items)).sum()


def aspect_ranges(records: Sequence[RankedInstructions]) -> dict[str, tuple[float, float]]:
    """Smallest and largest value of every aspect that has two different ones in lists that are trained on.

    Raises DataError where an aspect is not a number (or null) for each instruction, or has the score's name.
    """
    ranked = [record for record in records if len(record.tiers) > 1]
    names = dict.fromkeys(name for record in ranked for name in record.aspects or {})
    if QUALITY in names:
        raise DataError(f"an aspect may not be called {QUALITY!r}, the name of the score; rename it in the lists")
    ranges = {}
    for name in names:
        values = [value for record in ranked for value in aspect_values(record, name) if value is not None]
        if values and min(values) < max(values):
            ranges[name] = (min(values), max(values))
    return ranges


def _is_number(value: Any) -> bool:
    """A number that can be scaled; JSON allows larger ones than floats hold."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -LARGEST <= value <= LARGEST


def aspect_values(record: RankedInstructions, name: str) -> list[float | None]:
    """The aspect of every instruction in the tiers' order, None where it is unknown."""
    count = sum(len(tier) for tier in record.tiers)
    given = (record.aspects or {}).get(name)
    if given is None:
        return [None] * count
    values = list(given) if isinstance(given, list | tuple) else []
    if len(values) != count or not all(value is None or _is_number(value) for value in values):
        raise DataError(
            f"aspect {name!r} of the list of {record.tiers[0][0][:40]!r} is {str(given)[:80]}; expected {count} "
            "numbers (or null), one for each instruction in the tiers' order"
        )
    return [None if value is None else float(value) for value in values]


def train_irm(
    arguments: IRMArguments, config: IRMConfig, peft_config: Any = None, **trainer_options: Any
) -> dict[str, Any]:
    """Ranked lists (files) to an instruction reward model: checkpoint, tokenizer, reward_model.json, metrics.json.

    Returns the metrics; held-out `pair_accuracy` is among them when `eval_file` is given.
    """
    train = read_ranked(arguments.train_file)
    heldout = read_ranked(arguments.eval_file) if arguments.eval_file else None
    return fit(IRMTrainer(arguments.model, config, train, heldout, peft_config=peft_config, **trainer_options))
