"""Spaces in which images and captions are compared: a model holds one and uses it for all geometry.

    Sphere        unit vectors, compared by cosine: CLIP
    Euclidean     flat space, compared by distance: EuCLIP (Chou & Alam, "Embedding Geometries of Contrastive
                  Language-Image Pre-Training", 2024)
    Hyperboloid   curvature −c, compared by distance: MERU (Desai et al., ICML 2023)

All methods compute in float32 regardless of autocast; half-precision inputs are widened, float64 stays float64. They
have finite gradients everywhere, also at the origin and where points coincide.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from meru.geometry import lorentz, poincare
from meru.geometry.all_pairs import exact_product, full_precision, length
from meru.geometry.paired import angle_between, flat_angle


class Space(ABC):
    """Interface of a space. "Row by row": the last dimension is D, and the dimensions before it broadcast.

    Attributes:
        curved: Whether it is created with a curvature, `Hyperboloid(c)`.
        has_cones: Whether points have a radius, and therefore entailment cones. Otherwise the lengths of features have
            no meaning, and the methods for cones raise `NotImplementedError`.
    """

    curved: ClassVar[bool] = False
    has_cones: ClassVar[bool] = True

    @abstractmethod
    def lift(self, features: Tensor, scale: Tensor | float = 1.0) -> Tensor:
        """Points `(…, D)` of features `(…, D)` times a scale > 0: tangent vectors at the origin if there is one."""

    @abstractmethod
    def similarity(self, queries: Tensor, gallery: Tensor) -> Tensor:
        """Similarity of every query and every gallery item, `(Q, D)`, `(N, D)` → `(Q, N)`; higher is more similar."""

    @abstractmethod
    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        """Geodesic distance ≥ 0 of points, row by row, `(…)`; 0 with gradient 0 where they coincide."""

    @abstractmethod
    def average(self, points: Tensor) -> Tensor:
        """One point for several points of the same kind, such as one class: `(…, P, D)` → `(…, D)`."""

    @abstractmethod
    def radius(self, points: Tensor) -> Tensor:
        """Distance of points `(…, D)` from the origin, `(…)`; more general points lie nearer."""

    @abstractmethod
    def geodesic(self, x: Tensor, y: Tensor, share: Tensor | float) -> Tensor:
        """Point at a fraction of the way from x to y along the geodesic, row by row, `(…, D)`; shares `(…)`."""

    @abstractmethod
    def inner(self, x: Tensor, y: Tensor) -> Tensor:
        """Inner product of every x with every y, `(B1, D)`, `(B2, D)` → `(B1, B2)`."""

    @abstractmethod
    def in_ball(self, points: Tensor) -> tuple[Tensor, Tensor | float]:
        """Corresponding points `(…, D)` of a Poincaré ball, and its curvature."""

    def root(self, points: Tensor) -> Tensor:
        """The most general point `(D,)`, from which all others descend: the origin, whatever the points `(n, D)`."""
        return points.new_zeros(points.shape[-1])

    def at_limit(self, points: Tensor) -> Tensor:
        """Share of points `(…, D)` that `lift` has shortened to its largest radius: a scalar in [0, 1]."""
        return points.new_zeros(())

    def exterior_angle(self, apexes: Tensor, points: Tensor) -> Tensor:
        """Angle at each apex between the continued ray from the origin and the geodesic to the point, row by row.

        Returns:
            Radians in [0, π], shape `(…)`; 0 with gradient 0 if an apex is too near to the point or the origin.
        """
        raise NotImplementedError(f"{type(self).__name__} has no cones")

    def half_aperture(self, apexes: Tensor, minimum_radius: float = 0.1) -> Tensor:
        """Half aperture of the cones at points `(…, D)`, radians in (0, π/2), shape `(…)`: narrower farther out.

        Within the dead radius it has its largest value, 1.557, with gradient 0. `minimum_radius` is K > 0.
        """
        raise NotImplementedError(f"{type(self).__name__} has no cones")

    def share_of_dead_radius(self, apexes: Tensor, minimum_radius: float = 0.1) -> Tensor:
        """Radius of points `(…, D)` in units of the dead radius of K = `minimum_radius`, ≥ 0, shape `(…)`."""
        raise NotImplementedError(f"{type(self).__name__} has no cones")


@dataclass(frozen=True)
class Sphere(Space):
    """Unit vectors; distances are angles in radians."""

    has_cones: ClassVar[bool] = False

    def lift(self, features: Tensor, scale: Tensor | float = 1.0) -> Tensor:
        """Feature vectors shortened or lengthened to length 1, whatever the scale; 0 stays 0."""
        with full_precision(1.0, features) as (_, features):
            return F.normalize(features, dim=-1)

    def similarity(self, queries: Tensor, gallery: Tensor) -> Tensor:
        """Cosines."""
        return exact_product(queries, gallery)

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        """Angle 2 atan2(‖x − y‖, ‖x + y‖), exact where points coincide."""
        with full_precision(1.0, x, y) as (_, x, y):
            return angle_between(x, y)

    def average(self, points: Tensor) -> Tensor:
        """Mean, scaled to length 1."""
        with full_precision(1.0, points) as (_, points):
            return F.normalize(points.mean(dim=-2), dim=-1)

    def radius(self, points: Tensor) -> Tensor:
        """Length, which is 1 for all points."""
        with full_precision(1.0, points) as (_, points):
            return points.norm(dim=-1)

    def geodesic(self, x: Tensor, y: Tensor, share: Tensor | float) -> Tensor:
        """Point of the shorter great circle; between opposite points, which have no shorter one, x or y itself."""
        with full_precision(1.0, x, y) as (_, x, y):
            # From the middle m, along the unit vector u from x to y: nothing cancels near equal or opposite points.
            x, y = F.normalize(x, dim=-1), F.normalize(y, dim=-1)
            share = torch.as_tensor(share, dtype=x.dtype, device=x.device)[..., None]
            angle = self.distance(x, y)[..., None]
            u, m = y - x, x + y
            # Rounded points have u·m ≠ 0: the shorter of the two is made orthogonal to the longer.
            product, square_u, square_m = ((a * b).sum(-1, keepdim=True) for a, b in ((u, m), (u, u), (m, m)))
            shorter = square_u < square_m
            from_u = product / square_m.masked_fill(~shorter, torch.inf)
            from_m = product / square_u.masked_fill(shorter, torch.inf)
            u, m = F.normalize(u - from_u * m, dim=-1), F.normalize(m - from_m * u, dim=-1)
            turn = (share - 0.5) * angle
            apart = (angle > 0) & (angle < torch.pi * (1 - 1e-6))
            return torch.where(apart, turn.cos() * m + turn.sin() * u, torch.where(share < 0.5, x, y))

    def root(self, points: Tensor) -> Tensor:
        """The average of the points, as in MERU's paper, because the sphere has no origin."""
        return self.average(points)

    def inner(self, x: Tensor, y: Tensor) -> Tensor:
        """Cosines."""
        return exact_product(x, y)

    def in_ball(self, points: Tensor) -> tuple[Tensor, float]:
        """Points in the same directions, all at distance 2, and curvature 1."""
        return poincare.exp_map0(points), 1.0


@dataclass(frozen=True)
class Euclidean(Space):
    """Flat space: the limit c → 0 of the hyperboloid, whose K is K√c/2 so that cones keep their width."""

    def lift(self, features: Tensor, scale: Tensor | float = 1.0) -> Tensor:
        """The scaled feature vectors themselves."""
        with full_precision(1.0, features) as (_, features):
            return features * scale

    def similarity(self, queries: Tensor, gallery: Tensor) -> Tensor:
        """Negative distance of every pair, computed from differences: a matmul would lose near points' distances."""
        with full_precision(1.0, queries, gallery) as (_, queries, gallery):
            return -torch.cdist(queries, gallery, compute_mode="donot_use_mm_for_euclid_dist")

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        """‖x − y‖."""
        with full_precision(1.0, x, y) as (_, x, y):
            return torch.linalg.vector_norm(x - y, dim=-1)

    def average(self, points: Tensor) -> Tensor:
        """Mean."""
        with full_precision(1.0, points) as (_, points):
            return points.mean(dim=-2)

    def radius(self, points: Tensor) -> Tensor:
        """Length."""
        with full_precision(1.0, points) as (_, points):
            return length(points)

    def geodesic(self, x: Tensor, y: Tensor, share: Tensor | float) -> Tensor:
        """(1 − t) x + t y."""
        with full_precision(1.0, x, y) as (_, x, y):
            return torch.lerp(x, y, torch.as_tensor(share, dtype=x.dtype, device=x.device)[..., None])

    def inner(self, x: Tensor, y: Tensor) -> Tensor:
        """Dot products."""
        return exact_product(x, y)

    def in_ball(self, points: Tensor) -> tuple[Tensor, float]:
        """Points as tangent vectors at the origin of the ball of curvature 1, mapped into it."""
        return poincare.project(poincare.exp_map0(points)), 1.0

    def exterior_angle(self, apexes: Tensor, points: Tensor) -> Tensor:
        """Angle between y − x and x, for apexes x and points y.

            θ(x, y) = atan2(‖(y − x) − a x/‖x‖‖, a),   a = (y − x)·x/‖x‖

        0 with gradient 0 where ‖y − x‖ ≤ τ max(1, ‖x‖) or ‖x‖ ≤ τ, τ of `lorentz.ANGLE_TOLERANCE`: see there.
        """
        with full_precision(1.0, apexes, points) as (_, x, y):
            return flat_angle(x, y, lorentz.ANGLE_TOLERANCE[x.dtype])

    def half_aperture(self, apexes: Tensor, minimum_radius: float = 0.1) -> Tensor:
        """asin(K/‖x‖), with the argument clamped to 1 − 1e-4."""
        with full_precision(1.0, apexes) as (_, x):
            return torch.asin(minimum_radius / length(x).clamp_min(minimum_radius / (1 - 1e-4)))

    def share_of_dead_radius(self, apexes: Tensor, minimum_radius: float = 0.1) -> Tensor:
        """‖x‖/K."""
        with full_precision(1.0, apexes) as (_, x):
            return length(x) / minimum_radius


@dataclass(frozen=True, eq=False)
class Hyperboloid(Space):
    """Hyperbolic space; points are their space components: see `meru.geometry.lorentz`.

    Attributes:
        curvature: c > 0, a number or a tensor with one element, with respect to which all is differentiable; the space
            has curvature −c.
    """

    curvature: Tensor | float
    curved: ClassVar[bool] = True

    def lift(self, features: Tensor, scale: Tensor | float = 1.0) -> Tensor:
        """Exponential map at the origin."""
        return lorentz.exp_map0(features, self.curvature, scale=scale)

    def similarity(self, queries: Tensor, gallery: Tensor) -> Tensor:
        """Negative geodesic distance of every pair."""
        return -lorentz.pairwise_distance(queries, gallery, self.curvature)

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        """arccosh(−c⟨x, y⟩_L)/√c."""
        return lorentz.distance(x, y, self.curvature)

    def average(self, points: Tensor) -> Tensor:
        """Mean in the tangent space at the origin, mapped back by `lift`."""
        return lorentz.exp_map0(lorentz.log_map0(points, self.curvature).mean(dim=-2), self.curvature)

    def radius(self, points: Tensor) -> Tensor:
        """Geodesic distance from the origin."""
        return lorentz.distance_to_origin(points, self.curvature)

    def geodesic(self, x: Tensor, y: Tensor, share: Tensor | float) -> Tensor:
        """See `lorentz.geodesic`."""
        return lorentz.geodesic(x, y, share, self.curvature)

    def inner(self, x: Tensor, y: Tensor) -> Tensor:
        """Lorentz inner products."""
        return lorentz.pairwise_inner(x, y, self.curvature)

    def in_ball(self, points: Tensor) -> tuple[Tensor, Tensor | float]:
        """The same points in the Poincaré ball, and c."""
        return lorentz.to_poincare(points, self.curvature), self.curvature

    def at_limit(self, points: Tensor) -> Tensor:
        """Share of points at `lorentz.MAXIMUM_RADIUS`."""
        return lorentz.clamped_share(points, self.curvature)

    def exterior_angle(self, apexes: Tensor, points: Tensor) -> Tensor:
        """See `lorentz.exterior_angle`."""
        return lorentz.exterior_angle(apexes, points, self.curvature)

    def half_aperture(self, apexes: Tensor, minimum_radius: float = 0.1) -> Tensor:
        """asin(2K/(√c‖x‖)): see `lorentz.half_aperture`."""
        return lorentz.half_aperture(apexes, self.curvature, minimum_radius)

    def share_of_dead_radius(self, apexes: Tensor, minimum_radius: float = 0.1) -> Tensor:
        """√c‖x‖/(2K)."""
        with full_precision(self.curvature, apexes) as (c, x):
            return c.sqrt() * length(x) / (2 * minimum_radius)


# By the name that the key `model.space` gives.
SPACES: dict[str, type[Space]] = {"hyperboloid": Hyperboloid, "euclidean": Euclidean, "sphere": Sphere}
