"""Every loss against a slow reference written as loops over the printed formula."""

import math

import pytest
import torch

from meru.geometry import lorentz
from meru.geometry.spaces import Hyperboloid
from meru.losses.contrastive import contrastive_loss, contrastive_targets
from meru.losses.entailment import entailment_excess


def looped_contrastive(logits, labels):
    """½ (image → text + text → image), every positive of a row with the same share."""
    total = 0.0
    for direction in (logits, logits.t()):
        for i, row in enumerate(direction.tolist()):
            positives = [j for j in range(len(row)) if labels[j] == labels[i]]
            normaliser = math.log(sum(math.exp(z) for z in row))
            total -= sum(row[j] - normaliser for j in positives) / len(positives) / len(labels)
    return total / 2


@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [0, 1, 0, 2], [5, 5, 5, 5]])
def test_contrastive_equals_the_loops(labels):
    logits = torch.randn(4, 4, generator=torch.Generator().manual_seed(0)) * 3
    labels = torch.tensor(labels)
    ours = contrastive_loss(logits, logits.t(), contrastive_targets(labels, labels))
    assert ours.item() == pytest.approx(looped_contrastive(logits, labels.tolist()), rel=1e-5)


def test_targets_of_some_rows_against_more_columns():
    targets = contrastive_targets(torch.tensor([3, 1]), torch.tensor([1, 3, 3, 2]))
    assert targets.tolist() == [[0, 0.5, 0.5, 0], [1, 0, 0, 0]]


def test_contrastive_is_float32_under_autocast():
    logits = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    targets = torch.eye(4)
    expected = contrastive_loss(logits, logits.t(), targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(contrastive_loss(logits, logits.t(), targets), expected)


@pytest.mark.parametrize("curvature", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("scale", [0.7, 1.0, 1.2])
def test_entailment_equals_the_printed_formula(curvature, scale):
    generator = torch.Generator().manual_seed(1)
    tangent = torch.randn(2, 8, 5, generator=generator, dtype=torch.float64) / math.sqrt(curvature)
    general, specific = lorentz.exp_map0(tangent, curvature)
    ours = entailment_excess(general, specific, Hyperboloid(curvature), aperture_scale=scale)
    for x, y, excess in zip(general, specific, ours, strict=True):
        x_time, y_time = (math.sqrt(1 / curvature + float(p @ p)) for p in (x, y))
        inner = float(x @ y) - x_time * y_time
        norm = math.sqrt(float(x @ x))
        cosine = (y_time + x_time * curvature * inner) / (norm * math.sqrt((curvature * inner) ** 2 - 1))
        aperture = math.asin(min(1.0, 2 * 0.1 / (math.sqrt(curvature) * norm)))
        expected = max(0.0, math.acos(cosine) - scale * aperture)
        assert excess.item() == pytest.approx(expected, abs=1e-4)  # the cone's edge is softened by 1e-4


def test_a_point_straight_behind_the_apex_is_inside_and_one_before_it_is_not():
    apex = torch.tensor([[1.0, 0.0]])
    assert entailment_excess(apex, 2 * apex, Hyperboloid(1.0)).item() == 0
    assert entailment_excess(apex, 0.5 * apex, Hyperboloid(1.0)).item() > 1
