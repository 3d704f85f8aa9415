"""Poincaré ball model of hyperbolic space: pure functions on points of the ball of radius 1/√c.

The space of curvature −c is the ball {x: c‖x‖² < 1} with the metric (2/(1 − c‖x‖²))² ‖dx‖². The origin is x = 0. The
exponential map `exp_map0` follows the literature on hyperbolic networks (Ganea et al., "Hyperbolic Neural
Networks", NeurIPS 2018): it puts u at distance 2‖u‖, since tangent vectors at the origin keep their Euclidean length.

All functions here
- compute in float32 regardless of autocast; half-precision inputs are widened, float64 stays float64;
- take `curvature`, c > 0, as a number or as a tensor with one element, and are differentiable with respect to it too;
- have finite gradients everywhere in the ball, also at the origin and where points coincide; those of distances, sums
  and midpoints are written out and can be taken once;
- raise ValueError if a number c is not positive or the shapes do not fit.

Distant points crowd at the edge of the ball: float32 points at radius ρ (units of 1/√c) are accurate to about 1e-7·e^ρ,
so stay below 7 (`project` does with its default margin; after `clip_features` of 2.3 at c = 0.1 nothing exceeds 1.5).
Points on or beyond the edge are invalid: distances treat them as points at radius 22. `require_inside` finds them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from meru.geometry.all_pairs import (
    AllPairsDistance,
    full_precision,
    length,
    root,
    tanhc,
)
from meru.geometry.centres import ball_midpoint, ball_midpoints_of_groups
from meru.geometry.mobius import mobius_sum
from meru.geometry.paired import ball_distance, exact_square

MARGIN = 1e-3  # share of the ball's radius that `project` keeps free: float32 points then stay below radius 7.7
_EDGE = 1e-9  # least 1 − c‖x‖²: radius 22


def clip_features(u: Tensor, maximum: float = 2.3) -> Tensor:
    """Shorten feature vectors `(…, D)` to a Euclidean length of at most `maximum`, differentiably.

    Far from the origin, the gradient through the ball vanishes (Guo et al., "Clipped Hyperbolic Classifiers Are
    Super-Hyperbolic Classifiers", CVPR 2022).
    """
    if not maximum > 0:
        raise ValueError(f"features cannot be clipped to length {maximum}: it must be positive")
    with full_precision(1.0, u) as (_, u):
        norm = length(u, keepdim=True)
        return torch.where(norm > maximum, u * (maximum / torch.where(norm > maximum, norm, 1)), u)


def exp_map0(u: Tensor, curvature: Tensor | float = 1.0) -> Tensor:
    """Exponential map at the origin: tanh(√c‖u‖)/(√c‖u‖) · u, shape `(…, D)`, at distance 2‖u‖ from the origin."""
    with full_precision(curvature, u) as (c, u):
        return u * tanhc(c * (u * u).sum(-1, keepdim=True))


def lift_features(
    features: Tensor, curvature: Tensor | float = 1.0, *, maximum: float = 2.3, scale: float = 1.0
) -> Tensor:
    """Points of the ball for a network's features `(…, D)`: scaled, clipped to a norm of `maximum`, then mapped."""
    scaled = features if scale == 1 else features * scale
    return project(exp_map0(clip_features(scaled, maximum), curvature), curvature)


def log_map0(x: Tensor, curvature: Tensor | float = 1.0) -> Tensor:
    """Inverse of `exp_map0`: artanh(√c‖x‖)/(√c‖x‖) · x, shape `(…, D)`."""
    with full_precision(curvature, x) as (c, x):
        # artanh(r) = ½ asinh(2r/(1 − r²)): half the distance, divided by r
        radius = distance_to_origin(x, c)[..., None]
        norm = length(x, keepdim=True)
        small = c.sqrt() * norm < 1e-3
        series = 1 + c * norm.square() / 3
        return x * torch.where(small, series, 0.5 * radius / torch.where(small, 1, norm))


def project(x: Tensor, curvature: Tensor | float = 1.0, *, margin: float = MARGIN) -> Tensor:
    """Pull points `(…, D)` with a norm above (1 − margin)/√c back to that norm; others are unchanged."""
    with full_precision(curvature, x) as (c, x):
        limit = (1 - margin) / c.sqrt()
        norm = length(x, keepdim=True)
        outside = norm > limit
        return torch.where(outside, x * (limit / torch.where(outside, norm, 1)), x)


def require_inside(x: Tensor, curvature: Tensor | float = 1.0) -> None:
    """Raise ValueError if one of the points `(…, D)` is not finite or not inside the ball; this reads the values."""
    with full_precision(curvature, x) as (c, x):
        square = (c.double() * exact_square(x)).flatten()
        if not (inside := square < 1).all():  # NaN is not below 1 either
            first = int((~inside).nonzero()[0])
            raise ValueError(
                f"point {first} is not inside the Poincaré ball: c‖x‖² = {square[first]:.4g}, and it must be below 1; "
                "map features with exp_map0, or project them"
            )


def mobius_add(x: Tensor, y: Tensor, curvature: Tensor | float = 1.0) -> Tensor:
    """x ⊕ y, row by row: the image of y under the translation from the origin to x.

        [(1 + 2c⟨x, y⟩ + c‖y‖²) x + (1 − c‖x‖²) y] / (1 + 2c⟨x, y⟩ + c²‖x‖²‖y‖²)

    Computed from x + y, because numerator and denominator cancel where y is near −x: see `meru.geometry.mobius`.

    Args:
        x: Points, shape `(…, D)`.
        y: Points; the dimensions before D broadcast with those of `x`.
        curvature: c > 0; the space has curvature −c.
    """
    with full_precision(curvature, x, y) as (c, x, y):
        return mobius_sum(x, y, c, _EDGE)


def distance(x: Tensor, y: Tensor, curvature: Tensor | float = 1.0) -> Tensor:
    """Geodesic distance, row by row.

        d(x, y) = 2/√c · asinh √( c‖x − y‖² / ((1 − c‖x‖²)(1 − c‖y‖²)) )

    Equal to 2/√c · artanh(√c‖(−x) ⊕ y‖), the form of the literature, but exact for close and for distant points.

    Args:
        x: Points, shape `(…, D)`.
        y: Points; the dimensions before D broadcast with those of `x`.
        curvature: c > 0; the space has curvature −c.

    Returns:
        Shape `(…)`, ≥ 0.
    """
    with full_precision(curvature, x, y) as (c, x, y):
        return ball_distance(x, y, c, _EDGE)


def pairwise_distance(x: Tensor, y: Tensor, curvature: Tensor | float = 1.0) -> Tensor:
    """Geodesic distance between every point of `x` and every point of `y`, without a tensor `(B1, B2, D)`.

    Computed on the hyperboloid, where all pairs take one matmul: see `meru.geometry.all_pairs.AllPairsDistance`.

    Args:
        x: Points, shape `(B1, D)`.
        y: Points, shape `(B2, D)`.
        curvature: c > 0; the space has curvature −c.

    Returns:
        Shape `(B1, B2)`, ≥ 0.
    """
    if x.ndim != 2 or y.ndim != 2:
        raise ValueError(f"points must have shapes (B1, D) and (B2, D), got {tuple(x.shape)} and {tuple(y.shape)}")
    with full_precision(curvature, x, y) as (c, x, y):
        # Rounding to float32 on the hyperboloid would move distant points farther than their neighbours are away.
        return AllPairsDistance.apply(_on_hyperboloid(x, c), _on_hyperboloid(y, c), c, x.dtype)


def distance_to_origin(x: Tensor, curvature: Tensor | float = 1.0) -> Tensor:
    """2/√c · artanh(√c‖x‖) of points `(…, D)`, shape `(…)`."""
    with full_precision(curvature, x) as (c, x):
        square = c.double() * exact_square(x)
        sinh = 2 * root(square) / (1 - square).clamp_min(_EDGE)
        return (torch.asinh(sinh) / c.double().sqrt()).to(x.dtype)


def einstein_midpoint(x: Tensor, weights: Tensor | None = None, curvature: Tensor | float = 1.0) -> Tensor:
    """Weighted mean of N points in Klein's model, back in the ball.

        m_Klein = Σ w_n λ_n x_n / Σ w_n (λ_n − 1),   λ_n = 2/(1 − c‖x_n‖²),   m = m_Klein/(1 + √(1 − c‖m_Klein‖²))

    Computed as the normalised Lorentz centroid: the same point, without loss of digits at the edge of Klein's ball.

    Args:
        x: Points, shape `(…, N, D)`.
        weights: Shape `(…, N)`, ≥ 0, with any sum; equal if omitted. If all are 0, the result is the origin.
        curvature: c > 0; the space has curvature −c.

    Returns:
        Points, shape `(…, D)`.
    """
    with full_precision(curvature, x) as (c, x):
        return ball_midpoint(x, weights, c, _EDGE)


def group_midpoints(x: Tensor, group: Tensor, groups: int, curvature: Tensor | float = 1.0) -> Tensor:
    """Einstein midpoint of the points of each group, without a tensor of points for every group.

    Args:
        x: Points, shape `(n, D)`.
        group: Group of each point, int64 in 0 … groups − 1, shape `(n,)`.
        groups: Number of groups.
        curvature: c > 0; the space has curvature −c.

    Returns:
        Points, shape `(groups, D)`; the origin for a group without points.
    """
    with full_precision(curvature, x) as (c, x):
        return ball_midpoints_of_groups(x, group, groups, c, _EDGE)


def to_klein(x: Tensor, curvature: Tensor | float = 1.0) -> Tensor:
    """The same points in Klein's ball of radius 1/√c, in which geodesics are straight: 2x/(1 + c‖x‖²), `(…, D)`."""
    with full_precision(curvature, x) as (c, x):
        return 2 * x / (1 + c * (x * x).sum(-1, keepdim=True))


def from_klein(k: Tensor, curvature: Tensor | float = 1.0) -> Tensor:
    """Points of Klein's ball in Poincaré's: k/(1 + √(1 − c‖k‖²)), shape `(…, D)`."""
    with full_precision(curvature, k) as (c, k):
        rest = (1 - c.double() * exact_square(k)).clamp_min(_EDGE**2).sqrt()
        return k * (1 / (1 + rest)).to(k.dtype)[..., None]


def riemannian_gradient(x: Tensor, curvature: Tensor | float = 1.0) -> Tensor:
    """x itself; in backward, the gradient is multiplied by the inverse metric ((1 − c‖x‖²)/2)², taken as a constant.

    The step of Riemannian optimizers, applied to embeddings `(…, D)` of a network instead of parameters (an option of
    hyptorch).
    """
    with full_precision(curvature, x) as (c, x):
        inverse_metric = ((1 - c * (x * x).sum(-1, keepdim=True)) / 2).square().detach()
        return x.detach() + inverse_metric * (x - x.detach())


def _on_hyperboloid(x: Tensor, c: Tensor) -> Tensor:
    """Space components 2x/(1 − c‖x‖²), in float64, in which 1 − c‖x‖² is still exact at the edge."""
    return x.double() * (2 / (1 - c.double() * exact_square(x)).clamp_min(_EDGE))[..., None]
