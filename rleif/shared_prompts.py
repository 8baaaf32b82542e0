"""Hidden states of several responses to one prompt, with the prompt computed once.

With K completions a prompt, K - 1 of K passes over it repeat the same numbers, forward and backward. Here each prompt
goes through the network once and its keys and values serve all its responses; autograd sums what flows back.
"""

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


def can_share(model: nn.Module, config: Any) -> bool:
    """Whether the model keeps plain keys and values: no sliding windows, no recurrent states. Under activation
    checkpointing (the one reason to be in train mode) transformers takes no cache."""
    return not model.training and all(type(layer) is DynamicLayer for layer in DynamicCache(config=config).layers)


def shared_hidden_states(
    backbone: nn.Module,
    config: Any,
    input_ids: Int[Tensor, "rollouts length"],
    prompt_lengths: Int[Tensor, " rollouts"],
    prompts: Int[Tensor, " rollouts"],
    width: int,
) -> Tensor:
    """The states before each of the first `width` response positions, [rollouts, width, hidden].

    prompts: equal for neighbouring rows whose prompt is the same. Behind a row's response the states mean nothing.
    """
    is_new = torch.ones_like(prompts, dtype=torch.bool)
    is_new[1:] = prompts[1:] != prompts[:-1]
    first, owner = is_new.nonzero().squeeze(-1), is_new.cumsum(dim=0) - 1
    lengths = prompt_lengths[first]
    # Padded on the left, so that all prompts end where their responses begin.
    position = torch.arange(int(lengths.max()), device=lengths.device) - (lengths.max() - lengths)[:, None]
    is_prompt = position >= 0
    cache = DynamicCache(config=config)
    before = backbone(
        input_ids=input_ids[first].gather(1, position.clamp(min=0)),
        attention_mask=is_prompt.long(),
        position_ids=position.clamp(min=0),
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state[:, -1:][owner]
    if width == 1:
        return before
    for layer in cache.layers:
        layer.batch_select_indices(owner)  # type: ignore[union-attr]
    # The last response token predicts nothing that is asked for, so it is not computed.
    place = prompt_lengths[:, None] + torch.arange(width - 1, device=lengths.device)
    is_token = is_prompt[owner].new_ones((len(owner), width - 1))
    after = backbone(
        input_ids=input_ids.gather(1, place.clamp(max=input_ids.shape[1] - 1)),
        attention_mask=torch.cat([is_prompt[owner], is_token], dim=1).long(),
        position_ids=place,
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    return torch.cat([before, after], dim=1)
