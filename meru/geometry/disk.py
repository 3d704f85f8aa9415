"""Draws points of any dimension in the Poincaré disk: distances from the origin are exact, directions are projected."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from meru.geometry import poincare
from meru.geometry.all_pairs import TINY, exact_product
from meru.geometry.spaces import Space


@dataclass(frozen=True)
class DiskView:
    """A plane through the origin of the tangent space, on which points are projected (tangent PCA).

    A geodesic through the origin stays a straight line through the centre. All points keep their distance from the
    origin, which says how general they are; of their directions, only the part in the plane is seen.

    Attributes:
        plane: Two orthonormal directions, float64 `(2, D)`.
    """

    plane: Tensor

    @classmethod
    def fit(cls, space: Space, *groups: Tensor) -> DiskView:
        """The plane in which the points spread most, around the mean direction of each group.

        Images and captions lie in different directions from the origin. Without their means, that difference would be
        all that the plane shows, so the plane is orthogonal to the mean of every group.

        Args:
            space: The points' space.
            groups: Points of each kind, such as images and captions, `(n, D)` each; D ≥ 2. Empty groups are ignored.

        Raises:
            ValueError: if there are no points, or they have fewer than two dimensions.
        """
        tangents = [_tangent(space, points) for points in groups if len(points)]
        if not tangents or tangents[0].shape[-1] < 2:
            raise ValueError("a plane needs points of at least two dimensions")
        dimension = tangents[0].shape[-1]
        means = torch.stack([tangent.mean(dim=0) for tangent in tangents])
        parts = [(tangent - mean).T for tangent, mean in zip(tangents, means, strict=True)]
        scatter = torch.stack([exact_product(part, part) for part in parts]).sum(dim=0)
        if dimension - len(means) >= 2:
            basis = torch.linalg.qr(means.T).Q
            across = torch.eye(dimension, dtype=torch.float64, device=basis.device) - exact_product(basis, basis)
            scatter = exact_product(exact_product(across, scatter), across)  # both are symmetric
        axes = torch.linalg.eigh(scatter).eigenvectors[:, -2:].flip(1).T
        # The solver's sign of an axis is arbitrary: the largest entry is made positive.
        return cls(axes * axes.gather(1, axes.abs().argmax(dim=1, keepdim=True)).sign())

    def place(self, space: Space, points: Tensor) -> Tensor:
        """Places `(…, 2)` in the unit disk, float64, of points `(…, D)` at the true curvature.

        A point whose direction is orthogonal to the plane is drawn to the right of the centre.
        """
        plane = self.plane.to(points.device)
        tangent = _tangent(space, points)
        flat = exact_product(tangent.flatten(end_dim=-2) if tangent.ndim > 1 else tangent[None], plane)
        flat = flat.view(*tangent.shape[:-1], 2)
        norm = flat.norm(dim=-1, keepdim=True)
        direction = torch.where(norm > 1e-12, flat / norm.clamp_min(TINY), flat.new_tensor([1.0, 0.0]))
        return direction * unit_radius(space, points)[..., None]


def unit_radius(space: Space, points: Tensor) -> Tensor:
    """Radius in the unit disk, tanh(√c r/2), float64 `(…)`, of points `(…, D)` at distance r from the origin."""
    ball, c = space.in_ball(points.double())
    return (torch.as_tensor(c, dtype=torch.float64, device=ball.device).sqrt() * ball.norm(dim=-1)).clamp_max(1 - 1e-9)


def ring_radius(space: Space, distance: float) -> float | None:
    """Radius in the unit disk of the ring at a distance from the origin; None in a space whose points share one."""
    if not space.has_cones:
        return None
    return float(unit_radius(space, space.lift(torch.tensor([distance, 0.0], dtype=torch.float64))))


def _tangent(space: Space, points: Tensor) -> Tensor:
    """Tangent vectors at the origin, float64, times √c: their lengths are distances in units of 1/√c."""
    ball, c = space.in_ball(points.double())
    c = torch.as_tensor(c, dtype=torch.float64, device=ball.device)
    return poincare.log_map0(ball, c) * c.sqrt()
