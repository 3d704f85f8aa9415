"""SimGCD's losses against loops over the printed formulas."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from meru.losses.simgcd import (
    generalized_cross_entropy,
    mean_entropy,
    self_distillation_loss,
    supervised_contrastive_loss,
    teacher_temperature,
    view_contrastive_loss,
)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_supervised_contrast_equals_the_loops_and_leaves_out_the_lonely():
    features, labels = random(7, 5), torch.tensor([0, 1, 0, 2, 1, 0, 3])
    unit = F.normalize(features.double(), dim=1)
    losses = []
    for i in range(7):
        others = [j for j in range(7) if j != i]
        total = sum(math.exp(unit[i] @ unit[j] / 0.07) for j in others)
        right = [j for j in others if labels[j] == labels[i]]
        if right:
            losses.append(-sum(math.log(math.exp(unit[i] @ unit[j] / 0.07) / total) for j in right) / len(right))
    assert supervised_contrastive_loss(features, labels).item() == pytest.approx(sum(losses) / len(losses), rel=1e-4)
    assert supervised_contrastive_loss(features[:1], labels[:1]).item() == 0
    empty = features[:0].requires_grad_()
    assert supervised_contrastive_loss(empty, labels[:0]).item() == 0


def test_two_views_equal_the_loops():
    first, second = random(4, 5), random(4, 5, seed=1)
    unit = F.normalize(torch.cat([first, second]).double(), dim=1)
    losses = []
    for i in range(8):
        total = sum(math.exp(unit[i] @ unit[j] / 0.5) for j in range(8) if j != i)
        losses.append(-math.log(math.exp(unit[i] @ unit[(i + 4) % 8] / 0.5) / total))
    assert view_contrastive_loss(first, second, 0.5).item() == pytest.approx(sum(losses) / 8, rel=1e-4)


def test_self_distillation_is_the_cross_entropy_of_both_ways_and_teachers_have_no_gradient():
    first, second = random(3, 4).requires_grad_(), random(3, 4, seed=1).requires_grad_()
    expected = 0.0
    for student, teacher in ((first, second), (second, first)):
        q, p = (teacher.detach() / 0.04).softmax(1), (student.detach() / 0.1).softmax(1)
        expected += -(q * p.log()).sum(1).mean().item() / 2
    loss = self_distillation_loss(first, second, 0.1, 0.04)
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    loss.backward()
    student = first.detach().clone().requires_grad_()
    only_student = F.cross_entropy(student / 0.1, (second.detach() / 0.04).softmax(1)) / 2
    only_student.backward()
    torch.testing.assert_close(first.grad, student.grad)


def test_mean_entropy_and_its_gradient_are_finite_where_a_class_is_never_chosen():
    logits = random(5, 4)
    mean = (logits / 0.1).softmax(1).mean(0)
    assert mean_entropy(logits, 0.1).item() == pytest.approx(-(mean * mean.log()).sum().item(), rel=1e-4)
    extreme = torch.tensor([[100.0, 0.0], [100.0, 0.0]], requires_grad=True)
    entropy = mean_entropy(extreme, 0.1)
    entropy.backward()
    assert entropy.item() == pytest.approx(0, abs=1e-6) and extreme.grad.isfinite().all()
    assert mean_entropy(torch.zeros(3, 8), 0.1).item() == pytest.approx(math.log(8))


def test_teacher_temperature_goes_by_the_index_of_the_epoch():
    """`numpy.linspace(0.07, 0.04, 30)` by index, then 0.04: the last step of an epoch has what the first has."""
    expected = [*np.linspace(0.07, 0.04, 30), 0.04, 0.04]
    for share in (0.0, 0.5, 0.99):
        found = [teacher_temperature(epoch + share, start=0.07, end=0.04, epochs=30) for epoch in range(32)]
        assert found == pytest.approx(expected)
        of_tensor = teacher_temperature(torch.arange(32.0) + share, start=0.07, end=0.04, epochs=30)
        assert of_tensor.tolist() == pytest.approx(expected)
    assert [teacher_temperature(e, start=0.07, end=0.04, epochs=1) for e in (0, 0.9, 1)] == [0.07, 0.07, 0.04]
    assert teacher_temperature(0.0, start=0.07, end=0.04, epochs=0) == 0.04


def test_float32_under_autocast():
    features, classes = random(12, 6), torch.arange(12) % 3
    expected = supervised_contrastive_loss(features, classes)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = supervised_contrastive_loss(features, classes)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("q", [1e-6, 0.1, 0.7, 1.0])
def test_generalised_cross_entropy_equals_the_formula_in_float64(q):
    logits, labels = random(6, 5) * 20, torch.tensor([0, 4, 2, 1, 0, 3])
    right = logits.double().softmax(dim=1)[torch.arange(6), labels]
    expected = ((1 - right**q) / q).mean().item()
    assert generalized_cross_entropy(logits, labels, q).item() == pytest.approx(expected, rel=1e-4)


def test_limits_of_generalised_cross_entropy():
    logits, labels = random(6, 5).requires_grad_(), torch.tensor([0, 4, 2, 1, 0, 3])
    plain = F.cross_entropy(logits, labels)
    assert torch.equal(generalized_cross_entropy(logits, labels, 0.0), plain)
    assert generalized_cross_entropy(logits, labels, 1e-5).item() == pytest.approx(plain.item(), rel=1e-4)
    hopeless = torch.tensor([[200.0, -200.0]], requires_grad=True)  # p underflows: at most 1/q, and no NaN
    loss = generalized_cross_entropy(hopeless, torch.tensor([1]), 0.5)
    loss.backward()
    assert loss.item() == pytest.approx(2.0) and hopeless.grad.isfinite().all()


def test_the_gradient_of_a_label_is_weighed_by_its_probability_to_the_power_of_q():
    logits, labels = random(1, 4), torch.tensor([2])
    gradients = []
    for q in (0.0, 0.7):
        leaf = logits.clone().requires_grad_()
        generalized_cross_entropy(leaf, labels, q).backward()
        gradients.append(leaf.grad)
    power = logits.softmax(dim=1)[0, 2] ** 0.7
    assert torch.allclose(gradients[1], power * gradients[0], rtol=1e-4)
