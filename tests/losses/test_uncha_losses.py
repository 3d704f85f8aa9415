"""UNCHA's uncertainty and its calibration, by the printed formulas."""

import math

import torch

from meru.losses.uncha import calibrated_residual, confidence, uncertainty


def test_uncertainty_falls_with_the_norm_and_logits_are_multiplied_by_its_exponential():
    points = torch.tensor([[0.0, 0.0], [0.3, 0.4], [3.0, 4.0]], requires_grad=True)
    expected = [math.log(1 + math.exp(-norm)) for norm in (0.0, 0.5, 5.0)]
    torch.testing.assert_close(uncertainty(points), torch.tensor(expected))
    assert not confidence(points).requires_grad
    torch.testing.assert_close(confidence(points), torch.tensor([math.exp(-u / 2) for u in expected]))


def test_the_published_bounds_of_the_factor_are_never_reached():
    norms = torch.cat([torch.zeros(1), torch.logspace(-6, 6, 200)])[:, None]
    assert ((confidence(norms) >= 0.5**0.5 - 1e-6) & (confidence(norms) <= 1)).all()  # of 0.1 and 10


def test_gradients_are_finite_at_the_origin_and_far_out_and_those_of_differences_between():
    points = torch.tensor([[0.0, 0.0], [1e-9, 0.0], [32768.0, 0.0]], requires_grad=True)
    uncertainty(points).sum().backward()
    assert points.grad.isfinite().all() and (points.grad[0] == 0).all()
    points = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(uncertainty, (points,))


def test_the_calibration_teaches_the_uncertainty_alone():
    residual = torch.tensor([0.2, 1.5], requires_grad=True)
    uncertain = torch.tensor([0.1, 0.6], requires_grad=True)
    loss = calibrated_residual(residual, uncertain)
    expected = [0.5 * r / math.exp(u) + 0.5 * u for r, u in ((0.2, 0.1), (1.5, 0.6))]
    torch.testing.assert_close(loss, torch.tensor(expected))
    loss.sum().backward()
    assert residual.grad is None
    torch.testing.assert_close(uncertain.grad, torch.tensor([0.5 - 0.1 / math.exp(0.1), 0.5 - 0.75 / math.exp(0.6)]))


def test_the_calibration_is_smallest_where_the_uncertainty_is_the_logarithm_of_the_residual():
    uncertain = torch.linspace(-1, 1, 2001)
    loss = calibrated_residual(torch.full_like(uncertain, 1.5), uncertain)
    assert abs(uncertain[loss.argmin()].item() - math.log(1.5)) < 2e-3
