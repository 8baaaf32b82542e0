"""Drawing a token from logits with a given uniform number: no generator state, so no order of calls to depend on."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from rleif.records import stable_hash


def uniform_stream(key: int, sample: int, length: int) -> np.ndarray:
    """`length` uniforms in [0, 1) that depend on (key, sample) alone; a longer stream begins with a shorter one."""
    return np.random.Generator(np.random.Philox(key=stable_hash("sample", key, sample))).random(length)


def inverse_cdf(probs: Float[Tensor, "rows vocabulary"], uniforms: Float[Tensor, " rows"]) -> Int[Tensor, " rows"]:
    """The first token whose cumulative probability exceeds u: exact sampling, one uniform a token.

    Never returns a token of probability 0, whatever the rounding of the sum.
    """
    cumulative = probs.cumsum(dim=-1)
    total = cumulative[:, -1]
    below_total = torch.nextafter(total, torch.zeros_like(total))
    threshold = torch.minimum(uniforms * total, below_total)
    return torch.searchsorted(cumulative, threshold[:, None], right=True).squeeze(-1)


def keep_nucleus(probs: Float[Tensor, "rows vocabulary"], top_p: float) -> Float[Tensor, "rows vocabulary"]:
    """Zero outside the smallest set of most likely tokens whose probability reaches top_p; not renormalised."""
    ordered, index = probs.sort(dim=-1, descending=True)
    # A token stays if what stands before it is still short of top_p: the first one always does.
    before = ordered.cumsum(dim=-1) - ordered
    kept = torch.where(before < top_p, ordered, 0.0)
    return torch.zeros_like(probs).scatter(-1, index, kept)


def choose(
    logits: Float[Tensor, "rows vocabulary"], uniforms: Float[Tensor, " rows"], temperature: float, top_p: float
) -> tuple[Int[Tensor, " rows"], Float[Tensor, " rows"]]:
    """The next tokens and their log-probabilities.

    temperature 0 takes the most likely token, with its log-probability at temperature 1. top_p cuts what can be drawn;
    the log-probability stays that of the whole distribution, which is the one the trainer computes.
    """
    logits = logits.float()
    scaled = logits / temperature if temperature > 0.0 else logits
    normalizer = scaled.logsumexp(dim=-1)
    if temperature > 0.0:
        probs = (scaled - normalizer[:, None]).exp()
        tokens = inverse_cdf(keep_nucleus(probs, top_p) if top_p < 1.0 else probs, uniforms)
    else:
        tokens = scaled.argmax(dim=-1)
    return tokens, scaled.gather(-1, tokens[:, None]).squeeze(-1) - normalizer
