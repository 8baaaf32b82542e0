"""The training objectives of both reward models, as pure functions of scores and labels."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

TOKENS_AT_A_TIME = 2048


def list_ranking_loss(
    scores: Float[Tensor, "lists items"],
    ranks: Int[Tensor, "lists items"],
    is_item: Bool[Tensor, "lists items"],
    margin: float,
) -> Float[Tensor, " lists"]:
    """One loss per ranked list: the mean of -log sigmoid(s_better - s_worse - margin) over its untied pairs.

    scores: unbounded. ranks: smaller is better, equal is a tie. is_item: True where the place holds an instruction.
    Tied pairs are left out; a list without any untied pair has loss 0.

    *Source:* WizardMath v3, section 3.2, eq. 1. *Differs:* the paper states the loss of one pair; taking all untied
    pairs of a list, averaged within the list so that a long list weighs no more than a short one, is ours.
    """
    gap = scores.unsqueeze(2) - scores.unsqueeze(1)
    is_both = is_item.unsqueeze(2) & is_item.unsqueeze(1)
    is_pair = is_both & (ranks.unsqueeze(2) < ranks.unsqueeze(1))
    losses = F.softplus(margin - gap).masked_fill(~is_pair, 0.0)
    return losses.sum((1, 2)) / is_pair.sum((1, 2)).clamp(min=1)


def centering_loss(
    scores: Float[Tensor, "lists items"], is_item: Bool[Tensor, "lists items"]
) -> Float[Tensor, " lists"]:
    """One loss per list: the square of its mean score over the items.

    A ranking leaves the common level of all scores free; without this term it drifts, and the sigmoid saturates.
    *Source:* Helping or Herding (arXiv 2312.09244), eq. 2, for pairs. *Differs:* the mean of the list, not the sum of
    a pair.
    """
    mean = scores.masked_fill(~is_item, 0.0).sum(1) / is_item.sum(1).clamp(min=1)
    return mean.square()


def step_loss(
    logits: Float[Tensor, "rows steps"],
    targets: Float[Tensor, "rows steps"],
    is_supervised: Bool[Tensor, "rows steps"],
) -> Float[Tensor, "rows steps"]:
    """Binary cross-entropy of every supervised step, 0 elsewhere: -(y log p + (1 - y) log(1 - p)), p = sigmoid(logit).

    targets: in [0, 1] where supervised, soft values welcome.
    *Source:* WizardMath v3, section 3.2, eq. 2. *Differs:* the minus sign, which is missing in print.
    """
    targets = targets.masked_fill(~is_supervised, 0.0).to(logits.dtype)
    losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return torch.where(is_supervised, losses, torch.zeros_like(losses))


def next_token_loss(
    states: Float[Tensor, "tokens hidden"],
    head: Float[Tensor, "vocabulary hidden"],
    targets: Int[Tensor, " tokens"],
    weights: Float[Tensor, " tokens"],
) -> Float[Tensor, ""]:
    """The weighted sum of -log p(target | what stands before it), p = softmax(head @ state).

    The logits of at most TOKENS_AT_A_TIME tokens exist at once; the backward pass computes them again.
    *Source:* the SFT regularisation of GRM (arXiv 2406.10216, section 3.2), there for chosen answers. *Differs:* of a
    solution, only the steps before the first wrong one.
    """
    total = states.new_zeros((), dtype=torch.promote_types(states.dtype, torch.float32))
    for start in range(0, len(targets), TOKENS_AT_A_TIME):
        part = slice(start, start + TOKENS_AT_A_TIME)
        losses = checkpoint(_next_token_losses, states[part], head, targets[part], use_reentrant=False)
        total = total + (losses * weights[part]).sum()  # pyright: ignore[reportOptionalOperand, reportOperatorIssue]
    return total


def _next_token_losses(states: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    logits = F.linear(states, head.to(states.dtype))
    return F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), targets, reduction="none")
