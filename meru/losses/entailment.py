"""Entailment in the hyperboloid: what is more general holds what is more specific in its cone.

Desai et al., "Hyperbolic Image-Text Representations", ICML 2023, section 3.2 and equations 6–9.
"""

from __future__ import annotations

import torch
from torch import Tensor

from meru.geometry import lorentz
from meru.geometry.all_pairs import full_precision, length


def inside_dead_radius(apex: Tensor, curvature: Tensor | float, minimum_radius: float = 0.1) -> Tensor:
    """Whether an apex is so near the origin that its cone has the greatest aperture, and that no gradient.

        √c‖apex‖ < 2K

    Args:
        apex: Space components, shape `(…, D)`.
        curvature: c > 0; the space has curvature −c.
        minimum_radius: K.

    Returns:
        bool, shape `(…)`.
    """
    with full_precision(curvature, apex) as (c, apex):
        return c.sqrt() * length(apex) < 2 * minimum_radius


def entailment_excess(
    general: Tensor,
    specific: Tensor,
    curvature: Tensor | float,
    *,
    minimum_radius: float = 0.1,
    aperture_scale: float = 1.0,
    apex_floor: float = 0.0,
) -> Tensor:
    """How far each specific point lies outside the cone of its general one.

        max(0, exterior angle(general, specific) − η · half aperture(general))

    At ρ = √c‖general‖ < 2K the half aperture is its greatest, π/2, without gradient: with η > 1 an apex there holds all
    points of its half space, so that moving apexes onto the origin solves the term. With `apex_floor` F > 1 cones stop
    widening at ρ = 2KF, and a hinge pushes nearer apexes outwards; farther out, nothing changes:

        max(0, exterior angle − η · asin(2K/max(ρ, 2KF))) + max(0, 1 − ρ/(2KF))

    Args:
        general: Apexes of the cones (space components), shape `(…, D)`.
        specific: Points that should lie inside, shape `(…, D)`; the dimensions before D broadcast.
        curvature: c > 0; the space has curvature −c.
        minimum_radius: K, which sets how fast the cones narrow away from the origin.
        aperture_scale: η, which narrows (< 1) or widens (> 1) the cones.
        apex_floor: F > 1, the floor of the apexes' radius in units of 2K; 0: none, the published loss.

    Returns:
        Angles in radians, shape `(…)`, float32, 0 inside; with a floor, plus the hinge, which is at most 1.
    """
    angle = lorentz.exterior_angle(general, specific, curvature)
    if not apex_floor:
        return torch.relu(angle - aperture_scale * lorentz.half_aperture(general, curvature, minimum_radius))
    with full_precision(curvature, general) as (c, apex):
        share_of_floor = c.sqrt() * length(apex) / (2 * minimum_radius * apex_floor)
        aperture = torch.asin(1 / (apex_floor * share_of_floor.clamp_min(1)))
        return torch.relu(angle - aperture_scale * aperture) + torch.relu(1 - share_of_floor)
