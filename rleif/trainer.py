"""RLEIFTrainer: PPO on IRM x PRM, inside the loop of `transformers.Trainer`.

Trainer keeps its own inner loop (accumulation, clipping, schedulers, callbacks, DDP, DeepSpeed, FSDP). This class only
hands it, before each optimizer step, that step's micro-batches; before the first step of an iteration it makes them:

    prompts -> completions (engine) -> scores (IRM, PRM) -> log-probs, values, reference -> rewards -> advantages

What an iteration does is a function of the weights and of (seed, iteration) alone, so a checkpoint at the end of an
iteration needs no state beyond Trainer's own, and the run that resumes from it equals the one that was not stopped.
"""

import contextlib
import copy
import logging
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedTokenizerBase, Trainer, TrainerCallback, TrainerControl, TrainerState

from rleif import losses
from rleif.checkpoint import load_policy_and_value, save_policy_and_value
from rleif.completions_table import CompletionsTable
from rleif.config import RLEIFConfig
from rleif.experience import ExperienceMaker
from rleif.policy_evaluation import evaluate_policy
from rleif.policy_value import PolicyAndValue, without_adapter
from rleif.ppo_batch import Experience, mini_batch_indices, split_micro_batches
from rleif.ppo_models import load_models
from rleif.prompt_set import PromptSet
from rleif.records import Generate
from rleif.rewards import (
    Combine,
    InstructionScorer,
    InstructionScores,
    NonFiniteError,
    StepScorer,
    irm_times_prm,
    load_irm,
    load_prm,
)
from rleif.rollout import TransformersEngine
from rleif.scoring import Grader, Scorer
from rleif.zero3 import largest, whole_policy

logger = logging.getLogger(__name__)

STEP_STATISTICS = (
    "loss/policy",
    "loss/value",
    "policy/ratio",
    "policy/clipfrac_avg",
    "policy/approxkl_avg",
    "policy/entropy_avg",
    "val/clipfrac_avg",
)
"""Logged as means over the response tokens of all optimizer steps since the last log."""


class RLEIFTrainer(Trainer):
    """PPO with reward = IRM x PRM.

    model: a causal language model or a path. irm, prm: a path, an object with `.score` / `.score_steps`, or None for a
    factor of 1. train_dataset, eval_dataset: rows with `prompt`, and `instruction` (what the reward models read;
    default: the prompt) and `answer` where known. value_model: default, the policy's layers with a zero head.
    ref_model: default, the policy as it is now (with peft: the adapter switched off). combine: `RewardParts` to one
    score a sample, default the product. grade: (solutions, answers) to grades. engine: any `Generate`.

    Raises ValueError, before anything is trained, for settings, data or models that do not fit together.
    """

    args: RLEIFConfig
    model: PolicyAndValue

    def __init__(
        self,
        model: str | nn.Module,
        irm: str | InstructionScorer | None = None,
        prm: str | StepScorer | None = None,
        args: RLEIFConfig | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        value_model: str | nn.Module | None = None,
        ref_model: str | nn.Module | None = None,
        peft_config: Any = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        combine: Combine = irm_times_prm,
        grade: Grader | None = None,
        engine: Generate | None = None,
    ) -> None:
        args = copy.copy(args) if args is not None else RLEIFConfig(output_dir="rleif_output")
        if train_dataset is None:
            raise ValueError("train_dataset is None; PPO needs prompts to sample from")
        if args.auto_find_batch_size:
            raise ValueError(
                "auto_find_batch_size cannot change the micro-batches of PPO; set per_device_train_batch_size"
            )
        _use_one_device(args)
        models = load_models(model, value_model, ref_model, peft_config, processing_class, args)
        self.prompts = PromptSet.from_dataset(train_dataset, models.tokenizer)
        self.eval_prompts = _eval_prompts(eval_dataset, models.tokenizer)
        _require_room(models.policy, args, {"train_dataset": self.prompts, **self.eval_prompts})
        args.max_steps = args.iterations(len(self.prompts)) * args.steps_per_iteration
        use_cache = models.policy.config.use_cache
        super().__init__(
            model=PolicyAndValue(models.policy, models.value),
            args=args,
            data_collator=lambda ticks: {},  # never called: get_batch_samples leaves the clock alone
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=models.tokenizer,
            callbacks=callbacks,
            optimizers=optimizers,
        )
        models.policy.config.use_cache = use_cache  # Trainer turns it off, and it would be saved that way
        if self.is_deepspeed_enabled or self.is_fsdp_enabled:
            self.args.share_prompts = False  # they expect one pass through each layer per backward pass
            self.model.agree_on_chunks = partial(largest, accelerator=self.accelerator)
        self.ref_model = None if models.reference is None else models.reference.to(self.args.device)
        self.scorer = self._make_scorer(irm, prm, grade)
        self.engine: Generate = engine or self._make_engine()
        self.maker = ExperienceMaker(
            model=self.model,
            ref_model=self.ref_model,
            engine=self.engine,
            scorer=self.scorer,
            combine=combine,
            prompts=self.prompts,
            config=self.args,
            accelerator=self.accelerator,
        )
        self.table = CompletionsTable(str(self.args.output_dir), list(self.args.report_to or []))
        self.add_callback(_IterationBoundary(self))
        self._experience: Experience | None = None
        self._metrics: defaultdict[str, list[float]] = defaultdict(list)
        self._step_sums = torch.zeros(len(STEP_STATISTICS) + 1, device=self.args.device)
        self._update_started = 0.0

    def _make_scorer(self, irm: Any, prm: Any, grade: Grader | None) -> Scorer:
        decode = partial(
            self.processing_class.decode,  # type: ignore[union-attr]
            skip_special_tokens=True,
            clean_up_tokenization_spaces=False,
        )
        return Scorer(
            InstructionScores(load_irm(irm)),
            load_prm(prm),
            self.args.aggregation,  # type: ignore[arg-type]
            grade,
            self.args.placement,  # type: ignore[arg-type]
            decode,  # type: ignore[arg-type]
        )

    def _make_engine(self) -> TransformersEngine:
        return TransformersEngine(
            self.model.policy,
            self.processing_class,
            self.args.rollout_max_batch_size,
            self._sampling,
        )

    @contextlib.contextmanager
    def _sampling(self) -> Iterator[None]:
        with self.accelerator.autocast():
            if self.is_deepspeed_enabled:
                with whole_policy(self.model.policy, self.model_wrapped):
                    yield
            else:
                yield

    # What Trainer asks for

    def get_train_dataloader(self) -> DataLoader:
        """A clock: as many ticks as micro-batches in a pass over the prompts, so that Trainer's epochs are passes."""
        iterations = len(self.prompts) // self.args.prompts_per_iteration
        accumulation = self.args.gradient_accumulation_steps or 1
        return DataLoader(_Ticks(iterations * self.args.steps_per_iteration * accumulation), batch_size=1)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Tensor]], int]:
        """The micro-batches of the next optimizer step, and its number of response tokens over all processes."""
        config = self.args
        iteration, step = divmod(self.state.global_step, config.steps_per_iteration)
        if step == 0:
            self._begin_iteration(iteration)
        if self._experience is None:
            raise ValueError(
                f"step {self.state.global_step} lies inside iteration {iteration}; training can start only at a "
                f"multiple of {config.steps_per_iteration} steps, where checkpoints are written"
            )
        epoch, mini_batch = divmod(step, config.num_mini_batches)
        samples = self._experience
        order = (config.seed, iteration, epoch, mini_batch, len(samples.input_ids), config.num_mini_batches)
        chosen = mini_batch_indices(*order, config.num_generations).to(samples.input_ids.device)
        place = (self.accelerator.process_index, self.accelerator.num_processes)
        parts = split_micro_batches(samples, chosen, num_batches, *place)
        return [samples.rows(part) for part in parts], int(samples.is_response[chosen].sum())

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Sum over the micro-batch's response tokens / response tokens of the whole mini-batch.

        Times the number of processes, because their gradients are averaged: whatever the split, the gradient is that
        of the mean over the mini-batch's tokens.
        """
        config, mask = self.args, inputs["is_response"]
        output = model(
            input_ids=inputs["input_ids"],
            prompt_lengths=inputs["prompt_lengths"],
            is_response=mask,
            temperature=config.temperature,
            prompts=inputs["prompts"] if config.share_prompts else None,
            entropy_gradient=config.entropy_coef != 0.0,
        )
        move = (output["logprobs"], inputs["old_logprobs"])
        policy = losses.clipped_policy_loss(*move, inputs["advantages"], config.cliprange)
        value = losses.clipped_value_loss(
            output["values"], inputs["old_values"], inputs["returns"], config.cliprange_value
        )
        per_token = self._policy_weight * (policy - config.entropy_coef * output["entropy"]) + config.vf_coef * value
        count = max(int(num_items_in_batch or 0), 1)
        loss = losses.masked_sum(per_token, mask) / count * self.accelerator.num_processes
        self._add_statistics(policy, value, output, inputs)
        return (loss, output) if return_outputs else loss

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Policy and critic in one optimizer, each with its learning rate; no weight decay on norms and biases."""
        if self.optimizer is not None:
            return self.optimizer
        target = model if model is not None else self.model
        decayed = set(self.get_decay_parameter_names(target))  # type: ignore[arg-type]
        groups: dict[tuple[bool, bool], dict[str, Any]] = {}
        for name, parameter in target.named_parameters():
            if not parameter.requires_grad:
                continue
            is_value = name.removeprefix("module.").startswith("value.")
            fresh = {
                "params": [],
                "lr": self.args.value_learning_rate if is_value else self.args.learning_rate,
                "weight_decay": self.args.weight_decay if name in decayed else 0.0,
            }
            groups.setdefault((is_value, name in decayed), fresh)["params"].append(parameter)
        ordered = [groups[key] for key in sorted(groups)]
        kind, settings = self.get_optimizer_cls_and_kwargs(self.args, self.model)  # type: ignore[arg-type]
        self.optimizer = kind(ordered, **settings)
        return self.optimizer  # type: ignore[return-value]

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """Raises NonFiniteError, before the optimizer step, for a NaN or infinite gradient (a NaN loss gives one)."""
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        is_scaled = self.args.fp16  # the loss scaler skips such steps itself
        if not is_scaled and norm is not None and not torch.isfinite(torch.as_tensor(norm)):
            raise NonFiniteError(
                f"optimizer step {self.state.global_step + 1}: the gradient's norm is {float(norm)}. The weights are "
                "unchanged since the last step; lower the learning rate, or look for the sample in completions.jsonl."
            )
        return norm

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Greedy completions of the evaluation prompts: accuracy where answers are known, and the mean reward."""
        given = self.eval_prompts if eval_dataset is None else _eval_prompts(eval_dataset, self.processing_class)
        if not given:
            raise ValueError("there is no evaluation dataset: give eval_dataset to the trainer or to evaluate")
        metrics: dict[str, float] = {}
        for name, prompts in given.items():
            prefix = f"{metric_key_prefix}_{name}_" if name else f"{metric_key_prefix}_"
            found = evaluate_policy(prompts, self.engine, self.maker, self.args, self.accelerator)
            metrics |= {prefix + key: value for key, value in found.items()}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Trainer's log of a training step gets the means of what was gathered since the last one."""
        if "loss" in logs:
            logs = {**logs, **self._take_metrics()}
        super().log(logs, start_time)
        self.table.flush()

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        if not self.args.should_save:
            return
        folder = Path(output_dir or str(self.args.output_dir))
        save_policy_and_value(self._unwrapped(), folder, state_dict)
        self.processing_class.save_pretrained(folder)  # type: ignore[union-attr]
        # In place of Trainer's pickled training_args.bin.
        (folder / "training_args.json").write_text(self.args.to_json_string() + "\n", encoding="utf-8")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        load_policy_and_value(self._unwrapped(model), resume_from_checkpoint)

    def _unwrapped(self, model: nn.Module | None = None) -> PolicyAndValue:
        unwrapped = self.accelerator.unwrap_model(self.model if model is None else model)
        assert isinstance(unwrapped, PolicyAndValue)
        return unwrapped

    def _load_best_model(self) -> None:
        self._load_from_checkpoint(str(self.state.best_model_checkpoint))

    # One iteration

    def begin_run(self) -> None:
        """Called once training state (fresh or resumed) is in place."""
        self._experience = None
        self._metrics.clear()
        self._step_sums.zero_()
        if self.ref_model is not None and self.is_deepspeed_enabled:
            # DeepSpeed has cast the policy by now; in another precision the KL would not start at 0.
            self.ref_model.to(dtype=next(self.model.policy.parameters()).dtype)
        started = time.perf_counter()
        self.maker.score_instructions(self.state.max_steps // self.args.steps_per_iteration)
        self._metrics["time/score_instructions"].append(time.perf_counter() - started)
        if self.is_world_process_zero():
            self.table.restart(self.state.global_step)

    def _begin_iteration(self, iteration: int) -> None:
        made = self.maker.make(iteration, self.state.global_step)
        self._experience = made.experience
        for name, value in made.metrics.items():
            self._metrics[name].append(value)
        if self.is_world_process_zero():
            self.table.add(made.rows)
        self._update_started = time.perf_counter()

    def end_iteration(self) -> None:
        self._metrics["time/update"].append(time.perf_counter() - self._update_started)

    @property
    def _policy_weight(self) -> float:
        iteration = self.state.global_step // self.args.steps_per_iteration
        return 0.0 if iteration < self.args.value_warmup_iterations else 1.0

    def _add_statistics(
        self, policy: Tensor, value: Tensor, output: dict[str, Tensor], inputs: dict[str, Tensor]
    ) -> None:
        config, mask = self.args, inputs["is_response"]
        with torch.no_grad():
            move = (output["logprobs"], inputs["old_logprobs"])
            value_move = (output["values"] - inputs["old_values"]).abs()
            per_token = (
                policy,
                value,
                losses.probability_ratio(*move),
                losses.is_policy_clipped(*move, inputs["advantages"], config.cliprange).float(),
                losses.kl_k2(*move),
                output["entropy"],
                (value_move > config.cliprange_value).float(),
            )
            sums = [losses.masked_sum(values.detach(), mask) for values in per_token]
            self._step_sums += torch.stack([*sums, mask.sum().float()])

    def _take_metrics(self) -> dict[str, float]:
        sums = self.accelerator.reduce(self._step_sums, reduction="sum").tolist()  # type: ignore[union-attr]
        taken = {name: total / max(sums[-1], 1.0) for name, total in zip(STEP_STATISTICS, sums, strict=False)}
        taken |= {name: sum(values) / len(values) for name, values in self._metrics.items() if values}
        if "objective/scores" in taken:
            taken["objective/rlhf_reward"] = taken["objective/scores"] + taken["objective/non_score_reward"]
        self._step_sums.zero_()
        self._metrics.clear()
        return taken


class _IterationBoundary(TrainerCallback):
    """Saves and evaluates at the ends of iterations only: inside one, the samples would have to be saved too."""

    def __init__(self, trainer: RLEIFTrainer) -> None:
        self.trainer = trainer
        self._due = {"should_save": False, "should_evaluate": False}

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._due = dict.fromkeys(self._due, False)
        self.trainer.begin_run()

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        is_end = state.global_step % args.steps_per_iteration == 0
        for name, was_due in self._due.items():
            is_due = was_due or getattr(control, name)
            setattr(control, name, is_due and is_end)
            self._due[name] = is_due and not is_end
        if is_end:
            self.trainer.end_iteration()


class _Ticks(Dataset[int]):
    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> int:
        return index


def _use_one_device(args: RLEIFConfig) -> None:
    """Without a launcher, Trainer would split batches over all GPUs with DataParallel, which PPO batches do not fit."""
    if args.n_gpu > 1:
        logger.warning("%d GPUs are visible, one is used; start with `accelerate launch` to use all", args.n_gpu)
        args._n_gpu = 1


def _eval_prompts(dataset: Any, tokenizer: Any) -> dict[str, PromptSet]:
    """By name; a single dataset has the name ''."""
    if dataset is None:
        return {}
    named = dataset if isinstance(dataset, dict) else {"": dataset}
    return {name: PromptSet.from_dataset(rows, tokenizer) for name, rows in named.items()}


def _require_room(policy: nn.Module, args: RLEIFConfig, sets: dict[str, PromptSet]) -> None:
    config = without_adapter(policy).config.get_text_config()
    limit: int | None = getattr(config, "max_position_embeddings", None)
    for name, prompts in sets.items():
        prompts.require_room(args.max_completion_length or 0, limit, name or "eval_dataset")


__all__: Sequence[str] = ["RLEIFTrainer"]
