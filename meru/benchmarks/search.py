"""Time and recall of searches in many points: the exact scan beside FAISS's exact and approximate ones."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from meru.geometry.spaces import Hyperboloid, Space
from meru.index.approximate import ApproximateSearch, require_faiss
from meru.index.scan import ExactScan, own_number
from meru.reports.tables import markdown_table

CLUSTERS = 1000
QUERIES, SLOW = 20, 3  # queries; those that a slow method is timed with
K = 10
DISTANCES = "distances to all points"
CURVATURES = {"nearly flat (√c·r = 0.4)": (0.1, 0.04), "curved (√c·r = 9.6)": (1.0, 0.3)}
BLOCK = 50_000


def report(size: int, dimension: int, approximate: bool, repeats: int, device: str) -> str:
    """Milliseconds of one search for the 10 nearest of `size` points, and the share of them that is found.

    Args:
        size: Number of points.
        dimension: D.
        approximate: Whether FAISS's approximate indexes are measured too; building them takes minutes.
        repeats: Rounds over the queries.
        device: `cpu`; the index is searched there.
    """
    rows = []
    for name, (curvature, scale) in CURVATURES.items():
        space = Hyperboloid(curvature)
        points, queries = _points(space, size, dimension, scale)
        for method, search in _methods(space, points, approximate).items():
            found = torch.cat([search(query[None]) for query in queries])
            milliseconds = _milliseconds(search, queries[:SLOW] if method == DISTANCES else queries, repeats)
            right = _right(space, points, queries)
            recall = statistics.mean(torch.isin(a, b).float().mean().item() for a, b in zip(right, found, strict=True))
            rows.append([name, method, f"{milliseconds:.0f} ms", f"{recall:.3f}"])
            search = None  # frees FAISS's copy before the next is built
    note = (
        f"{size:,} points in {CLUSTERS} clusters on the hyperboloid, D = {dimension}; one query at a time, the {K} "
        f"nearest; median over {QUERIES} queries and {repeats} rounds. Recall: share of the nearest by distances in "
        "float64."
    )
    return note + "\n\n" + markdown_table(["space", "method", "time", f"recall@{K}"], rows)


def _points(space: Space, size: int, dimension: int, scale: float) -> tuple[Tensor, Tensor]:
    """Points in clusters, as embeddings are, and queries from some of the clusters."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(CLUSTERS, dimension, generator=generator)
    points = torch.empty(size, dimension)
    for block in points.split(BLOCK):
        chosen = centres[torch.randint(CLUSTERS, (len(block),), generator=generator)]
        block.copy_(space.lift(scale * (chosen + torch.randn(len(block), dimension, generator=generator))))
    spread = centres[:QUERIES] + torch.randn(QUERIES, dimension, generator=generator)
    return points, space.lift(scale * spread)


def _methods(space: Hyperboloid, points: Tensor, approximate: bool) -> dict[str, Callable[[Tensor], Tensor]]:
    """Searches by name: a query `(1, D)` → rows `(1, 10)`."""
    faiss = require_faiss()
    faiss.omp_set_num_threads(torch.get_num_threads())
    exact = ExactScan.of(space, points)
    # The Lorentz inner product as an inner product of D + 1 numbers, as `ExactScan` uses it.
    flat = faiss.IndexFlatIP(points.shape[1] + 1)
    for start in range(0, len(points), BLOCK):
        block = points[start : start + BLOCK]
        flat.add(torch.cat([block, own_number(space, block)[:, None]], dim=1).numpy())

    def lifted(query: Tensor) -> Tensor:
        time_component = (1 / space.curvature + query.square().sum()).sqrt()
        asked = torch.cat([query, -time_component.view(1, 1)], dim=1)
        return torch.from_numpy(flat.search(asked.numpy(), K)[1])

    def distances(query: Tensor) -> Tensor:
        return space.similarity(query, points).topk(K).indices

    methods = {
        DISTANCES: distances,
        "FAISS, flat inner product": lifted,
        "ours: half precision, then float32": lambda query: exact.search(query, K)[1],
    }
    if approximate:
        for kind in ("ivf", "hnsw"):
            search = ApproximateSearch.of(kind, space, points)
            methods[f"FAISS, {kind}, then float32"] = lambda query, search=search: search.search(query, K)[1]
    return methods


def _right(space: Space, points: Tensor, queries: Tensor) -> Tensor:
    """Rows of the nearest points, by float64, of the candidates that float32 cannot separate from them."""
    nearest = space.similarity(queries, points).topk(4 * K).indices
    rows = []
    for query, candidates in zip(queries.double(), nearest, strict=True):
        distance = space.distance(query.expand(len(candidates), -1), points[candidates].double())
        rows.append(candidates[distance.argsort()[:K]])
    return torch.stack(rows)


def _milliseconds(search: Callable[[Tensor], Tensor], queries: Tensor, repeats: int) -> float:
    times = []
    for _ in range(repeats):
        for query in queries:
            begun = time.perf_counter()
            search(query[None])
            times.append(1000 * (time.perf_counter() - begun))
    return statistics.median(times)
