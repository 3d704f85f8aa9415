"""Approximate search with FAISS, for galleries beyond about a million points; its recall is measured, never assumed.

FAISS knows cosines and Euclidean distances. Points of the hyperboloid are searched by the Euclidean distance of their
tangent vectors at the origin, which finds far more of the nearest points than the inner product does. The candidates
are then compared by the distance of the space, in float32.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from meru.errors import UserError
from meru.files import make_folder_of
from meru.geometry import lorentz
from meru.geometry.spaces import Hyperboloid, Space, Sphere
from meru.index.scan import reranked

PROBES = 32  # lists of an IVF index that are searched
NEIGHBOURS, WIDTH = 32, 128  # of an HNSW index: links of a point, and points followed in a search
CANDIDATES = 10  # for each result asked for, at least LEAST in all
LEAST = 100
CHUNK = 65_536
TRAINED_ON = 50  # points for each list


def require_faiss() -> Any:
    """The package `faiss`.

    Raises:
        UserError: if it is not installed.
    """
    try:
        import faiss
    except ImportError:
        raise UserError("kind=ivf and kind=hnsw need FAISS: pip install faiss-cpu") from None
    return faiss


class ApproximateSearch:
    """Search by a FAISS index.

    Args:
        index: FAISS's index of all points.
        space: The points' space.
        points: `(n, D)`, float32, in which the candidates are compared.
    """

    def __init__(self, index: Any, space: Space, points: Tensor):
        self.index, self.space, self.points = index, space, points

    @classmethod
    def of(cls, kind: str, space: Space, points: Tensor) -> ApproximateSearch:
        """Build an index: `ivf` (inverted lists) or `hnsw` (a graph of neighbours) of points `(n, D)`."""
        faiss = require_faiss()
        count, dimension = points.shape
        inner = isinstance(space, Sphere)
        metric = faiss.METRIC_INNER_PRODUCT if inner else faiss.METRIC_L2
        if kind == "hnsw":
            index = faiss.IndexHNSWFlat(dimension, NEIGHBOURS, metric)
            index.hnsw.efSearch = WIDTH
        else:
            lists = max(1, min(round(4 * count**0.5), count // 40))
            coarse = faiss.IndexFlatIP(dimension) if inner else faiss.IndexFlatL2(dimension)
            index = faiss.IndexIVFFlat(coarse, dimension, lists, metric)
            index.cp.min_points_per_centroid = 1  # else it warns where there are few points
            index.nprobe = min(PROBES, lists)
            generator = torch.Generator().manual_seed(0)
            sample = torch.randperm(count, generator=generator)[: TRAINED_ON * lists].sort().values
            index.train(_flat(space, points[sample]).numpy())
        for part in points.split(CHUNK):
            index.add(_flat(space, part).numpy())
        return cls(index, space, points)

    @classmethod
    def read(cls, path: Path, space: Space, points: Tensor) -> ApproximateSearch:
        """Read what `write` has written.

        Raises:
            UserError: if it is missing or damaged, or FAISS is not installed.
        """
        faiss = require_faiss()
        try:
            index = faiss.read_index(str(path))
        except RuntimeError:
            raise UserError(f"{path} is missing or damaged: make the index again with scripts/index.py") from None
        if index.ntotal != len(points):
            raise UserError(f"{path} has {index.ntotal} points instead of {len(points)}: make the index again")
        return cls(index, space, points)

    def write(self, path: Path) -> None:
        """Write FAISS's index into a file."""
        make_folder_of(path)
        try:
            require_faiss().write_index(self.index, str(path))
        except RuntimeError as error:
            path.unlink(missing_ok=True)
            raise UserError(f"cannot write {path}: {' '.join(str(error).split())[:200]}", exit_code=1) from None

    @torch.no_grad()
    def search(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """As `ExactScan.search`, without the promise that all of the best are found."""
        k = min(k, len(self.points))
        wanted = min(max(CANDIDATES * k, LEAST), len(self.points))
        _, found = self.index.search(_flat(self.space, queries.float()).numpy(), wanted)
        candidates = [each[each >= 0] for each in torch.from_numpy(found)]
        for number, some in enumerate(candidates):
            if len(some) < k:  # too few lists were searched: rows in order fill the ranking
                every = torch.arange(len(self.points))
                candidates[number] = torch.cat([some, every[~torch.isin(every, some)][: k - len(some)]])
        scores, places = zip(*reranked(self.space, queries.float(), self.points, candidates, k), strict=True)
        return torch.stack(scores), torch.stack(places)


def recall_of(search: ApproximateSearch, exact: Any, queries: Tensor, *, k: int = 10) -> float:
    """Share of the k most similar points that the approximate search finds, mean of the queries `(Q, D)`.

    Args:
        search: The search to measure.
        exact: An `ExactScan` of the same points.
        queries: Points to search for.
        k: Length of the rankings.
    """
    _, right = exact.search(queries, k)
    _, found = search.search(queries, k)
    hits = [torch.isin(a, b).float().mean() for a, b in zip(right, found, strict=True)]
    return float(torch.stack(hits).mean())


def _flat(space: Space, points: Tensor) -> Tensor:
    """Points as FAISS compares them, float32 `(n, D)`."""
    flat = lorentz.log_map0(points, space.curvature) if isinstance(space, Hyperboloid) else points
    return flat.float().contiguous()
