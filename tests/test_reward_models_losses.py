"""The losses of `reward_models` against hand-worked values and against the explicit loops they stand for."""

import pytest
import torch
import torch.nn.functional as F

from reward_models.losses import centering_loss, list_ranking_loss, step_loss


def test_ranking_loss_of_a_pair_is_the_papers_equation() -> None:
    scores, ranks = torch.tensor([[2.0, 0.5]]), torch.tensor([[0, 1]])
    # -log sigmoid(2.0 - 0.5 - 0.3) = softplus(-1.2) = log(1 + e^-1.2) = log(1.3011942) = 0.2632824
    loss = list_ranking_loss(scores, ranks, torch.ones(1, 2, dtype=torch.bool), margin=0.3)
    assert loss.tolist() == pytest.approx([0.2632824], abs=1e-6)


def test_a_margin_asks_for_a_larger_gap() -> None:
    scores, ranks, is_item = torch.tensor([[1.0, 1.0]]), torch.tensor([[0, 1]]), torch.ones(1, 2, dtype=torch.bool)
    # Equal scores: softplus(m). m = 0: log 2 = 0.6931472. m = 1: log(1 + e) = 1.3132617.
    assert list_ranking_loss(scores, ranks, is_item, margin=0.0).item() == pytest.approx(0.6931472, abs=1e-6)
    assert list_ranking_loss(scores, ranks, is_item, margin=1.0).item() == pytest.approx(1.3132617, abs=1e-6)


def test_ties_and_padding_are_left_out_of_the_ranking_loss() -> None:
    scores = torch.tensor([[1.0, 0.0, -1.0, 9.0], [3.0, 3.0, 0.0, 0.0]], dtype=torch.float64)
    ranks = torch.tensor([[0, 1, 1, -100], [0, 0, -100, -100]])
    # List 1: pairs (1, 0) and (1, -1); the tie and the padded 9.0 do not count.
    # softplus(-1) = log(1 + e^-1) = 0.3132617, softplus(-2) = log(1 + e^-2) = 0.1269280; mean 0.2200948.
    # List 2 has only a tie: 0.
    losses = list_ranking_loss(scores, ranks, ranks >= 0, margin=0.0)
    assert losses.tolist() == pytest.approx([0.2200948, 0.0], abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_the_list_loss_and_its_gradient_are_those_of_all_explicit_pairs(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(4, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    ranks = torch.randint(0, 4, (4, 6), generator=generator)
    ranks[1, 4:] = -100
    ranks[2, 2:] = -100
    expected = []
    for row, places in zip(scores, ranks.tolist(), strict=True):
        pairs = [
            -F.logsigmoid(row[i] - row[j] - 0.25)
            for i, better in enumerate(places)
            for j, worse in enumerate(places)
            if 0 <= better < worse
        ]
        expected.append(torch.stack(pairs).mean() if pairs else row.sum() * 0)
    losses = list_ranking_loss(scores, ranks, ranks >= 0, margin=0.25)
    torch.testing.assert_close(losses, torch.stack(expected), rtol=0, atol=1e-12)
    (actual,) = torch.autograd.grad(losses.sum(), scores, retain_graph=True)
    (wanted,) = torch.autograd.grad(torch.stack(expected).sum(), scores)
    torch.testing.assert_close(actual, wanted, rtol=0, atol=1e-12)


def test_centering_is_the_squared_mean_of_the_real_items() -> None:
    scores, is_item = (
        torch.tensor([[1.0, 2.0, 99.0], [-1.0, 1.0, 0.0]]),
        torch.tensor([[True, True, False], [True] * 3]),
    )
    # ((1 + 2) / 2)^2 = 2.25; ((-1 + 1 + 0) / 3)^2 = 0.
    assert centering_loss(scores, is_item).tolist() == pytest.approx([2.25, 0.0], abs=1e-6)


def test_step_loss_is_binary_cross_entropy_with_its_minus_sign() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5, 7.0]])
    targets = torch.tensor([[1.0, 1.0, 0.25, -100.0]])
    # -log sigmoid(2) = log(1 + e^-2) = 0.1269280; -log sigmoid(-1) = log(1 + e) = 1.3132617;
    # soft 1/4 at p = sigmoid(0.5) = 0.6224593: -(0.25 log 0.6224593 + 0.75 log 0.3775407)
    #   = 0.25 * 0.4740770 + 0.75 * 0.9740770 = 0.8490770; the unsupervised step is 0.
    losses = step_loss(logits, targets, targets >= 0)
    assert losses.tolist()[0] == pytest.approx([0.1269280, 1.3132617, 0.8490770, 0.0], abs=1e-6)


def test_an_unsupervised_step_has_no_gradient() -> None:
    logits = torch.tensor([[0.3, 50.0]], requires_grad=True)
    targets = torch.tensor([[1.0, -100.0]])
    step_loss(logits, targets, targets >= 0).sum().backward()
    # d/dx -log sigmoid(x) = sigmoid(x) - 1 = 0.5744425 - 1
    assert logits.grad is not None
    assert logits.grad.tolist()[0] == pytest.approx([-0.4255575, 0.0], abs=1e-6)
