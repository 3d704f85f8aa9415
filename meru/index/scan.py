"""Exact search in millions of points: a scan in half precision whose error is bounded, then float32 for what remains.

In every space, the order of the gallery for a query q is that of a product and one number per point:

    sphere        ⟨q, y⟩
    flat space    ⟨q, y⟩ − ‖y‖²/2
    hyperboloid   ⟨q, y⟩ − q_t (y_t − 1/√c),   the Lorentz inner product plus q_t/√c

Only y is rounded, to float16 (11 bits, where bfloat16 has 8), after all points were divided by the length of the
longest. The rounding errors are known, so a point that the scan places too far below the k-th best cannot be among the
k best. All others are compared again by the distance of the space in float32, so nothing is missed.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from meru.geometry.spaces import Euclidean, Hyperboloid, Space, Sphere

ROWS = 65_536  # of the gallery at a time
PRODUCTS = 2**20  # at a time, which fit into the processor's cache
GROUP = 64  # rows of which only the best is sorted
WIDENED = 2_048  # of them that are widened to float32 at a time, into a buffer that stays in a core's own cache
QUERIES = 64
FEW = 3  # queries that half precision multiplies faster, one by one, than float32 all at once
_HALF, _SINGLE = 2.0**-11, 2.0**-23  # rounding of float16 and, with a margin, of float32


def shrunk(points: Tensor, longest: float) -> Tensor:
    """Points `(n, D)` in float16, divided by the length of the longest point of all."""
    return (points / longest).half()


def own_number(space: Space, points: Tensor) -> Tensor:
    """The number of each point that the scan needs beside its product, float32 `(n,)`; larger is farther.

    Raises:
        TypeError: for a space whose order is none of the above.
    """
    if isinstance(space, Sphere):
        return points.new_zeros(len(points))
    square = points.double().square().sum(dim=1)
    if isinstance(space, Euclidean):
        return (square / 2).float()
    if isinstance(space, Hyperboloid):
        c = float(space.curvature)
        # y_t − 1/√c = ‖y‖²/(y_t + 1/√c): the difference would lose small radii.
        return (square / ((1 / c + square).sqrt() + c**-0.5)).float()
    raise TypeError(f"{type(space).__name__} has no form that can be scanned")


def reranked(
    space: Space, queries: Tensor, points: Tensor, candidates: list[Tensor], k: int
) -> list[tuple[Tensor, Tensor]]:
    """Similarities and rows of the k best candidates of each query, best first; of equal ones, the first.

    All pairs are compared together: a call for each query would take longer than the scan of a small gallery.

    Args:
        space: Of the points.
        queries: `(Q, D)`, float32.
        points: Gallery `(n, D)`, float32.
        candidates: For each query, rows of the gallery.
        k: Length of the rankings.
    """
    counts, rows = torch.tensor([len(each) for each in candidates]), torch.cat(candidates)
    asked = torch.arange(len(queries)).repeat_interleave(counts).to(rows.device)
    parts = zip(asked.split(ROWS), rows.split(ROWS), strict=True)
    scores = torch.cat([_similarities(space, queries[query], points[row]) for query, row in parts])
    found = []
    for of_query, each in zip(scores.split(counts.tolist()), candidates, strict=True):
        order = of_query.sort(descending=True, stable=True).indices[:k]
        found.append((of_query[order], each[order]))
    return found


def _similarities(space: Space, queries: Tensor, points: Tensor) -> Tensor:
    """Similarity `(n,)` of each query to its own point, both `(n, D)`."""
    return (queries * points).sum(dim=1) if isinstance(space, Sphere) else -space.distance(queries, points)


class ExactScan:
    """The k best points of a gallery for queries, by the similarity of the space.

    Args:
        space: The points' space.
        points: Gallery `(n, D)`, float32, for instance mapped from a file.
        half: `shrunk` of the points, `(n, D)`, float16.
        longest: Length of the longest point, above 0.
        own: `own_number` of the points, `(n,)`.
        rounding: Largest distance of a point divided by `longest` from its row of `half`.
    """

    def __init__(self, space: Space, points: Tensor, half: Tensor, *, longest: float, own: Tensor, rounding: float):
        self.space, self.points, self.half = space, points, half
        self.longest, self.own, self.rounding = longest, own, rounding
        self.largest_own = float(own.max()) or 1.0

    @classmethod
    def of(cls, space: Space, points: Tensor) -> ExactScan:
        """A scan of points in memory, `(n, D)`, n ≥ 1."""
        points = points.float()
        longest = float(points.norm(dim=1).max()) or 1.0
        half = shrunk(points, longest)
        rounding = float((points / longest - half.float()).norm(dim=1).max())
        own = own_number(space, points)
        return cls(space, points, half, longest=longest, own=own, rounding=rounding)

    @torch.no_grad()
    def search(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The best points of each query, best first; of equal ones, the first.

        Args:
            queries: `(Q, D)`, in the space.
            k: At least 1; beyond n it acts like n.

        Returns:
            Similarities, float32, and rows of the gallery, int64; both `(Q, min(k, n))`, on the gallery's device.
        """
        k = min(k, len(self.points))
        found = []
        for start in range(0, len(queries), QUERIES):
            block = queries[start : start + QUERIES].float().to(self.half.device)
            found += reranked(self.space, block, self.points, self._candidates(block, k), k)
        scores, rows = zip(*found, strict=True)
        return torch.stack(scores), torch.stack(rows)

    def _candidates(self, queries: Tensor, k: int) -> list[Tensor]:
        """For each query, ascending rows that hold its k best points and few others."""
        length = queries.norm(dim=1, keepdim=True)
        unit = torch.where(length > 0, queries / length.clamp_min(1e-30), queries)
        best = queries.new_empty(len(queries), 0)
        kept: list[list[tuple[Tensor, Tensor]]] = [[] for _ in queries]
        error = queries.new_zeros(len(queries))
        for start, products, product_error in self._products(unit):
            # In units of the scaled product; a query at the origin is compared by the points' own numbers alone.
            own = self.own[start : start + products.shape[1]] / self.largest_own
            scores = products - self._weight(length)[:, None] * own[None]
            error = torch.maximum(error, product_error)
            best = torch.cat([best, _best_of_some(scores, k)], dim=1)
            best = best.topk(min(k, best.shape[1]), dim=1).values
            enough = best[:, -1] - 2 * self._total(error, length) if best.shape[1] == k else best[:, -1] - torch.inf
            for number, (of_query, bound) in enumerate(zip(scores, enough, strict=True)):
                rows = (of_query >= bound).nonzero()[:, 0]
                kept[number].append((rows + start, of_query[rows]))
        chosen = []
        for parts, lost in zip(kept, 2 * self._total(error, length), strict=True):
            rows, scores = (torch.cat(each) for each in zip(*parts, strict=True))
            chosen.append(rows[scores >= scores.topk(k).values[-1] - lost])
        return chosen

    def _products(self, unit: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Products `(Q, rows)` of queries of length 1 with the scaled points, block by block, and bounds of the error.

        Half precision multiplies few queries fastest, since memory is the limit; many are multiplied in float32, and
        so is everything on a GPU, whose sums in half precision have no known bound.
        """
        on_gpu, size = unit.device.type == "cuda", max(1, min(ROWS, PRODUCTS // len(unit)))
        if len(unit) <= FEW and not on_gpu:
            query = unit.half()
            of_query = (unit - query.float()).norm(dim=1)
            for start in range(0, len(self.half), size):
                rows = self.half[start : start + size]
                products = torch.stack([(rows @ each).float() for each in query])
                largest = products.abs().amax(dim=1)
                yield start, products, self.rounding + of_query * (1 + self.rounding) + _HALF * largest
            return
        error = torch.full_like(unit[:, 0], self.rounding)
        buffer = unit.new_empty(min(size if on_gpu else WIDENED, len(self.half)), self.half.shape[1])
        for start in range(0, len(self.half), size):
            yield start, _widened(unit, self.half[start : start + size], buffer), error

    def _weight(self, length: Tensor) -> Tensor:
        """Factor of the points' own numbers in units of the largest, `(Q,)`, for products of unit queries and scaled
        points. Beyond 1e30, the query is at the origin, and its products do not matter."""
        length = length[:, 0].double()
        time = 1.0
        if isinstance(self.space, Hyperboloid):
            time = (1 / float(self.space.curvature) + length.square()).sqrt()
        return (time * self.largest_own / (length.clamp_min(1e-60) * self.longest)).clamp_max(1e30).float()

    def _total(self, error: Tensor, length: Tensor) -> Tensor:
        """Bound of the error of the scores: of the products, of float32 sums of D products, and of the own number."""
        dimension = self.half.shape[1]
        return error + _SINGLE * (dimension + 8) + 8 * _SINGLE * self._weight(length)


def _best_of_some(scores: Tensor, k: int) -> Tensor:
    """Scores `(Q, ≤ k)` of different points, descending, the last of k at most the k-th best of `(Q, R)`.

    They are the best of groups, since sorting every score takes longer than its product. A group's rows lie far apart,
    because images that are alike often are neighbours in the gallery.
    """
    groups = scores.shape[1] // GROUP
    if groups > k:
        scores = scores[:, : groups * GROUP].unflatten(1, (GROUP, groups)).amax(dim=1)
    return scores.topk(min(k, scores.shape[1]), dim=1).values


def _widened(queries: Tensor, rows: Tensor, buffer: Tensor) -> Tensor:
    """Products `(Q, R)` in float32 of queries `(Q, D)` with rows `(R, D)` in half precision, by way of a buffer."""
    products = queries.new_empty(len(queries), len(rows))
    for start in range(0, len(rows), len(buffer)):
        part = rows[start : start + len(buffer)]
        torch.mm(queries, buffer[: len(part)].copy_(part).T, out=products[:, start : start + len(part)])
    return products
