"""RLEIFConfig: `transformers.TrainingArguments` plus what PPO on IRM x PRM needs.

Sizes of the algorithm are global (`rollout_batch_size`, `num_mini_batches`), sizes for speed are per device
(`per_device_train_batch_size`, `local_rollout_forward_batch_size`): a run means the same on 1 and on 64 devices.
"""

import os
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from transformers import TrainingArguments

from rleif.rewards import AGGREGATIONS, PLACEMENTS


def setting(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass
class RLEIFConfig(TrainingArguments):
    """Settings of `RLEIFTrainer`.

    One iteration = sample, score, then num_ppo_epochs x num_mini_batches optimizer steps.

    Exactly one of num_iterations, total_episodes, max_steps says how long to train; with none of them it is
    num_train_epochs passes over the prompts. Raises ValueError, naming both numbers, where two settings contradict.
    """

    # Length of the run, and sizes
    num_iterations: int | None = setting(None, "PPO iterations to run.")
    total_episodes: int | None = setting(
        None, "Completions to sample in the whole run, over all processes; rounded up to whole iterations (TRL's name)."
    )
    num_train_epochs: float = setting(
        1.0, "Passes over the prompts, where nothing else says how long (WizardMath v3: 1)."
    )
    rollout_batch_size: int = setting(
        256, "Completions per iteration over all processes. Ours: small; OpenRLHF and verl use 1024 on many GPUs."
    )
    num_generations: int = setting(
        4, "Completions per prompt. Ours: they share the prompt's prefill; PPO itself needs only one."
    )
    num_ppo_epochs: int = setting(
        1, "Passes over an iteration's samples. Ours: OpenRLHF and verl use 1; TRL's 4 overfits a small critic."
    )
    num_mini_batches: int = setting(1, "Optimizer steps per PPO epoch, each on its own part of the samples (TRL: 1).")
    per_device_train_batch_size: int = setting(
        16, "Micro-batch: completions per forward and backward pass. Changes speed and memory, not the gradient."
    )
    gradient_accumulation_steps: int | None = setting(  # type: ignore[assignment]
        None,
        "Derived: rollout_batch_size / (num_mini_batches x processes x micro-batch). An unequal value is an error.",
    )
    local_rollout_forward_batch_size: int = setting(
        64, "Completions per forward pass without gradient, for old log-probs and the reference (TRL's name and value)."
    )

    share_prompts: bool = setting(
        True, "Compute a prompt once for all its completions in a micro-batch. The same numbers, sooner; not with "
        "DeepSpeed, FSDP, activation checkpointing, or sliding-window and recurrent models. Ours."
    )  # fmt: skip

    # Sampling
    temperature: float = setting(1.0, "Sampling temperature; policy and reference log-probs are divided by it too.")
    top_p: float = setting(1.0, "Nucleus sampling. Ours: 1, since cutting the tail biases the importance ratio.")
    max_completion_length: int | None = setting(None, "Longest completion in tokens. Default 256 (ours).")
    response_length: int | None = setting(None, "TRL PPO's name of max_completion_length.")
    rollout_max_batch_size: int = setting(
        256, "Completions decoded together, per device. Changes speed and memory, not the samples."
    )

    # Reward
    aggregation: str = setting("min", "Steps to one score: min (WizardMath v3, eq. 3), product, mean or last.")
    placement: str = setting(
        "outcome",
        "Where the score goes: outcome (all on the last token, WizardMath v3, eq. 3) or step (each step's share of it "
        "on the token that ends the step; same best policy, nearer credit).",
    )
    missing_eos_penalty: float | None = setting(
        1.0, "Taken off the score of a completion cut at the length limit. Ours: 1, the whole range of the reward, so "
        "that never finishing cannot pay; TRL: none."
    )  # fmt: skip
    kl_coef: float = setting(
        0.05, "Weight of log pi - log pi_ref in the per-token reward (TRL 0.05; Arena Learning 0.4). 0 needs no "
        "reference model."
    )  # fmt: skip
    shuffle_rewards: bool = setting(
        False, "Control experiment: permute the scores over the samples of an iteration. Accuracy must not rise."
    )
    max_nonfinite: int = setting(
        3, "Iterations in a row with a NaN or infinite reward that are survived; the next one ends the run. Ours."
    )

    # Advantages and losses
    gamma: float = setting(1.0, "Discount per token (all of TRL, OpenRLHF, verl, NeMo-RL: 1).")
    lam: float = setting(0.95, "GAE lambda (TRL, NeMo-RL 0.95; OpenRLHF, verl 1.0).")
    whiten_rewards: bool = setting(False, "Scale token rewards to variance 1, the mean kept (TRL: False).")
    whiten_advantages: bool = setting(
        True, "Advantages to mean 0 and variance 1 over all response tokens of all processes (TRL does it per process)."
    )
    cliprange: float = setting(0.2, "Clip of the probability ratio (PPO paper, section 6.1).")
    cliprange_value: float = setting(0.2, "Clip of the value's move from its old prediction (TRL 0.2).")
    vf_coef: float = setting(0.1, "Weight of the value loss (TRL 0.1).")
    entropy_coef: float = setting(0.0, "Weight of the entropy bonus (TRL, OpenRLHF, verl: 0).")
    value_warmup_iterations: int = setting(
        0, "First iterations in which only the critic learns. Value pretraining: VC-PPO, arXiv 2503.01491, section 3."
    )

    # Optimizer
    learning_rate: float = setting(
        1e-6, "Policy learning rate (OpenRLHF, verl, NeMo-RL 1e-6; WizardMath v3 4e-7 for Llama-2)."
    )
    value_learning_rate: float | None = setting(
        None, "Critic learning rate. Default 10 x learning_rate (verl 1e-5 / 1e-6, OpenRLHF 9e-6 / 1e-6)."
    )
    lr_scheduler_type: str = setting(  # type: ignore[assignment]
        "constant_with_warmup", "Ours: the length of an RL run is rarely known; warm-up protects from fresh moments."
    )
    warmup_steps: float = setting(10, "Optimizer steps of warm-up (a value below 1 is a ratio). Ours.")
    max_grad_norm: float = setting(1.0, "Gradient clip over policy and critic together (OpenRLHF, verl, NeMo-RL 1).")
    bf16: bool | None = setting(  # type: ignore[assignment]
        None, "Mixed precision. Default: where the training device is a CUDA GPU that supports it, never on CPU."
    )
    ddp_find_unused_parameters: bool | None = setting(False, "Every weight is used in every step.")

    # Models
    model_init_kwargs: dict[str, Any] | None = field(
        default=None,
        metadata={
            "help": "Keyword arguments of from_pretrained where the model is given as a path. Weights load in fp32."
        },
    )

    # Logging
    logging_steps: float = setting(1, "Log every this many optimizer steps. Ours: an iteration is long.")
    logging_nan_inf_filter: bool = setting(False, "Ours: True would hide a NaN loss; here it ends the run.")
    num_logged_completions: int = setting(
        8, "Samples per iteration that go into completions.jsonl and the tracker's table; 0 writes none. Ours."
    )

    _VALID_DICT_FIELDS: ClassVar[list[str]] = [*TrainingArguments._VALID_DICT_FIELDS, "model_init_kwargs"]

    def __post_init__(self) -> None:
        self.max_completion_length = _one_name(self)
        self.response_length = self.max_completion_length
        if self.value_learning_rate is None:
            self.value_learning_rate = 10 * self.learning_rate
        if self.bf16 is None:
            self.bf16 = not self.fp16 and not self.use_cpu and _cuda_has_bf16()
        self._check_ranges()
        # DeepSpeed reads it inside super().__post_init__, before the processes know each other.
        self.gradient_accumulation_steps = self._derive_accumulation(int(os.environ.get("WORLD_SIZE", "1")))
        super().__post_init__()

    @property
    def steps_per_iteration(self) -> int:
        """Optimizer steps per iteration."""
        return self.num_ppo_epochs * self.num_mini_batches

    @property
    def prompts_per_iteration(self) -> int:
        """Distinct prompts per iteration, over all processes."""
        return self.rollout_batch_size // self.num_generations

    @property
    def mini_batch_size(self) -> int:
        """Completions per optimizer step, over all processes."""
        return self.rollout_batch_size // self.num_mini_batches

    def iterations(self, num_prompts: int) -> int:
        """Iterations of the whole run, for a dataset of `num_prompts`.

        Raises ValueError for a dataset smaller than one iteration and for more than one length of the run.
        """
        if num_prompts < self.prompts_per_iteration:
            raise ValueError(
                f"the dataset has {num_prompts} prompts, but one iteration takes {self.prompts_per_iteration} "
                f"(rollout_batch_size {self.rollout_batch_size} / num_generations {self.num_generations}). "
                "Lower rollout_batch_size, raise num_generations, or give more prompts."
            )
        if self.num_iterations is not None:
            return self.num_iterations
        if self.total_episodes is not None:
            return -(-self.total_episodes // self.rollout_batch_size)
        if self.max_steps > 0:
            return self.max_steps // self.steps_per_iteration
        per_pass = num_prompts // self.prompts_per_iteration
        return max(1, round(self.num_train_epochs * per_pass))

    def require_even_share(self, processes: int) -> None:
        """Raises ValueError for sizes that so many processes cannot share evenly."""
        for total, name in ((self.mini_batch_size, "mini-batch"), (self.prompts_per_iteration, "iteration's prompts")):
            if total % processes:
                raise ValueError(f"{total} ({name}) cannot be shared evenly by {processes} processes")

    def _derive_accumulation(self, world_size: int) -> int:
        self.require_even_share(world_size)
        derived = -(-(self.mini_batch_size // world_size) // self.per_device_train_batch_size)
        given = self.gradient_accumulation_steps
        if given is not None and given != derived:
            raise ValueError(
                f"gradient_accumulation_steps is {given}, but rollout_batch_size {self.rollout_batch_size} / "
                f"(num_mini_batches {self.num_mini_batches} x {world_size} processes x per_device_train_batch_size "
                f"{self.per_device_train_batch_size}) makes it {derived}. Leave it out: it is derived."
            )
        return derived

    def _check_ranges(self) -> None:
        for name in _POSITIVE:
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for part in ("num_generations", "num_mini_batches"):
            if self.rollout_batch_size % getattr(self, part):
                raise ValueError(
                    f"rollout_batch_size {self.rollout_batch_size} is not a multiple of {part} {getattr(self, part)}"
                )
        if self.temperature <= 0.0:
            raise ValueError(f"temperature is {self.temperature}; PPO needs samples, so it must be above 0")
        for name in ("gamma", "lam"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie in [0, 1]")
        if not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"top_p is {self.top_p}; it must lie in (0, 1]")
        if self.kl_coef < 0.0:
            raise ValueError(f"kl_coef is {self.kl_coef}; a negative one would reward leaving the reference")
        if self.aggregation not in AGGREGATIONS:
            raise ValueError(f"aggregation is {self.aggregation!r}; allowed: {', '.join(AGGREGATIONS)}")
        if self.placement not in PLACEMENTS:
            raise ValueError(f"placement is {self.placement!r}; allowed: {', '.join(PLACEMENTS)}")
        self._check_length_of_run()

    def _check_length_of_run(self) -> None:
        lengths = {"num_iterations": self.num_iterations, "total_episodes": self.total_episodes}
        given = {name: value for name, value in lengths.items() if value is not None}
        if self.max_steps > 0:
            given["max_steps"] = self.max_steps
            if self.max_steps % self.steps_per_iteration:
                raise ValueError(
                    f"max_steps {self.max_steps} is not a multiple of the {self.steps_per_iteration} optimizer "
                    f"steps of an iteration (num_ppo_epochs {self.num_ppo_epochs} x num_mini_batches "
                    f"{self.num_mini_batches})"
                )
        if len(given) > 1:
            raise ValueError(f"{given} all say how long to train; give one of them")


_POSITIVE = (
    "num_iterations",
    "total_episodes",
    "rollout_batch_size",
    "num_generations",
    "num_ppo_epochs",
    "num_mini_batches",
    "per_device_train_batch_size",
    "local_rollout_forward_batch_size",
    "max_completion_length",
    "rollout_max_batch_size",
)


def _one_name(config: RLEIFConfig) -> int:
    """max_completion_length under either of its names."""
    new, old = config.max_completion_length, config.response_length
    if new is not None and old is not None and new != old:
        raise ValueError(f"max_completion_length is {new} and response_length is {old}: two names of one setting")
    return next((value for value in (new, old) if value is not None), 256)


def _cuda_has_bf16() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported()
