"""Muon for the matrices of a network's blocks, AdamW for everything else, as one optimizer.

*Source:* K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024), which leaves embeddings,
heads, norms and biases to AdamW; J. Liu et al., "Muon is Scalable for LLM Training", arXiv 2502.16982, section 2.2, for
the factor 0.2 sqrt(max(rows, columns)) that gives a Muon update the size of an AdamW update of the same rate. The
arithmetic is `torch.optim.Muon`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.optim import Muon, Optimizer
from transformers import Trainer

IN_A_BLOCK = re.compile(r"\.\d+\.")  # model.layers.3.mlp.up_proj.weight


@dataclass
class MuonArguments:
    """The option that `TrainsWithMuon` reads."""

    muon_learning_rate: float | None = field(
        default=None,
        metadata={
            "help": "Rate of Muon for the weight matrices of the layers; embeddings, head and norms stay with AdamW "
            "and learning_rate. Comparable to an AdamW rate (arXiv 2502.16982, section 2.2). Learns more from each row "
            "and takes longer for a step. Default: AdamW for all, as in the papers."
        },
    )

    def require_muon_rate(self) -> None:
        """Raises ValueError for a rate of zero or below."""
        if self.muon_learning_rate is not None and self.muon_learning_rate <= 0:
            raise ValueError(
                f"muon_learning_rate must be above 0, got {self.muon_learning_rate}; leave it out for AdamW alone"
            )


class MuonBeside(Optimizer):
    """`torch.optim.Muon` and another optimizer behind one interface: one step, one state, one list of groups.

    Schedulers, clipping and checkpoints see the groups of both, Muon's first.
    """

    def __init__(self, muon: Muon, other: Optimizer) -> None:
        super().__init__([*muon.param_groups, *other.param_groups], {})
        self._muon, self._other = muon, other
        self._share()

    def _share(self) -> None:
        """Both parts work on this optimizer's groups and state."""
        count = len(self._muon.param_groups)
        self._muon.param_groups, self._other.param_groups = self.param_groups[:count], self.param_groups[count:]
        self._muon.state = self._other.state = self.state

    def step(self, closure: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        loss = self._muon.step(closure)
        self._other.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
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
        if rate is None or self.optimizer is not None:
            return super().create_optimizer(model)
        if self.is_deepspeed_enabled or self.is_fsdp_enabled:
            raise ValueError(
                "muon_learning_rate needs whole matrices in each process, but DeepSpeed and FSDP divide them: leave it "
                "out, or train with DDP or on one GPU"
            )
        whole: Any = model if model is not None else self.model
        parameters = {name: p for name, p in whole.named_parameters() if p.requires_grad}
        matrices = matrices_of_blocks(whole)
        if not matrices:
            raise ValueError(
                f"muon_learning_rate is set, but {type(whole).__name__} has no trained matrix in a numbered block"
            )
        decay = set(self.get_decay_parameter_names(whole))
        rest = [name for name in parameters if name not in set(matrices)]
        weight_decay = self.args.weight_decay
        muon = Muon(
            [parameters[name] for name in matrices],
            lr=rate,
            weight_decay=weight_decay,
            adjust_lr_fn="match_rms_adamw",
        )
        groups: Sequence[dict[str, Any]] = [
            {"params": [parameters[name] for name in rest if name in decay], "weight_decay": weight_decay},
            {"params": [parameters[name] for name in rest if name not in decay], "weight_decay": 0.0},
        ]
        kind, options = self.get_optimizer_cls_and_kwargs(self.args, whole)
        self.optimizer = MuonBeside(muon, kind([group for group in groups if group["params"]], **options))
        return self.optimizer
