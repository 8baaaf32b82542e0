"""A key-value cache that grows in place."""

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


class ReservedLayer(DynamicLayer):
    """A DynamicLayer with spare room at its end.

    The parent class concatenates at every token, which copies the whole cache each time: for a small model on a CPU
    that is most of the time of decoding.
    """

    def __init__(self, reserve: int) -> None:
        """reserve: positions to add whenever the room runs out."""
        super().__init__()
        self.reserve = reserve
        self._buffers: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        length = self.get_seq_length()
        end = length + key_states.shape[-2]
        if self._buffers is None or end > self._buffers[0].shape[-2]:
            old_keys, old_values = (self.keys, self.values) if length else (None, None)
            capacity = end + self.reserve
            self._buffers = (_grown(old_keys, key_states, capacity), _grown(old_values, value_states, capacity))
        keys, values = self._buffers
        keys[..., length:end, :] = key_states
        values[..., length:end, :] = value_states
        self.keys, self.values = keys[..., :end, :], values[..., :end, :]
        return self.keys, self.values

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        self._buffers = None

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        self._buffers = None


def _grown(before: Tensor | None, new: Tensor, capacity: int) -> Tensor:
    """An empty buffer of the capacity (zeros, so that nothing unwritten can be NaN) with the old content in front."""
    buffer = new.new_zeros((*new.shape[:-2], capacity, new.shape[-1]))
    if before is not None:
        buffer[..., : before.shape[-2], :] = before
    return buffer


def make_cache(config: Any, reserve: int) -> DynamicCache:
    """A cache for the model's layers; plain attention layers grow in place, others stay transformers' own."""
    cache = DynamicCache(config=config)
    cache.layers = [ReservedLayer(reserve) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def select_rows(cache: DynamicCache, rows: Tensor) -> None:
    """Keep these rows of the batch, in place."""
    for layer in cache.layers:
        layer.batch_select_indices(rows.to(torch.long))  # type: ignore[attr-defined]
