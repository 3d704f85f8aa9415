"""The sigmoid contrast, by loops, and as a term of the models."""

import math

import pytest
import torch

from meru.losses.contrastive import sigmoid_row_contrast


def test_it_is_what_loops_give_with_several_positives():
    logits = 3 * torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    positive = torch.tensor([[1, 0, 1, 0], [0, 1, 0, 0], [1, 0, 1, 1]], dtype=torch.bool)
    expected = []
    for i in range(3):
        signs = [1 if positive[i, j] else -1 for j in range(4)]
        expected.append(sum(math.log(1 + math.exp(-signs[j] * logits[i, j].item())) for j in range(4)))
    assert sigmoid_row_contrast(logits, positive).tolist() == pytest.approx(expected, rel=1e-5)


def test_its_gradient_is_the_error_of_each_judgement():
    logits = torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    positive = torch.eye(3, dtype=torch.bool)
    sigmoid_row_contrast(logits, positive).sum().backward()
    expected = torch.tensor([[1 / (1 + math.exp(-z)) - (i == j) for j, z in enumerate(row)]
                             for i, row in enumerate(logits.tolist())])  # fmt: skip
    torch.testing.assert_close(logits.grad.float(), expected)


def test_large_logits_have_finite_gradients():
    logits = torch.tensor([[1e6, -1e6], [-1e6, 1e6]], requires_grad=True)
    loss = sigmoid_row_contrast(logits, torch.tensor([[False, True], [False, True]]))
    loss.sum().backward()
    assert loss.tolist() == [2e6, 0] and logits.grad.tolist() == [[1, -1], [0, 0]]
