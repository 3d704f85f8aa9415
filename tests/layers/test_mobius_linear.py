"""The ball's linear layer against the printed formulas in float64, and its limits."""

import pytest
import torch
from torch.nn import functional as F

from meru.geometry import poincare
from meru.layers.mobius_linear import MobiusLinear


def layer(inputs=6, outputs=4, curvature=0.1):
    torch.manual_seed(0)
    return MobiusLinear(inputs, outputs, curvature=curvature).double()


def random_points(rows, curvature, norm=1.0):
    features = torch.randn(rows, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return poincare.exp_map0(norm * features, curvature)


@pytest.mark.parametrize("curvature", [0.05, 1.0])
def test_equals_the_formulas_row_by_row(curvature):
    linear, root = layer(curvature=curvature), curvature**0.5
    points = random_points(5, curvature, norm=0.5)
    for point, found in zip(points, linear(points), strict=True):
        turned = linear.weight @ point
        length = torch.tanh(turned.norm() / point.norm() * torch.atanh(root * point.norm())) / root
        bias = torch.tanh(root * linear.bias.norm()) * linear.bias / (root * linear.bias.norm())
        expected = poincare.mobius_add(length * turned / turned.norm(), bias, curvature)
        torch.testing.assert_close(found, expected)


def test_is_linear_where_curvature_vanishes():
    linear, points = layer(curvature=1e-8), random_points(5, 1e-8)
    torch.testing.assert_close(linear(points), F.linear(points, linear.weight, linear.bias), atol=1e-6, rtol=1e-6)


def test_points_stay_in_the_ball_and_gradients_finite_at_the_origin_and_the_edge():
    linear = layer(curvature=0.1)
    with torch.no_grad():
        linear.weight.mul_(100)
    for norm in (0.0, 1e-8, 1.0, 4.0):
        points = random_points(5, 0.1, norm).requires_grad_()
        found = linear(points)
        poincare.require_inside(found, 0.1)
        (gradient,) = torch.autograd.grad(found.sum(), points)
        assert gradient.isfinite().all()


def test_is_float32_under_autocast_and_starts_as_a_linear_layer():
    linear = MobiusLinear(400, 3, curvature=0.1)
    assert linear.weight.abs().max() <= 0.05 and linear.weight.abs().max() > 0.045
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear(torch.zeros(2, 400)).dtype == torch.float32
    with pytest.raises(ValueError, match="curvature"):
        MobiusLinear(2, 2, curvature=0.0)
