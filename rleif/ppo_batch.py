"""An iteration's samples as tensors, and which of them go into which optimizer step.

Everything random here is a function of (seed, iteration, ...) alone, so the state of a run is its step number.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rleif.records import Completion, stable_hash


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollouts:
    """Prompts with responses, padded on the right.

    >>> Rollouts(
    ...     input_ids=torch.tensor([[5, 9, 7, 2]]),  # prompt 5 9, response 7 2
    ...     prompt_lengths=torch.tensor([2]),
    ...     response_lengths=torch.tensor([2]),
    ...     prompts=torch.tensor([17]),
    ...     engine_logprobs=torch.tensor([[-0.1, -0.3]]),
    ... )
    """

    input_ids: Int[Tensor, "rollouts length"]
    prompt_lengths: Int[Tensor, " rollouts"]
    response_lengths: Int[Tensor, " rollouts"]  # EOS included
    prompts: Int[Tensor, " rollouts"]  # which prompt: its row in the dataset
    engine_logprobs: Float[Tensor, "rollouts tokens"]  # as the engine saw them, 0 behind the response

    @property
    def is_response(self) -> Bool[Tensor, "rollouts tokens"]:
        width = self.engine_logprobs.shape[1]
        return torch.arange(width, device=self.input_ids.device) < self.response_lengths[:, None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Experience:
    """What the losses need of all samples of an iteration, from all processes, in the order of the prompts.

    `is_response` is False for samples that were set aside, so they take no part in any sum.
    """

    input_ids: Int[Tensor, "rollouts length"]
    prompt_lengths: Int[Tensor, " rollouts"]
    response_lengths: Int[Tensor, " rollouts"]
    prompts: Int[Tensor, " rollouts"]
    is_response: Bool[Tensor, "rollouts tokens"]
    old_logprobs: Float[Tensor, "rollouts tokens"]
    old_values: Float[Tensor, "rollouts tokens"]
    advantages: Float[Tensor, "rollouts tokens"]
    returns: Float[Tensor, "rollouts tokens"]

    def rows(self, index: Int[Tensor, " chosen"]) -> dict[str, Tensor]:
        """A micro-batch of these rows, cut to the longest of them."""
        return cut_rows(self, index, ("is_response", "old_logprobs", "old_values", "advantages", "returns"))


def cut_rows(
    source: Rollouts | Experience, index: Int[Tensor, " chosen"], per_token: Sequence[str]
) -> dict[str, Tensor]:
    """input_ids, prompt_lengths, prompts and the named [rollouts, tokens] fields of these rows, cut to the longest."""
    length = int((source.prompt_lengths + source.response_lengths)[index].max())
    tokens = max(1, int(source.response_lengths[index].max()))
    batch = {name: getattr(source, name)[index] for name in ("prompt_lengths", "prompts")}
    batch["input_ids"] = source.input_ids[index, :length]
    return batch | {name: getattr(source, name)[index, :tokens] for name in per_token}


def pack_rollouts(
    completions: Sequence[Completion], prompts: Sequence[int], pad_id: int, device: torch.device
) -> Rollouts:
    """Completions as right-padded tensors, in the given order. prompts: the dataset's row behind each."""
    rows = [[*c.prompt_ids, *c.completion_ids] for c in completions]
    return Rollouts(
        input_ids=_pad(rows, pad_id).to(device),
        prompt_lengths=torch.tensor([len(c.prompt_ids) for c in completions], device=device),
        response_lengths=torch.tensor([len(c.completion_ids) for c in completions], device=device),
        prompts=torch.tensor(list(prompts), device=device),
        engine_logprobs=_pad([c.logprobs for c in completions], 0.0).to(device),
    )


def _pad(rows: Sequence[Sequence[float]], fill: float) -> Tensor:
    width = max(1, *map(len, rows)) if rows else 1
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows])


def prompt_indices(seed: int, iteration: int, num_prompts: int, per_iteration: int) -> list[int]:
    """The prompts of an iteration, over all processes.

    Each pass over the dataset is its own permutation; the few prompts that do not fill an iteration sit that pass out.
    """
    per_pass = num_prompts // per_iteration
    pass_number, place = divmod(iteration, per_pass)
    order = _permutation(num_prompts, stable_hash(seed, "prompts", pass_number))
    return order[place * per_iteration : (place + 1) * per_iteration].tolist()


def sampling_keys(seed: int, iteration: int, prompts: Sequence[int]) -> list[int]:
    """One random stream per prompt and iteration."""
    return [stable_hash(seed, "rollout", iteration, prompt) for prompt in prompts]


def mini_batch_indices(
    seed: int, iteration: int, epoch: int, mini_batch: int, num_samples: int, num_mini_batches: int, per_prompt: int = 1
) -> Int[Tensor, " chosen"]:
    """The samples of one optimizer step, over all processes: a part of this epoch's permutation.

    What is permuted are the prompts, each with its `per_prompt` neighbouring samples: a prompt that has all of them in
    one optimizer step is computed once there. Where a mini-batch does not end between two prompts, one is divided.
    """
    size = num_samples // num_mini_batches
    prompts = _permutation(num_samples // per_prompt, stable_hash(seed, "mini_batches", iteration, epoch))
    order = (prompts[:, None] * per_prompt + torch.arange(per_prompt)).flatten()
    return order[mini_batch * size : (mini_batch + 1) * size]


def split_micro_batches(
    source: Rollouts | Experience,
    chosen: Int[Tensor, " chosen"],
    count: int,
    process_index: int = 0,
    num_processes: int = 1,
) -> list[Int[Tensor, " part"]]:
    """This process's share of a mini-batch in `count` micro-batches, each of similar lengths.

    Sorted first, so little is padding and a prompt's completions stand together; dealt out in turn, so processes have
    equal work. Every process gets exactly `count` non-empty parts.
    """
    assert len(chosen) >= count * num_processes, (len(chosen), count, num_processes)
    parts = torch.tensor_split(chosen[length_order(source, chosen)], count * num_processes)
    return list(parts[process_index::num_processes])


def length_order(source: Rollouts | Experience, chosen: Int[Tensor, " chosen"]) -> Int[Tensor, " chosen"]:
    """Places in `chosen`: prompts by the longest of their chosen rollouts, the longest first, each one's together."""
    lengths = (source.prompt_lengths + source.response_lengths)[chosen]
    _, owner = source.prompts[chosen].unique(return_inverse=True)
    longest = torch.zeros_like(lengths).scatter_reduce(0, owner, lengths, "amax")[owner]
    # Three stable sorts, the most important last: length within a prompt, prompt, longest rollout of the prompt.
    order = lengths.argsort(descending=True, stable=True)
    order = order[owner[order].argsort(stable=True)]
    return order[longest[order].argsort(descending=True, stable=True)]


def _permutation(count: int, seed: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))
