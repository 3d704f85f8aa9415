"""The dead radius of entailment cones, and the floor that keeps apexes from collapsing into it."""

import math

import pytest
import torch
from mpmath import mp, mpf

from meru.geometry import lorentz
from meru.geometry.spaces import Hyperboloid
from meru.losses.entailment import entailment_excess, inside_dead_radius

K, FLOOR = 0.1, 2.0
UNIT = Hyperboloid(1.0)


def reference(apex, point, curvature, eta, floor):
    """The documented formula by mpmath, with the exterior angle by acos as printed."""
    mp.dps = 50
    c, k = mpf(curvature), mpf(str(K))
    x, y = ([mpf(v) for v in each.tolist()] for each in (apex, point))
    dot = sum(a * b for a, b in zip(x, y, strict=True))
    norm = mp.sqrt(sum(a * a for a in x))
    x_time, y_time = (mp.sqrt(1 / c + sum(a * a for a in each)) for each in (x, y))
    inner = c * (dot - x_time * y_time)
    angle = mp.acos((y_time + x_time * inner) / (norm * mp.sqrt(inner**2 - 1)))
    radius, edge = mp.sqrt(c) * norm, 2 * k * floor
    aperture = mp.asin(2 * k / max(radius, edge))
    return float(max(mpf(0), angle - mpf(str(eta)) * aperture) + max(mpf(0), 1 - radius / edge))


@pytest.mark.parametrize("curvature", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("eta", [0.7, 1.2])
def test_floored_excess_equals_the_printed_formula(curvature, eta):
    generator = torch.Generator().manual_seed(0)
    tangent = torch.randn(2, 12, 3, generator=generator, dtype=torch.float64) / math.sqrt(curvature)
    tangent[0] *= torch.logspace(-3, 0, 12)[:, None]  # from deep within the dead radius to far beyond the floor
    apex, point = lorentz.exp_map0(tangent, curvature)
    space = Hyperboloid(curvature)
    ours = entailment_excess(apex, point, space, minimum_radius=K, aperture_scale=eta, apex_floor=FLOOR)
    expected = [reference(x, y, curvature, eta, FLOOR) for x, y in zip(apex, point, strict=True)]
    torch.testing.assert_close(ours, torch.tensor(expected, dtype=ours.dtype), rtol=1e-6, atol=1e-9)


def test_beyond_the_floor_nothing_changes():
    generator = torch.Generator().manual_seed(0)
    apex, point = torch.randn(2, 50, 4, generator=generator)
    apex = apex[apex.norm(dim=-1) > 2 * K * FLOOR]
    point = point[: len(apex)]
    floored = entailment_excess(apex, point, UNIT, minimum_radius=K, apex_floor=FLOOR)
    torch.testing.assert_close(floored, entailment_excess(apex, point, UNIT, minimum_radius=K))


def outward(radius, angle, **arguments):
    """Derivative of minus the loss along the radius, and all of its gradient; the point is at radius 1."""
    tangent = torch.tensor([[radius, 0.0]], requires_grad=True)
    point = math.sinh(1.0) * torch.tensor([[math.cos(angle), math.sin(angle)]])
    loss = entailment_excess(lorentz.exp_map0(tangent), point, UNIT, minimum_radius=K, aperture_scale=1.2, **arguments)
    if not loss.requires_grad:
        return 0.0, torch.zeros(2)
    (gradient,) = torch.autograd.grad(loss.sum(), tangent)
    return -gradient[0, 0].item(), gradient


@pytest.mark.parametrize("angle", [0.0, 0.5, 1.5, 2.5, 3.1])
@pytest.mark.parametrize("radius", [1e-6, 1e-3, 0.1, 0.19, 0.21, 0.3, 0.38])
def test_every_apex_within_the_floor_is_pushed_outwards(radius, angle):
    push, gradient = outward(radius, angle, apex_floor=FLOOR)
    assert gradient.isfinite().all() and push > 0.5
    push, gradient = outward(radius, angle)
    assert gradient.isfinite().all() and push <= 1e-6  # the published loss never does


def test_gradient_at_the_origin_is_finite():
    apex = torch.zeros(1, 3, requires_grad=True)
    entailment_excess(apex, torch.ones(1, 3), UNIT, apex_floor=FLOOR).sum().backward()
    assert apex.grad.isfinite().all()


def descend(apex_floor, steps=150):
    """Parts of random wholes after gradient descent on the entailment alone; all points and their wholes' cones."""
    generator = torch.Generator().manual_seed(0)
    wholes = lorentz.exp_map0(torch.randn(16, 1, 8, generator=generator) / 8**0.5)
    parts = (0.6 * torch.randn(16, 4, 8, generator=generator) / 8**0.5).requires_grad_()
    optimizer = torch.optim.Adam([parts], lr=2e-2)
    for _ in range(steps):
        points = lorentz.exp_map0(parts)
        loss = entailment_excess(points, wholes, UNIT, minimum_radius=K, aperture_scale=1.2, apex_floor=apex_floor)
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
    points = lorentz.exp_map0(parts.detach())
    strangers = entailment_excess(points, wholes.roll(1, 0), UNIT, minimum_radius=K, aperture_scale=1.2) == 0
    return loss, inside_dead_radius(points, UNIT, K).float().mean(), strangers.float().mean()


def test_descent_with_a_floor_finds_cones_that_hold_their_own_whole_alone():
    loss, dead, strangers = descend(0.0)
    assert loss.mean() < 0.05 and dead > 0.4 and strangers > 0.2  # solved by cones that hold anything
    loss, dead, strangers = descend(FLOOR)
    assert loss.mean() < 0.05 and dead == 0 and strangers < 0.2


@pytest.mark.parametrize("curvature", [0.25, 1.0, 4.0])
def test_dead_radius_is_where_the_aperture_has_no_gradient(curvature):
    edge = 2 * K / math.sqrt(curvature)
    apex = (edge * torch.tensor([0.5, 0.999, 1.001, 2.0]))[:, None].requires_grad_()
    dead = inside_dead_radius(apex, Hyperboloid(curvature), K)
    assert dead.tolist() == [True, True, False, False]
    (gradient,) = torch.autograd.grad(lorentz.half_aperture(apex, curvature, K).sum(), apex)
    assert dead.tolist() == (gradient[:, 0] == 0).tolist()
