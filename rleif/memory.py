"""How much memory training takes per GPU, estimated from sizes alone. No weights are loaded.

Imports torch only to count the weights of a configuration on the meta device.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The sizes of a model that memory depends on.

    >>> Shape(parameters=7_241_732_096, hidden_size=4096, layers=32, vocab_size=32000)
    """

    parameters: int
    hidden_size: int
    layers: int
    vocab_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What of an accelerate configuration memory and step counts depend on.

    >>> Launch(processes=8, zero_stage=3)
    """

    processes: int = 1
    zero_stage: int = 0  # 0: every GPU holds all
    offloads_optimizer: bool = False  # master weights and Adam moments live in CPU memory


KNOWN = {
    "mistralai/Mistral-7B-v0.1": Shape(parameters=7_241_732_096, hidden_size=4096, layers=32, vocab_size=32000),
    "meta-llama/Llama-2-7b-hf": Shape(parameters=6_738_415_616, hidden_size=4096, layers=32, vocab_size=32000),
    "meta-llama/Llama-2-13b-hf": Shape(parameters=13_015_864_320, hidden_size=5120, layers=40, vocab_size=32000),
    "meta-llama/Llama-2-70b-hf": Shape(parameters=68_976_648_192, hidden_size=8192, layers=80, vocab_size=32000),
    "Qwen/Qwen2.5-Math-7B": Shape(parameters=7_615_616_512, hidden_size=3584, layers=28, vocab_size=152064),
}
"""The models of the WizardMath v3 paper, so that its recipe can be planned without a network."""


def shape_of(model: str) -> Shape | None:
    """The sizes of a local checkpoint or a hub model; None when it is neither known nor reachable."""
    if model in KNOWN:
        return KNOWN[model]
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(model)
    except (OSError, ValueError):  # not there, or no network
        return None
    return shape_of_config(config)


def shape_of_config(config: Any) -> Shape:
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config)
    text = config.get_text_config()
    return Shape(
        parameters=model.num_parameters(),
        hidden_size=text.hidden_size,
        layers=text.num_hidden_layers,
        vocab_size=text.vocab_size,
    )


def read_launch(path: str | Path | None) -> Launch:
    """The launch that an accelerate config file describes; one process without one."""
    if path is None:
        return Launch()
    from rleif.settings import load_yaml

    content = load_yaml(path)
    deepspeed = content.get("deepspeed_config") or {}
    return Launch(
        processes=int(content.get("num_processes") or 1),
        zero_stage=int(deepspeed.get("zero_stage") or 0),
        offloads_optimizer=deepspeed.get("offload_optimizer_device") not in (None, "none"),
    )


def training_bytes(parameters: int, launch: Launch) -> float:
    """Weights, gradients and Adam's state of one trained model, per GPU.

    One process or plain DDP: fp32 weights 4, gradients 4, moments 8 = 16 bytes a parameter. ZeRO in bf16 over N GPUs:
    weights 2, gradients 2, and 12 for fp32 master weights and moments; stage 1 shares the 12, stage 2 the gradients
    too, stage 3 all. *Source:* ZeRO (arXiv 1910.02054), section 3.
    """
    share = launch.processes
    optimizer = 0.0 if launch.offloads_optimizer else 12.0 / share
    per_parameter = {
        0: 16.0,
        1: 4.0 + optimizer,
        2: 2.0 + 2.0 / share + optimizer,
        3: 4.0 / share + optimizer,
    }[launch.zero_stage]
    return parameters * per_parameter


def activation_bytes(shape: Shape, rows: int, tokens: int, *, recomputes: bool) -> float:
    """Activations and logits of one micro-batch in 16 bits.

    Per layer 34 bytes x rows x tokens x hidden without attention scores, which fused kernels do not keep; recomputing
    keeps each layer's input (2 bytes) and one layer's activations. Logits in fp32, and their gradient.
    *Source:* Korthikanti et al. 2022 (arXiv 2205.05198), section 4.
    """
    states = rows * tokens * shape.hidden_size
    layers = 2.0 * shape.layers * states + 34.0 * states if recomputes else 34.0 * shape.layers * states
    return layers + 8.0 * rows * tokens * shape.vocab_size


def next_token_bytes(shape: Shape, tokens: int) -> float:
    """What a reward model's next-token loss adds: its head in fp32 (where the model does not tie it), and the logits
    of so many tokens with their gradient."""
    return 4.0 * shape.vocab_size * shape.hidden_size + 8.0 * tokens * shape.vocab_size
