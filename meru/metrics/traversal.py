"""Walks through a space of images and captions, and the captions met on the way.

From a point to the root of the space, captions become more general: Desai et al., "Hyperbolic Image-Text
Representations", ICML 2023, section 4.4.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from meru.geometry.spaces import Space

ROOT = -1  # instead of a caption: nothing is nearer than the root
FILTERS = ("cone", "radius", "none")


class Walk(NamedTuple):
    """A path along a geodesic, and the candidate that is met at each of its S points.

    Attributes:
        shares: Fractions of the way, from 0 at the start to 1 at the end, `(S,)`.
        points: `(S, D)`.
        radii: Distance of the points from the origin, `(S,)`.
        met: Row of the candidate at each point, int64 `(S,)`; `ROOT` for the root.
        scores: Its similarity, `(S,)`.
    """

    shares: Tensor
    points: Tensor
    radii: Tensor
    met: Tensor
    scores: Tensor

    def stages(self) -> list[tuple[float, int]]:
        """Each candidate once, with the share of the way at which it is first met, in that order."""
        found: dict[int, float] = {}
        for share, row in zip(self.shares.tolist(), self.met.tolist(), strict=True):
            found.setdefault(row, share)
        return [(share, row) for row, share in found.items()]

    def stretches(self) -> list[tuple[float, float, int]]:
        """The parts of the way on which one candidate is met: first and last share, and its row; they share ends.

        Each part ends in the middle between two points that meet different candidates. A candidate that is met again
        later has several parts.
        """
        shares, met = self.shares.tolist(), self.met.tolist()
        starts = [0, *(step for step in range(1, len(met)) if met[step] != met[step - 1])]
        edges = [shares[0], *((shares[step - 1] + shares[step]) / 2 for step in starts[1:]), shares[-1]]
        return [(first, last, met[step]) for first, last, step in zip(edges[:-1], edges[1:], starts, strict=True)]


@torch.no_grad()
def walk(
    space: Space,
    start: Tensor,
    end: Tensor,
    candidates: Tensor,
    *,
    root: Tensor,
    steps: int = 50,
    general: str = "cone",
    minimum_radius: float = 0.1,
) -> Walk:
    """Walk from one point to another along the geodesic, and find the nearest candidate at every step.

    Args:
        space: The points' space.
        start, end: `(D,)`.
        candidates: Points of captions, `(T, D)`; T may be 0.
        root: The root, `(D,)`: see `Space.root`. It is always a candidate.
        steps: Number of parts into which the way is divided, at least 1.
        general: Which candidates may be met at a point: `cone`, those whose entailment cone contains it, as in the
            paper; `radius`, those at least as near to the root; `none`, all. A space without cones takes all.
        minimum_radius: K of the cones.

    Raises:
        ValueError: for fewer than one step, or another filter.
    """
    if steps < 1 or general not in FILTERS:
        raise ValueError(f"steps={steps}, general={general}: at least 1, and one of {', '.join(FILTERS)}")
    shares = torch.linspace(0, 1, steps + 1, dtype=start.dtype, device=start.device)
    points = space.geodesic(start.expand(len(shares), -1), end.expand(len(shares), -1), shares)
    every = torch.cat([candidates, root[None]])
    scores = space.similarity(points, every)
    if space.has_cones and general != "none" and len(candidates):
        scores[:, :-1].masked_fill_(~more_general(space, points, candidates, general, minimum_radius), -torch.inf)
    best = scores.max(dim=1)
    met = torch.where(best.indices == len(candidates), ROOT, best.indices)
    return Walk(shares, points, space.radius(points), met, best.values)


def more_general(
    space: Space, points: Tensor, candidates: Tensor, general: str, minimum_radius: float = 0.1
) -> Tensor:
    """Which candidates `(T, D)` are more general than which points `(S, D)`, bool `(S, T)`; `cone` or `radius`."""
    if general == "radius":
        return space.radius(candidates)[None] <= space.radius(points)[:, None]
    aperture = space.half_aperture(candidates, minimum_radius)
    return torch.stack([space.exterior_angle(candidates, point.expand_as(candidates)) <= aperture for point in points])
