"""What DeepSpeed ZeRO-3 needs, where every process holds a slice of each weight and a layer's forward pass gathers it.

A gathering is a meeting of all processes: whoever calls a layer once more than the others waits forever.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn


@contextlib.contextmanager
def whole_policy(policy: nn.Module, engine: Any) -> Iterator[None]:
    """All weights of the policy on every process, which may then decode as many tokens as it likes.

    engine: what DeepSpeed made of the module that holds the policy. Before training, and under ZeRO-1 and 2, the
    weights are whole already.
    """
    if not any(hasattr(parameter, "ds_id") for parameter in policy.parameters()):
        yield
        return
    import deepspeed  # pyright: ignore[reportMissingImports]
    from trl.models.utils import add_hooks, remove_hooks

    with deepspeed.zero.GatheredParameters(list(policy.parameters())):
        remove_hooks(engine)
        yield
        add_hooks(engine)


def largest(number: int, accelerator: Any) -> int:
    """The largest of the processes' numbers."""
    return int(accelerator.gather(torch.tensor([number], device=accelerator.device)).max())
