"""Greedy evaluation inside training: is the policy getting better on prompts it is not trained on?"""

import time
from typing import Any

import torch

from rleif.config import RLEIFConfig
from rleif.experience import ExperienceMaker
from rleif.prompt_set import PromptSet
from rleif.records import Generate, Sampling
from rleif.scoring import Sample


def evaluate_policy(
    prompts: PromptSet, engine: Generate, maker: ExperienceMaker, config: RLEIFConfig, accelerator: Any
) -> dict[str, float]:
    """reward, irm, prm, accuracy (of prompts with an answer), mean_length, eos_rate, samples, runtime_s.

    Means over the samples of all processes that have a finite value.
    """
    started = time.perf_counter()
    mine = list(range(len(prompts)))[accelerator.process_index :: accelerator.num_processes]
    sampling = Sampling(temperature=0.0, max_new_tokens=config.max_completion_length or 0)
    groups = engine([prompts.ids[i] for i in mine], sampling, mine)
    samples = [
        Sample(prompt=i, instruction=prompts.instructions[i], answer=prompts.answers[i], completion=group[0])
        for i, group in zip(mine, groups, strict=True)
    ]
    parts = maker.scorer(samples)
    columns = {
        "reward": maker.scores(parts),
        "irm": parts.irm,
        "prm": parts.prm,
        "accuracy": parts.is_correct,
        "mean_length": torch.tensor([float(len(s.completion.completion_ids)) for s in samples]),
        "eos_rate": parts.is_finished.float(),
        "samples": torch.ones(len(samples)),
    }
    table = torch.stack(list(columns.values())).double()
    sums = torch.stack([table.nan_to_num(posinf=0.0, neginf=0.0).sum(dim=1), table.isfinite().double().sum(dim=1)])
    totals, counts = accelerator.reduce(sums.to(accelerator.device), reduction="sum").tolist()
    metrics = {name: total / count for name, total, count in zip(columns, totals, counts, strict=True) if count}
    metrics["samples"] = float(len(prompts))
    return metrics | {"runtime_s": time.perf_counter() - started}
