"""Supervised fine-tuning: files of worked solutions in, an ordinary transformers checkpoint out.

The trainer is `trl.SFTTrainer` on prompt and completion columns: loss on the completion alone, no chat template, EOS
appended.
"""

import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
)
from trl.trainer import sft_config as trl_config
from trl.trainer.sft_trainer import SFTTrainer

from reward_models.batching import TrainsInLengthBuckets, require_a_batch
from reward_models.muon import MuonArguments, TrainsWithMuon
from rleif.prompting import COMPLETION_PREFIX, WIZARDMATH_PROMPT, render_prompt
from rleif.records import DataError, read_rows
from rleif.settings import require_positive
from rleif.tiny import TINY, TinyModel, fixed_parts, make_tiny, train_tokenizer


@dataclass(frozen=True, kw_only=True)
class SFTArguments:
    """What is trained on what; how it is trained is `SFTConfig`.

    >>> SFTArguments(model="tiny", train_files=["label/answers.jsonl"])
    """

    model: str = field(
        default=TINY, metadata={"help": "hub id, local path, or 'tiny' for a small model made from the corpus"}
    )
    train_files: list[str] = field(
        default_factory=list,
        metadata={"help": "JSONL files with `instruction` and `steps` (list of lines) or `solution` (text)"},
    )
    eval_file: str | None = field(default=None, metadata={"help": "held-out rows of the same form, for the loss"})
    max_rows: int | None = field(default=None, metadata={"help": "train on the first so many rows only"})
    prompt_template: str = field(
        default=WIZARDMATH_PROMPT, metadata={"help": "prompt with an {instruction} field (WizardMath repository)"}
    )
    vocab_size: int = field(default=TinyModel.vocab_size, metadata={"help": "tiny: tokens in the vocabulary"})
    hidden_size: int = field(default=TinyModel.hidden_size, metadata={"help": "tiny: width"})
    intermediate_size: int = field(default=TinyModel.intermediate_size, metadata={"help": "tiny: MLP width"})
    num_layers: int = field(default=TinyModel.num_layers, metadata={"help": "tiny: layers"})
    num_heads: int = field(default=TinyModel.num_heads, metadata={"help": "tiny: attention heads"})
    num_kv_heads: int = field(default=TinyModel.num_kv_heads, metadata={"help": "tiny: key-value heads"})
    max_positions: int = field(default=TinyModel.max_positions, metadata={"help": "tiny: longest sequence, tokens"})

    def __post_init__(self) -> None:
        require_positive(self, "max_rows")

    def tiny(self) -> TinyModel:
        names = ("vocab_size", "hidden_size", "intermediate_size", "num_layers", "num_heads", "num_kv_heads")
        return TinyModel(max_positions=self.max_positions, **{name: getattr(self, name) for name in names})


@dataclass
class SFTConfig(MuonArguments, trl_config.SFTConfig):
    """`trl.SFTConfig` with WizardMath's values, and bf16 where CUDA is, fp32 elsewhere."""

    output_dir: str | None = field(default="sft", metadata={"help": "where the checkpoint goes"})
    # WizardMath v3: 3 epochs, 2e-5 for Llama-2 7B/13B (5e-6 for Mistral-7B), length 2048, batch 512; schedule and
    # warm-up from the official repository's command for v1's 13B model. The micro-batch is the user's to choose.
    num_train_epochs: float = field(default=3.0, metadata={"help": "passes over the data (WizardMath v3: 3)"})
    learning_rate: float = field(default=2e-5, metadata={"help": "AdamW rate (WizardMath v3: 2e-5 for Llama-2)"})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "schedule (WizardMath repository: cosine)"})
    warmup_steps: float = field(default=10, metadata={"help": "steps, or a share of all below 1 (repository: 10)"})
    max_length: int | None = field(default=2048, metadata={"help": "tokens kept of a row (WizardMath v3: 2048)"})
    completion_only_loss: bool | None = field(default=True, metadata={"help": "loss on the response alone"})
    # trl switches this on; it costs a fifth of the time, which a small model has no need of. None leaves the choice to
    # transformers' newer name of it, activation_checkpointing.
    gradient_checkpointing: bool | None = field(default=None, metadata={"help": "recompute activations, less memory"})
    bf16: bool | None = field(default=None, metadata={"help": "bf16 mixed precision; default: on CUDA only"})

    def __post_init__(self) -> None:
        if self.bf16 is None:
            self.bf16 = torch.cuda.is_available() and not self.fp16 and not self.use_cpu
        if not torch.cuda.is_available():
            self.dataloader_pin_memory = False  # has no effect without an accelerator but a warning per epoch
        super().__post_init__()
        self.require_muon_rate()


class Trainer(TrainsWithMuon, TrainsInLengthBuckets, SFTTrainer):
    """`trl.SFTTrainer`, with batches of similar length in random order, and with Muon, where they are asked for."""


def train_sft(arguments: SFTArguments, config: SFTConfig, callbacks: Sequence[TrainerCallback] = ()) -> dict[str, Any]:
    """Train and save to `config.output_dir`, continuing from the last whole checkpoint there.

    Returns the metrics that are also written to metrics.json: rows, rows_dropped (prompt alone fills max_length),
    rows_truncated (their EOS was cut off), parameters, train_loss and, with an eval file, eval_loss (nats per
    response token).

    Raises DataError for files that cannot be used, ValueError for a tokenizer without EOS.
    """
    if not config.output_dir:
        raise ValueError("sft needs output_dir: the folder the checkpoint goes to")
    train = read_examples(arguments.train_files, arguments.prompt_template, arguments.max_rows)
    held_out = read_examples([arguments.eval_file], arguments.prompt_template) if arguments.eval_file else None
    model, tokenizer = load_start(arguments, train, seed=config.seed)
    with warnings.catch_warnings():
        # torch warns when a scheduler steps before an optimizer that accelerate wraps; harmless and not ours.
        warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
        trainer = Trainer(
            model=model,
            args=config,
            train_dataset=tokenize(train, tokenizer),
            eval_dataset=tokenize(held_out, tokenizer) if held_out else None,
            processing_class=tokenizer,
            callbacks=list(callbacks),
        )
        counts = _count_rows(trainer, given=len(train), eos_id=_eos_id(tokenizer), max_length=config.max_length)
        require_a_batch(counts["rows"] - counts["rows_dropped"], config)
        result = trainer.train(resume_from_checkpoint=last_checkpoint(config.output_dir))
    metrics = counts | {"parameters": model.num_parameters(), "train_loss": result.training_loss}
    metrics["optimizer_steps"] = result.global_step
    if held_out:
        metrics["eval_loss"] = trainer.evaluate()["eval_loss"]
    _save(trainer, tokenizer, metrics)
    return metrics


def read_examples(
    files: Sequence[str], template: str = WIZARDMATH_PROMPT, max_rows: int | None = None
) -> list[dict[str, str]]:
    """Prompt and completion of every row. The completion starts with the line break that the policy learns to write."""
    if not files:
        raise DataError("sft needs train_files: JSONL with `instruction` and `steps` or `solution`")
    rows = [
        _example(row, template, f"{file}, line {line}")
        for file in files
        for line, row in enumerate(read_rows(file, required=("instruction",)), start=1)
    ]
    return rows[:max_rows]


def _example(row: dict[str, Any], template: str, place: str) -> dict[str, str]:
    if not isinstance(row["instruction"], str):
        raise DataError(f"{place}: 'instruction' is {row['instruction']!r}; expected a text")
    prompt = render_prompt(row["instruction"], template)
    return {"prompt": prompt, "completion": COMPLETION_PREFIX + _solution(row, place)}


def tokenize(examples: Sequence[dict[str, str]], tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """What `trl.SFTTrainer` makes of the rows, EOS appended: input_ids, and 1 in completion_mask where loss is due.

    trl goes row by row, which takes longer than a tenth of a small model's training.
    """
    eos = str(tokenizer.eos_token)
    prompts = [example["prompt"] for example in examples]
    texts = [example["prompt"] + example["completion"].removesuffix(eos) + eos for example in examples]
    before: list[list[int]] = tokenizer(prompts)["input_ids"]  # type: ignore[assignment]
    whole: list[list[int]] = tokenizer(texts)["input_ids"]  # type: ignore[assignment]
    masks = [_completion_mask(*pair) for pair in zip(before, whole, strict=True)]
    return Dataset.from_dict({"input_ids": whole, "completion_mask": masks})


def _completion_mask(prompt_ids: Sequence[int], ids: Sequence[int]) -> list[int]:
    """1 from the first token on that is not the prompt's: a token may reach over the border."""
    pairs = zip(prompt_ids, ids, strict=False)
    start = next((place for place, (first, second) in enumerate(pairs) if first != second), len(prompt_ids))
    return [0] * start + [1] * (len(ids) - start)


def _solution(row: dict[str, Any], place: str) -> str:
    steps, solution = row.get("steps"), row.get("solution")
    if isinstance(steps, list) and all(isinstance(step, str) for step in steps):
        return "\n".join(steps)
    if isinstance(solution, str):
        return solution
    raise DataError(
        f"{place}: the row has neither `steps` (a list of lines) nor `solution` (a text); it has {sorted(row)}"
    )


def load_start(
    arguments: SFTArguments, examples: Sequence[dict[str, str]], seed: int
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model to start from, in fp32 (mixed precision keeps fp32 master weights), and its tokenizer."""
    if arguments.model == TINY:
        sizes = arguments.tiny()
        tokenizer = train_tokenizer(_texts(examples), sizes.vocab_size, fixed=fixed_parts(arguments.prompt_template))
        return make_tiny(sizes, tokenizer, seed), tokenizer
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32)
    _eos_id(tokenizer)
    return model, tokenizer


def _texts(examples: Sequence[dict[str, str]]) -> Iterator[str]:
    for example in examples:
        yield example["prompt"]
        yield example["completion"]


def _eos_id(tokenizer: PreTrainedTokenizerBase) -> int:
    if not isinstance(tokenizer.eos_token_id, int):
        raise ValueError(
            f"the tokenizer {tokenizer.name_or_path!r} has no EOS token, so the model could not learn to stop; "
            "set tokenizer.eos_token and save it with the model"
        )
    return tokenizer.eos_token_id


def _count_rows(trainer: SFTTrainer, given: int, eos_id: int, max_length: int | None) -> dict[str, int]:
    dataset = trainer.train_dataset
    assert isinstance(dataset, Dataset)
    if not len(dataset):
        raise DataError(f"all {given} rows have prompts of max_length {max_length} tokens or more; raise max_length")
    truncated = sum(row["input_ids"][-1] != eos_id for row in dataset) if not trainer.args.packing else 0  # type: ignore
    return {"rows": given, "rows_dropped": given - len(dataset), "rows_truncated": truncated}


def last_checkpoint(folder: str | Path) -> str | None:
    """The newest `checkpoint-N` in `folder` that was written to its end, or None.

    The trainer writes trainer_state.json last, so a checkpoint without a readable one was cut off.
    """
    found = []
    for state in Path(folder).glob("checkpoint-*/trainer_state.json"):
        number = state.parent.name.removeprefix("checkpoint-")
        if number.isdigit() and _is_json(state):
            found.append((int(number), str(state.parent)))
    return max(found)[1] if found else None


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return True


def _save(trainer: SFTTrainer, tokenizer: PreTrainedTokenizerBase, metrics: dict[str, Any]) -> None:
    model: Any = trainer.accelerator.unwrap_model(trainer.model)
    model.config.use_cache = True  # the trainer switches it off; whoever loads this to generate wants it
    model.generation_config = model.generation_config or GenerationConfig()
    model.generation_config.eos_token_id = model.generation_config.eos_token_id or tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    trainer.save_model()
    if trainer.is_world_process_zero():
        path = Path(str(trainer.args.output_dir)) / "metrics.json"
        path.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
