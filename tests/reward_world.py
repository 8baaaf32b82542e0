"""What the tests of the reward models share: data with a planted rule, and models whose heads are not zero."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from reward_models.backbone import load_network
from reward_models.irm import IRMConfig, IRMTrainer
from reward_models.prm import (
    PRMConfig,
    PRMTrainer,
)
from reward_models.records import LabeledSolution, RankedInstructions

QUICK = {"save_strategy": "no", "disable_tqdm": True, "use_cpu": True, "logging_steps": 1000}


def ranked_lists(count: int, seed: int, planted: bool = True) -> list[RankedInstructions]:
    """Problems that ask a question are better than those that do not; without `planted` the order is random."""
    rng, lists = random.Random(seed), []
    for _ in range(count):
        texts = [f"Ann has {rng.randint(1, 99)} pens and buys {rng.randint(1, 99)} more." for _ in range(3)]
        if planted or rng.random() < 0.5:
            lists.append(RankedInstructions(tiers=((texts[0] + " How many pens?",), (texts[1], texts[2]))))
        else:
            lists.append(RankedInstructions(tiers=((texts[1], texts[2]), (texts[0] + " How many pens?",))))
    return lists


def summed_solutions(count: int, seed: int, planted: bool = True) -> list[LabeledSolution]:
    """A step with a false sum is wrong; without `planted` the labels are random, in the same proportion."""
    rng, solutions = random.Random(seed), []
    for _ in range(count):
        steps, labels = [], []
        for number in range(1, 4):
            a, b, is_right = rng.randint(0, 2), rng.randint(0, 2), rng.random() < 0.6
            result = a + b if is_right else (a + b + rng.randint(1, 4)) % 5
            steps.append(f"Step {number}: {a} + {b} = {result}")
            labels.append(1 if (is_right if planted else rng.random() < 0.6) else -1)
        solutions.append(LabeledSolution(instruction="Add.", steps=tuple(steps), labels=tuple(labels)))
    return solutions


def trained_head(base: str, kind: str, dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    """A network whose head is not zero, so that scores differ and gradients reach every weight."""
    network = load_network(base, kind, trained=False, dtype=dtype, **options)
    for weight in getattr(network, network.head_name).parameters():
        torch.nn.init.normal_(weight, std=0.5, generator=torch.Generator().manual_seed(1))
    return network


def saved(base: str, folder: Path, kind: str, tokenizer: Any = None, **config: Any) -> str:
    """A saved reward model with a head that is not zero."""
    trainers: dict[str, Callable[..., Any]] = {
        "irm": lambda *rest, **more: IRMTrainer(*rest, **more),
        "prm": lambda *rest, **more: PRMTrainer(*rest, **more),
    }
    configs = {"irm": IRMConfig, "prm": PRMConfig}
    trainer = trainers[kind](
        trained_head(base, kind), configs[kind](output_dir=str(folder), **QUICK, **config), processing_class=tokenizer
    )
    trainer.save_model()
    return str(folder)
