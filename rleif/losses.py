"""The equations of PPO: one pure function each, tensors in and tensors out.

A mask is True where a position counts. Sums and means run over counted positions alone; what stands elsewhere never
reaches a result, not even as NaN.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def masked_sum(values: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """sum of values where mask. An empty mask gives 0."""
    # `where`, not multiplication: 0 * NaN is NaN, and padding may hold anything.
    return torch.where(mask, values, 0.0).sum()


def masked_mean(values: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """masked_sum / number of True in mask. An empty mask gives 0, not NaN."""
    return masked_sum(values, mask) / mask.sum().clamp(min=1)


def gae(
    rewards: Float[Tensor, "rollouts tokens"],
    values: Float[Tensor, "rollouts tokens"],
    is_response: Bool[Tensor, "rollouts tokens"],
    gamma: float,
    lam: float,
) -> tuple[Float[Tensor, "rollouts tokens"], Float[Tensor, "rollouts tokens"]]:
    """Generalised advantage estimates and the returns the critic is fitted to.

    delta_t = r_t + gamma V_{t+1} - V_t,  A_t = delta_t + gamma lam A_{t+1},  R_t = A_t + V_t,
    where t + 1 is the next counted position and V after the last one is 0 (the episode ends there, at EOS or at the
    length limit). Positions that do not count are skipped over, and both results are 0 there.

    *Source:* Schulman et al. 2016, High-Dimensional Continuous Control Using Generalized Advantage Estimation, eq. 16.
    """
    next_value = torch.zeros_like(values[:, 0])
    next_advantage = torch.zeros_like(next_value)
    advantages = torch.zeros_like(values)
    for t in range(values.shape[1] - 1, -1, -1):
        counted = is_response[:, t]
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        next_advantage = torch.where(counted, delta + gamma * lam * next_advantage, next_advantage)
        next_value = torch.where(counted, values[:, t], next_value)
        advantages[:, t] = torch.where(counted, next_advantage, 0.0)
    returns = torch.where(is_response, advantages + values, 0.0)
    return advantages, returns


def whiten(
    values: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"], shift_mean: bool = True
) -> Float[Tensor, "*shape"]:
    """(x - mean) / sqrt(var + 1e-8) over counted positions, 0 elsewhere; the variance divides by the count.

    Equal values give 0, and so does a single value. With `shift_mean` False the mean is put back, so that only the
    scale changes.
    """
    # Double precision: with equal values the rounding of the mean would otherwise be blown up by 1 / sqrt(1e-8).
    exact = values.double()
    mean = masked_mean(exact, mask)
    var = masked_mean((exact - mean) ** 2, mask)
    white = (exact - mean) * torch.rsqrt(var + 1e-8)
    if not shift_mean:
        white = white + mean
    return torch.where(mask, white, 0.0).to(values.dtype)


def clipped_policy_loss(
    logprobs: Float[Tensor, "*shape"],
    old_logprobs: Float[Tensor, "*shape"],
    advantages: Float[Tensor, "*shape"],
    cliprange: float,
) -> Float[Tensor, "*shape"]:
    """max(-rho A, -clip(rho, 1 - eps, 1 + eps) A) per token, with rho = exp(logprob - old_logprob).

    *Source:* Schulman et al. 2017, Proximal Policy Optimization Algorithms, eq. 7 (with the sign of a loss).
    """
    ratio = probability_ratio(logprobs, old_logprobs)
    clipped = ratio.clamp(1.0 - cliprange, 1.0 + cliprange)
    return torch.maximum(-advantages * ratio, -advantages * clipped)


def probability_ratio(
    logprobs: Float[Tensor, "*shape"], old_logprobs: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """exp(logprob - old_logprob), the exponent kept within +-20 so that a stray token cannot overflow."""
    return (logprobs - old_logprobs).clamp(-20.0, 20.0).exp()


def is_policy_clipped(
    logprobs: Float[Tensor, "*shape"],
    old_logprobs: Float[Tensor, "*shape"],
    advantages: Float[Tensor, "*shape"],
    cliprange: float,
) -> Bool[Tensor, "*shape"]:
    """True where the clipped branch is the strictly larger loss, that is where the token has no gradient."""
    ratio = probability_ratio(logprobs, old_logprobs)
    clipped = ratio.clamp(1.0 - cliprange, 1.0 + cliprange)
    return -advantages * clipped > -advantages * ratio


def clipped_value_loss(
    values: Float[Tensor, "*shape"],
    old_values: Float[Tensor, "*shape"],
    returns: Float[Tensor, "*shape"],
    cliprange_value: float,
) -> Float[Tensor, "*shape"]:
    """0.5 max((V - R)^2, (V_clip - R)^2) per token, V_clip = V_old + clip(V - V_old, -eps, eps).

    *Source:* the PPO2 code of OpenAI baselines; Huang et al. 2024, The N+ Implementation Details of RLHF with PPO,
    detail on value clipping. Never below the unclipped loss.
    """
    clipped = old_values + (values - old_values).clamp(-cliprange_value, cliprange_value)
    return 0.5 * torch.maximum((values - returns) ** 2, (clipped - returns) ** 2)


def kl_k1(logprobs: Float[Tensor, "*shape"], ref_logprobs: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """log p - log q per token, for tokens drawn from p: unbiased, can be negative. This one goes into the reward.

    *Source:* Schulman 2020, Approximating KL Divergence (a note), k1.
    """
    return logprobs - ref_logprobs


def kl_k2(logprobs: Float[Tensor, "*shape"], ref_logprobs: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """(log p - log q)^2 / 2 per token: biased, never negative. *Source:* as kl_k1, k2."""
    return 0.5 * (logprobs - ref_logprobs) ** 2


def kl_k3(logprobs: Float[Tensor, "*shape"], ref_logprobs: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """q / p - 1 - log(q / p) per token: unbiased, never negative. *Source:* as kl_k1, k3."""
    log_ratio = ref_logprobs - logprobs
    return torch.expm1(log_ratio) - log_ratio


def explained_variance(
    values: Float[Tensor, "*shape"], returns: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]
) -> Float[Tensor, ""]:
    """1 - Var(returns - values) / Var(returns) over counted positions; at most 1, and 0 where returns do not vary.

    0 is a critic as good as a constant, negative one that is worse.
    """
    total = _variance(returns, mask)
    left = _variance(returns - values, mask)
    return torch.where(total > 0, 1.0 - left / total.clamp(min=torch.finfo(total.dtype).tiny), 0.0)


def _variance(values: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, ""]:
    return masked_mean((values - masked_mean(values, mask)) ** 2, mask)
