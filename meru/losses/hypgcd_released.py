"""The two hyperbolic losses of HypGCD as released by its authors, including apparent errors.

HypGCD (IEEE TNNLS 2025, doi 10.1109/TNNLS.2025.3597074); the losses as printed: `meru.losses.hypgcd`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from meru.geometry import poincare
from meru.geometry.all_pairs import exact_product, root
from meru.losses.hypgcd import (
    contrast_with_centres,
    draw_members,
    given,
    loss_of_midpoints,
    loss_of_triplets,
    reciprocal_neighbours,
)


def released_category_loss(
    points: Tensor,
    classes: Tensor,
    curvature: Tensor | float,
    *,
    num_classes: int,
    temperature: float = 1.0,
    smoothing: float = 0.1,
) -> Tensor:
    """HCL over all classes: the centre of a class that is not in the batch is the origin, which repels all points.

    Arguments as for `category_loss`, with Riemannian gradients; `num_classes` is K.
    """
    points = poincare.riemannian_gradient(points, curvature)
    return contrast_with_centres(points, classes, num_classes, curvature, temperature=temperature, smoothing=smoothing)


def released_hierarchy_loss(
    features: Tensor,
    classes: Tensor,
    curvature: Tensor | float,
    *,
    neighbours: int = 30,
    triplets: int = 50,
    margin: float = 0.1,
    ancestors: str = "batch",
    proxies: Tensor | None = None,
    temperature: float = 0.1,
    exclude_members: bool = False,
) -> Tensor:
    """LHL with `released_distance`, on features that were not mapped into the ball; k may be i.

    Arguments as for `local_hierarchy_loss`.
    """
    with torch.autocast(features.device.type, enabled=False):
        distances = released_distance(features, features, curvature)
        near = reciprocal_neighbours(distances.detach(), classes, neighbours)
        members = draw_members(near, ~near, triplets)
        if not len(members[0]):
            return features.sum() * 0.0
        if ancestors == "midpoint":
            return loss_of_midpoints(distances, members, curvature, margin=margin)
        return loss_of_triplets(
            distances if ancestors == "batch" else released_distance(features, given(proxies), curvature),
            members,
            margin=margin,
            temperature=temperature,
            exclude_members=exclude_members and ancestors == "batch",
        )


def released_distance(x: Tensor, y: Tensor, curvature: Tensor | float) -> Tensor:
    """Distance of all pairs as the released code computes it, `(n, D)`, `(m, D)` → `(n, m)`, float32.

        2/√c · artanh r,   r = √c‖(−x) ⊕ y‖ = √c‖x − y‖ √q / (q + 1e-5),   q = 1 − 2c⟨x, y⟩ + c²‖x‖²‖y‖²

    r is clamped to 1 − 1e-5, where its gradient is passed on unchanged. Inside the ball this is the distance. The
    released LHL uses it on features outside the ball, where it is not even monotone in ‖x − y‖.
    """
    with torch.autocast(x.device.type, enabled=False):
        x, y = x.float(), y.float()
        squares = x.square().sum(dim=1)[:, None] * y.square().sum(dim=1)
        q = root(1 - 2 * curvature * exact_product(x, y) + curvature**2 * squares)
        # By differences instead of a matmul: many of these pairs are two views of one image.
        apart = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
        ratio = curvature**0.5 * apart * q / (q.square() + 1e-5)
        ratio = ratio + (ratio.clamp(max=1 - 1e-5) - ratio).detach()
        return 2 / curvature**0.5 * torch.atanh(ratio)
