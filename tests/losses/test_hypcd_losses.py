"""HypCD's contrastive losses by distance against loops over the formulas, and the growth of their share."""

import math

import pytest
import torch

from meru.geometry import poincare
from meru.losses.hypcd import distance_share, supervised_distance_loss, view_distance_loss
from meru.losses.simgcd import supervised_contrastive_loss, view_contrastive_loss


def points(rows, curvature=0.1, norm=1.0, seed=0):
    features = torch.randn(rows, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return poincare.lift_features(norm * features, curvature)


def distance(x, y, curvature):
    """2/√c artanh(√c ‖(−x) ⊕ y‖), the printed form."""
    return 2 / curvature**0.5 * math.atanh(curvature**0.5 * poincare.mobius_add(-x, y, curvature).norm().item())


@pytest.mark.parametrize("curvature", [0.05, 1.0])
def test_supervised_loss_equals_the_loops_and_leaves_out_the_lonely(curvature):
    x, labels, losses = points(7, curvature), [0, 1, 0, 2, 1, 0, 3], []
    for i in range(7):
        others = [j for j in range(7) if j != i]
        scores = {j: -distance(x[i], x[j], curvature) / 0.07 for j in others}
        total = math.log(sum(math.exp(score) for score in scores.values()))
        right = [j for j in others if labels[j] == labels[i]]
        if right:
            losses.append(-sum(scores[j] - total for j in right) / len(right))
    found = supervised_distance_loss(x, torch.tensor(labels), curvature)
    assert found.item() == pytest.approx(sum(losses) / len(losses), rel=1e-6)
    assert supervised_distance_loss(x[:0], torch.zeros(0), curvature).item() == 0


def test_loss_of_two_views_equals_the_loops():
    first, second, losses = points(4), points(4, seed=1), []
    x = torch.cat([first, second])
    for i in range(8):
        total = sum(math.exp(-distance(x[i], x[j], 0.1) / 0.5) for j in range(8) if j != i)
        losses.append(distance(x[i], x[(i + 4) % 8], 0.1) / 0.5 + math.log(total))
    assert view_distance_loss(first, second, 0.1, 0.5).item() == pytest.approx(sum(losses) / 8, rel=1e-6)


@pytest.mark.parametrize("norm", [0.0, 1e-6, 2.3, 50.0])
def test_gradients_are_finite_where_views_coincide_and_at_the_clip(norm):
    features = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    features = torch.cat([features / features.norm(dim=1, keepdim=True) * norm] * 2).requires_grad_()
    lifted = poincare.lift_features(features, 0.1)
    loss = view_distance_loss(*lifted.chunk(2), 0.1)
    (loss + supervised_distance_loss(lifted, torch.arange(4).repeat(2), 0.1)).backward()
    assert loss.isfinite() and features.grad.isfinite().all()


def test_at_the_clip_distances_are_a_function_of_the_angle_alone():
    """All features longer than the clip: d = 2/√c asinh(s sin(φ/2)), s = sinh(2√c r), so only temperatures differ."""
    features = 10 * torch.randn(6, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    lifted = poincare.lift_features(features, 0.1, maximum=2.0)
    unit = features / features.norm(dim=1, keepdim=True)
    half = ((1 - unit @ unit.T) / 2).clamp(min=0).sqrt()
    expected = 2 / 0.1**0.5 * (math.sinh(2 * 0.1**0.5 * 2.0) * half).asinh()
    torch.testing.assert_close(poincare.pairwise_distance(lifted, lifted, 0.1), expected, atol=1e-6, rtol=1e-6)


def test_scaled_features_have_the_loss_by_angle_of_unscaled_ones():
    lifted, features = points(6, norm=0.3), points(6, norm=0.3)
    features = poincare.log_map0(features, 0.1)
    labels = torch.tensor([0, 1, 0, 1, 2, 2])
    torch.testing.assert_close(
        supervised_contrastive_loss(lifted, labels), supervised_contrastive_loss(features, labels)
    )
    torch.testing.assert_close(view_contrastive_loss(*lifted.chunk(2)), view_contrastive_loss(*features.chunk(2)))


def test_the_share_of_distances_grows_by_the_index_of_the_epoch():
    """(e + 1)/epochs as released, constant within an epoch, then the maximum."""
    for inside in (0.0, 0.99):
        found = [distance_share(epoch + inside, maximum=0.5, epochs=4) for epoch in range(6)]
        assert found == pytest.approx([0.125, 0.25, 0.375, 0.5, 0.5, 0.5])
        assert distance_share(torch.tensor(2 + inside), maximum=0.5, epochs=4).item() == pytest.approx(0.375)
