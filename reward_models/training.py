"""What both reward trainers share: configuration, loss over the whole optimizer batch, saving, the run from files."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainingArguments

from reward_models.backbone import ReadsPositions, agree_on_padding, load_network, load_tokenizer
from reward_models.batching import TrainsInLengthBuckets, require_a_batch
from reward_models.formats import Format, write_format, write_json
from reward_models.language_head import LanguageHead
from reward_models.losses import next_token_loss
from reward_models.muon import MuonArguments, TrainsWithMuon
from reward_models.records import DataError

logger = logging.getLogger(__name__)

NO_LABEL = -100  # the padding that Trainer leaves out when it counts `num_items_in_batch` and gathers predictions
METRICS_FILE = "metrics.json"


@dataclass
class RewardTrainingConfig(MuonArguments, TrainingArguments):
    """`transformers.TrainingArguments` with the defaults of reward-model training."""

    output_dir: str = field(default="reward_model", metadata={"help": "Where the reward model is written."})
    learning_rate: float = field(
        default=4e-6, metadata={"help": "WizardMath v3, section 4.1, Llama-2 (Mistral: 1e-6)."}
    )
    num_train_epochs: float = field(default=1.0, metadata={"help": "WizardMath v3, section 4.1."})
    max_length: int | None = field(
        default=2048,
        metadata={"help": "Tokens read, at most; never more than the model's positions. WizardMath's SFT length."},
    )
    bf16: bool | None = field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default=None, metadata={"help": "bfloat16 autocast. Default: on CUDA, unless fp16 is asked for."}
    )
    train_sampling_strategy: str = field(
        default="group_by_length",
        metadata={"help": "Batches of similar length are padded less; their order is random."},
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "The collator needs every column."})
    lm_coef: float = field(
        default=0.0,
        metadata={
            "help": "Weight of the next-token loss of each token of a right step (IRM: of an instruction, mean over "
            "the list), relative to the loss of a step (a list): the model goes on learning to write while it learns "
            "to judge (GRM, arXiv 2406.10216, section 3.2, there for preferences). 0 is WizardMath v3."
        },
    )
    model_init_kwargs: dict[str, Any] | str | None = field(
        default=None, metadata={"help": 'Passed to from_pretrained, such as {"attn_implementation": "sdpa"}.'}
    )

    _VALID_DICT_FIELDS = [*TrainingArguments._VALID_DICT_FIELDS, "model_init_kwargs"]  # noqa: RUF012

    def __post_init__(self) -> None:
        if self.bf16 is None:
            self.bf16 = torch.cuda.is_available() and not self.use_cpu and not self.fp16
        # A pinned-memory loader only warns on a machine without an accelerator.
        self.dataloader_pin_memory = self.dataloader_pin_memory and torch.cuda.is_available()
        super().__post_init__()
        if self.remove_unused_columns:
            raise ValueError("remove_unused_columns must stay False: positions and labels are not model inputs")
        if not self.lm_coef >= 0:
            raise ValueError(f"lm_coef must be at least 0, got {self.lm_coef}")
        self.require_muon_rate()


class RewardTrainer(TrainsWithMuon, TrainsInLengthBuckets, Trainer, ABC):
    """A `transformers.Trainer` whose loss is a sum over supervised items divided by their number in the whole
    optimizer batch (all micro-batches of all processes), so the gradient does not depend on how it was split.

    Subclasses say what an item is: `kind`, `_rows`, `_collate`, `_losses`, `_predictions`, `_metrics`.
    """

    kind: str
    reported: tuple[str, ...]  # the metrics that `fit` puts into metrics.json
    args: Any

    def __init__(
        self,
        model: str | PreTrainedModel,
        args: Any,
        train_dataset: Sequence[Any] | Dataset | None = None,
        eval_dataset: Sequence[Any] | Dataset | Mapping[str, Any] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        peft_config: Any = None,
        compute_metrics: Callable[[Any], dict[str, float]] | None = None,
        **kwargs: Any,
    ) -> None:
        """model: a hub id or path of any causal LM or reward model, or a network from `load_network`.
        train_dataset, eval_dataset: records, or a `datasets.Dataset` of their rows. peft_config: a `peft` config; its
        task type is set here, so that the head is trained and saved with the adapter.
        """
        network = self._network(model, args)
        if processing_class is None:
            processing_class = load_tokenizer(str(network.name_or_path))
        agree_on_padding(network, processing_class)
        self.format = self._format(network, args)
        self.tokenizer = processing_class
        self.args = args
        self.network = network  # without adapter and wrappers
        self.language_head = LanguageHead(network) if args.lm_coef and train_dataset is not None else None
        self.row_counts: dict[str, dict[str, int]] = {}
        if peft_config is not None:
            network = _with_adapter(network, peft_config, self.kind)
        super().__init__(
            model=network,
            args=args,
            data_collator=self._collate,
            train_dataset=self._prepare("train", train_dataset),
            eval_dataset=self._prepare_eval(eval_dataset),
            processing_class=processing_class,
            compute_metrics=compute_metrics or self._metrics,
            **kwargs,
        )
        # `_losses` divides by `num_items_in_batch`; without this Trainer divides by the accumulation steps once more.
        self.model_accepts_loss_kwargs = True
        if isinstance(self.train_dataset, Dataset):
            require_a_batch(len(self.train_dataset), self.args)

    # What a subclass defines.

    @abstractmethod
    def _format(self, network: PreTrainedModel, args: Any) -> Format: ...

    @abstractmethod
    def _rows(self, records: Sequence[Any]) -> tuple[list[dict[str, Any]], dict[str, int]]:
        """Tokenised rows with a `length`, and counts of what was refused or cut."""

    @abstractmethod
    def _from_row(self, row: Mapping[str, Any]) -> Any:
        """A record from a row of a `datasets.Dataset`."""

    @abstractmethod
    def _collate(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """A batch; `labels` comes first and has one entry that is not NO_LABEL for each supervised item."""

    @abstractmethod
    def _losses(self, logits: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """The loss of every item, summed."""

    @abstractmethod
    def _predictions(self, logits: Tensor, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Scores and labels for `_metrics`, one row per record, padded with NO_LABEL."""

    @abstractmethod
    def _metrics(self, predictions: Any) -> dict[str, float]: ...

    # What they share.

    def _network(self, model: str | PreTrainedModel, args: Any) -> PreTrainedModel:
        if isinstance(model, str):
            options = args.model_init_kwargs or {}
            # Weights that an optimizer updates stay in float32; bf16 is autocast's business.
            aspects = self._head_aspects(model)
            return load_network(model, self.kind, trained=False, dtype=torch.float32, aspects=aspects, **options)
        if not isinstance(model, ReadsPositions):
            raise ValueError(
                f"model is a {type(model).__name__}; give a path or hub id (any causal LM or reward model), or a "
                f"network from reward_models.backbone.load_network"
            )
        return model

    def _head_aspects(self, path: str) -> Sequence[str]:
        """Labels of the head beside the score, when a model is loaded from `path`."""
        return ()

    def _prepare(self, name: str, dataset: Any) -> Dataset | None:
        if dataset is None:
            return None
        records = [self._from_row(row) if isinstance(row, Mapping) else row for row in dataset]
        if not records:
            raise DataError(f"the {name} data set is empty; at least one row is needed")
        rows, counts = self._rows(records)
        self.row_counts[name] = {"rows": len(records), "used": len(rows), **counts}
        if not rows:
            raise DataError(f"none of the {len(records)} rows of the {name} data set can be used: {counts}")
        if any(counts.values()):
            logger.warning("%s data set, %d rows: %s", name, len(records), counts)
        return Dataset.from_list(self._arranged(rows) if name == "train" else rows)

    def _arranged(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The rows as they are trained on."""
        return rows

    def _prepare_eval(self, dataset: Any) -> Any:
        if isinstance(dataset, Mapping):
            return {name: self._prepare(f"eval_{name}", part) for name, part in dataset.items()}
        return self._prepare("eval", dataset)

    def compute_loss(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        model: nn.Module,
        inputs: Mapping[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The mean over the supervised items of the whole optimizer batch, as far as this micro-batch adds to it."""
        logits, total = self._logits_and_loss(model, inputs)
        if num_items_in_batch is None:
            loss = total / inputs["labels"].ne(NO_LABEL).sum().clamp(min=1)
        else:
            items = torch.as_tensor(num_items_in_batch, device=total.device).reshape(-1)[0]
            # Gradients are averaged over processes, but the items of all processes were counted together.
            copies = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
            loss = total * copies / items
        return (loss, logits) if return_outputs else loss

    def _logits_and_loss(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The logits, and the loss summed over what this micro-batch holds, next tokens included while training."""
        if self.language_head is None or "next_from" not in inputs or not model.training:
            logits = model(**self._model_inputs(inputs))
            return logits, self._losses(logits, inputs)
        if self.is_fsdp_enabled:
            raise ValueError("lm_coef above 0 needs the whole head in each process: use DDP or ZeRO-2, not FSDP")
        logits, states = model(**self._model_inputs(inputs), state_positions=inputs["next_from"])
        is_asked = inputs["next_weight"] > 0
        words = next_token_loss(
            states[is_asked],
            self.language_head.weight(),
            inputs["next_to"][is_asked],
            inputs["next_weight"][is_asked],
        )
        return logits, self._losses(logits, inputs) + self.args.lm_coef * words

    def _model_inputs(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        names = ("input_ids", "attention_mask", "position_ids", "positions")
        return {name: inputs[name] for name in names if name in inputs}

    @torch.no_grad()
    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        inputs = self._prepare_inputs(inputs)
        with self.compute_loss_context_manager():
            loss, logits = self.compute_loss(model, inputs, return_outputs=True)
        if prediction_loss_only:
            return loss.detach(), None, None
        return loss.detach(), *self._predictions(logits.detach(), inputs)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """The checkpoint, the tokenizer, and the input format beside them."""
        super().save_model(output_dir, _internal_call)
        if self.args.should_save:
            write_format(self.format, output_dir or self.args.output_dir)


def padded(rows: Sequence[Sequence[float]], fill: float) -> Tensor:
    """[rows, longest row]."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows])


def next_tokens(
    places: Sequence[Sequence[int]], tokens: Sequence[Sequence[int]], weights: Sequence[Sequence[float]]
) -> dict[str, Tensor]:
    """What the language head is asked: at which places of a row, for which token, and how much it counts; padding
    counts nothing."""
    return {
        "next_from": padded(places, 0).long(),  # also where all rows are empty
        "next_to": padded(tokens, 0).long(),
        "next_weight": padded(weights, 0.0),
    }


def fit(trainer: RewardTrainer) -> dict[str, Any]:
    """Train, evaluate on the held-out set where there is one, and write checkpoint and metrics to the output folder.

    An adapter is merged, so the result is a plain transformers checkpoint in every case.
    """
    args = trainer.args
    result = trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    metrics: dict[str, Any] = {"steps": result.global_step, "rows": trainer.row_counts}
    metrics |= {name: result.metrics[name] for name in ("train_loss", "train_runtime")}
    if trainer.eval_dataset is not None:
        measured = trainer.evaluate()
        metrics["eval_loss"] = measured["eval_loss"]
        metrics |= {name: measured[f"eval_{name}"] for name in trainer.reported}
    if hasattr(trainer.model, "merge_and_unload"):
        trainer.model = trainer.model_wrapped = trainer.model.merge_and_unload()  # pyright: ignore
    assert args.output_dir is not None
    trainer.save_model(args.output_dir)
    if args.should_save:
        write_json(metrics, Path(args.output_dir) / METRICS_FILE)
    return metrics


def _with_adapter(network: PreTrainedModel, peft_config: Any, kind: str) -> Any:
    """The network with an adapter. Set before the head is wrapped, the task type makes peft train and save it."""
    from peft import TaskType, get_peft_model

    peft_config.task_type = TaskType.SEQ_CLS if kind == "irm" else TaskType.TOKEN_CLS
    return get_peft_model(network, peft_config)
