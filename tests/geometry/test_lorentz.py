"""Laws of hyperbolic geometry, accuracy against mpmath, and geoopt as an oracle."""

import math

import geoopt
import mpmath
import pytest
import torch

from meru.geometry import lorentz

CURVATURES = (0.1, 1.0, 10.0)
ROW_WISE = {
    "distance": lorentz.distance,
    "inner": lorentz.inner,
    "exterior_angle": lorentz.exterior_angle,
    "geodesic": lambda x, y, c: lorentz.geodesic(x, y, 0.3, c),
    "centroid": lambda x, y, c: lorentz.centroid(torch.stack([x, y], -2), torch.tensor([0.3, 0.7]), c),
}
ALL_PAIRS = {"pairwise_distance": lorentz.pairwise_distance, "pairwise_inner": lorentz.pairwise_inner}
UNARY = {
    "exp_map0": lorentz.exp_map0,
    "log_map0": lorentz.log_map0,
    "time": lorentz.time,
    "distance_to_origin": lorentz.distance_to_origin,
    "half_aperture": lorentz.half_aperture,
    "to_poincare": lorentz.to_poincare,
    "from_poincare": lambda x, c: lorentz.from_poincare(lorentz.to_poincare(x, c), c),
}
FUNCTIONS = {
    **ROW_WISE,
    **ALL_PAIRS,
    **{name: (lambda x, y, c, function=function: function(x, c)) for name, function in UNARY.items()},
}


def each(functions):
    return pytest.mark.parametrize("function", functions.values(), ids=functions.keys())


def points(*shape, c=1.0, radius=2.0, seed=0, dtype=torch.float64):
    """Points at random distances up to about `radius`/√c from the origin."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(*shape, generator=generator, dtype=torch.float64)
    lengths = radius * torch.rand(*shape[:-1], 1, generator=generator, dtype=torch.float64) / math.sqrt(c)
    return lorentz.exp_map0(torch.nn.functional.normalize(directions, dim=-1) * lengths, c).to(dtype)


def pair_apart(*, radius, distance, c, on_axis, seed):
    """Two float32 points `(8,)`: one at the radius (units of 1/√c), one about the distance from it."""
    generator = torch.Generator().manual_seed(seed)
    direction, step = torch.randn(2, 8, generator=generator, dtype=torch.float64)
    if on_axis:  # then even steps that are tiny beside the point survive rounding
        direction = torch.eye(8, dtype=torch.float64)[0]
    x = direction / direction.norm() * math.sinh(radius)
    step, step_time = step + (x @ step) * x, (x @ step) * math.cosh(radius)  # tangent at x
    step = step / (step @ step - step_time**2).sqrt()
    y = math.cosh(math.sqrt(c) * distance) * x + math.sinh(math.sqrt(c) * distance) * step
    return (x / math.sqrt(c)).float(), (y / math.sqrt(c)).float()


def exact(x, y, c):
    """Distance and exterior angle of the very float32 points, by the textbook formulas with 60 digits."""
    with mpmath.workdps(60):
        c, x, y = mpmath.mpf(c), [mpmath.mpf(a) for a in x.tolist()], [mpmath.mpf(a) for a in y.tolist()]
        x_time, y_time = (mpmath.sqrt(1 / c + mpmath.fdot(p, p)) for p in (x, y))
        cosh = c * (x_time * y_time - mpmath.fdot(x, y))
        if cosh <= 1:
            return 0.0, None
        sine = mpmath.sqrt(cosh**2 - 1)
        norm = mpmath.sqrt(mpmath.fdot(x, x))
        cosine = (y_time - cosh * x_time) / (norm * sine) if norm else None
        angle = cosine and float(mpmath.acos(max(-1, min(1, cosine))))
        return float(mpmath.acosh(cosh) / mpmath.sqrt(c)), angle


@pytest.mark.parametrize("c", CURVATURES)
@pytest.mark.parametrize("radius", [0.0, 0.01, 1.0, 4.0, 8.0])
def test_float32_distances_and_angles_against_mpmath(radius, c):
    pairs = [
        pair_apart(radius=radius, distance=10.0**decade, c=c, on_axis=on_axis, seed=decade + 9)
        for decade in range(-6, 2)
        for on_axis in (False, True)
    ]
    x, y = (torch.stack(column) for column in zip(*pairs, strict=True))
    crowd = points(64, 8, c=c, dtype=torch.float32)  # among others, as in a batch
    row_wise, angles = lorentz.distance(x, y, c), lorentz.exterior_angle(x, y, c)
    all_pairs = lorentz.pairwise_distance(torch.cat([x, crowd]), torch.cat([y, crowd]), c).diagonal()
    for i, (a, b) in enumerate(pairs):
        distance, angle = exact(a, b, c)
        assert row_wise[i].item() == pytest.approx(distance, rel=2e-6)
        assert all_pairs[i].item() == pytest.approx(distance, rel=5e-5)
        norm = math.sqrt(c) * a.double().norm().item()
        if math.sinh(math.sqrt(c) * distance) <= 1e-4 * max(1, norm):
            assert angles[i] == 0  # too near for an angle
        elif angle is not None:
            assert angles[i].item() == pytest.approx(angle, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("c", CURVATURES)
@pytest.mark.parametrize("radius", [1e-3, 0.5, 3.0])
def test_all_pairs_agree_with_row_by_row(radius, c):
    x, y = points(70, 5, c=c, radius=radius), points(90, 5, c=c, radius=radius, seed=1)
    distance, inner = lorentz.distance(x[:, None], y, c), lorentz.inner(x[:, None], y, c)
    torch.testing.assert_close(lorentz.pairwise_distance(x, y, c), distance)
    torch.testing.assert_close(lorentz.pairwise_inner(x, y, c), inner)
    x, y = x.float(), y.float()
    distance = lorentz.distance(x[:, None], y, c)
    torch.testing.assert_close(lorentz.pairwise_distance(x, y, c), distance, rtol=5e-5, atol=0)


@pytest.mark.parametrize("c", CURVATURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_distance_is_a_metric(dtype, c):
    x = points(60, 7, c=c, radius=4.0, dtype=dtype)
    distances = lorentz.pairwise_distance(x, x, c)
    assert (distances.diagonal() == 0).all()
    assert (lorentz.distance(x, x, c) == 0).all()
    torch.testing.assert_close(distances, distances.T)
    assert (lorentz.distance(x[:-1], x[1:], c) == lorentz.distance(x[1:], x[:-1], c)).all()
    detour = distances[:, :, None] + distances[None, :, :]
    assert (distances[:, None, :] <= detour * (1 + 1e-5)).all()
    origin = torch.zeros(7, dtype=dtype)
    torch.testing.assert_close(lorentz.distance(x, origin, c), lorentz.distance_to_origin(x, c))
    assert lorentz.distance_to_origin(origin, c) == 0


def test_equal_rows_of_different_tensors_are_at_distance_0():
    x = points(300, 33, radius=8.0, dtype=torch.float32)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(0))
    distances = lorentz.pairwise_distance(x, x[order].clone())
    assert (distances[order, torch.arange(300)] == 0).all()
    assert (distances == 0).sum() == 300


@pytest.mark.parametrize("c", CURVATURES)
def test_exponential_and_logarithm(c):
    directions = torch.nn.functional.normalize(points(40, 6), dim=-1)
    v = directions * torch.logspace(-8, 1, 40, dtype=torch.float64)[:, None] / math.sqrt(c)
    x = lorentz.exp_map0(v, c)
    torch.testing.assert_close(lorentz.log_map0(x, c), v, rtol=1e-12, atol=0)
    torch.testing.assert_close(lorentz.distance_to_origin(x, c), v.norm(dim=-1), rtol=1e-12, atol=0)
    square = torch.full((40,), -1 / c, dtype=torch.float64)
    torch.testing.assert_close(lorentz.inner(x, x, c), square)
    torch.testing.assert_close(x.square().sum(-1) - lorentz.time(x, c).square(), square, rtol=1e-6, atol=0)
    single = lorentz.log_map0(lorentz.exp_map0(v.float(), c), c)
    torch.testing.assert_close(single, v.float(), rtol=2e-6, atol=0)


def test_long_tangent_vectors_are_shortened_and_counted():
    v = torch.tensor([[3.0, 4.0], [30.0, 40.0], [0.0, 0.0], [0.0, 11.0]], requires_grad=True)
    x = lorentz.exp_map0(v)
    assert lorentz.distance_to_origin(x)[1].item() == pytest.approx(lorentz.MAXIMUM_RADIUS, rel=1e-6)
    torch.testing.assert_close(x[1] / x[1].norm(), v[1] / v[1].norm())
    assert lorentz.clamped_share(x) == 0.25
    assert lorentz.clamped_share(lorentz.exp_map0(v, maximum_radius=4.0), maximum_radius=4.0) == 0.75
    assert lorentz.clamped_share(x[:0]) == 0
    along, across = v[1].detach() / 50, torch.tensor([-0.8, 0.6])
    gradient = torch.autograd.grad((x[1] * (along + across)).sum(), v)[0][1]
    assert abs(gradient @ along) < 1e-3 < gradient @ across


@pytest.mark.parametrize("c", CURVATURES)
def test_geodesics(c):
    x, y = points(20, 5, c=c, radius=4.0), points(20, 5, c=c, radius=4.0, seed=1)
    whole = lorentz.distance(x, y, c)
    assert torch.equal(lorentz.geodesic(x, y, 0, c), x)
    assert torch.equal(lorentz.geodesic(x, y, 1, c), y)
    for t in (0.25, torch.linspace(-0.5, 1.5, 20, dtype=torch.float64)):
        z = lorentz.geodesic(x, y, t, c)
        t = torch.as_tensor(t)
        torch.testing.assert_close(lorentz.distance(x, z, c), t.abs() * whole)
        torch.testing.assert_close(lorentz.distance(z, y, c), (1 - t).abs() * whole)
    torch.testing.assert_close(lorentz.geodesic(x, x, 0.4, c), x)


@pytest.mark.parametrize("c", CURVATURES)
def test_centroid(c):
    x, y = points(9, 5, c=c, radius=3.0), points(9, 5, c=c, radius=3.0, seed=1)
    torch.testing.assert_close(lorentz.centroid(x[:, None].expand(9, 4, 5), None, c), x)
    middle = lorentz.centroid(torch.stack([x, y], 1), None, c)
    torch.testing.assert_close(middle, lorentz.geodesic(x, y, 0.5, c))
    weights = torch.tensor([2.0, 1, 0, 0, 0, 0, 0, 0, 0])
    torch.testing.assert_close(lorentz.centroid(x, weights, c), lorentz.centroid(x[[0, 1, 0]], None, c))
    assert (lorentz.centroid(x, 0 * weights, c) == 0).all()
    assert (lorentz.centroid(x[:0], None, c) == 0).all()


@pytest.mark.parametrize("c", CURVATURES)
def test_poincare_ball(c):
    x, y = points(30, 4, c=c, radius=5.0), points(30, 4, c=c, radius=5.0, seed=1)
    p, q = lorentz.to_poincare(x, c), lorentz.to_poincare(y, c)
    assert (p.norm(dim=-1) < 1 / math.sqrt(c)).all()
    torch.testing.assert_close(lorentz.from_poincare(p, c), x)
    ball = geoopt.PoincareBall(c=c).double()
    torch.testing.assert_close(lorentz.distance(x, y, c), ball.dist(p, q), rtol=1e-5, atol=0)
    outside = lorentz.from_poincare(torch.tensor([2.0, 0.0]) / math.sqrt(c), c)
    assert outside.isfinite().all()


@pytest.mark.parametrize("c", CURVATURES)
def test_geoopt_agrees(c):
    x, y = points(30, 4, c=c, radius=3.0), points(30, 4, c=c, radius=3.0, seed=1)
    space = geoopt.Lorentz(k=1 / c).double()
    with_time = [torch.cat([lorentz.time(p, c)[:, None], p], 1) for p in (x, y)]
    torch.testing.assert_close(lorentz.distance(x, y, c), space.dist(*with_time))
    torch.testing.assert_close(lorentz.inner(x, y, c), space.inner(None, *with_time))
    tangent = torch.cat([torch.zeros(30, 1, dtype=torch.float64), y], 1)
    torch.testing.assert_close(lorentz.exp_map0(y, c), space.expmap0(tangent)[:, 1:])
    torch.testing.assert_close(lorentz.log_map0(x, c), space.logmap0(with_time[0])[:, 1:])


@pytest.mark.parametrize("c", CURVATURES)
def test_exterior_angle(c):
    x, y = points(40, 6, c=c, radius=3.0), points(40, 6, c=c, radius=3.0, seed=1)
    angle = lorentz.exterior_angle(x, y, c)
    # law of cosines in the triangle O x y
    a, b = lorentz.distance_to_origin(x, c) * c**0.5, lorentz.distance_to_origin(y, c) * c**0.5
    d = lorentz.distance(x, y, c) * c**0.5
    interior = torch.acos((torch.cosh(a) * torch.cosh(d) - torch.cosh(b)) / (torch.sinh(a) * torch.sinh(d)))
    torch.testing.assert_close(angle, math.pi - interior, rtol=1e-6, atol=1e-6)
    assert lorentz.exterior_angle(x, 2 * x, c).abs().max() < 1e-7
    torch.testing.assert_close(lorentz.exterior_angle(x, x / 2, c), torch.full_like(angle, math.pi))
    for first, second in ((x, x), (0 * x, y), (0 * x, 0 * x)):
        assert (lorentz.exterior_angle(first, second, c) == 0).all()


def test_half_aperture():
    x = torch.tensor([[0.0, 0.0], [0.1, 0.0], [0.0, 0.4], [30.0, 40.0]], requires_grad=True)
    aperture = lorentz.half_aperture(x, 4.0, 0.2)
    widest = math.asin(1 - 1e-4)
    torch.testing.assert_close(aperture, torch.tensor([widest, widest, math.asin(0.5), math.asin(0.004)]))
    gradient = torch.autograd.grad(aperture.sum(), x)[0]
    assert (gradient[:2] == 0).all() and (gradient[2:].abs().amax(1) > 0).all()
    edge = torch.tensor([[0.2001, 0.0]], requires_grad=True)  # just outside of it
    assert torch.autograd.grad(lorentz.half_aperture(edge, 4.0, 0.2).sum(), edge)[0].abs().max() < 1e3


@each(FUNCTIONS)
def test_gradients_are_those_of_finite_differences(function):
    x, y = points(4, 3), points(4, 3, seed=1)
    y[1] = x[1] + 1e-3  # near
    c = torch.tensor(0.7, dtype=torch.float64)
    inputs = [tensor.requires_grad_() for tensor in (x, y, c)]
    assert torch.autograd.gradcheck(function, inputs, eps=1e-7, atol=1e-6)


def test_gradients_of_all_pairs_through_pairs_too_near_for_a_matmul():
    x, y = points(4, 3, radius=1.0), points(4, 3, radius=1.0, seed=1)
    y[1], y[2] = x[1] + 2e-5, x[3] - 3e-5
    inputs = [tensor.requires_grad_() for tensor in (x, y, torch.tensor(1.3, dtype=torch.float64))]
    assert torch.autograd.gradcheck(lorentz.pairwise_distance, inputs, eps=1e-8, atol=1e-5)


@each(FUNCTIONS)
def test_gradients_are_finite_from_the_origin_to_far_out(function):
    scales = 10.0 ** torch.arange(-15, 2)
    x = torch.cat([torch.zeros(1, 3), scales[:, None] * torch.tensor([1.0, -2.0, 0.5])])
    inverse = x.flip(0)
    for y in (x.clone(), -x, inverse, 2 * x, torch.zeros_like(x), torch.ones_like(x)):
        inputs = [tensor.clone().requires_grad_() for tensor in (x, y, torch.tensor(1.0))]
        value = function(*inputs)
        assert value.isfinite().all()
        for gradient in torch.autograd.grad(value.sum(), inputs, allow_unused=True):
            assert gradient is None or gradient.isfinite().all()


def test_gradient_towards_the_origin_is_not_lost():
    origin, y = torch.zeros(1, 3, requires_grad=True), torch.tensor([[0.0, 3.0, 4.0]])
    for distance in (lorentz.distance, lorentz.pairwise_distance, lambda x, y: lorentz.distance(y, x)):
        gradient = torch.autograd.grad(distance(origin, y).sum(), origin)[0]
        torch.testing.assert_close(gradient, torch.tensor([[0.0, -0.6, -0.8]]))


@each(FUNCTIONS)
def test_autocast_changes_nothing_and_half_precision_is_widened(function):
    x, y = points(6, 4, dtype=torch.float32), points(6, 4, seed=1, dtype=torch.float32)
    value = function(x, y, 0.5)
    assert value.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(function(x, y, 0.5), value)
        narrow = function(x.bfloat16(), y.bfloat16(), torch.tensor(0.5))
    assert torch.equal(narrow, function(x.bfloat16().float(), y.bfloat16().float(), 0.5))
    assert function(x.double(), y.double(), 0.5).dtype == torch.float64


@each(FUNCTIONS)
def test_curvature_as_number_and_as_tensor(function):
    x, y = points(6, 4), points(6, 4, seed=1)
    for tensor in (torch.tensor(2), torch.tensor([2.0], requires_grad=True)):
        assert torch.equal(function(x, y, tensor), function(x, y, 2.0))
    for wrong in (0, -1.0, math.nan, math.inf, torch.ones(2)):
        with pytest.raises(ValueError, match="curvature"):
            function(x, y, wrong)


@each({**ROW_WISE, **ALL_PAIRS})
def test_no_rows(function):
    x, y = torch.zeros(0, 4, requires_grad=True), torch.zeros(0, 4)
    value = function(x, y, 1.0)
    assert value.numel() == 0
    value.sum().backward()
    assert x.grad.shape == x.shape


@pytest.mark.parametrize("rows", [(0, 3), (3, 0)])
def test_all_pairs_with_no_rows_on_one_side(rows):
    x, y = (torch.ones(n, 4, requires_grad=True) for n in rows)
    for function in ALL_PAIRS.values():
        value = function(x, y)
        assert value.shape == rows
        value.sum().backward()
        assert (x.grad == 0).all() and (y.grad == 0).all()


def test_row_by_row_functions_broadcast():
    x, y = points(5, 1, 3), points(1, 4, 3, seed=1)
    for function in (lorentz.distance, lorentz.inner, lorentz.exterior_angle):
        assert function(x, y).shape == (5, 4)
    assert lorentz.geodesic(x, y, torch.rand(5, 4)).shape == (5, 4, 3)


@each(
    {
        "last dimensions": lambda: lorentz.distance(torch.ones(2, 3), torch.ones(2, 1)),
        "leading dimensions": lambda: lorentz.inner(torch.ones(2, 3), torch.ones(5, 3)),
        "no matrix": lambda: lorentz.pairwise_distance(torch.ones(3), torch.ones(2, 3)),
        "a batch of matrices": lambda: lorentz.pairwise_inner(torch.ones(2, 2, 3), torch.ones(2, 2, 3)),
        "all-pairs dimensions": lambda: lorentz.pairwise_distance(torch.ones(2, 3), torch.ones(2, 4)),
        "a scalar": lambda: lorentz.exp_map0(torch.tensor(1.0)),
        "one point for a centroid": lambda: lorentz.centroid(torch.ones(3)),
        "weights": lambda: lorentz.centroid(torch.ones(2, 3), torch.ones(3)),
    }
)
def test_shapes_that_do_not_fit(function):
    with pytest.raises(ValueError, match="shape"):
        function()
