"""Figures of pairs of float32 points and their gradients, from equal to opposite points far out, against mpmath."""

import math

import mpmath
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from meru.geometry import lorentz, paired, poincare
from meru.geometry.spaces import Euclidean, Sphere

CURVATURES = tuple(torch.tensor([0.1, 1.0, 10.0]).tolist())  # as float32 has them
NORMS = (1e-6, 1e-3, 1.0, 32.0, 2.0**10)  # √c‖x‖
KINDS = ("equal", "1e-7 apart", "1e-3 apart", "collinear", "opposite", "shorter", "anywhere")


def pair(norm, kind, c, seed=0):
    """Two float32 points `(4,)`, the first with √c‖x‖ = norm."""
    generator = torch.Generator().manual_seed(seed)
    x, step = torch.nn.functional.normalize(torch.randn(2, 4, generator=generator, dtype=torch.float64), dim=-1)
    x = (norm / math.sqrt(c) * x).float()
    gap = {"1e-7 apart": 1e-7, "1e-3 apart": 1e-3, "anywhere": 1.0}
    if kind in gap:
        y = x.double() + gap[kind] * x.double().norm() * step
    else:
        y = x * {"equal": 1.0, "collinear": 1.5, "opposite": -1.0, "shorter": 1e-3}[kind]
    return x, y.float()


def of_hyperboloid(numbers):
    """cosh(√c d), √c d and the exterior angle of a list of x, y and c."""
    x, y, c = numbers[:4], numbers[4:8], numbers[8]
    times = [mpmath.sqrt(1 + c * mpmath.fdot(p, p)) for p in (x, y)]
    cosh = times[0] * times[1] - c * mpmath.fdot(x, y)
    distance = mpmath.acosh(cosh)
    ratio = (times[1] - times[0] * cosh) / (mpmath.sqrt(c * mpmath.fdot(x, x)) * mpmath.sinh(distance))
    return {
        "distance": distance / mpmath.sqrt(c),
        "inner": -cosh / c,
        "exterior_angle": mpmath.acos(mpmath.re(ratio)) if abs(ratio) < 1 else (0 if ratio > 0 else mpmath.pi),
    }


def of_ball(numbers):
    """Distance in the ball and the first component of the sum."""
    x, y, c = numbers[:4], numbers[4:8], numbers[8]
    xx, yy, xy = mpmath.fdot(x, x), mpmath.fdot(y, y), mpmath.fdot(x, y)
    apart = mpmath.fsum((a - b) ** 2 for a, b in zip(x, y, strict=True))
    n = 1 + 2 * c * xy + c * c * xx * yy
    return {
        "distance": mpmath.acosh(1 + 2 * c * apart / ((1 - c * xx) * (1 - c * yy))) / mpmath.sqrt(c),
        "mobius_add": ((1 + 2 * c * xy + c * yy) * x[0] + (1 - c * xx) * y[0]) / n,
    }


def of_flat(numbers):
    x, y = numbers[:4], numbers[4:8]
    difference = [b - a for a, b in zip(x, y, strict=True)]
    norm = mpmath.sqrt(mpmath.fdot(x, x))
    apart = mpmath.sqrt(mpmath.fdot(difference, difference))
    cosine = mpmath.fdot(difference, x) / (norm * apart)
    return {"exterior_angle": mpmath.acos(max(-1, min(1, cosine))), "distance": apart}


def exactly(figures, name, x, y, c):
    """A figure and its gradient `(9,)` by central differences with 100 digits."""
    with mpmath.workdps(100):
        at, step = [mpmath.mpf(a) for a in (*x.tolist(), *y.tolist(), c)], mpmath.mpf(10) ** -45
        gradient = []
        for i in range(9):
            ahead, behind = ([*at[:i], at[i] + sign * step, *at[i + 1 :]] for sign in (1, -1))
            gradient.append(float((figures(ahead)[name] - figures(behind)[name]) / (2 * step)))
        return float(figures(at)[name]), torch.tensor(gradient, dtype=torch.float64)


def found(function, x, y, c):
    inputs = [each.clone().requires_grad_() for each in (x, y, torch.tensor(c))]
    value = function(*inputs)
    gradients = torch.autograd.grad(value, inputs, allow_unused=True)
    return value.item(), torch.cat(
        [(torch.zeros(1) if each is None else each).flatten().double() for each in gradients]
    )


def assert_gradient(gradient, expected, c, tolerance):
    """By the points relative to the gradient's length; by the curvature relative to its parts, which cancel."""
    assert (gradient[:4] - expected[:4]).norm() <= tolerance * expected[:4].norm()
    assert (gradient[4:8] - expected[4:8]).norm() <= tolerance * expected[4:8].norm()
    assert gradient[8].item() == pytest.approx(expected[8].item(), rel=1e-4, abs=1e-6 / c)


@pytest.mark.parametrize("c", CURVATURES)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ["distance", "inner"])
def test_distances_and_inner_products(name, norm, c):
    function = getattr(lorentz, name)
    for seed, kind in enumerate(KINDS):
        x, y = pair(norm, kind, c, seed)
        value, gradient = found(function, x, y, c)
        if torch.equal(x, y):
            assert value == pytest.approx(0 if name == "distance" else -1 / c, rel=1e-6)
            assert not gradient[:8].any()
            continue
        expected, by_points = exactly(of_hyperboloid, name, x, y, c)
        assert value == pytest.approx(expected, rel=3e-7), kind
        assert gradient.isfinite().all() and gradient[:4].any() and gradient[4:8].any(), kind
        assert_gradient(gradient, by_points, c, 1e-6)


@pytest.mark.parametrize("c", CURVATURES)
@pytest.mark.parametrize("norm", NORMS[1:])
def test_exterior_angles(norm, c):
    for seed, kind in enumerate(KINDS):
        x, y = pair(norm, kind, c, seed)
        value, gradient = found(lorentz.exterior_angle, x, y, c)
        assert gradient.isfinite().all(), kind
        if kind in ("equal", "1e-7 apart") or (kind == "1e-3 apart" and (norm < 0.1 or norm > 100)):
            continue  # nearer than the tolerance, or at it: see test_exterior_angle.py
        expected, by_points = exactly(of_hyperboloid, "exterior_angle", x, y, c)
        assert value == pytest.approx(expected, abs=4e-7), kind
        if 1e-3 < expected < math.pi - 1e-3:  # straight ahead and back, the gradient has no direction
            assert_gradient(gradient, by_points, c, 2e-6)


@pytest.mark.parametrize("norm", NORMS[1:])
@pytest.mark.parametrize("name", ["distance", "exterior_angle"])
def test_flat_space(name, norm):
    for seed, kind in enumerate(("collinear", "opposite", "shorter", "anywhere")):
        x, y = pair(norm, kind, 1.0, seed)
        value, gradient = found(lambda x, y, c: getattr(Euclidean(), name)(x, y), x, y, 1.0)
        expected, by_points = exactly(of_flat, name, x, y, 1.0)
        assert value == pytest.approx(expected, rel=3e-7, abs=4e-7 if name == "exterior_angle" else 0), kind
        assert gradient.isfinite().all()
        if name == "distance" or 1e-3 < expected < math.pi - 1e-3:
            assert (gradient - by_points)[:8].norm() <= 2e-6 * by_points[:8].norm(), kind


@pytest.mark.parametrize("c", CURVATURES)
@pytest.mark.parametrize("radius", [1e-6, 1e-3, 1.0, 4.0, 7.0])
@pytest.mark.parametrize("name", ["distance", "mobius_add"])
def test_the_ball_up_to_radius_7(name, radius, c):
    def function(x, y, c):
        value = getattr(poincare, name)(x, y, c)
        return value if name == "distance" else value[0]

    for seed, kind in enumerate(("1e-7 apart", "1e-3 apart", "opposite", "shorter", "anywhere", "nearly opposite")):
        x, y = pair(math.tanh(radius / 2), kind if "near" not in kind else "1e-3 apart", c, seed)
        y = poincare.project(y, c)
        if kind == "nearly opposite":
            y = -y
        if torch.equal(x, y) or torch.equal(x, -y):
            continue
        value, gradient = found(function, x, y, c)
        expected, by_points = exactly(of_ball, name, x, y, c)
        scale = 0 if name == "distance" else 1e-6 * poincare.mobius_add(x.double(), y.double(), c).norm().item()
        assert value == pytest.approx(expected, rel=4e-7, abs=scale), kind
        assert gradient.isfinite().all()
        assert (gradient - by_points)[:8].norm() <= 1e-5 * by_points[:8].norm(), kind


def test_points_of_very_different_lengths_keep_what_the_shorter_one_says():
    x, y = torch.tensor([[0.01, 0.0]]), torch.tensor([[0.0, 5e13]])
    exact = math.asinh(math.hypot(5e13, 0.01 * 5e13))
    for distance in (lorentz.distance(x, y), lorentz.distance(y, x)):
        assert distance.item() == pytest.approx(exact, rel=2e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_order_of_a_pair_does_not_matter(dtype):
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(200, 8, generator=generator, dtype=dtype).requires_grad_() for _ in range(2))
    for function in (lorentz.distance, lorentz.inner, lambda x, y: poincare.distance(x / 9, y / 9)):
        first, second = function(x, y), function(y, x)
        assert torch.equal(first, second)
        gradients = [torch.autograd.grad(each.sum(), (x, y)) for each in (first, second)]
        assert all(torch.equal(*each) for each in zip(*gradients, strict=True))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("radius", [1e-3, 1.0, 7.0])
def test_centres_and_their_gradients_are_those_of_float64(radius, weighted, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(1, 3, 8, generator=generator), dim=-1)
    directions = directions + 0.01 * torch.randn(5, 3, 8, generator=generator)
    weights = torch.rand(5, 3, generator=generator).requires_grad_() if weighted else None
    ball = poincare.project(math.tanh(radius / 2) * directions)
    curved = lorentz.exp_map0(radius * directions)
    group = torch.tensor([0, 2, 2, 0, 2])
    cases = (
        (lambda x, w, c: poincare.einstein_midpoint(x.transpose(0, 1), w, c), ball),
        (lambda x, w, c: lorentz.centroid(x, w, c), curved),
        (lambda x, w, c: poincare.group_midpoints(x[:, 0], group, 3, c), ball),
    )
    for number, (function, x) in enumerate(cases):
        w = weights.T if weighted and number == 0 else weights
        results = []
        for dtype, piece in ((torch.float32, 2**17), (torch.float32, 16), (torch.float64, 2**17)):
            monkeypatch.setitem(paired.PIECE, "cpu", piece)
            inputs = [x.to(dtype).detach().requires_grad_(), torch.tensor(1.0, dtype=dtype, requires_grad=True)]
            given = None if w is None else w.detach().to(dtype).requires_grad_()
            centre = function(inputs[0], given, inputs[1])
            share = torch.linspace(-1, 1, centre.numel()).view_as(centre).to(dtype)
            used = [*inputs, given] if given is not None and number < 2 else inputs
            results.append([centre, *torch.autograd.grad((centre * share).sum(), used)])
        for single, pieces, double in zip(*results, strict=True):
            limit = 5e-7 * double.abs().max().item()
            torch.testing.assert_close(single.double(), double, rtol=0, atol=limit)
            torch.testing.assert_close(pieces.double(), double, rtol=0, atol=limit)


def test_centres_have_the_gradients_of_finite_differences():
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(3, 4, 5, generator=generator, dtype=torch.float64) / 9).requires_grad_()
    weights = torch.rand(4, generator=generator, dtype=torch.float64).requires_grad_()
    c, group = torch.tensor(0.7, dtype=torch.float64, requires_grad=True), torch.tensor([0, 2, 2])
    assert torch.autograd.gradcheck(poincare.einstein_midpoint, (x, weights, c))
    assert torch.autograd.gradcheck(lorentz.centroid, (x, weights, c))
    assert torch.autograd.gradcheck(lambda x, c: poincare.group_midpoints(x[:, 0], group, 3, c), (x, c))


@pytest.mark.parametrize("gap", [1e-4, 1e-2, 0.5])
def test_the_sphere_near_equal_and_opposite_points(gap):
    generator = torch.Generator().manual_seed(0)
    x = Sphere().lift(torch.randn(50, 6, generator=generator))
    y = Sphere().lift(x + gap * torch.randn(50, 6, generator=generator))
    for end in (y, -y):
        for share in (0.25, 1.0):
            single, double = (Sphere().geodesic(a, b, share) for a, b in ((x, end), (x.double(), end.double())))
            torch.testing.assert_close(single.double(), double, rtol=0, atol=3e-7 if end is y else 3e-7 / gap)
        distance, exact = Sphere().distance(x, end), Sphere().distance(x.double(), end.double())
        torch.testing.assert_close(distance.double(), exact, rtol=4e-7, atol=0)


class LargestDouble(TorchDispatchMode):
    """Notes the size of the largest float64 tensor."""

    largest = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor) and tensor.dtype == torch.float64:
                self.largest = max(self.largest, tensor.numel())
        return result


@pytest.mark.parametrize(
    "function",
    [
        lorentz.distance, lorentz.inner, lorentz.exterior_angle, Euclidean().exterior_angle,
        lambda x, y: poincare.distance(x / 9, y / 9),
        lambda x, y: poincare.mobius_add(x / 9, y / 9),
        lambda x, y: poincare.einstein_midpoint(x / 9) + y,
        lambda x, y: lorentz.centroid(x) + y,
        lambda x, y: poincare.distance_to_origin(x / 9) + y.sum(),
    ],
)  # fmt: skip
def test_points_are_never_all_held_in_float64(function, monkeypatch):
    monkeypatch.setitem(paired.PIECE, "cpu", 2**8)
    x, y = torch.randn(2, 64, 32, generator=torch.Generator().manual_seed(0)).requires_grad_().unbind()
    with LargestDouble() as doubles:
        value = function(x, y)
        torch.autograd.grad(value.sum(), (x, y))
    assert 0 < doubles.largest <= 10 * 64  # numbers of each row, and pieces of eight rows
