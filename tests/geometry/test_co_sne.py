"""CO-SNE: its formulas against loops, and what it keeps."""

import math

import pytest
import torch

from meru.geometry.co_sne import co_sne, loss, neighbour_probabilities
from meru.geometry.disk import ring_radius, unit_radius
from meru.geometry.spaces import Euclidean, Hyperboloid, Sphere


def random_places(n, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 0.8 * torch.rand(n, 2, generator=generator, dtype=torch.float64) - 0.4


def disk_distance(x, y):
    """2 artanh of the norm of the Möbius difference, with complex numbers."""
    x, y = complex(*x), complex(*y)
    return 2 * math.atanh(abs(x - y) / abs(1 - x.conjugate() * y))


def test_the_loss_is_that_of_the_paper():
    n, scale, weight = 6, 0.3, 7.0
    places, norms = random_places(n), torch.linspace(0.1, 0.6, n, dtype=torch.float64)
    wanted = torch.rand(n, n, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    wanted = (wanted + wanted.T).fill_diagonal_(0)
    wanted = wanted / wanted.sum()
    total = sum(1 / (disk_distance(places[k], places[m]) ** 2 + scale**2) for k in range(n) for m in range(n) if k != m)
    expected = 0.0
    for i in range(n):
        for j in range(n):
            if i != j:
                q = 1 / (disk_distance(places[i], places[j]) ** 2 + scale**2) / total
                expected += float(wanted[i, j]) * math.log(float(wanted[i, j]) / q)
        expected += weight / n * (float(norms[i]) ** 2 - float(places[i].norm()) ** 2) ** 2
    found = loss(places, wanted, norms, scale=scale, radius_weight=weight)
    assert float(found) == pytest.approx(expected, rel=1e-12)


def test_every_point_has_the_perplexity_that_was_asked_for():
    n, perplexity = 12, 3.0
    places = random_places(n, seed=2)
    distances = torch.tensor([[disk_distance(x, y) if x is not y else 0.0 for y in places] for x in places])
    found = neighbour_probabilities(distances.double(), perplexity=perplexity)
    given = []
    for i in range(n):
        low, high = -10.0, 10.0
        for _ in range(200):
            middle = (low + high) / 2
            row = [math.exp(-math.exp(middle) * float(distances[i, j]) ** 2) if j != i else 0.0 for j in range(n)]
            row = [each / sum(row) for each in row]
            entropy = -sum(each * math.log(each) for each in row if each > 0)
            low, high = (middle, high) if entropy > math.log(perplexity) else (low, middle)
        assert math.exp(entropy) == pytest.approx(perplexity, rel=1e-6)
        given.append(row)
    for i in range(n):
        for j in range(n):
            assert float(found[i, j]) == pytest.approx((given[i][j] + given[j][i]) / (2 * n), rel=1e-6, abs=1e-12)
    assert float(found.sum()) == pytest.approx(1.0)


def clusters(space):
    """Four groups of eight neighbours in different directions, at distances from 0.5 to 2."""
    generator = torch.Generator().manual_seed(3)
    centres = torch.eye(6, dtype=torch.float64)[:4]
    around = centres.repeat_interleave(8, dim=0) + 0.1 * torch.randn(32, 6, generator=generator, dtype=torch.float64)
    length = torch.linspace(0.5, 2.0, 32, dtype=torch.float64)[:, None]
    return space.lift(around / around.norm(dim=1, keepdim=True) * length)


@pytest.mark.parametrize("space", [Hyperboloid(0.7), Euclidean()])
def test_neighbours_stay_together_and_distances_from_the_origin_are_kept(space):
    points = clusters(space)
    placed = co_sne(space, points, perplexity=5, steps=200)
    assert placed.dtype == torch.float64 and bool((placed.norm(dim=1) < 1).all())
    assert torch.equal(placed, co_sne(space, points, perplexity=5, steps=200))
    directions = placed / placed.norm(dim=1, keepdim=True)
    groups = torch.arange(4).repeat_interleave(8)
    same = groups[:, None] == groups
    cosines = directions @ directions.T
    assert cosines[same].mean() > 0.8 > cosines[~same].mean() + 0.5
    wanted = unit_radius(space, points)
    assert (placed.norm(dim=1) - wanted).abs().mean() < 0.15 * wanted.mean()


def test_points_that_coincide_have_places_too():
    points = Hyperboloid(1.0).lift(torch.ones(5, 3))
    assert bool(co_sne(Hyperboloid(1.0), points, steps=20).isfinite().all())
    with pytest.raises(ValueError, match="at least four"):
        co_sne(Hyperboloid(1.0), points[:3])


def test_rings_are_at_the_distances_of_points():
    for space in (Hyperboloid(0.7), Euclidean()):
        point = space.lift(torch.tensor([[0.3, 0.4, 1.2]], dtype=torch.float64))
        assert ring_radius(space, float(space.radius(point))) == pytest.approx(float(unit_radius(space, point)))
    assert ring_radius(Sphere(), 1.0) is None
