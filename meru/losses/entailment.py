"""Entailment: more specific points lie beyond the more general one, in its cone or straight beyond it.

Cones: Desai et al., "Hyperbolic Image-Text Representations", ICML 2023, section 3.2 and equations 6–9; in flat space:
Chou & Alam, "Embedding Geometries of Contrastive Language-Image Pre-Training", 2024. Angles without an aperture, and
the regulariser of norms: ARGENT, arXiv 2603.23311.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from meru.geometry.all_pairs import full_precision
from meru.geometry.spaces import Space

KINDS = ("cone", "argent")  # by `entailment_excess`, by `entailment_angle`
NEAR_ORIGIN = 1e-4  # the norm below which `norm_regulariser` stops growing


def inside_dead_radius(apex: Tensor, space: Space, minimum_radius: float = 0.1) -> Tensor:
    """Whether an apex is so near to the origin that its cone has the largest aperture, without gradient.

        √c‖apex‖ < 2K on the hyperboloid,   ‖apex‖ < K in flat space

    Args:
        apex: Points, shape `(…, D)`.
        space: A space that has cones.
        minimum_radius: K.

    Returns:
        bool, shape `(…)`.
    """
    return space.share_of_dead_radius(apex, minimum_radius) < 1


def entailment_excess(
    general: Tensor,
    specific: Tensor,
    space: Space,
    *,
    minimum_radius: float = 0.1,
    aperture_scale: float = 1.0,
    apex_floor: float = 0.0,
) -> Tensor:
    """How far each specific point lies outside the cone of its general one.

        max(0, exterior angle(general, specific) − η · half aperture(general))

    At radii ρ below the dead radius R, √c‖general‖ = 2K on the hyperboloid, the half aperture has its largest value,
    π/2, without gradient: with η > 1, the cone of an apex there contains its whole half space, so that moving apexes to
    the origin solves the term. With `apex_floor` F > 1, cones stop widening at ρ = RF, and a hinge pushes nearer apexes
    outwards; farther out, nothing changes:

        max(0, exterior angle − η · asin(R/max(ρ, RF))) + max(0, 1 − ρ/(RF))

    Args:
        general: Apexes of the cones, shape `(…, D)`.
        specific: Points that should lie inside, shape `(…, D)`; the dimensions before D broadcast.
        space: A space that has cones.
        minimum_radius: K, which sets how fast the cones narrow away from the origin.
        aperture_scale: η, which narrows (< 1) or widens (> 1) the cones.
        apex_floor: F > 1, the floor of the apexes' radius in units of R; 0: no floor, as in the published loss.

    Returns:
        Angles in radians, shape `(…)`, float32, 0 inside; with a floor, plus the hinge, which is at most 1.
    """
    angle = space.exterior_angle(general, specific)
    if not apex_floor:
        return torch.relu(angle - aperture_scale * space.half_aperture(general, minimum_radius))
    share_of_floor = space.share_of_dead_radius(general, minimum_radius * apex_floor)
    with torch.autocast(general.device.type, enabled=False):
        aperture = torch.asin(1 / (apex_floor * share_of_floor.clamp_min(1)))
        return torch.relu(angle - aperture_scale * aperture) + torch.relu(1 - share_of_floor)


def entailment_angle(general: Tensor, specific: Tensor, space: Space, *, within_modality: bool = False) -> Tensor:
    """ARGENT's entailment: the angle by which each specific point is off the ray through its general one.

        Huber(w θ(general, specific)),   Huber(a) = a²/2 for a ≤ 1, a − 1/2 beyond

    There is no aperture, so that no apex, however near to the origin, has a cone in which every point satisfies the
    term. w is 1 across modalities. Within one modality, w = 1 − exp(−d(general, specific)): a part that is almost the
    whole has no direction to its whole yet. w has a gradient, which draws the two together where the angle is large.

    Args:
        general: Shape `(…, D)`.
        specific: Points that should lie straight beyond, shape `(…, D)`; the dimensions before D broadcast.
        space: A space that has cones.
        within_modality: Whether the points are of one modality.

    Returns:
        Shape `(…)`, float32, in [0, π − 1/2]; 0 with gradient 0 where the points coincide and where `general` is the
        origin.
    """
    angle = space.exterior_angle(general, specific)
    with torch.autocast(general.device.type, enabled=False):
        if within_modality:
            angle = -torch.expm1(-space.distance(general, specific)) * angle
        return F.huber_loss(angle, torch.zeros_like(angle), reduction="none")


def norm_regulariser(points: Tensor) -> Tensor:
    """ARGENT's regulariser of norms, smallest at ‖x‖ = 1/√2, which keeps points from the origin and from infinity.

        ‖x‖² − ½ ln(‖x‖² + ε²)

    The paper's ‖x‖² − ln‖x‖ is infinite at the origin; with ε = 1e-4 the gradient has length 1/(2ε) at most there, and
    from ‖x‖ = 0.1 on the difference is below 1e-6.

    Args:
        points: Space components, shape `(…, D)`.

    Returns:
        Shape `(…)`, float32.
    """
    with full_precision(1.0, points) as (_, x):
        square = (x * x).sum(-1)
        return square - 0.5 * torch.log(square + NEAR_ORIGIN**2)
