"""The head that predicts the next token, for a reward model that goes on learning to write while it learns to judge."""

from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.integrations import deepspeed as deepspeed_integration

_CHANGE_LOGITS = ("logit_scale", "logits_scaling", "final_logit_softcapping")


class LanguageHead:
    """The weights behind the last hidden state: the embeddings where the model ties them, else a frozen copy of the
    causal model's head, which is no part of the reward model and is not saved with it.

    Raises ValueError for a network whose language head is not known or cannot be used.
    """

    def __init__(self, network: PreTrainedModel) -> None:
        config = network.config.get_text_config()
        if changing := [name for name in _CHANGE_LOGITS if getattr(config, name, None)]:
            raise ValueError(f"lm_coef above 0 needs plain logits, but the model has {changing[0]}: set lm_coef to 0")
        if deepspeed_integration.is_deepspeed_zero3_enabled():
            raise ValueError("lm_coef above 0 needs the whole head in each process: use ZeRO-2, or set lm_coef to 0")
        self._embeddings: Any = network.get_input_embeddings()
        self._own = None if config.tie_word_embeddings else _head_of_checkpoint(str(network.name_or_path))

    def weight(self) -> Tensor:
        """Float[vocabulary, hidden], on the network's device."""
        tied: Tensor = self._embeddings.weight
        if self._own is None:
            return tied
        self._own = self._own.to(tied.device)
        return self._own


def _head_of_checkpoint(path: str) -> Tensor:
    loaded: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, output_loading_info=True)
    model, report = loaded
    head = model.get_output_embeddings()
    if head is None or any("lm_head" in name for name in report["missing_keys"]):
        raise ValueError(
            f"lm_coef above 0 needs a language head, but {path} has none: start from a causal language model, or set "
            "lm_coef to 0"
        )
    return head.weight.detach().clone()
