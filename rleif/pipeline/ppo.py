"""The PPO stage, files to files: problems, a policy and reward models in, a checkpoint out."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import AutoTokenizer, TrainerCallback

from rleif.config import RLEIFConfig
from rleif.pipeline.models import check_checkpoint
from rleif.pipeline.sample import choose
from rleif.pipeline.state import write_json
from rleif.prompting import WIZARDMATH_PROMPT, render_prompt
from rleif.records import Problem, read_problems
from rleif.settings import require_positive
from rleif.sft import last_checkpoint
from rleif.trainer import RLEIFTrainer


@dataclass(frozen=True, kw_only=True)
class PPOArguments:
    """What PPO trains, on which prompts, with which rewards; how is `RLEIFConfig`.

    >>> PPOArguments(model="runs/x/sft", irm="runs/x/irm", prm="runs/x/prm", train_file="runs/x/evolve/pool.jsonl")
    """

    model: str = field(metadata={"help": "the policy to start from, usually the SFT model"})
    train_file: str = field(metadata={"help": "JSONL of problems; their instructions are the prompts"})
    irm: str | None = field(default=None, metadata={"help": "instruction reward model; none: its factor is 1"})
    prm: str | None = field(default=None, metadata={"help": "process reward model; none: its factor is 1"})
    value_model: str | None = field(default=None, metadata={"help": "critic to start from; default: the policy"})
    eval_file: str | None = field(default=None, metadata={"help": "JSONL of held-out problems"})
    max_rows: int | None = field(default=None, metadata={"help": "so many of the problems, drawn by hash of the id"})
    max_eval_rows: int | None = field(default=None, metadata={"help": "so many of the held-out problems"})
    prompt_template: str = field(default=WIZARDMATH_PROMPT, metadata={"help": "as in SFT"})
    lora_rank: int | None = field(default=None, metadata={"help": "train a LoRA adapter of this rank, not all weights"})
    lora_alpha: int = field(default=16, metadata={"help": "scale of the adapter"})

    def __post_init__(self) -> None:
        require_positive(self, "max_rows", "max_eval_rows", "lora_rank")


def train_ppo(
    arguments: PPOArguments, config: RLEIFConfig, callbacks: list[TrainerCallback] | None = None
) -> dict[str, Any]:
    """Train and save to `config.output_dir`, continuing from the last whole checkpoint there.

    Returns the metrics that are also written to metrics.json: prompts, iterations' logs summed up as first and last
    values, and where an eval file is given its reward and accuracy.
    """
    for path in filter(None, (arguments.model, arguments.irm, arguments.prm, arguments.value_model)):
        check_checkpoint(path)
    train = _dataset(arguments.train_file, arguments, arguments.max_rows, config.seed)
    heldout = None
    if arguments.eval_file:
        heldout = _dataset(arguments.eval_file, arguments, arguments.max_eval_rows, config.seed)
    trainer = RLEIFTrainer(
        model=arguments.model,
        irm=arguments.irm,
        prm=arguments.prm,
        args=config,
        train_dataset=train,
        eval_dataset=heldout,
        processing_class=AutoTokenizer.from_pretrained(arguments.model),
        value_model=arguments.value_model,
        peft_config=_lora(arguments),
        callbacks=callbacks,
    )
    result = trainer.train(resume_from_checkpoint=last_checkpoint(str(config.output_dir)))
    trainer.save_model()
    metrics = {"prompts": len(train), "optimizer_steps": result.global_step}
    if heldout is not None:
        metrics |= {name: value for name, value in trainer.evaluate().items() if isinstance(value, int | float)}
    if trainer.is_world_process_zero():
        trainer.state.save_to_json(str(Path(str(config.output_dir)) / "trainer_state.json"))
        write_json(Path(str(config.output_dir)) / "metrics.json", metrics)
    return metrics


def _dataset(path: str, arguments: PPOArguments, count: int | None, seed: int) -> Dataset:
    problems = choose(read_problems(path), count, seed)
    return Dataset.from_list([_row(problem, arguments.prompt_template) for problem in problems])


def _row(problem: Problem, template: str) -> dict[str, Any]:
    return {
        "prompt": render_prompt(problem.instruction, template),
        "instruction": problem.instruction,
        "answer": problem.answer,
    }


def _lora(arguments: PPOArguments) -> Any:
    if arguments.lora_rank is None:
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=arguments.lora_rank, lora_alpha=arguments.lora_alpha, target_modules="all-linear", task_type="CAUSAL_LM"
    )
