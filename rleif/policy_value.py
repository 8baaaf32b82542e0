"""Policy and critic in one module, so that one wrapper (DDP, DeepSpeed, FSDP) and one optimizer hold both.

Log-probs and values are computed from the hidden states at response positions, in chunks that are computed again in
the backward pass: a [batch, tokens, vocabulary] tensor never exists.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForTokenClassification, PreTrainedModel

from rleif.shared_prompts import can_share, shared_hidden_states

LOGIT_BUDGET = 2**24
"""Logits held at a time: 64 MiB in fp32. Tokens times vocabulary above it is computed in chunks."""


def response_states(
    model: nn.Module,
    input_ids: Int[Tensor, "rollouts length"],
    prompt_lengths: Int[Tensor, " rollouts"],
    is_response: Bool[Tensor, "rollouts tokens"],
    prompts: Int[Tensor, " rollouts"] | None = None,
) -> Float[Tensor, "counted hidden"]:
    """The hidden state before each response token: the one that predicts it and that the critic judges.

    input_ids: prompt and response, padded on the right. prompts: where given, neighbouring rows with the same number
    have the same prompt, which is then computed once.

    Without them no attention mask goes in: a causal model's tokens never see the padding behind them, and without a
    mask the fast attention kernels apply. No position_ids either: with both mask and cache absent, transformers would
    read them as the marks of packed sequences.
    """
    rows, tokens = is_response.nonzero(as_tuple=True)
    layers, config = backbone(model), without_adapter(model).config
    if prompts is not None and (prompts[1:] == prompts[:-1]).any() and can_share(layers, config):
        width = is_response.shape[1]
        return shared_hidden_states(layers, config, input_ids, prompt_lengths, prompts, width)[rows, tokens]
    hidden = layers(input_ids=input_ids, use_cache=False).last_hidden_state
    return hidden[rows, prompt_lengths[rows] + tokens - 1]


def response_targets(
    input_ids: Int[Tensor, "rollouts length"],
    prompt_lengths: Int[Tensor, " rollouts"],
    is_response: Bool[Tensor, "rollouts tokens"],
) -> Int[Tensor, " counted"]:
    """The response tokens, in the order of `response_states`."""
    rows, tokens = is_response.nonzero(as_tuple=True)
    return input_ids[rows, prompt_lengths[rows] + tokens]


def scatter_response(
    values: Float[Tensor, " counted"], is_response: Bool[Tensor, "rollouts tokens"]
) -> Float[Tensor, "rollouts tokens"]:
    """Back from counted tokens to [rollouts, tokens], 0 where nothing counts."""
    return torch.zeros(is_response.shape, dtype=values.dtype, device=values.device).masked_scatter(is_response, values)


def response_logprobs(
    policy: nn.Module,
    input_ids: Int[Tensor, "rollouts length"],
    prompt_lengths: Int[Tensor, " rollouts"],
    is_response: Bool[Tensor, "rollouts tokens"],
    temperature: float,
    prompts: Int[Tensor, " rollouts"] | None = None,
    entropy_gradient: bool = False,
    agree_on_chunks: Callable[[int], int] | None = None,
) -> tuple[Float[Tensor, "rollouts tokens"], Float[Tensor, "rollouts tokens"]]:
    """log pi(token) at the temperature, and the entropy of pi in nats, per response token; fp32, 0 elsewhere.

    The entropy carries a gradient only if asked. agree_on_chunks: as `PolicyAndValue`'s.
    """
    hidden = response_states(policy, input_ids, prompt_lengths, is_response, prompts)
    targets = response_targets(input_ids, prompt_lengths, is_response)
    inner = without_adapter(policy)
    size = max(1, LOGIT_BUDGET // inner.config.get_text_config().vocab_size)
    settings = (inner, temperature, entropy_gradient)
    count = -(-len(targets) // size)
    count = agree_on_chunks(count) if agree_on_chunks else count
    if count <= 1:
        logprobs, entropy = _logprob_chunk(hidden, targets, *settings)
    else:
        chunks = zip(hidden.tensor_split(count), targets.tensor_split(count), strict=True)
        parts = [checkpoint(_logprob_chunk, h, t, *settings, use_reentrant=False) for h, t in chunks]
        logprobs, entropy = (torch.cat(part) for part in zip(*parts, strict=True))
    return scatter_response(logprobs, is_response), scatter_response(entropy, is_response)


def _logprob_chunk(
    hidden: Tensor, targets: Tensor, policy: Any, temperature: float, entropy_gradient: bool
) -> tuple[Tensor, Tensor]:
    logits = _finish_logits(at_least_fp32(policy.get_output_embeddings()(hidden)), policy.config) / temperature
    normalizer = logits.logsumexp(dim=-1)
    logprobs = logits.gather(-1, targets[:, None]).squeeze(-1) - normalizer
    if not entropy_gradient:
        logits, normalizer = logits.detach(), normalizer.detach()
    probs = (logits - normalizer[:, None]).exp()
    entropy = normalizer - (probs * logits).sum(dim=-1)
    return logprobs, entropy


def _finish_logits(logits: Tensor, config: Any) -> Tensor:
    """What some architectures do to the logits after the output matrix: Cohere, Granite, Gemma."""
    if getattr(config, "logit_scale", None):
        logits = logits * config.logit_scale
    if getattr(config, "logits_scaling", None):
        logits = logits / config.logits_scaling
    softcap = getattr(config, "final_logit_softcapping", None)
    return torch.tanh(logits / softcap) * softcap if softcap else logits


def response_values(
    value: nn.Module,
    input_ids: Int[Tensor, "rollouts length"],
    prompt_lengths: Int[Tensor, " rollouts"],
    is_response: Bool[Tensor, "rollouts tokens"],
    prompts: Int[Tensor, " rollouts"] | None = None,
) -> Float[Tensor, "rollouts tokens"]:
    """V(prompt and the response so far), before each response token; fp32, 0 elsewhere."""
    hidden = response_states(value, input_ids, prompt_lengths, is_response, prompts)
    # The head stays in fp32 even under mixed precision: returns differ by less than bf16 resolves.
    with torch.autocast(hidden.device.type, enabled=False):
        head = value_head(value)
        values = head(hidden.to(next(head.parameters()).dtype)).squeeze(-1)
    return scatter_response(values, is_response)


def at_least_fp32(tensor: Tensor) -> Tensor:
    """bf16 and fp16 as fp32, others as they are."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def widen_head(value: nn.Module) -> nn.Module:
    """The value head with its weights in fp32 at least, in place."""
    head = value_head(value)
    for parameter in head.parameters():
        parameter.data = at_least_fp32(parameter.data)
    return head


def without_adapter(model: nn.Module) -> Any:
    """The transformers model inside a peft model, or the model itself. Adapter layers stay in place."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]


def backbone(model: nn.Module) -> nn.Module:
    """The stack of layers below the head."""
    return without_adapter(model).base_model


def value_head(value: nn.Module) -> nn.Module:
    """The one-output head of a token-classification model. Raises ValueError where there is none."""
    inner = without_adapter(value)
    for name in ("score", "classifier"):
        if isinstance(getattr(inner, name, None), nn.Module):
            return getattr(inner, name)
    raise ValueError(f"{type(inner).__name__} has no head named score or classifier; pass a token-classification model")


def make_value_model(policy: Any) -> PreTrainedModel:
    """A critic with the policy's layers and a zero head, so that every first value is 0.

    The zero head is on purpose: a random one starts with values far from any return.
    Raises ValueError if the architecture has no token classification.
    """
    source = copy.deepcopy(policy).merge_and_unload() if hasattr(policy, "peft_config") else policy
    config = copy.deepcopy(source.config)
    config.num_labels = 1
    try:
        value = AutoModelForTokenClassification.from_config(config)
    except ValueError as error:
        raise ValueError(
            f"no token classification for {type(source).__name__}, so no critic can be made from it; pass value_model"
        ) from error
    value = value.to(dtype=next(source.parameters()).dtype)
    backbone(value).load_state_dict(backbone(source).state_dict())
    return zero_head(value)


def zero_head(value: Any) -> Any:
    """Set the head to zero, in place."""
    for parameter in value_head(value).parameters():
        nn.init.zeros_(parameter)
    return value


class PolicyAndValue(nn.Module):
    """What the trainer trains.

    Dropout is off, always: otherwise the first probability ratio is not 1. For the same reason the module stays in
    eval mode, save under activation checkpointing, which transformers does in train mode only.
    """

    accepts_loss_kwargs = True  # read by transformers.Trainer: the loss is already divided by num_items_in_batch

    def __init__(self, policy: nn.Module, value: nn.Module) -> None:
        super().__init__()
        self.policy = policy
        self.value = value
        self._recomputes = False
        # Under ZeRO-3 each use of the output matrix waits for the same use of all processes, which hold unequal numbers
        # of tokens: there this makes their chunks equally many.
        self.agree_on_chunks: Callable[[int], int] | None = None
        widen_head(value)
        disable_dropout(self)
        self.eval()

    @property
    def config(self) -> Any:
        return self.policy.config

    def forward(
        self,
        input_ids: Tensor,
        prompt_lengths: Tensor,
        is_response: Tensor,
        temperature: float = 1.0,
        prompts: Tensor | None = None,
        entropy_gradient: bool = False,
    ) -> dict[str, Tensor]:
        """logprobs, entropy and values, each [rollouts, tokens]."""
        places = (input_ids, prompt_lengths, is_response)
        logprobs, entropy = response_logprobs(
            self.policy, *places, temperature, prompts, entropy_gradient, self.agree_on_chunks
        )
        return {"logprobs": logprobs, "entropy": entropy, "values": response_values(self.value, *places, prompts)}

    def train(self, mode: bool = True) -> "PolicyAndValue":
        return super().train(mode and self._recomputes)

    def activation_checkpointing_enable(self, **kwargs: Any) -> None:
        self._enable_recomputation("activation_checkpointing_enable", kwargs)

    def gradient_checkpointing_enable(self, **kwargs: Any) -> None:
        self._enable_recomputation("gradient_checkpointing_enable", kwargs)

    def _enable_recomputation(self, method: str, kwargs: dict[str, Any]) -> None:
        self._recomputes = True
        for model in (self.policy, self.value):
            getattr(model, method)(**kwargs)


def disable_dropout(model: nn.Module) -> None:
    """Set every dropout probability to 0, in place; the configs, which are saved, stay as they are."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)
