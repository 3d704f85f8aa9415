"""Spaces: every method against loops in mpmath, flat space as the limit of the hyperboloid, gradients, precision."""

import math

import pytest
import torch
from mpmath import mp, mpf

from meru.geometry import lorentz, poincare
from meru.geometry.spaces import SPACES, Euclidean, Hyperboloid, Sphere

K = 0.1
WITH_CONES = [Euclidean(), Hyperboloid(0.5)]
ALL = [Sphere(), *WITH_CONES]


def name(space):
    return type(space).__name__


def random(*shape, seed=0, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def points(space, count=6, seed=0):
    return space.lift(random(count, 4, seed=seed))


def exact(row):
    return [mpf(value) for value in row.tolist()]


def dot(x, y):
    return sum(a * b for a, b in zip(x, y, strict=True))


def reference(space, method, x, y):
    """A figure of two points by its printed formula, 50 digits."""
    mp.dps = 50
    x, y = exact(x), exact(y)
    norm_x, norm_y = mp.sqrt(dot(x, x)), mp.sqrt(dot(y, y))
    apart = mp.sqrt(sum((a - b) ** 2 for a, b in zip(x, y, strict=True)))
    if isinstance(space, Sphere):
        cosine = dot(x, y) / (norm_x * norm_y)
        return {"distance": mp.acos(cosine), "similarity": dot(x, y), "inner": dot(x, y), "radius": norm_x}[method]
    if isinstance(space, Euclidean):
        angle = mp.acos((norm_y**2 - norm_x**2 - apart**2) / (2 * norm_x * apart))  # as EuCLIP prints it
        return {
            "distance": apart, "similarity": -apart, "inner": dot(x, y), "radius": norm_x, "exterior_angle": angle,
            "half_aperture": mp.asin(min(1 - mpf("1e-4"), mpf(str(K)) / norm_x)),
            "share_of_dead_radius": norm_x / mpf(str(K)),
        }[method]  # fmt: skip
    c = mpf(space.curvature)
    x_time, y_time = mp.sqrt(1 / c + norm_x**2), mp.sqrt(1 / c + norm_y**2)
    inner = dot(x, y) - x_time * y_time
    distance = mp.acosh(-c * inner) / mp.sqrt(c)
    angle = mp.acos((y_time + x_time * c * inner) / (norm_x * mp.sqrt((c * inner) ** 2 - 1)))
    return {
        "distance": distance, "similarity": -distance, "inner": inner, "exterior_angle": angle,
        "radius": mp.asinh(mp.sqrt(c) * norm_x) / mp.sqrt(c),
        "half_aperture": mp.asin(min(1 - mpf("1e-4"), 2 * mpf(str(K)) / (mp.sqrt(c) * norm_x))),
        "share_of_dead_radius": mp.sqrt(c) * norm_x / (2 * mpf(str(K))),
    }[method]  # fmt: skip


@pytest.mark.parametrize("space", ALL, ids=name)
def test_all_pairs_equal_the_loops(space):
    x, y = points(space, 5), points(space, 3, seed=1)
    for method in ("similarity", "inner"):
        expected = [[float(reference(space, method, a, b)) for b in y] for a in x]
        torch.testing.assert_close(getattr(space, method)(x, y), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("space", ALL, ids=name)
def test_figures_of_rows_equal_the_loops(space):
    x, y = points(space), points(space, seed=1)
    expected = torch.tensor([float(reference(space, "distance", *pair)) for pair in zip(x, y, strict=True)])
    torch.testing.assert_close(space.distance(x, y), expected.double())
    expected = torch.tensor([float(reference(space, "radius", *pair)) for pair in zip(x, y, strict=True)])
    torch.testing.assert_close(space.radius(x), expected.double())


@pytest.mark.parametrize("method", ["exterior_angle", "half_aperture", "share_of_dead_radius"])
@pytest.mark.parametrize("space", WITH_CONES, ids=name)
def test_cones_equal_the_loops(space, method):
    x, y = space.lift(random(12, 3, scale=0.3) * torch.logspace(-1, 1, 12)[:, None]), points(space, 12)[:, :3]
    expected = torch.tensor([float(reference(space, method, *pair)) for pair in zip(x, y, strict=True)])
    found = getattr(space, method)(*((x, y) if method == "exterior_angle" else (x, K)))
    torch.testing.assert_close(found, expected.double(), rtol=1e-6, atol=1e-8)


def test_flat_space_is_the_limit_of_the_hyperboloid():
    """With K√c/2 for its K, a hyperboloid whose curvature goes to 0 has the cones of flat space, and its distances."""
    flat, c = Euclidean(), 1e-10
    curved, k = Hyperboloid(c), K * math.sqrt(c) / 2
    x, y = random(40, 5, scale=0.3), random(40, 5, seed=1)
    close = {"rtol": 1e-6, "atol": 1e-8}
    torch.testing.assert_close(curved.exterior_angle(x, y), flat.exterior_angle(x, y), **close)
    torch.testing.assert_close(curved.half_aperture(x, k), flat.half_aperture(x, K), **close)
    torch.testing.assert_close(curved.share_of_dead_radius(x, k), flat.share_of_dead_radius(x, K), **close)
    for method in ("distance", "similarity"):
        torch.testing.assert_close(getattr(curved, method)(x, y), getattr(flat, method)(x, y), **close)
    for method in ("lift", "radius", "average"):
        torch.testing.assert_close(getattr(curved, method)(x), getattr(flat, method)(x), **close)


def test_points_on_a_ray_have_angle_0_beyond_and_pi_before():
    x = torch.tensor([[0.5, 0.0], [0.5, 0.0], [0.5, 0.0]])
    y = torch.tensor([[2.0, 0.0], [0.1, 0.0], [0.5, 3.0]])
    torch.testing.assert_close(Euclidean().exterior_angle(x, y), torch.tensor([0.0, math.pi, math.pi / 2]))


@pytest.mark.parametrize("space", ALL, ids=name)
def test_gradients_are_finite_where_points_meet_and_at_the_origin(space):
    some = points(space, 3).float()
    cases = [(some, some.clone()), (-some, some), (torch.zeros(3, 4), some), (torch.zeros(3, 4), torch.zeros(3, 4))]
    methods = ["distance", "similarity", "exterior_angle"] if space.has_cones else ["distance", "similarity"]
    for method in methods:
        for x, y in cases:
            x, y = x.clone().requires_grad_(), y.clone().requires_grad_()
            value = getattr(space, method)(x, y)
            value.sum().backward()
            assert value.isfinite().all() and x.grad.isfinite().all() and y.grad.isfinite().all(), method
    for method in ("lift", "radius", "half_aperture", "share_of_dead_radius") if space.has_cones else ("lift",):
        x = torch.zeros(3, 4, requires_grad=True)
        getattr(space, method)(x).sum().backward()
        assert x.grad.isfinite().all(), method


@pytest.mark.parametrize("space", [Euclidean(), Hyperboloid(0.5)], ids=name)
def test_equal_points_are_at_distance_0_without_a_gradient(space):
    x = points(space, 5).float().requires_grad_()
    distances = -space.similarity(x, x.detach())
    assert not distances.diagonal().any() and not space.distance(x, x.detach()).any()
    (gradient,) = torch.autograd.grad(distances.diagonal().sum() + space.distance(x, x.detach()).sum(), x)
    assert not gradient.any()


def test_near_points_of_flat_space_keep_their_distance():
    """By ‖x‖² + ‖y‖² − 2x·y float32 would lose it."""
    x = torch.full((1, 8), 100.0)
    y = x + 1e-3
    exactly = (x.double() - y.double()).norm().item()
    assert -Euclidean().similarity(x, y).item() == pytest.approx(exactly, rel=1e-5)
    assert Euclidean().distance(x, y).item() == pytest.approx(exactly, rel=1e-6)


@pytest.mark.parametrize("space", ALL, ids=name)
def test_geometry_is_float32_under_autocast(space):
    x, y = points(space).float(), points(space, seed=1).float()
    methods = {"similarity": (x, y), "inner": (x, y), "distance": (x, y), "lift": (x,), "average": (x,), "radius": (x,)}
    if space.has_cones:
        methods |= {"exterior_angle": (x, y), "half_aperture": (x,), "share_of_dead_radius": (x,)}
    for method, arguments in methods.items():
        expected = getattr(space, method)(*arguments)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = getattr(space, method)(*arguments)
        assert found.dtype == torch.float32 and torch.equal(found, expected), method
        assert getattr(space, method)(*(each.bfloat16() for each in arguments)).dtype == torch.float32, method


@pytest.mark.parametrize("space", ALL, ids=name)
def test_averages_and_points_of_the_ball_are_points(space):
    x = points(space)
    torch.testing.assert_close(space.average(x[:, None].expand(-1, 3, -1)), x)
    ball, c = space.in_ball(100 * x if isinstance(space, Euclidean) else x)
    poincare.require_inside(ball, c)
    if isinstance(space, Hyperboloid):
        torch.testing.assert_close(poincare.distance_to_origin(ball, c), space.radius(x))
        torch.testing.assert_close(
            poincare.pairwise_distance(ball, ball, c), -space.similarity(x, x), atol=1e-6, rtol=0
        )


def test_the_share_at_the_limit_of_the_lift():
    x = torch.eye(4) * torch.tensor([0.1, 1.0, 50.0, 90.0])[:, None]
    space = Hyperboloid(1.0)
    assert lorentz.MAXIMUM_RADIUS < 50 and space.at_limit(space.lift(x)) == 0.5
    assert Euclidean().at_limit(x) == Sphere().at_limit(x) == 0


def test_a_curvature_that_is_a_parameter_is_trained_through_every_method():
    logarithm = torch.tensor(0.3, requires_grad=True)
    x, y = random(4, 3).float(), random(4, 3, seed=1).float()
    for method in ("similarity", "distance", "inner", "exterior_angle"):
        space = Hyperboloid(logarithm.exp())
        (gradient,) = torch.autograd.grad(getattr(space, method)(space.lift(x), space.lift(y)).sum(), logarithm)
        assert gradient.isfinite() and gradient != 0, method


def test_the_sphere_has_no_cones():
    assert [kind.has_cones for kind in SPACES.values()] == [True, True, False]
    for call in (Sphere().exterior_angle, Sphere().half_aperture, Sphere().share_of_dead_radius):
        with pytest.raises(NotImplementedError, match="Sphere has no cones"):
            call(torch.ones(1, 2), torch.ones(1, 2))


@pytest.mark.parametrize("apart", [1e-1, 1e-3, 1e-4])
def test_points_between_almost_opposite_ones_stay_on_the_sphere(apart):
    generator = torch.Generator().manual_seed(0)
    x = Sphere().lift(torch.randn(20, 8, generator=generator))
    y = Sphere().lift(apart * torch.randn(20, 8, generator=generator) - x)
    for share in (0.1, 0.5, 0.9):
        points = Sphere().geodesic(x, y, share)
        torch.testing.assert_close(points.norm(dim=-1), torch.ones(20))
        torch.testing.assert_close(Sphere().distance(x, points), share * Sphere().distance(x, y))
