"""Entailment: the cone of a more general point contains the more specific points.

Desai et al., "Hyperbolic Image-Text Representations", ICML 2023, section 3.2 and equations 6–9; in flat space: Chou &
Alam, "Embedding Geometries of Contrastive Language-Image Pre-Training", 2024.
"""

from __future__ import annotations

import torch
from torch import Tensor

from meru.geometry.spaces import Space


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
