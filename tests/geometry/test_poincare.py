"""Laws of the Poincaré ball, accuracy against mpmath, geoopt as an oracle, and its maps to other models."""

import math

import geoopt
import mpmath
import pytest
import torch

from meru.geometry import lorentz, poincare

CURVATURES = tuple(torch.tensor([0.05, 0.1, 1.0, 4.0]).tolist())  # as float32 has them: at the edge that counts
FUNCTIONS = {
    "exp_map0": lambda x, y, c: poincare.exp_map0(x, c),
    "log_map0": lambda x, y, c: poincare.log_map0(x, c),
    "project": lambda x, y, c: poincare.project(x, c),
    "clip_features": lambda x, y, c: poincare.clip_features(x, 0.5),
    "distance_to_origin": lambda x, y, c: poincare.distance_to_origin(x, c),
    "to_klein": lambda x, y, c: poincare.to_klein(x, c),
    "from_klein": lambda x, y, c: poincare.from_klein(x, c),
    "mobius_add": poincare.mobius_add,
    "distance": poincare.distance,
    "pairwise_distance": poincare.pairwise_distance,
    "einstein_midpoint": lambda x, y, c: poincare.einstein_midpoint(
        torch.stack([x, y], -2), torch.tensor([0.3, 0.7]), c
    ),
}


def each(functions):
    return pytest.mark.parametrize("function", functions.values(), ids=functions.keys())


def points(*shape, c=1.0, radius=3.0, seed=0, dtype=torch.float64):
    """Points of the ball up to the hyperbolic radius, in units of 1/√c."""
    generator = torch.Generator().manual_seed(seed)
    direction = torch.nn.functional.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)
    reach = radius * torch.rand(*shape[:-1], 1, generator=generator, dtype=torch.float64)
    return (torch.tanh(reach / 2) * direction / math.sqrt(c)).to(dtype)


def exact_distance(x, y, c):
    """By Möbius addition, with 60 digits, of the very float32 points."""
    with mpmath.workdps(60):
        c, x, y = mpmath.mpf(c), [mpmath.mpf(a) for a in x.tolist()], [mpmath.mpf(a) for a in y.tolist()]
        xy, xx, yy = mpmath.fdot(x, y), mpmath.fdot(x, x), mpmath.fdot(y, y)
        denominator = 1 - 2 * c * xy + c * c * xx * yy
        first, second = (1 - 2 * c * xy + c * yy) / denominator, (1 - c * xx) / denominator
        moved = [second * b - first * a for a, b in zip(x, y, strict=True)]
        norm = mpmath.sqrt(mpmath.fdot(moved, moved))
        return float(2 / mpmath.sqrt(c) * mpmath.atanh(mpmath.sqrt(c) * norm))


@pytest.mark.parametrize("c", CURVATURES)
@pytest.mark.parametrize("radius", [1e-3, 0.5, 2.0, 5.0, 7.0])
def test_float32_distances_against_mpmath_up_to_radius_7(radius, c):
    generator = torch.Generator().manual_seed(int(10 * radius))
    x = torch.nn.functional.normalize(torch.randn(24, 16, generator=generator), dim=-1)
    x = x * (math.tanh(radius / 2) / math.sqrt(c))
    shift = torch.randn(24, 16, generator=generator)
    size = 10.0 ** torch.arange(-6, 0).repeat(4)[:, None] * (1 - c * x.square().sum(1, keepdim=True))
    y = poincare.project(x + size * shift / math.sqrt(c) / 4, c)
    row_wise, all_pairs = poincare.distance(x, y, c), poincare.pairwise_distance(x, y, c)
    for i in range(24):
        for j in {i, (i + 7) % 24}:
            expected = exact_distance(x[i], y[j], c)
            assert all_pairs[i, j].item() == pytest.approx(expected, rel=5e-5, abs=1e-12), (i, j)
        assert row_wise[i].item() == pytest.approx(exact_distance(x[i], y[i], c), rel=1e-6, abs=1e-12), i


@pytest.mark.parametrize("c", CURVATURES)
def test_maps_at_the_origin_are_inverses_and_measure_twice_the_length(c):
    u = torch.cat([torch.zeros(1, 8), 10.0 ** torch.arange(-9, 1)[:, None] * torch.eye(8)[:1]]).double()
    x = poincare.exp_map0(u, c)
    torch.testing.assert_close(poincare.log_map0(x, c), u)
    torch.testing.assert_close(poincare.distance_to_origin(x, c), 2 * u.norm(dim=-1))
    u = u.float()
    torch.testing.assert_close(poincare.log_map0(poincare.exp_map0(u, c), c), u, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("c", CURVATURES)
def test_geoopt_agrees(c):
    ball = geoopt.PoincareBall(c=torch.tensor(c, dtype=torch.float64))
    x, y = points(20, 6, c=c, seed=1), points(20, 6, c=c, seed=2)
    torch.testing.assert_close(poincare.distance(x, y, c), ball.dist(x, y), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(poincare.mobius_add(x, y, c), ball.mobius_add(x, y), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(poincare.exp_map0(x, c), ball.expmap0(x), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(poincare.log_map0(x, c), ball.logmap0(x), rtol=1e-8, atol=1e-8)
    pairs = ball.dist(x[:, None], y[None])
    torch.testing.assert_close(poincare.pairwise_distance(x, y, c), pairs, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("c", CURVATURES)
def test_mobius_addition_is_a_translation(c):
    x, y, z = (points(10, 5, c=c, seed=seed) for seed in range(3))
    torch.testing.assert_close(poincare.mobius_add(-x, poincare.mobius_add(x, y, c), c), y)
    torch.testing.assert_close(poincare.mobius_add(x, torch.zeros_like(x), c), x)
    moved = poincare.distance(poincare.mobius_add(x, y, c), poincare.mobius_add(x, z, c), c)
    torch.testing.assert_close(moved, poincare.distance(y, z, c))


@pytest.mark.parametrize("c", CURVATURES)
def test_the_hyperboloid_has_the_same_distances_and_klein_comes_back(c):
    x, y = points(12, 5, c=c, seed=1), points(12, 5, c=c, seed=2)
    there = lorentz.distance(lorentz.from_poincare(x, c), lorentz.from_poincare(y, c), c)
    torch.testing.assert_close(poincare.distance(x, y, c), there)
    torch.testing.assert_close(poincare.from_klein(poincare.to_klein(x, c), c), x)


@pytest.mark.parametrize("c", CURVATURES)
@pytest.mark.parametrize("weighted", [False, True])
def test_einstein_midpoint_is_the_weighted_mean_in_kleins_model(c, weighted):
    x = points(4, 7, 5, c=c)
    weights = torch.rand(4, 7, generator=torch.Generator().manual_seed(3), dtype=torch.float64) if weighted else None
    klein = poincare.to_klein(x, c)
    gamma = (1 - c * klein.square().sum(-1)).rsqrt() * (1 if weights is None else weights)
    mean = (gamma[..., None] * klein).sum(-2) / gamma.sum(-1, keepdim=True)
    torch.testing.assert_close(poincare.einstein_midpoint(x, weights, c), poincare.from_klein(mean, c))


def test_midpoint_of_two_points_is_halfway_and_of_none_the_origin():
    x = points(2, 5)
    middle = poincare.einstein_midpoint(x)
    half = poincare.distance(x[0], x[1]) / 2
    torch.testing.assert_close(poincare.distance(x, middle), half.expand(2))
    assert poincare.einstein_midpoint(x, torch.zeros(2)).tolist() == [0.0] * 5


@each(FUNCTIONS)
def test_gradients_are_right_also_at_the_origin_and_where_points_meet(function):
    x, y = points(3, 4, seed=1), points(3, 4, seed=2)
    c = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(function, (x.requires_grad_(), y.requires_grad_(), c), atol=1e-6)
    for special in (torch.zeros(2, 4), points(2, 4), points(2, 4, radius=16.0)):
        a = special.clone().float().requires_grad_()
        b = special.clone().float().requires_grad_()
        function(a, b, 1.0).sum().backward()
        assert all(each.grad is None or each.grad.isfinite().all() for each in (a, b))


@each(FUNCTIONS)
def test_float32_islands_under_autocast(function):
    x, y = points(5, 8, seed=1, dtype=torch.float32), points(5, 8, seed=2, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = function(x, y, 1.0)
        widened = function(x.bfloat16(), y.bfloat16(), 1.0)
    assert found.dtype == widened.dtype == torch.float32
    torch.testing.assert_close(found, function(x, y, 1.0))


def test_clipping_and_projecting_leave_what_is_inside():
    u = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    assert poincare.clip_features(u, 2.5).tolist() == [[1.5, 2.0], [pytest.approx(0.3), pytest.approx(0.4)], [0, 0]]
    far = torch.tensor([[2.0, 0.0], [0.5, 0.0]])
    assert poincare.project(far, 1.0, margin=0.1).tolist() == [[pytest.approx(0.9), 0.0], [0.5, 0.0]]
    poincare.require_inside(poincare.project(100 * far, 0.1), 0.1)


def test_points_outside_the_ball_are_named_and_stay_far_away():
    """The textbook form measures inverted points there: the further out, the nearer."""
    outside = torch.tensor([[0.5, 0.0], [1.5, 0.0], [3.0, 0.0]])
    with pytest.raises(ValueError, match="point 1 is not inside the Poincaré ball: c‖x‖² = 2.25"):
        poincare.require_inside(outside)
    with pytest.raises(ValueError, match="point 0 is not inside"):
        poincare.require_inside(torch.tensor([[math.nan, 0.0]]))
    distances = poincare.distance(torch.zeros(3, 2), outside)
    assert distances[0] < 20 < distances[1] <= distances[2]
    assert distances.isfinite().all()


@pytest.mark.parametrize("curvature", [0.0, -1.0, math.inf, math.nan])
@each(FUNCTIONS)
def test_curvature_must_be_positive(function, curvature):
    if function is FUNCTIONS["clip_features"]:
        return
    with pytest.raises(ValueError, match="curvature c must be positive"):
        function(points(2, 3), points(2, 3), curvature)


def test_shapes_must_fit():
    with pytest.raises(ValueError, match="one last dimension"):
        poincare.distance(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"\(B1, D\) and \(B2, D\)"):
        poincare.pairwise_distance(torch.zeros(3), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="must be positive"):
        poincare.clip_features(torch.zeros(2, 3), 0.0)


def test_riemannian_gradient_is_scaled_by_the_inverse_metric():
    x = points(4, 3).requires_grad_()
    weight = torch.arange(12.0).view(4, 3)
    y = poincare.riemannian_gradient(x, 0.5)
    (y * weight).sum().backward()
    assert torch.equal(y, x)
    torch.testing.assert_close(x.grad, weight * ((1 - 0.5 * x.detach().square().sum(-1, keepdim=True)) / 2).square())


def test_midpoints_of_groups_are_those_of_each_group():
    x, group = points(9, 5), torch.tensor([0, 2, 2, 0, 2, 4, 0, 4, 2])
    found = poincare.group_midpoints(x, group, 5, 0.3)
    for k in range(5):
        expected = poincare.einstein_midpoint(x[group == k], None, 0.3) if k in (0, 2, 4) else torch.zeros(5)
        torch.testing.assert_close(found[k], expected.double())


def test_all_pairs_hold_no_third_dimension():
    x, y = points(300, 64, dtype=torch.float32).requires_grad_(), points(280, 64, seed=1, dtype=torch.float32)
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
        poincare.pairwise_distance(x, y, 0.1).sum().backward()
    assert max(sizes) == 300 * 280
