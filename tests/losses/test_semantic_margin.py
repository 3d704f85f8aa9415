"""Semantic margins and the terms beside them: loops over the printed formulas, and what they reduce to."""

import math

import pytest
import torch

from meru.geometry import lorentz
from meru.losses.contrastive import contrastive_targets, row_contrast
from meru.losses.semantic_margin import (
    cyclic_loss,
    reverse_contrastive_loss,
    semantic_margin_loss,
    semantic_margins,
    soft_targets,
)

SCALE = 7.0


@pytest.fixture
def points():
    generator = torch.Generator().manual_seed(0)
    return [lorentz.exp_map0(torch.randn(5, 8, generator=generator)) for _ in range(2)]


@pytest.fixture
def targets():
    labels = torch.tensor([0, 1, 0, 2, 1])
    return contrastive_targets(labels, labels)


def distance(x, y):
    x, y = x.double(), y.double()
    return math.acosh(max(1.0, float(((1 + x @ x) * (1 + y @ y)).sqrt() - x @ y)))


def looped_semantic_margin(images, texts, targets, margin, share):
    """Image → text with margins between images, as printed, with soft targets; float64."""
    losses = []
    for i in range(len(images)):
        plain = [-SCALE * distance(images[i], text) for text in texts]
        total = sum(map(math.exp, plain))
        wanted = [
            share * math.exp(z) / total + (1 - share) * float(y) for z, y in zip(plain, targets[i], strict=True)
        ]
        logits = [
            z + SCALE * margin * (distance(images[i], images[j]) if j != i else 0.0) for j, z in enumerate(plain)
        ]
        normaliser = math.log(sum(map(math.exp, logits)))
        losses.append(-sum(t * (z - normaliser) for t, z in zip(wanted, logits, strict=True)))
    return losses


def ours(images, texts, targets, margin, share, source="intra"):
    scores = -lorentz.pairwise_distance(images, texts)
    within = -lorentz.pairwise_distance(images, images)
    margins = semantic_margins(within if source == "intra" else scores)
    return semantic_margin_loss(scores, margins, soft_targets(SCALE * scores, targets, share), SCALE, margin)


@pytest.mark.parametrize(("margin", "share"), [(0.2, 0.4), (0.0, 0.0), (0.5, 1.0)])
def test_semantic_margin_equals_the_loops(points, targets, margin, share):
    expected = looped_semantic_margin(*points, targets, margin, share)
    assert ours(*points, targets, margin, share).tolist() == pytest.approx(expected, rel=1e-4)


def test_margins_within_a_modality_are_the_distances_and_exactly_0_on_the_diagonal(points):
    images, _ = points
    margins = semantic_margins(-lorentz.pairwise_distance(images, images))
    torch.testing.assert_close(margins, lorentz.pairwise_distance(images, images))
    assert margins.diagonal().tolist() == [0.0] * 5
    # as the second of two processes would have it: its rows 3 and 4 against the columns of both
    part = semantic_margins(-lorentz.pairwise_distance(images[3:], images), first=3)
    torch.testing.assert_close(part, margins[3:])
    assert part[0, 3] == part[1, 4] == 0


def test_margins_across_modalities_are_only_another_temperature(points, targets):
    """What the released code computes: the probabilities are those of the scale s (1 − λ)."""
    scores = -lorentz.pairwise_distance(*points)
    cooler = row_contrast(SCALE * (1 - 0.2) * scores, soft_targets(SCALE * scores, targets, 0.4))
    torch.testing.assert_close(ours(*points, targets, 0.2, 0.4, source="cross"), cooler)
    assert not torch.allclose(ours(*points, targets, 0.2, 0.4), cooler, rtol=1e-2)


@pytest.mark.parametrize("source", ["intra", "cross"])
def test_without_margin_it_is_contrast_with_soft_targets(points, targets, source):
    scores = SCALE * -lorentz.pairwise_distance(*points)
    expected = row_contrast(scores, soft_targets(scores, targets, 0.4))
    torch.testing.assert_close(ours(*points, targets, 0.0, 0.4, source), expected)


def test_gradients_are_finite_where_points_coincide_and_do_not_flow_into_margins_or_targets(targets):
    tangent = torch.zeros(5, 8, requires_grad=True)  # all points the origin
    loss = ours(lorentz.exp_map0(tangent), lorentz.exp_map0(tangent), targets, 0.2, 0.4).sum()
    loss.backward()
    assert tangent.grad.isfinite().all()
    scores = torch.randn(5, 5, requires_grad=True)
    assert not semantic_margins(scores).requires_grad
    assert not soft_targets(scores, targets, 0.5).requires_grad


def test_reversed_contrast_equals_the_loops(targets):
    logits = 3 * torch.randn(5, 5, generator=torch.Generator().manual_seed(1))
    expected = []
    for row, wanted in zip(logits.tolist(), targets.tolist(), strict=True):
        total = sum(map(math.exp, row))
        belief = [math.exp(z) / total for z in row]
        expected.append(sum(p * (math.log(p) - math.log(y + 0.01)) for p, y in zip(belief, wanted, strict=True)))
    assert reverse_contrastive_loss(logits, targets, 0.01).tolist() == pytest.approx(expected, rel=1e-4)
    confident = reverse_contrastive_loss(1000 * targets, targets, 0.01)  # p = Y
    assert confident.tolist() == pytest.approx([-math.log1p(0.01 / y) for y in targets.amax(dim=1).tolist()], rel=1e-3)


def test_cyclic_loss_is_the_mean_square_of_the_differences():
    first, second = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, 0.0], [3.0, 5.0]])
    assert cyclic_loss(first, second).item() == pytest.approx(5 / 4)
    assert cyclic_loss(first, first).item() == 0


def test_everything_is_float32_under_autocast(points, targets):
    expected = ours(*points, targets, 0.2, 0.4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = ours(*points, targets, 0.2, 0.4)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)
