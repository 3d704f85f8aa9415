"""FAISS's indexes: what they find is compared by the space's distance, and what they miss is measured."""

import pytest
import torch

from meru.errors import UserError
from meru.geometry.spaces import Euclidean, Hyperboloid, Sphere
from meru.index.approximate import ApproximateSearch, recall_of
from meru.index.scan import ExactScan

faiss = pytest.importorskip("faiss", reason="faiss-cpu is not installed")


def gallery(space, count=2000, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return space.lift(0.1 * torch.randn(count, 16, generator=generator))


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
@pytest.mark.parametrize("space", [Sphere(), Euclidean(), Hyperboloid(0.5)], ids=lambda space: type(space).__name__)
def test_most_of_the_nearest_points_are_found_and_kept_in_a_file(kind, space, tmp_path):
    points, queries = gallery(space), gallery(space, 50, seed=1)
    search = ApproximateSearch.of(kind, space, points)
    recall = recall_of(search, ExactScan.of(space, points), queries)
    assert 0.8 < recall <= 1
    scores, places = search.search(queries[:2], 10)
    torch.testing.assert_close(scores[0], space.similarity(queries[:1], points[places[0]])[0])
    assert (scores.diff(dim=1) <= 0).all()
    search.write(tmp_path / "faiss.1")
    again = ApproximateSearch.read(tmp_path / "faiss.1", space, points)
    assert torch.equal(again.search(queries[:2], 10)[1], places)


def test_the_recall_is_the_share_that_is_found():
    """A search that finds every second point of the ranking."""
    points, space = gallery(Euclidean()), Euclidean()
    exact = ExactScan.of(space, points)

    class Half:
        def search(self, queries, k):
            scores, places = exact.search(queries, 2 * k)
            return scores[:, ::2], places[:, ::2]

    assert recall_of(Half(), exact, gallery(space, 20, seed=1)) == pytest.approx(0.5)


def test_a_ranking_is_complete_where_too_few_lists_were_searched():
    space, points = Euclidean(), gallery(Euclidean(), 2000)
    search = ApproximateSearch.of("ivf", space, points)
    search.index.nprobe = 1
    scores, places = search.search(points[:1], 2000)
    assert sorted(places[0].tolist()) == list(range(2000)) and scores.isfinite().all()


def test_damaged_files_are_one_line(tmp_path):
    points = gallery(Euclidean(), 300)
    with pytest.raises(UserError, match=r"faiss\.1 is missing or damaged"):
        ApproximateSearch.read(tmp_path / "faiss.1", Euclidean(), points)
    ApproximateSearch.of("hnsw", Euclidean(), points[:200]).write(tmp_path / "faiss.1")
    with pytest.raises(UserError, match="has 200 points instead of 300"):
        ApproximateSearch.read(tmp_path / "faiss.1", Euclidean(), points)
