"""The exact scan finds what a loop in float64 finds, whatever the space, the scale and the rounding."""

import math

import pytest
import torch

from meru.geometry.spaces import Euclidean, Hyperboloid, Space, Sphere
from meru.index import scan
from meru.index.scan import ExactScan, own_number

SPACES = {
    "sphere": (Sphere(), 1.0),
    "flat": (Euclidean(), 3.0),
    "nearly flat": (Hyperboloid(0.1), 0.05),
    "curved": (Hyperboloid(1.0), 0.5),
    "far out": (Hyperboloid(1.0), 3.0),
    "very curved": (Hyperboloid(10.0), 0.2),
}


def points(space: Space, scale: float, count: int, seed: int, dimension: int = 16) -> torch.Tensor:
    """Points in clusters, as embeddings are."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(20, dimension, generator=torch.Generator().manual_seed(0))
    chosen = centres[torch.randint(20, (count,), generator=generator)]
    return space.lift(scale * (chosen + 0.3 * torch.randn(count, dimension, generator=generator)))


def best(space: Space, query: torch.Tensor, gallery: torch.Tensor, k: int) -> torch.Tensor:
    """Distances of the k nearest points, ascending, from a loop in float64."""
    distances = torch.stack([space.distance(query.double(), point.double()) for point in gallery])
    return distances.sort().values[:k]


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("queries", [1, 40])
@pytest.mark.parametrize("group", [4, 64])
def test_the_nearest_points_are_found(name, queries, group, monkeypatch):
    monkeypatch.setattr(scan, "ROWS", 64)  # several blocks
    monkeypatch.setattr(scan, "GROUP", group)  # less than a block, and all of it
    monkeypatch.setattr(scan, "WIDENED", 24)
    space, scale = SPACES[name]
    gallery, asked = points(space, scale, 300, 1), points(space, scale, queries, 2)
    scores, rows = ExactScan.of(space, gallery).search(asked, 10)
    assert scores.shape == rows.shape == (queries, 10) and scores.dtype == torch.float32
    for query, of_query, found in zip(asked[:3], scores, rows, strict=False):
        expected = best(space, query, gallery, 10)
        distance = space.distance(query.double().expand(10, -1), gallery[found].double())
        torch.testing.assert_close(distance, expected, rtol=1e-5, atol=2e-6 if name != "sphere" else 1e-3)
        torch.testing.assert_close(of_query, space.similarity(query[None], gallery[found])[0])


def test_few_and_many_queries_rank_alike():
    space, scale = SPACES["curved"]
    search = ExactScan.of(space, points(space, scale, 500, 1))
    asked = points(space, scale, 40, 2)
    one_by_one = torch.cat([search.search(query[None], 5)[1] for query in asked])
    assert torch.equal(search.search(asked, 5)[1], one_by_one)


def test_several_waiting_queries_cost_one_pass_over_the_gallery(monkeypatch):
    """From `FEW` on, products of single queries take longer than widening every block once for all of them."""
    space, scale = SPACES["curved"]
    search, asked = ExactScan.of(space, points(space, scale, 300, 1)), points(space, scale, 8, 2)
    widened, passes = scan._widened, []
    monkeypatch.setattr(scan, "_widened", lambda unit, *rest: passes.append(len(unit)) or widened(unit, *rest))
    alone = torch.cat([search.search(query[None], 5)[1] for query in asked])
    assert passes == []
    for together in (scan.FEW, scan.FEW + 1, 8):
        assert torch.equal(search.search(asked[:together], 5)[1], alone[:together])
    assert passes == [scan.FEW + 1, 8]


def test_only_few_points_are_compared_twice():
    """The scan would also be right if it compared every point again; then it would save nothing."""
    space, scale = SPACES["nearly flat"]
    generator = torch.Generator().manual_seed(0)
    gallery = space.lift(scale * torch.randn(4000, 64, generator=generator))
    query = space.lift(scale * torch.randn(1, 64, generator=generator))
    (candidates,) = ExactScan.of(space, gallery)._candidates(query, 10)
    assert 10 <= len(candidates) < 60


def test_images_alike_that_are_neighbours_in_the_gallery_are_all_found(monkeypatch):
    """The best of a group hides others, which may be the next best; the blocks are small, since several queries ask."""
    monkeypatch.setattr(scan, "PRODUCTS", 8 * 1024)
    space, scale = SPACES["curved"]
    gallery = points(space, scale, 5000, 1)
    asked = points(space, scale, 8, 2)
    for place, query in enumerate(asked):
        near = query + 1e-3 * torch.randn(12, 16, generator=torch.Generator().manual_seed(place))
        gallery[1024 + 400 * place :][:12] = near  # in a row
        gallery[100 + place : 1024 : 16] = query * 1.0001  # in one group of the first block
    _, rows = ExactScan.of(space, gallery).search(asked, 15)
    for query, found in zip(asked, rows, strict=True):
        expected = space.distance(query.double().expand(5000, -1), gallery.double()).sort().values[:15]
        distance = space.distance(query.double().expand(15, -1), gallery[found].double())
        torch.testing.assert_close(distance, expected, rtol=1e-5, atol=2e-6)


def test_rounding_that_would_change_the_ranking_does_not():
    """Points that differ by less than float16 can hold, in an order that is known."""
    direction = torch.nn.functional.normalize(torch.randn(1, 32, generator=torch.Generator().manual_seed(0)), dim=1)
    space = Hyperboloid(1.0)
    radii = 1 + 1e-5 * torch.arange(200.0)[torch.randperm(200, generator=torch.Generator().manual_seed(1))]
    gallery = space.lift(radii[:, None] * direction)
    _, rows = ExactScan.of(space, gallery).search(space.lift(0.5 * direction), 20)
    assert torch.equal(rows[0], radii.argsort()[:20])
    longest = float(gallery.norm(dim=1).max())
    rounded = scan.shrunk(gallery, longest).float() * longest
    assert not torch.equal(space.radius(rounded).argsort()[:20], radii.argsort()[:20])


def test_a_query_at_the_origin_finds_the_most_general_points():
    for space in (Hyperboloid(0.5), Euclidean()):
        gallery = points(space, 0.5, 200, 1)
        _, rows = ExactScan.of(space, gallery).search(torch.zeros(1, 16), 5)
        assert torch.equal(rows[0].sort().values, space.radius(gallery).argsort()[:5].sort().values)


def test_equal_points_come_in_their_order_and_k_may_exceed_their_number():
    gallery = torch.ones(6, 4)
    for search in (ExactScan.of(Sphere(), gallery / 2), ExactScan.of(Euclidean(), torch.zeros(6, 4))):
        scores, rows = search.search(torch.tensor([[0.5, 0.5, 0.5, 0.5]]), 100)
        assert rows.tolist() == [[0, 1, 2, 3, 4, 5]] and scores.isfinite().all()


@pytest.mark.parametrize("space", [Euclidean(), Hyperboloid(1.0)], ids=["euclidean", "hyperboloid"])
@pytest.mark.parametrize("length", [0.0, 1e-20, 1e-6])
def test_points_at_the_origin_are_all_found(space, length):
    points = length * torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    points[3] = 0
    scores, rows = ExactScan.of(space, points).search(points[[0, 3]], 100)
    assert scores.isfinite().all() and all(sorted(of_query) == list(range(50)) for of_query in rows.tolist())


def test_own_numbers_keep_small_radii():
    """y_t − 1/√c in float32 would be 0."""
    c, y = 0.5, torch.full((1, 4), 1e-5)
    exact = math.sqrt(1 / c + 4e-10) - math.sqrt(1 / c)
    assert own_number(Hyperboloid(c), y).item() == pytest.approx(4e-10 / (2 * math.sqrt(1 / c)), rel=1e-5)
    assert own_number(Hyperboloid(c), y).item() == pytest.approx(exact, rel=1e-5)
    assert own_number(Euclidean(), y).item() == pytest.approx(2e-10, rel=1e-5)


def test_a_space_of_another_kind_is_refused():
    class Other(Sphere):
        pass

    class Unknown:
        pass

    assert not own_number(Other(), torch.ones(2, 3)).any()
    with pytest.raises(TypeError, match="Unknown has no form that can be scanned"):
        own_number(Unknown(), torch.ones(2, 3))
