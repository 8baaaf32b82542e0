"""Muon for the matrices of a network's blocks, AdamW for everything else, as one optimizer.

*Source:* K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024), which leaves embeddings,
heads, norms and biases to AdamW; J. Liu et al., "Muon is Scalable for LLM Training", arXiv 2502.16982, section 2.2, for
the factor 0.2 sqrt(max(rows, columns)) that gives a Muon update the size of an AdamW update of the same rate. The
arithmetic is `torch.optim.Muon`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.optim import Muon, Optimizer
from transformers import Trainer

DIVIDED = (
    "muon_learning_rate needs whole matrices in each process, but DeepSpeed and FSDP divide them: leave it out, or "
    "train with DDP or on one GPU"
)
IN_A_BLOCK = re.compile(r"\.\d+\.")  # model.layers.3.mlp.up_proj.weight


@dataclass
class MuonArguments:
    """The option that `TrainsWithMuon` reads."""

    muon_learning_rate: float | None = field(
        default=None,
        metadata={
            "help": "Rate of Muon for the two-dimensional weights of the layers; everything else stays with AdamW and "
            "learning_rate. Comparable to an AdamW rate (arXiv 2502.16982, section 2.2). Learns more from each row and "
            "takes longer for a step. Default: AdamW for all, as in the papers."
        },
    )

    def require_muon_rate(self) -> None:
        """Raises ValueError for a rate that is not above zero, and beside an `optim` that is not torch's AdamW."""
        if self.muon_learning_rate is None:
            return
        if not self.muon_learning_rate > 0:
            raise ValueError(
                f"muon_learning_rate must be above 0, got {self.muon_learning_rate}; leave it out for AdamW alone"
            )
        optim = str(getattr(self.optim, "value", self.optim))  # type: ignore[attr-defined]
        if not optim.startswith("adamw_torch"):
            raise ValueError(
                f"muon_learning_rate goes with optim adamw_torch or adamw_torch_fused, got {optim}: change one of them"
            )


class MuonBeside(Optimizer):
    """`torch.optim.Muon` and another optimizer behind one interface: one step, one state, one list of groups.

    Schedulers, clipping and checkpoints see the groups of both, the other's first: the rate that a Trainer logs is that
    of the first group, `learning_rate`. other: None where Muon has all the parameters.
    """

    def __init__(self, muon: Muon, other: Optimizer | None) -> None:
        parts: list[Optimizer] = [muon] if other is None else [other, muon]
        # Some schedules read a rate from the defaults; the groups have their own values of everything.
        super().__init__([group for part in parts for group in part.param_groups], dict(parts[0].defaults))
        self._parts = parts
        self._share()

    def _share(self) -> None:
        """Both parts work on this optimizer's groups and state."""
        start = 0
        for part in self._parts:
            end = start + len(part.param_groups)
            part.param_groups, part.state, start = self.param_groups[start:end], self.state, end

    def step(self, closure: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        first, *others = self._parts
        loss = first.step(closure)
        for part in others:
            part.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        saved = [len(group["params"]) for group in state_dict["param_groups"]]
        if saved != [len(group["params"]) for group in self.param_groups]:
            raise ValueError(
                f"the saved optimizer has groups of {saved} parameters, not those of Muon and AdamW here: it belongs "
                "to a run with other muon_learning_rate, weight_decay or trained weights. Start again, or set them back"
            )
        super().load_state_dict(state_dict)
        self._share()


def matrices_of_blocks(model: nn.Module) -> list[str]:
    """Names of the trained two-dimensional weights inside numbered blocks, embeddings there excepted."""
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    return [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
        and parameter.ndim == 2
        and IN_A_BLOCK.search(name)
        and id(parameter) not in embeddings
    ]


if TYPE_CHECKING:
    _Trainer = Trainer
else:
    _Trainer = object


class TrainsWithMuon(_Trainer):
    """Makes a `Trainer` whose arguments are `MuonArguments`, too, use Muon where they ask for it."""

    def create_optimizer(self, model: nn.Module | None = None) -> Optimizer:
        rate = self.args.muon_learning_rate  # type: ignore[attr-defined]
        if rate is None:
            return super().create_optimizer(model)
        if isinstance(getattr(self.optimizer, "optimizer", self.optimizer), MuonBeside):  # accelerate wraps it
            return self.optimizer
        if self.optimizer is not None or self.optimizer_cls_and_kwargs is not None:
            raise ValueError(
                "muon_learning_rate and an optimizer of your own (optimizers, optimizer_cls_and_kwargs) exclude each "
                "other: leave one of them out"
            )
        if self.is_deepspeed_enabled or self.is_fsdp_enabled:
            raise ValueError(DIVIDED)
        whole: Any = model if model is not None else self.model
        parameters = {name: p for name, p in whole.named_parameters() if p.requires_grad}
        matrices = matrices_of_blocks(whole)
        if not matrices:
            raise ValueError(
                f"muon_learning_rate is set, but {type(whole).__name__} has no trained matrix in a numbered block"
            )
        muon = Muon(
            [parameters.pop(name) for name in matrices],
            lr=rate,
            weight_decay=self.args.weight_decay,
            adjust_lr_fn="match_rms_adamw",
        )
        self.optimizer = MuonBeside(muon, self._optimizer_of_the_rest(whole, parameters))
        return self.optimizer

    def _optimizer_of_the_rest(self, model: Any, parameters: Mapping[str, nn.Parameter]) -> Optimizer | None:
        decayed = set(self.get_decay_parameter_names(model))
        groups: list[dict[str, Any]] = [
            {
                "params": [parameter for name, parameter in parameters.items() if (name in decayed) == is_decayed],
                "weight_decay": self.args.weight_decay if is_decayed else 0.0,
            }
            for is_decayed in (True, False)
        ]
        groups = [group for group in groups if group["params"]]
        kind, options = self.get_optimizer_cls_and_kwargs(self.args, model)
        return kind(groups, **options) if groups else None
