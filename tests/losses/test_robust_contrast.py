"""The contrast that wrong positives weigh little in: by loops in float64, its limits, and its gradient."""

import math

import pytest
import torch
from torch.nn import functional as F

from meru.losses.contrastive import contrastive_loss, contrastive_targets, row_contrast
from meru.losses.semantic_margin import semantic_margin_loss


@pytest.fixture
def logits():
    return 5 * torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def targets():
    return contrastive_targets(torch.tensor([0, 1, 0, 2]), torch.tensor([0, 1, 0, 2, 1, 3]))


def looped(logits, targets, exponent):
    losses = []
    for row, wanted in zip(logits.double().tolist(), targets.tolist(), strict=True):
        total = sum(map(math.exp, row))
        shares = [math.exp(z) / total for z in row]
        losses.append(sum(y * (1 - p**exponent) / exponent for y, p in zip(wanted, shares, strict=True)))
    return losses


@pytest.mark.parametrize("exponent", [0.05, 0.4, 0.95])
def test_it_is_what_loops_give_with_several_positives(logits, targets, exponent):
    found = row_contrast(logits, targets, exponent)
    assert found.dtype == torch.float32
    assert found.tolist() == pytest.approx(looped(logits, targets, exponent), rel=2e-5)
    assert (found >= 0).all() and (found <= 1 / exponent).all()


def test_with_exponent_0_it_is_the_cross_entropy_to_the_bit(logits, targets):
    expected = F.cross_entropy(logits, targets, reduction="none")
    assert torch.equal(row_contrast(logits, targets, 0.0), expected)
    columns = logits.flip(0)
    both = 0.5 * (expected.mean() + F.cross_entropy(columns, targets, reduction="none").mean())
    assert torch.equal(contrastive_loss(logits, columns, targets), both)
    margins = torch.zeros_like(logits)
    assert torch.equal(semantic_margin_loss(logits, margins, targets, 1.0, 0.0), expected)


def test_its_limits_are_the_cross_entropy_and_the_error(logits, targets):
    exact = logits.double()
    entropy = -(targets.double() * exact.log_softmax(1)).sum(1)
    torch.testing.assert_close(row_contrast(exact, targets, 1e-7), entropy, rtol=1e-5, atol=1e-6)
    error = 1 - (targets.double() * exact.softmax(1)).sum(1)
    torch.testing.assert_close(row_contrast(exact, targets, 1 - 1e-9), error, rtol=1e-6, atol=1e-7)


def test_its_gradient_is_that_of_the_cross_entropy_times_a_power_of_the_probability(logits):
    exact = logits.double().requires_grad_()
    labels = torch.tensor([2, 0, 5, 1])
    targets = F.one_hot(labels, 6).double()
    row_contrast(exact, targets, 0.3).sum().backward()
    share = exact.detach().softmax(1)
    expected = (share - targets) * share.gather(1, labels[:, None]) ** 0.3
    torch.testing.assert_close(exact.grad, expected)
    assert torch.autograd.gradcheck(lambda z: row_contrast(z, targets, 0.3), exact)


def test_a_pair_that_the_model_finds_impossible_has_no_weight_and_finite_gradients():
    logits = torch.tensor([[1e4, -1e4, 0.0], [0.0, 1.0, 1e30]], requires_grad=True)
    losses = row_contrast(logits, torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]), 0.5)
    losses.sum().backward()
    assert losses.tolist() == [2.0, 2.0] and logits.grad.abs().max() == 0


def test_a_wrong_positive_takes_no_weight_from_a_right_one():
    logits = torch.tensor([[3.0, -9.0, 0.0]], dtype=torch.float64, requires_grad=True)
    (alone,) = torch.autograd.grad(row_contrast(logits, torch.tensor([[0.5, 0.0, 0.0]]), 0.5).sum(), logits)
    (both,) = torch.autograd.grad(row_contrast(logits, torch.tensor([[0.5, 0.5, 0.0]]), 0.5).sum(), logits)
    torch.testing.assert_close(both, alone, rtol=0.05, atol=2e-3)


def test_margins_and_soft_targets_are_taken_too(logits, targets):
    margins = torch.rand(4, 6, generator=torch.Generator().manual_seed(1))
    found = semantic_margin_loss(logits, margins, targets, 2.0, 0.1, 0.4)
    assert found.tolist() == pytest.approx(looped(2 * (logits + 0.1 * margins), targets, 0.4), rel=1e-4)
