"""Entailment in the hyperboloid: what is more general holds what is more specific in its cone.

Desai et al., "Hyperbolic Image-Text Representations", ICML 2023, section 3.2 and equations 6–9.
"""

from __future__ import annotations

import torch
from torch import Tensor

from meru import lorentz


def entailment_excess(
    general: Tensor,
    specific: Tensor,
    curvature: Tensor | float,
    *,
    minimum_radius: float = 0.1,
    aperture_scale: float = 1.0,
) -> Tensor:
    """How far each specific point lies outside the cone of its general one.

        max(0, exterior angle(general, specific) − η · half aperture(general))

    Args:
        general: Apexes of the cones (space components), shape `(B, D)`.
        specific: Points that should lie inside, shape `(B, D)`.
        curvature: c > 0; the space has curvature −c.
        minimum_radius: K, which sets how fast the cones narrow away from the origin.
        aperture_scale: η, which narrows (< 1) or widens (> 1) the cones.

    Returns:
        Angles in radians, shape `(B,)`, float32, 0 inside.
    """
    angle = lorentz.exterior_angle(general, specific, curvature)
    return torch.relu(angle - aperture_scale * lorentz.half_aperture(general, curvature, minimum_radius))
