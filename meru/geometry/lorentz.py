"""Lorentz model of hyperbolic space: pure functions on the space components of points on the hyperboloid.

The space of curvature −c is the sheet ⟨x, x⟩_L = ‖x‖² − x_t² = −1/c, x_t > 0. A point is given by its D space
components x, as in MERU (Desai et al., "Hyperbolic Image-Text Representations", ICML 2023); its time
component x_t = √(1/c + ‖x‖²) follows from them. The origin is x = 0. Distances are in units in which the
radius of curvature is 1/√c, angles in radians.

All functions here
- compute in float32 regardless of autocast; half-precision inputs are widened, float64 stays float64;
- take `curvature`, c > 0, as a number or as a tensor with one element, and are differentiable with respect to it too;
- have finite gradients everywhere, also at the origin and where points coincide; those of `exp_map0`, of distances,
  angles and centroids are written out and can be taken once;
- raise ValueError if a number c is not positive or the shapes do not fit.

"Row by row" means that the last dimension is D and the dimensions before it broadcast. The forms of the
formulas are chosen for float32: see `meru.geometry.all_pairs`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from meru.geometry.all_pairs import (
    TINY,
    AllPairsDistance,
    exact_product,
    full_precision,
    hyperboloid_time,
    length,
    sinhc,
)
from meru.geometry.centres import hyperboloid_centroid
from meru.geometry.lift import stretch
from meru.geometry.paired import exact_square, hyperboloid_angle, hyperboloid_distance, hyperboloid_inner

# Largest radius, in units of 1/√c, of points from `exp_map0`: MERU's value, so that published weights give the same
# points. There √c‖x‖ = 2^15, far from float32's limits and within reach of the formulas below.
MAXIMUM_RADIUS = math.asinh(2.0**15)
# Two points nearer than this share of max(1, √c‖x‖) have no angle: see `exterior_angle`.
ANGLE_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}


def exp_map0(
    v: Tensor,
    curvature: Tensor | float = 1.0,
    *,
    scale: Tensor | float = 1.0,
    maximum_radius: float = MAXIMUM_RADIUS,
) -> Tensor:
    """Exponential map at the origin, from the tangent space onto the hyperboloid, of scaled vectors.

        x = sinh(√c‖sv‖)/(√c‖sv‖) · sv

    Args:
        v: Tangent vectors (their time component is 0), shape `(…, D)`.
        curvature: c > 0; the space has curvature −c.
        scale: s > 0, a number or a scalar tensor.
        maximum_radius: Longer vectors, √c‖sv‖ above this, are shortened to it; they keep the gradient orthogonal to
            their direction and lose the one along it. `clamped_share` counts them.

    Returns:
        Space components, shape `(…, D)`, at distance min(‖sv‖, maximum_radius/√c) from the origin.
    """
    with full_precision(curvature, v) as (c, v):
        return stretch(v, c, scale.to(v) if isinstance(scale, Tensor) else v.new_full((), scale), maximum_radius)


def clamped_share(
    x: Tensor, curvature: Tensor | float = 1.0, *, maximum_radius: float = MAXIMUM_RADIUS
) -> Tensor:
    """Share of points `(…, D)` that `exp_map0` has shortened to `maximum_radius`: a scalar in [0, 1]."""
    with full_precision(curvature, x) as (c, x):
        clamped = torch.asinh(c.sqrt() * length(x)) > maximum_radius * (1 - 1e-5)
        return clamped.to(x).sum() / max(1, clamped.numel())


def log_map0(x: Tensor, curvature: Tensor | float = 1.0) -> Tensor:
    """Logarithmic map at the origin, the inverse of `exp_map0`.

        v = asinh(√c‖x‖)/(√c‖x‖) · x

    Args:
        x: Space components, shape `(…, D)`.
        curvature: c > 0; the space has curvature −c.

    Returns:
        Tangent vectors at the origin, shape `(…, D)`; their lengths are the points' distances from it.
    """
    with full_precision(curvature, x) as (c, x):
        radius = c.sqrt() * length(x, keepdim=True).clamp_min(TINY)
        return x * (torch.asinh(radius) / radius)


def time(x: Tensor, curvature: Tensor | float = 1.0) -> Tensor:
    """Time component x_t = √(1/c + ‖x‖²) of points `(…, D)`, shape `(…)`."""
    with full_precision(curvature, x) as (c, x):
        return hyperboloid_time(x, c)


def inner(x: Tensor, y: Tensor, curvature: Tensor | float = 1.0) -> Tensor:
    """Lorentz inner product ⟨x, y⟩_L = x·y − x_t y_t of points, row by row; ≤ −1/c, and −1/c where x = y.

    Computed as −cosh(√c d(x, y))/c, which is exact for near points.

    Args:
        x: Space components, shape `(…, D)`.
        y: Same; the dimensions before D broadcast with those of `x`.
        curvature: c > 0; the space has curvature −c.

    Returns:
        Shape `(…)`.
    """
    with full_precision(curvature, *_paired(x, y)) as (c, x, y):
        return hyperboloid_inner(x, y, c)


def pairwise_inner(x: Tensor, y: Tensor, curvature: Tensor | float = 1.0) -> Tensor:
    """Lorentz inner product of every point of `x` with every point of `y`, by one matmul.

    The absolute error is that of x·y: a few units in the last place of ‖x‖‖y‖.

    Args:
        x: Space components, shape `(B1, D)`.
        y: Same, shape `(B2, D)`.
        curvature: c > 0; the space has curvature −c.

    Returns:
        Shape `(B1, B2)`.
    """
    with full_precision(curvature, *_matrices(x, y)) as (c, x, y):
        return exact_product(x, y) - torch.outer(hyperboloid_time(x, c), hyperboloid_time(y, c))


def distance(x: Tensor, y: Tensor, curvature: Tensor | float = 1.0) -> Tensor:
    """Geodesic distance, row by row.

        d(x, y) = 2/√c · asinh(√c/2 · ‖x − y‖_L),   ‖x − y‖²_L = ‖x − y‖² − (x_t − y_t)²

    Equal to arccosh(−c⟨x, y⟩_L)/√c, MERU's printed form, but exact and differentiable where x ≈ y.

    Args:
        x: Space components, shape `(…, D)`.
        y: Same; the dimensions before D broadcast with those of `x`.
        curvature: c > 0; the space has curvature −c.

    Returns:
        Distances ≥ 0, shape `(…)`; 0 with gradient 0 where x = y.
    """
    with full_precision(curvature, *_paired(x, y)) as (c, x, y):
        return hyperboloid_distance(x, y, c)


def pairwise_distance(x: Tensor, y: Tensor, curvature: Tensor | float = 1.0) -> Tensor:
    """Geodesic distance between every point of `x` and every point of `y`.

    Computed by one matmul, about as fast as a matrix of cosines, without B1·B2·D numbers in memory. Pairs too near
    for a matmul are found and computed as in `distance`: equal points have distance 0, with gradient 0.
    Differentiable once.

    Args:
        x: Space components, shape `(B1, D)`.
        y: Same, shape `(B2, D)`.
        curvature: c > 0; the space has curvature −c.

    Returns:
        Distances ≥ 0, shape `(B1, B2)`.
    """
    with full_precision(curvature, *_matrices(x, y)) as (c, x, y):
        return AllPairsDistance.apply(x, y, c)


def distance_to_origin(x: Tensor, curvature: Tensor | float = 1.0) -> Tensor:
    """Geodesic distance asinh(√c‖x‖)/√c of points `(…, D)` from the origin, shape `(…)`."""
    with full_precision(curvature, x) as (c, x):
        return torch.asinh(c.sqrt() * length(x)) / c.sqrt()


def half_aperture(x: Tensor, curvature: Tensor | float = 1.0, minimum_radius: float = 0.1) -> Tensor:
    """Half aperture of the entailment cone at a point, which is narrower farther from the origin.

        ω(x) = asin(2K/(√c‖x‖))

    From Desai et al., section 3.2. The argument is clamped to at most 1 − 1e-4: nearer to the origin
    than √c‖x‖ ≈ 2K, the cone has its largest half aperture, 1.557, and gradient 0. Without the clamp the gradient
    is infinite at the edge.

    Args:
        x: Space components of the apexes, shape `(…, D)`.
        curvature: c > 0; the space has curvature −c.
        minimum_radius: K > 0.

    Returns:
        Angles in radians, shape `(…)`, in (0, π/2).
    """
    with full_precision(curvature, x) as (c, x):
        edge = 2 * minimum_radius
        norm = torch.linalg.vector_norm(x, dim=-1)  # its gradient at the origin does not matter: it is clamped there
        return torch.asin(edge / (c.sqrt() * norm).clamp_min(edge / (1 - 1e-4)))


def exterior_angle(x: Tensor, y: Tensor, curvature: Tensor | float = 1.0) -> Tensor:
    """Angle at x between the continued geodesic from the origin and the geodesic to y, row by row.

    This is π minus the angle at x of the hyperbolic triangle O x y; 0 if y lies straight beyond x. With
    orthogonal coordinates at x, and for c = 1:

        θ(x, y) = atan2(‖x‖‖y‖ sin ∠xOy, y_t − x_t cosh d(x, y))

    Desai et al., section 3.2, print the arccosine of the same ratio, which loses small angles and their gradients.

    Two points a rounding error apart have a random angle whose gradient, 1/sinh(√c d), is unbounded; so does an apex
    at the origin. The angle is therefore defined as 0, with gradient 0, where with τ = 1e-4

        sinh(√c d(x, y)) ≤ τ max(1, √c‖x‖)   or   √c‖x‖ ≤ τ

    and is exact elsewhere. Rounding to float32 moves a point by up to 6e-8‖x‖, which changes such an angle by 1e-3 at
    most; the errors of float32 features, about 1e-6, change it by 1e-2. The gradient with respect to y has length √c/τ
    at most, that with respect to x 2√c/τ. For float64 points τ is 1e-8. Far from the origin, τ√c‖x‖ is no longer
    small: at √c‖x‖ = 1e4, radius 9.9, all points within 0.9/√c of x are near.

    Args:
        x: Space components, shape `(…, D)`.
        y: Same; the dimensions before D broadcast with those of `x`.
        curvature: c > 0; the space has curvature −c.

    Returns:
        Angles in radians, shape `(…)`, in [0, π]; 0 with gradient 0, as inside the cone, if x is too near to
        y or to the origin.
    """
    with full_precision(curvature, *_paired(x, y)) as (c, x, y):
        return hyperboloid_angle(x, y, c, ANGLE_TOLERANCE[x.dtype])


def geodesic(x: Tensor, y: Tensor, t: Tensor | float, curvature: Tensor | float = 1.0) -> Tensor:
    """Point at fraction `t` of the way from x to y along the geodesic, row by row.

        γ(t) = (sinh((1 − t)θ) x + sinh(tθ) y)/sinh θ,   θ = √c d(x, y)

    Args:
        x: Space components, shape `(…, D)`; γ(0).
        y: Same; the dimensions before D broadcast with those of `x`; γ(1).
        t: Fraction, a number or a tensor that broadcasts with the distances, shape `(…)`. Values outside [0, 1]
            continue the geodesic.
        curvature: c > 0; the space has curvature −c.

    Returns:
        Space components, shape `(…, D)`.
    """
    with full_precision(curvature, *_paired(x, y)) as (c, x, y):
        t = torch.as_tensor(t, dtype=x.dtype, device=x.device)[..., None]
        square = (c * hyperboloid_distance(x, y, c).square())[..., None]
        towards_x, towards_y = ((a * sinhc(a * a * square) / sinhc(square)) for a in (1 - t, t))
        return towards_x * x + towards_y * y


def centroid(x: Tensor, weights: Tensor | None = None, curvature: Tensor | float = 1.0) -> Tensor:
    """Lorentz centroid of N points: their weighted sum in ambient space, scaled back onto the hyperboloid.

    It minimises the weighted sum of ‖x_n − μ‖²_L (Law et al., "Lorentzian Distance Learning for Hyperbolic
    Representations", ICML 2019); for two points it is the midpoint of their geodesic.

    Args:
        x: Space components, shape `(…, N, D)`.
        weights: Shape `(…, N)`, ≥ 0, with any sum; equal if omitted. If all are 0, the result is the origin.
        curvature: c > 0; the space has curvature −c.

    Returns:
        Space components, shape `(…, D)`.
    """
    if x.ndim < 2:
        raise ValueError(f"points must have shape (…, N, D), got {tuple(x.shape)}")
    if weights is None:
        weights = x.new_ones(x.shape[-2])
    elif weights.shape[-1:] != x.shape[-2:-1]:
        raise ValueError(f"weights of shape {tuple(weights.shape)} do not fit points {tuple(x.shape)}")
    with full_precision(curvature, x) as (c, x):
        return hyperboloid_centroid(x, weights, c)


def to_poincare(x: Tensor, curvature: Tensor | float = 1.0) -> Tensor:
    """The same points in the Poincaré ball of radius 1/√c: x/(1 + √c x_t), shape `(…, D)`."""
    with full_precision(curvature, x) as (c, x):
        return x / (1 + c.sqrt() * hyperboloid_time(x, c, keepdim=True))


def from_poincare(p: Tensor, curvature: Tensor | float = 1.0) -> Tensor:
    """Space components 2p/(1 − c‖p‖²) of points of the Poincaré ball of radius 1/√c, shape `(…, D)`.

    Distant points crowd at the edge of the ball: a float32 point at radius ρ (units of 1/√c) is accurate to about
    1e-7·e^ρ. Points on or beyond the edge do not exist on the hyperboloid; they are mapped to radius 22.
    """
    with full_precision(curvature, p) as (c, p):
        edge = (1 - c.double() * exact_square(p)).clamp_min(1e-9)
        return p * (2 / edge).to(p.dtype)[..., None]


def _paired(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    try:
        torch.broadcast_shapes(x.shape[:-1], y.shape[:-1])
    except RuntimeError as error:
        raise ValueError(f"shapes {tuple(x.shape)} and {tuple(y.shape)} do not broadcast") from error
    return x, y


def _matrices(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    if x.ndim != 2 or y.ndim != 2:
        shapes = f"{tuple(x.shape)} and {tuple(y.shape)}"
        raise ValueError(f"points must have shapes (B1, D) and (B2, D), got {shapes}")
    return x, y
