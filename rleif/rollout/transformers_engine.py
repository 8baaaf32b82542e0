"""Sampling with a transformers model in this process.

The K completions of a prompt share one prefill, finished rows leave the batch, and each completion has its own stream
of random numbers, so what is drawn does not depend on what else is in the batch.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rleif.records import Completion, Sampling
from rleif.rollout.cache import make_cache, select_rows
from rleif.rollout.sampling import choose, uniform_stream


class TransformersEngine:
    """`Generate` over a causal language model. The model is used as it is at each call, so its weights may change.

    max_batch_size: completions decoded together; a prompt's own completions always are.
    context: makes what a call runs in, for mixed precision or to gather weights.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        max_batch_size: int = 256,
        context: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext,
    ) -> None:
        if max_batch_size < 1:
            raise ValueError(f"max_batch_size is {max_batch_size}; it must be at least 1")
        self.model = model
        self.tokenizer = tokenizer
        self.max_batch_size = max_batch_size
        self.context = context
        self.eos_ids = stop_ids(model, tokenizer)
        # Padding is masked everywhere, so any id will do and a tokenizer without pad token needs none.
        self.pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0

    def __call__(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, keys: Sequence[int]
    ) -> list[list[Completion]]:
        """One list of `num_generations` completions per prompt, in the order of the prompts.

        Raises ValueError for an empty prompt, or one that leaves no room for max_new_tokens.
        """
        if len(prompts) != len(keys):
            raise ValueError(f"{len(prompts)} prompts but {len(keys)} keys; each prompt needs its own key")
        self._check_room(prompts, sampling.max_new_tokens)
        results: list[list[Completion]] = [[] for _ in prompts]
        was_training = self.model.training
        self.model.eval()
        with torch.no_grad(), self.context():
            for bucket in self._buckets(prompts, sampling.num_generations):
                decoded = self._decode([prompts[i] for i in bucket], sampling, [keys[i] for i in bucket])
                for i, completions in zip(bucket, decoded, strict=True):
                    results[i] = completions
        self.model.train(was_training)
        return results

    def _check_room(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
        limit = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        for i, prompt in enumerate(prompts):
            if not len(prompt):
                raise ValueError(f"prompt {i} has no tokens; a model needs at least one to continue from")
            if limit is not None and len(prompt) + max_new_tokens > limit:
                raise ValueError(
                    f"prompt {i} has {len(prompt)} tokens; with max_new_tokens {max_new_tokens} that is over the "
                    f"model's {limit} positions. Shorten it, or lower max_new_tokens."
                )

    def _buckets(self, prompts: Sequence[Sequence[int]], num_generations: int) -> Iterator[list[int]]:
        """Prompts of similar length together, the longest first, so that a too large batch fails at once."""
        order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
        size = max(1, self.max_batch_size // num_generations)
        for start in range(0, len(order), size):
            yield order[start : start + size]

    def _decode(self, prompts: list[Sequence[int]], sampling: Sampling, keys: list[int]) -> list[list[Completion]]:
        state = self._prefill(prompts, sampling, keys)
        eos = torch.tensor(sorted(self.eos_ids), device=state.logits.device)
        # On an accelerator looking at the flags stalls the queue, so look less often there.
        look_every = 1 if state.logits.device.type == "cpu" else 8
        for position in range(sampling.max_new_tokens):
            tokens, logprobs = choose(state.logits, state.uniforms[:, position], sampling.temperature, sampling.top_p)
            state.record(position, tokens, logprobs, torch.isin(tokens, eos))
            if position + 1 == sampling.max_new_tokens:
                break
            if (position + 1) % look_every == 0 and not state.drop_finished():
                break
            self._advance(state, position)
        return self._completions(state, prompts, sampling)

    def _prefill(self, prompts: list[Sequence[int]], sampling: Sampling, keys: list[int]) -> "_Batch":
        device, width, count = self.model.device, max(map(len, prompts)), sampling.num_generations
        ids = torch.full((len(prompts), width), self.pad_id)
        mask = torch.zeros((len(prompts), width + sampling.max_new_tokens), dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        mask, is_padded = mask.to(device), any(len(prompt) < width for prompt in prompts)
        cache = make_cache(self.model.config, reserve=min(sampling.max_new_tokens, 256))
        output = self.model(
            input_ids=ids.to(device),
            attention_mask=mask[:, :width] if is_padded else None,
            position_ids=(mask[:, :width].cumsum(dim=1) - 1).clamp(min=0) if is_padded else None,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache.batch_repeat_interleave(count)
        uniforms = np.stack([uniform_stream(key, k, sampling.max_new_tokens) for key in keys for k in range(count)])
        rows = len(prompts) * count
        return _Batch(
            cache=cache,
            logits=output.logits[:, -1].repeat_interleave(count, dim=0),
            mask=mask.repeat_interleave(count, dim=0) if is_padded else None,
            lengths=torch.tensor([len(p) for p in prompts], device=device).repeat_interleave(count),
            uniforms=torch.from_numpy(uniforms).to(device=device, dtype=torch.float32),
            origin=torch.arange(rows, device=device),
            is_done=torch.zeros(rows, dtype=torch.bool, device=device),
            width=width,
            tokens=torch.zeros((rows, sampling.max_new_tokens), dtype=torch.long, device=device),
            logprobs=torch.zeros((rows, sampling.max_new_tokens), device=device),
            ends=torch.full((rows,), sampling.max_new_tokens, device=device),
            is_stopped=torch.zeros(rows, dtype=torch.bool, device=device),
        )

    def _advance(self, state: "_Batch", position: int) -> None:
        """Feed the newest tokens; leaves the logits of the next ones."""
        output = self.model(
            input_ids=state.newest[:, None],
            attention_mask=None if state.mask is None else state.mask[:, : state.width + position + 1],
            position_ids=(state.lengths + position)[:, None],
            past_key_values=state.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        state.logits = output.logits[:, -1]

    def _completions(self, state: "_Batch", prompts: list[Sequence[int]], sampling: Sampling) -> list[list[Completion]]:
        tokens, logprobs = state.tokens.tolist(), state.logprobs.tolist()
        ends, stopped = state.ends.tolist(), state.is_stopped.tolist()
        ids = [row[:end] for row, end in zip(tokens, ends, strict=True)]
        texts = self.tokenizer.batch_decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        made = [
            Completion(
                prompt_ids=tuple(prompts[row // sampling.num_generations]),
                completion_ids=tuple(ids[row]),
                logprobs=tuple(logprobs[row][: ends[row]]),
                finish_reason="stop" if stopped[row] else "length",
                text=texts[row],
            )
            for row in range(len(ids))
        ]
        return [
            made[start : start + sampling.num_generations] for start in range(0, len(made), sampling.num_generations)
        ]


@dataclass(kw_only=True)
class _Batch:
    """What is being decoded. The first block loses rows as they finish, the second keeps all."""

    cache: Any
    logits: Tensor  # [live, vocabulary] of the next token
    mask: Tensor | None  # [live, width + max_new_tokens], 1 from the prompt's first token on; None without padding
    lengths: Tensor  # [live] prompt tokens
    uniforms: Tensor  # [live, max_new_tokens]
    origin: Tensor  # [live] row in the second block
    is_done: Tensor  # [live]
    width: int  # tokens of the padded prompts

    tokens: Tensor  # [rows, max_new_tokens]
    logprobs: Tensor  # [rows, max_new_tokens]
    ends: Tensor  # [rows] completion tokens, EOS included
    is_stopped: Tensor  # [rows] True if ended by EOS
    newest: Tensor = None  # type: ignore[assignment]  # [live]

    def record(self, position: int, tokens: Tensor, logprobs: Tensor, is_eos: Tensor) -> None:
        self.newest = tokens
        self.tokens[self.origin, position] = tokens
        self.logprobs[self.origin, position] = logprobs
        ends_now = self.origin[is_eos & ~self.is_done]
        self.ends[ends_now] = position + 1
        self.is_stopped[ends_now] = True
        self.is_done |= is_eos

    def drop_finished(self) -> bool:
        """Take finished rows out once an eighth of the batch has finished. Returns whether any row is left."""
        live = (~self.is_done).nonzero().squeeze(-1)
        if not len(live):
            return False
        if len(live) > 0.875 * len(self.is_done):
            return True  # moving the cache costs more than a few idle rows
        select_rows(self.cache, live)
        for name in ("newest", "lengths", "uniforms", "origin", "is_done"):
            setattr(self, name, getattr(self, name)[live])
        self.mask = None if self.mask is None else self.mask[live]
        return True


def stop_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Tokens that end a completion: the generation config's (one or a list), else the tokenizer's EOS.

    Raises ValueError if neither names one: no completion would ever end.
    """
    config = getattr(model, "generation_config", None)
    given = getattr(config, "eos_token_id", None)
    if given is None:
        given = tokenizer.eos_token_id
    if given is None:
        raise ValueError("neither the model's generation config nor the tokenizer names an end-of-sequence token")
    return frozenset(given if isinstance(given, list | tuple) else [given])
