"""The equations of PPO against hand-worked literals and independent definitions."""

import math
import random

import pytest
import torch

from rleif import losses

NAN = math.nan


def gae_by_definition(rewards, values, is_response, gamma, lam):
    """A_t = sum over l of (gamma lam)^l delta_{t+l}, written out over the counted positions of one row."""
    places = [t for t, counted in enumerate(is_response) if counted]
    r, v = [rewards[t] for t in places], [values[t] for t in places] + [0.0]
    deltas = [r[i] + gamma * v[i + 1] - v[i] for i in range(len(r))]
    advantages = [0.0] * len(rewards)
    for i, place in enumerate(places):
        advantages[place] = sum((gamma * lam) ** (j - i) * deltas[j] for j in range(i, len(r)))
    return advantages


def random_mask(rng, tokens):
    shape = rng.choice(["ragged", "gaps", "full", "empty"])
    length = rng.randint(1, tokens)
    return {
        "ragged": [t < length for t in range(tokens)],
        "gaps": [rng.random() < 0.6 for _ in range(tokens)],
        "full": [True] * tokens,
        "empty": [False] * tokens,
    }[shape]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_gae_equals_its_definition_on_1000_random_shapes(dtype, tolerance):
    rng = random.Random(1)
    for _ in range(1000):
        rollouts, tokens = rng.randint(1, 4), rng.randint(1, 9)
        gamma, lam = rng.choice([1.0, 0.99, 0.5]), rng.choice([1.0, 0.95, 0.3])
        rewards = [[rng.uniform(-1, 1) for _ in range(tokens)] for _ in range(rollouts)]
        values = [[rng.uniform(-1, 1) for _ in range(tokens)] for _ in range(rollouts)]
        masks = [random_mask(rng, tokens) for _ in range(rollouts)]
        expected = [gae_by_definition(*row, gamma, lam) for row in zip(rewards, values, masks, strict=True)]
        tensors = (torch.tensor(rewards, dtype=dtype), torch.tensor(values, dtype=dtype), torch.tensor(masks))
        advantages, returns = losses.gae(*tensors, gamma, lam)
        torch.testing.assert_close(advantages, torch.tensor(expected, dtype=dtype), rtol=tolerance, atol=tolerance)
        both = torch.where(tensors[2], advantages + tensors[1], 0.0)
        torch.testing.assert_close(returns, both, rtol=0, atol=0)


def test_gae_of_two_tokens_worked_by_hand():
    # delta_1 = 1 - 0.25 = 0.75; delta_0 = 0 + 0.5 * 0.25 - 0.5 = -0.375; A_0 = -0.375 + 0.5 * 0.5 * 0.75 = -0.1875
    row = (torch.tensor([[0.0, 1.0]]), torch.tensor([[0.5, 0.25]]), torch.tensor([[True, True]]))
    advantages, returns = losses.gae(*row, gamma=0.5, lam=0.5)
    assert advantages.tolist() == [[-0.1875, 0.75]]
    assert returns.tolist() == [[0.3125, 1.0]]


@pytest.fixture
def rows():
    generator = torch.Generator().manual_seed(0)
    rewards = torch.randint(-8, 8, (3, 6), generator=generator).double() / 8
    values = torch.randint(-8, 8, (3, 6), generator=generator).double() / 8
    is_response = torch.arange(6) < torch.tensor([[6], [3], [1]])
    return rewards, values, is_response


def test_gae_with_lambda_0_is_the_one_step_error(rows):
    rewards, values, is_response = rows
    following = torch.where(is_response, values, 0.0).roll(-1, dims=1)
    following[:, -1] = 0.0
    expected = torch.where(is_response, rewards + 0.5 * following - values, 0.0)
    assert torch.equal(losses.gae(*rows, gamma=0.5, lam=0.0)[0], expected)


def test_gae_with_lambda_1_is_the_return_minus_the_value(rows):
    rewards, values, is_response = rows
    to_go = torch.where(is_response, rewards, 0.0).flip(1).cumsum(1).flip(1)
    advantages, returns = losses.gae(*rows, gamma=1.0, lam=1.0)
    assert torch.equal(advantages, torch.where(is_response, to_go - values, 0.0))
    assert torch.equal(returns, torch.where(is_response, to_go, 0.0))


def test_gae_with_gamma_0_is_the_reward_minus_the_value(rows):
    rewards, values, is_response = rows
    assert torch.equal(losses.gae(*rows, gamma=0.0, lam=1.0)[0], torch.where(is_response, rewards - values, 0.0))


def test_what_stands_in_the_padding_changes_nothing(rows):
    rewards, values, is_response = rows
    dirty = (rewards.masked_fill(~is_response, NAN), values.masked_fill(~is_response, NAN), is_response)
    for clean, spoiled in zip(losses.gae(*rows, 0.9, 0.9), losses.gae(*dirty, 0.9, 0.9), strict=True):
        assert torch.equal(clean, spoiled)
    for equation in (losses.masked_mean, losses.masked_sum, losses.whiten):
        assert torch.equal(equation(rewards, is_response), equation(dirty[0], is_response))


def test_a_critic_trained_on_endless_reward_learns_one_over_one_minus_gamma():
    # Reward 1 at each of 2000 tokens, gamma 0.99: V = 100 at the start. Without discounting it would be 2000.
    shape = (1, 2000)
    tensors = (torch.ones(shape), torch.zeros(shape), torch.ones(shape, dtype=torch.bool))
    assert losses.gae(*tensors, gamma=0.99, lam=1.0)[1][0, 0].item() == pytest.approx(100.0, rel=0.01)


def test_whitening_gives_mean_0_and_variance_1_over_counted_positions():
    values = torch.randn(5, 7, generator=torch.Generator().manual_seed(0)) * 3 + 2
    mask = torch.arange(7) < torch.tensor([[7], [1], [3], [5], [2]])
    white = losses.whiten(values, mask)[mask]
    assert white.mean().item() == pytest.approx(0.0, abs=1e-6)
    assert white.var(correction=0).item() == pytest.approx(1.0, abs=1e-6)


def test_whitening_two_values_worked_by_hand():
    # mean 2, variance ((1 - 2)^2 + (3 - 2)^2) / 2 = 1
    values, mask = torch.tensor([1.0, 3.0, 9.0]), torch.tensor([True, True, False])
    torch.testing.assert_close(losses.whiten(values, mask), torch.tensor([-1.0, 1.0, 0.0]), rtol=0, atol=1e-6)
    kept_mean = losses.whiten(values * 2, mask, shift_mean=False)
    torch.testing.assert_close(kept_mean, torch.tensor([3.0, 5.0, 0.0]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6])
@pytest.mark.parametrize("count", [1, 3, 1000])
def test_whitening_equal_values_gives_0(value, count):
    white = losses.whiten(torch.full((count,), value), torch.ones(count, dtype=torch.bool))
    assert white.abs().max().item() <= 1e-5


def test_an_empty_mask_gives_0_and_not_nan():
    values, none = torch.tensor([NAN, 2.0]), torch.tensor([False, False])
    assert losses.masked_mean(values, none).item() == 0.0
    assert losses.whiten(values, none).tolist() == [0.0, 0.0]
    assert losses.explained_variance(values, values, none).item() == 0.0


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "is_clipped"),
    [
        (1.0, 2.0, -2.0, False),
        (1.5, 2.0, -2.4, True),  # a gain beyond 1.2 counts as 1.2: -2 * 1.2
        (0.5, 2.0, -1.0, False),  # a loss of a good token counts in full: -2 * 0.5
        (1.5, -2.0, 3.0, False),  # a gain of a bad token counts in full: 2 * 1.5
        (0.5, -2.0, 1.6, True),  # a loss of a bad token counts as 0.8: 2 * 0.8
    ],
)
def test_policy_loss_on_both_sides_of_the_clip(ratio, advantage, loss, is_clipped):
    old = torch.tensor([-1.0], dtype=torch.float64)
    new = (old + math.log(ratio)).requires_grad_()
    tensors = (new, old, torch.tensor([advantage], dtype=torch.float64))
    found = losses.clipped_policy_loss(*tensors, cliprange=0.2)
    assert found.item() == pytest.approx(loss, abs=1e-6)
    assert losses.is_policy_clipped(*tensors, cliprange=0.2).item() is is_clipped
    found.backward()
    # d(-A rho)/d logprob = -A rho, and nothing where the clip holds.
    assert new.grad.item() == pytest.approx(0.0 if is_clipped else -advantage * ratio, abs=1e-6)


def test_without_a_clip_the_first_policy_gradient_is_the_plain_one():
    generator = torch.Generator().manual_seed(0)
    logprobs = torch.randn(20, generator=generator, dtype=torch.float64).requires_grad_()
    advantages = torch.randn(20, generator=generator, dtype=torch.float64)
    losses.clipped_policy_loss(logprobs, logprobs.detach(), advantages, cliprange=1e9).sum().backward()
    torch.testing.assert_close(logprobs.grad, -advantages, rtol=0, atol=1e-12)


def test_a_runaway_log_ratio_does_not_overflow():
    assert losses.probability_ratio(torch.tensor([0.0]), torch.tensor([-500.0])).isfinite().all()


@pytest.mark.parametrize(
    ("value", "target", "loss"),
    [
        (1.1, 1.5, 0.08),  # within the clip of the old value 1.0: 0.5 * 0.4^2
        (1.6, 1.5, 0.045),  # clipped to 1.2, farther from 1.5 than 1.6 is: 0.5 * 0.3^2
        (1.6, 1.0, 0.18),  # clipped to 1.2, nearer to 1.0: the unclipped 0.5 * 0.6^2 is the larger
    ],
)
def test_value_loss_on_both_sides_of_the_clip(value, target, loss):
    tensors = (torch.tensor([v], dtype=torch.float64) for v in (value, 1.0, target))
    assert losses.clipped_value_loss(*tensors, cliprange_value=0.2).item() == pytest.approx(loss, abs=1e-6)


def test_value_loss_is_never_below_the_unclipped_one():
    values, old, returns = torch.randn(3, 1000, generator=torch.Generator().manual_seed(0))
    assert (losses.clipped_value_loss(values, old, returns, 0.2) >= 0.5 * (values - returns) ** 2).all()


def test_kl_estimates_worked_by_hand_and_against_the_exact_kl():
    p, q = torch.tensor([0.5, 0.25, 0.25]).double(), torch.tensor([0.25, 0.25, 0.5]).double()
    exact = 0.5 * math.log(2) + 0.25 * math.log(0.5)  # sum p log(p / q)
    logp, logq = p.log(), q.log()
    assert (p * losses.kl_k1(logp, logq)).sum().item() == pytest.approx(exact, abs=1e-12)
    assert (p * losses.kl_k3(logp, logq)).sum().item() == pytest.approx(exact, abs=1e-12)
    assert losses.kl_k2(logp, logq).tolist() == pytest.approx([0.5 * math.log(2) ** 2, 0.0, 0.5 * math.log(2) ** 2])
    assert (losses.kl_k3(logp, logq) >= 0).all()


def test_explained_variance_is_1_for_a_perfect_critic_and_0_for_a_constant_one():
    returns, mask = torch.tensor([1.0, 2.0, 4.0, NAN]), torch.tensor([True, True, True, False])
    assert losses.explained_variance(returns, returns, mask).item() == pytest.approx(1.0)
    assert losses.explained_variance(torch.full((4,), 7.0), returns, mask).item() == pytest.approx(0.0, abs=1e-6)
    assert losses.explained_variance(-returns, returns, mask).item() == pytest.approx(-3.0)
    assert losses.explained_variance(returns, torch.ones(4), mask).item() == 0.0


def test_the_whole_loss_passes_a_gradient_check():
    generator = torch.Generator().manual_seed(0)
    old, advantages, old_values, returns = torch.randn(4, 3, 5, generator=generator, dtype=torch.float64)
    mask = torch.arange(5) < torch.tensor([[5], [2], [1]])

    def loss(logprobs, values):
        policy = losses.clipped_policy_loss(logprobs, old, advantages, 0.2)
        value = losses.clipped_value_loss(values, old_values, returns, 0.2)
        return losses.masked_mean(policy + 0.1 * value, mask)

    near = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64) * 0.3
    inputs = ((old + near[0]).requires_grad_(), (old_values + near[1]).requires_grad_())
    assert torch.autograd.gradcheck(loss, inputs, eps=1e-6, atol=1e-6)


def test_wrong_shapes_are_refused_instead_of_broadcast():
    with pytest.raises(Exception, match="shape"):
        losses.kl_k1(torch.zeros(3, 4), torch.zeros(4))
