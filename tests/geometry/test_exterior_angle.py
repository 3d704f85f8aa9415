"""Exterior angles and their gradients where points nearly meet or nearly lie at the origin, against mpmath."""

import math

import mpmath
import pytest
import torch

from meru.geometry import lorentz, poincare
from meru.geometry.spaces import Hyperboloid
from meru.losses.entailment import entailment_excess

DTYPES = {"float32": torch.float32, "float64": torch.float64}
GAPS = (0.0, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3)
NORMS = (0.1, 1.0, 10.0, 100.0)
CURVATURE = 0.7  # of the very value, whatever the dtype of the points
DIRECTIONS = ("tangential", "outwards", "inwards", "random")


def pair(norm, gap, direction, dtype, seed=0):
    """x `(4,)` with √c‖x‖ = norm, and y about `gap` from it: Euclidean, in units of 1/√c."""
    generator = torch.Generator().manual_seed(seed)
    x, step = torch.nn.functional.normalize(torch.randn(2, 4, generator=generator, dtype=torch.float64), dim=-1)
    if direction == "tangential":
        step = torch.nn.functional.normalize(step - (step @ x) * x, dim=-1)
    elif direction != "random":
        step = x if direction == "outwards" else -x
    scale = CURVATURE**-0.5
    return (scale * norm * x).to(dtype), (scale * (norm * x + gap * step)).to(dtype)


def exact(x, y, c):
    """sinh(√c d), √c‖x‖ and the angle by the textbook formulas with mpmath's digits."""
    x, y = [mpmath.sqrt(c) * a for a in x], [mpmath.sqrt(c) * a for a in y]
    x_time, y_time = (mpmath.sqrt(1 + mpmath.fdot(p, p)) for p in (x, y))
    cosh = x_time * y_time - mpmath.fdot(x, y)
    sinh, norm = mpmath.sqrt(max(cosh**2 - 1, 0)), mpmath.sqrt(mpmath.fdot(x, x))
    cosine = (y_time - cosh * x_time) / (norm * sinh) if norm and sinh else mpmath.mpf(1)
    return sinh, norm, mpmath.acos(max(-1, min(1, cosine)))


def exact_value_and_gradient(x, y, c):
    """By central differences with 80 digits, of the very points that the tensors hold: angle, gradient `(9,)`."""
    with mpmath.workdps(80):
        at = [mpmath.mpf(a) for a in (*x.tolist(), *y.tolist(), c)]
        step = mpmath.mpf(10) ** -40

        def angle(point):
            return exact(point[:4], point[4:8], point[8])[2]

        gradient = []
        for i in range(9):
            ahead, behind = ([*at[:i], at[i] + sign * step, *at[i + 1 :]] for sign in (1, -1))
            gradient.append(float((angle(ahead) - angle(behind)) / (2 * step)))
        sinh, norm, value = exact(at[:4], at[4:8], at[8])
        return float(sinh), float(norm), float(value), torch.tensor(gradient, dtype=torch.float64)


def value_and_gradient(x, y, dtype, function=lorentz.exterior_angle):
    inputs = [tensor.clone().requires_grad_() for tensor in (x, y, torch.tensor(CURVATURE, dtype=dtype))]
    value = function(*inputs)
    gradient = torch.autograd.grad(value, inputs)
    return value.item(), torch.cat([each.flatten().double() for each in gradient])


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES.keys())
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("norm", NORMS)
def test_value_and_gradient_against_mpmath_from_equal_points_on(norm, direction, dtype):
    tolerance = lorentz.ANGLE_TOLERANCE[dtype]
    c = torch.tensor(CURVATURE, dtype=dtype).item()
    for seed, gap in enumerate(GAPS):
        x, y = pair(norm, gap, direction, dtype, seed)
        value, gradient = value_and_gradient(x, y, dtype)
        sinh, radius, angle, expected = exact_value_and_gradient(x, y, c)
        limit = tolerance * max(1, radius)
        if sinh == pytest.approx(limit, rel=1e-3):  # on which side of it, rounding decides
            continue
        if sinh < limit:
            assert value == 0 and (gradient == 0).all(), gap
            continue
        # Float64 works the difference of the points out to 1e-16 of their size.
        noise = 1e-15 * max(1, radius) / sinh
        assert value == pytest.approx(angle, rel=1e-6, abs=2e-7 if dtype == torch.float32 else 4 * noise), gap
        assert gradient[:4].norm() <= 2.01 * c**0.5 / tolerance
        assert gradient[4:8].norm() <= 1.01 * c**0.5 / tolerance
        if min(angle, math.pi - angle) > 1e4 * noise:  # at 0 and π the gradient has no direction
            assert (gradient - expected)[:8].norm() <= 2e-3 * expected[:8].norm(), gap
            # By curvature, x and y move along with each other, which cancels in what is left of 16 digits.
            assert gradient[8].item() == pytest.approx(expected[8].item(), rel=2e-3, abs=1e-3), gap


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES.keys())
def test_an_apex_near_the_origin_has_no_angle_and_a_bounded_gradient(dtype):
    tolerance = lorentz.ANGLE_TOLERANCE[dtype]
    c = torch.tensor(CURVATURE, dtype=dtype).item()
    y = torch.tensor([0.3, -0.4, 0.1, 0.2], dtype=dtype)
    for radius in (0.0, 1e-30, 1e-12, 1e-9, 0.9 * tolerance, 1.1 * tolerance, 1e-2):
        x = torch.tensor([0.6, 0.8, 0.0, 0.0], dtype=dtype) * (radius / c**0.5)
        for other in (y, -x, torch.zeros_like(y)):
            value, gradient = value_and_gradient(x, other, dtype)
            assert gradient.isfinite().all()
            assert gradient[:8].norm() <= 3 * c**0.5 / tolerance
            if radius <= tolerance:
                assert value == 0 and (gradient == 0).all()
        if radius > tolerance:
            _, _, angle, expected = exact_value_and_gradient(x, y, c)
            value, gradient = value_and_gradient(x, y, dtype)
            assert value == pytest.approx(angle, rel=1e-6)
            assert (gradient - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES.keys())
def test_opposite_points_and_the_origin_are_straight_back(dtype):
    for norm in (0.1, 1.0, 10.0, 100.0):
        x, _ = pair(norm, 0.0, "random", dtype)
        for y in (-x, 0 * x, -0.01 * x, 0.5 * x):
            value, gradient = value_and_gradient(x, y, dtype)
            assert value == pytest.approx(math.pi, abs=1e-6)
            assert gradient.isfinite().all()
            assert gradient[:8].norm() < 100  # at least 0.05 apart


def test_one_pair_that_nearly_meets_does_not_outweigh_a_batch():
    generator = torch.Generator().manual_seed(0)
    general = torch.nn.functional.normalize(torch.randn(256, 512, generator=generator), dim=-1)
    specific = torch.nn.functional.normalize(torch.randn(256, 512, generator=generator), dim=-1)
    specific[0] = general[0] * (1 + 1e-7) + 1e-9
    assert not torch.equal(specific[0], general[0])
    general.requires_grad_()
    entailment_excess(general, specific, Hyperboloid(1.0)).mean().backward()
    lengths = general.grad.norm(dim=1)
    assert lengths[0] == 0 < lengths[1:].min()


def random_angles_of_rounding(dtype, gap):
    """By how much rounding the points to `dtype` changes angles of random pairs a `gap` apart."""
    generator = torch.Generator().manual_seed(1)
    x, step = torch.nn.functional.normalize(torch.randn(2, 500, 4, generator=generator, dtype=torch.float64), dim=-1)
    y = x + gap * step
    rounded = [each.to(dtype).double() for each in (x, y)]
    if dtype == torch.float64:
        rounded = [torch.nextafter(each, torch.full_like(each, math.inf)) for each in rounded]
    return (lorentz.exterior_angle(*rounded) - lorentz.exterior_angle(x, y)).abs().max().item()


def test_what_rounding_moves_an_angle_by_at_the_tolerance():
    assert random_angles_of_rounding(torch.float32, 1.5e-4) < 1e-3
    assert random_angles_of_rounding(torch.float32, 1e-7) > 0.1


def steepness(function, x, y):
    """Largest length of a gradient by x or y over the rows and outputs of a function, float32."""
    x, y = x.clone().requires_grad_(), y.clone().requires_grad_()
    value = function(x, y)
    lengths = []
    for part in value.reshape(len(x), -1).unbind(dim=1):
        gradients = torch.autograd.grad(part.sum(), (x, y), retain_graph=True, allow_unused=True)
        lengths += [each.norm(dim=-1).max() for each in gradients if each is not None]
    assert all(each.isfinite() for each in lengths)
    return max(lengths).item()


SMOOTH = {
    "inner": (lorentz.inner, 4),
    "distance": (lorentz.distance, 1.1),
    "pairwise_distance": (lambda x, y: lorentz.pairwise_distance(x, y).diagonal(), 1.1),
    "geodesic": (lambda x, y: lorentz.geodesic(x, y, 0.3), 1.5),
    "centroid": (lambda x, y: lorentz.centroid(torch.stack([x, y], -2)), 1.5),
    "exp_map0": (lambda x, y: lorentz.exp_map0(x), 2.5),
    "log_map0": (lambda x, y: lorentz.log_map0(x), 1.1),
    "distance_to_origin": (lambda x, y: lorentz.distance_to_origin(x), 1.1),
    "to_poincare": (lambda x, y: lorentz.to_poincare(x), 0.6),
    "half_aperture": (lambda x, y: lorentz.half_aperture(x), 360),  # just outside its clamp
    "poincare.distance": (lambda x, y: poincare.distance(x / 2, y / 2), 1.4),
    "poincare.pairwise_distance": (lambda x, y: poincare.pairwise_distance(x / 2, y / 2).diagonal(), 1.4),
    "poincare.distance_to_origin": (lambda x, y: poincare.distance_to_origin(x / 2), 1.4),
    "poincare.exp_map0": (lambda x, y: poincare.exp_map0(x), 1.1),
    "poincare.log_map0": (lambda x, y: poincare.log_map0(x / 2), 1.1),
    "poincare.mobius_add": (lambda x, y: poincare.mobius_add(-x / 2, y / 2), 1.5),
    "poincare.einstein_midpoint": (lambda x, y: poincare.einstein_midpoint(torch.stack([x, y], -2) / 2), 1.5),
    "poincare.to_klein": (lambda x, y: poincare.to_klein(x / 2), 1.1),
    "poincare.clip_features": (lambda x, y: poincare.clip_features(x, 0.2), 1.1),
    "poincare.project": (lambda x, y: poincare.project(x, 25.0), 1.1),
}


@pytest.mark.parametrize(("function", "limit"), SMOOTH.values(), ids=SMOOTH.keys())
def test_no_other_function_is_steep_where_points_meet_or_at_the_origin(function, limit):
    generator = torch.Generator().manual_seed(2)
    direction, step = torch.nn.functional.normalize(torch.randn(2, 400, 4, generator=generator), dim=-1)
    for radius in (0.0, 1e-20, 1e-12, 1e-6, 1e-3, 0.2, 0.2001, 1.0):
        for gap in (0.0, 1e-20, *GAPS):
            x = radius * direction
            assert steepness(function, x, x + gap * step) <= limit, (radius, gap)
