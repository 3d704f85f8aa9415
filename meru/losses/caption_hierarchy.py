"""The caption hierarchy of Hyper3-CLIP (ECCV 2026 workshops): queries are more general than their caption.

Entailment is calibrated by the uncertainty of the general point, as in UNCHA (CVPR 2026).
"""

from __future__ import annotations

import torch
from torch import Tensor

from meru.geometry.spaces import Space
from meru.losses.uncha import calibrated_residual, uncertainty

ORDERS = ("image_below_query", "reversed")
ACROSS, WITHIN = 0.7, 1.2  # η of a text's cone around an image, and of cones within a modality
SLOPE = 0.1  # of the angle itself, which keeps a gradient inside the cone
CALIBRATION = 10.0  # α


def piecewise_entailment(
    general: Tensor, specific: Tensor, space: Space, *, aperture_scale: float, minimum_radius: float = 0.1
) -> Tensor:
    """max(0, θ − η ω) + 0.1 θ: unlike `entailment_excess`, it also has a gradient inside the cone.

    θ is the exterior angle at the general point, ω the half aperture of its cone.

    Args:
        general: Apexes of the cones, shape `(…, D)`.
        specific: Points that should lie inside, shape `(…, D)`; the dimensions before D broadcast.
        space: A space that has cones.
        aperture_scale: η.
        minimum_radius: K of the cones.

    Returns:
        Radians ≥ 0, shape `(…)`, float32.
    """
    angle = space.exterior_angle(general, specific)
    aperture = space.half_aperture(general, minimum_radius)
    with torch.autocast(angle.device.type, enabled=False):
        return torch.relu(angle - aperture_scale * aperture) + SLOPE * angle


def calibrated_entailment(
    general: Tensor, specific: Tensor, space: Space, *, aperture_scale: float, minimum_radius: float = 0.1
) -> Tensor:
    """½ r + α (½ sg(r)/exp(u) + ½ u), with r of `piecewise_entailment` and u of the general point.

    The second part teaches u alone (sg: no gradient), and with it the radius of the general point: towards u = ln r,
    so that a general point whose cone holds its specific points moves outwards. α = 10.

    Args:
        general, specific, space, aperture_scale, minimum_radius: As for `piecewise_entailment`.

    Returns:
        Shape `(…)`, float32, > 0.
    """
    residual = piecewise_entailment(
        general, specific, space, aperture_scale=aperture_scale, minimum_radius=minimum_radius
    )
    return 0.5 * residual + CALIBRATION * calibrated_residual(residual, uncertainty(general))


def relations(
    text: Tensor, seen: Tensor, image: Tensor, parent: Tensor, *, order: str = "image_below_query"
) -> dict[str, tuple[Tensor, Tensor, float]]:
    """The three relations of a query, by name: general points, specific points, η.

    Args:
        text: T^q, texts of queries, shape `(P, D)`.
        seen: I^q, what their image shows of them, shape `(P, D)`.
        image: I, their images, shape `(P, D)`.
        parent: Texts of their parents, shape `(P, D)`.
        order: `image_below_query`: the image is in the cone of what a query sees of it; `reversed`: the reverse.
    """
    visual = (seen, image) if order == "image_below_query" else (image, seen)
    return {
        "query_text_query_image": (text, seen, ACROSS),
        "query_image_image": (*visual, WITHIN),
        "query_text_parent": (text, parent, WITHIN),
    }


def caption_hierarchy_loss(
    text: Tensor,
    seen: Tensor,
    image: Tensor,
    parent: Tensor,
    space: Space,
    *,
    order: str = "image_below_query",
    minimum_radius: float = 0.1,
) -> Tensor:
    """The sum of a query's relations T^q ⊐ I^q, I^q ⊐ I and T^q ⊐ T^parent; a ⊐ b: b lies in the cone of a.

    The first is ½ `piecewise_entailment`; the two within a modality are `calibrated_entailment`.

    Args:
        text, seen, image, parent, order: As for `relations`.
        space: A space that has cones.
        minimum_radius: K of the cones.

    Returns:
        One value per query, shape `(P,)`, float32.
    """
    across, *within = relations(text, seen, image, parent, order=order).values()
    general, specific, eta = across
    first = piecewise_entailment(general, specific, space, aperture_scale=eta, minimum_radius=minimum_radius)
    return 0.5 * first + sum(
        calibrated_entailment(general, specific, space, aperture_scale=eta, minimum_radius=minimum_radius)
        for general, specific, eta in within
    )
