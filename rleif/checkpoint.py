"""A trained policy on disk: a plain transformers checkpoint, with the critic as another one in `value/`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rleif.policy_value import PolicyAndValue

VALUE_FOLDER = "value"


def save_policy_and_value(
    model: PolicyAndValue, folder: str | Path, state_dict: Mapping[str, Tensor] | None = None
) -> None:
    """Write safetensors and configs.

    state_dict: the weights, where they are sharded over processes (DeepSpeed, FSDP).
    """
    for part, place in ((model.policy, Path(folder)), (model.value, Path(folder) / VALUE_FOLDER)):
        prefix = "policy." if part is model.policy else "value."
        weights = None
        if state_dict is not None:
            weights = {name.removeprefix(prefix): t for name, t in state_dict.items() if name.startswith(prefix)}
        part.save_pretrained(place, state_dict=weights)  # type: ignore[operator]


def load_policy_and_value(model: PolicyAndValue, folder: str | Path) -> None:
    """Copy the weights of a checkpoint into the model, in place.

    Raises ValueError if the folder holds no such checkpoint.
    """
    for part, place in ((model.policy, Path(folder)), (model.value, Path(folder) / VALUE_FOLDER)):
        if not list(place.glob("*.safetensors")):
            raise ValueError(
                f"{place} holds no safetensors weights; a checkpoint of RLEIFTrainer has the policy's at its top and "
                f"the critic's in {VALUE_FOLDER}/"
            )
        if hasattr(part, "peft_config"):
            _load_adapter(part, place)
        else:
            # fp32 holds bf16 and fp16 exactly, so the copy below is exact whatever the parts' types.
            source = type(part).from_pretrained(place, dtype=torch.float32)  # type: ignore[attr-defined]
            part.load_state_dict(source.state_dict())


def _load_adapter(model: Any, folder: Path) -> None:
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    result = set_peft_model_state_dict(model, load_file(folder / "adapter_model.safetensors"))
    if result.unexpected_keys:
        raise ValueError(f"{folder}: the adapter has weights this model has not: {result.unexpected_keys[:3]}")
