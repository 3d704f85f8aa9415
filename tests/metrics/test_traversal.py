"""Walks to the root: geodesics and what is met, against loops in high precision."""

import mpmath
import pytest
import torch

from meru.geometry.spaces import Euclidean, Hyperboloid, Sphere
from meru.metrics.traversal import ROOT, Walk, more_general, walk

mpmath.mp.dps = 40
C = 0.6


def vectors(n, dimension=4, *, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(n, dimension, generator=generator, dtype=torch.float64)


def minkowski(x, y):
    """−c⟨x, y⟩_L of space components, by mpmath."""
    x, y = [mpmath.mpf(v) for v in x], [mpmath.mpf(v) for v in y]
    time = [mpmath.sqrt(1 / mpmath.mpf(C) + sum(v * v for v in z)) for z in (x, y)]
    return C * (time[0] * time[1] - sum(a * b for a, b in zip(x, y, strict=True)))


def distance(x, y):
    return mpmath.acosh(max(mpmath.mpf(1), minkowski(x, y))) / mpmath.sqrt(C)


def on_geodesic(x, y, share):
    """The point at a share of the way from x to y: (sinh((1 − t)d) x + sinh(td) y)/sinh(d), d in units of 1/√c."""
    d = distance(x, y) * mpmath.sqrt(C)
    first, second = mpmath.sinh((1 - share) * d) / mpmath.sinh(d), mpmath.sinh(share * d) / mpmath.sinh(d)
    return [first * mpmath.mpf(a) + second * mpmath.mpf(b) for a, b in zip(x, y, strict=True)]


def exterior_angle(apex, point):
    """π minus the angle at the apex of the triangle with the origin and the point, by the law of cosines."""
    root = mpmath.sqrt(C)
    a, b, c = (root * distance(*pair) for pair in (([0] * 4, point), (apex, point), (apex, [0] * 4)))
    cosine = (mpmath.cosh(b) * mpmath.cosh(c) - mpmath.cosh(a)) / (mpmath.sinh(b) * mpmath.sinh(c))
    return mpmath.pi - mpmath.acos(max(-1, min(1, cosine)))


def half_aperture(apex, minimum_radius):
    norm = mpmath.sqrt(sum(mpmath.mpf(v) ** 2 for v in apex))
    return mpmath.asin(min(1 - mpmath.mpf("1e-4"), 2 * minimum_radius / (mpmath.sqrt(C) * norm)))


def met_by_loops(start, end, candidates, *, steps, general, minimum_radius=0.1):
    found, radii = [], []
    for step in range(steps + 1):
        point = on_geodesic(start, end, mpmath.mpf(step) / steps)
        radius = distance(point, [0] * 4)
        best, row = -radius, ROOT
        for number, candidate in enumerate(candidates):
            if general == "cone" and exterior_angle(candidate, point) > half_aperture(candidate, minimum_radius):
                continue
            if general == "radius" and distance(candidate, [0] * 4) > radius:
                continue
            if -distance(candidate, point) > best:
                best, row = -distance(candidate, point), number
        found.append(row)
        radii.append(float(radius))
    return found, radii


@pytest.mark.parametrize("general", ["cone", "radius", "none"])
def test_a_walk_meets_what_loops_in_high_precision_meet(general):
    space = Hyperboloid(C)
    start = space.lift(vectors(1, seed=1, scale=0.8))[0]
    # Some around the way, at other distances, and some anywhere.
    near = start * torch.tensor([[0.9], [0.6], [0.35], [0.15]]) + 0.05 * vectors(4, seed=2)
    candidates = torch.cat([near, vectors(6, seed=3, scale=0.5)])
    for end in (torch.zeros(4, dtype=torch.float64), space.lift(vectors(1, seed=4))[0]):
        found = walk(space, start, end, candidates, root=torch.zeros(4), steps=12, general=general, minimum_radius=0.2)
        expected, radii = met_by_loops(
            start.tolist(), end.tolist(), candidates.tolist(), steps=12, general=general, minimum_radius=0.2
        )
        assert found.met.tolist() == expected
        assert found.radii.tolist() == pytest.approx(radii, abs=1e-9)
        assert len({*expected}) > 2  # the walk meets several texts


def test_a_way_to_the_root_leaves_every_cone_for_good():
    """So a text whose cone does not contain the start is never met: see `chosen_filter`."""
    space = Hyperboloid(C)
    start, apexes = space.lift(vectors(1, seed=5))[0], space.lift(vectors(200, seed=6, scale=0.3))
    shares = torch.linspace(0, 0.999, 40, dtype=torch.float64)
    way = space.geodesic(start.expand(40, -1), torch.zeros(40, 4, dtype=torch.float64), shares)
    inside = more_general(space, way, apexes, "cone").int()
    assert inside[0].sum() > 3 and bool((inside[1:] <= inside[:-1]).all())


def test_only_what_is_more_general_is_met():
    space, start = Euclidean(), torch.tensor([2.0, 0.0])
    candidates = torch.tensor([[2.5, 0.0], [1.0, 0.0], [0.0, 1.0]])
    root = torch.zeros(2)
    assert {*walk(space, start, root, candidates, root=root, general="none").met.tolist()} == {0, 1, ROOT}
    for general in ("radius", "cone"):
        found = walk(space, start, root, candidates, root=root, general=general)
        assert found.met[0] == 1 and found.met[-1] == ROOT and {*found.met.tolist()} == {1, ROOT}
    assert walk(space, start, root, candidates[:0], root=root).met.unique().tolist() == [ROOT]


def test_on_a_sphere_all_texts_may_be_met():
    space = Sphere()
    start, other, candidate = torch.eye(3)
    found = walk(space, start, other, candidate[None], root=space.root(torch.stack([start, other])), steps=10)
    assert torch.allclose(found.radii, torch.ones(11)) and found.met[5] == ROOT


def test_stretches_divide_the_whole_way():
    met = torch.tensor([3, 3, 1, ROOT, 1])
    shares = torch.linspace(0, 1, 5)
    found = Walk(shares, torch.zeros(5, 2), shares, met, shares)
    assert found.stretches() == [(0.0, 0.375, 3), (0.375, 0.625, 1), (0.625, 0.875, ROOT), (0.875, 1.0, 1)]
    assert found.stages() == [(0.0, 3), (0.5, 1), (0.75, ROOT)]


def test_mistakes_are_refused():
    for wrong in ({"steps": 0}, {"general": "wide"}):
        with pytest.raises(ValueError, match="at least 1, and one of cone"):
            walk(Euclidean(), torch.ones(2), torch.zeros(2), torch.ones(1, 2), root=torch.zeros(2), **wrong)
