"""The models of a PPO run, from what the user gave: objects, paths, or nothing."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification, AutoTokenizer

from reward_models.backbone import loaded_whole
from rleif.config import RLEIFConfig
from rleif.policy_value import disable_dropout, make_value_model, value_head, zero_head


@dataclass(frozen=True, slots=True, kw_only=True)
class PPOModels:
    """Policy and critic are trained; the reference is frozen, or None where it is not needed or is the policy itself
    with its adapter switched off."""

    policy: Any
    value: Any
    reference: Any
    tokenizer: Any


@loaded_whole()
def load_models(
    model: str | nn.Module,
    value_model: str | nn.Module | None,
    ref_model: str | nn.Module | None,
    peft_config: Any,
    tokenizer: Any,
    config: RLEIFConfig,
) -> PPOModels:
    """Whole on every process, also under ZeRO-3, which takes slices of policy and critic when training begins.

    Raises ValueError where a model or tokenizer is missing and cannot be made from the others.
    """
    policy = load_causal(model, config)
    tokenizer = tokenizer if tokenizer is not None else _tokenizer_of(model, policy)
    value = _load_value(value_model, config) if value_model is not None else make_value_model(policy)
    if peft_config is not None:
        from peft import get_peft_model

        policy = get_peft_model(policy, peft_config)
    reference = _reference(policy, ref_model, config)
    return PPOModels(policy=policy, value=value, reference=reference, tokenizer=tokenizer)


def load_causal(model: str | nn.Module, config: RLEIFConfig) -> Any:
    """A path loads in fp32, unless `model_init_kwargs` says otherwise: AdamW loses small steps on bf16 weights."""
    if isinstance(model, nn.Module):
        return model
    return AutoModelForCausalLM.from_pretrained(model, **{"dtype": torch.float32, **(config.model_init_kwargs or {})})


def _load_value(value_model: str | nn.Module, config: RLEIFConfig) -> Any:
    if isinstance(value_model, nn.Module):
        value_head(value_model)
        return value_model
    settings = {"dtype": torch.float32, **(config.model_init_kwargs or {}), "num_labels": 1}
    # A head of several labels (an IRM's aspects) is no value: it is left out, and the critic starts at 0.
    value, report = AutoModelForTokenClassification.from_pretrained(
        value_model, output_loading_info=True, ignore_mismatched_sizes=True, **settings
    )
    new = [*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])]
    has_head = not any(name.startswith(("score.", "classifier.")) for name in new)
    return value if has_head else zero_head(value)


def _reference(policy: Any, ref_model: str | nn.Module | None, config: RLEIFConfig) -> Any:
    if config.kl_coef == 0.0:
        return None
    if ref_model is None and hasattr(policy, "peft_config"):
        return None
    reference = copy.deepcopy(policy) if ref_model is None else load_causal(ref_model, config)
    disable_dropout(reference)
    return reference.requires_grad_(False).eval()


def _tokenizer_of(model: str | nn.Module, policy: Any) -> Any:
    path = model if isinstance(model, str) else policy.config.name_or_path
    if not path:
        raise ValueError(
            "processing_class is None and the model names no checkpoint to load a tokenizer from; pass one"
        )
    return AutoTokenizer.from_pretrained(path)
