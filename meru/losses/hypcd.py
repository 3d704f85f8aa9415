"""Contrastive losses by distance in the Poincaré ball, and their share beside those by angle.

HypCD: Liu et al., "Hyperbolic Category Discovery", CVPR 2025, arXiv 2504.06120.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from meru.geometry import poincare
from meru.losses.simgcd import contrast_of_labels, contrast_of_views


def supervised_distance_loss(
    points: Tensor, labels: Tensor, curvature: Tensor | float, temperature: float = 0.07
) -> Tensor:
    """`meru.losses.simgcd.supervised_contrastive_loss` with −d/τ in place of cosines over τ.

    Args:
        points: In the ball, of views of labelled images, shape `(n, D)`.
        labels: Shape `(n,)`.
        curvature: c > 0 of the ball.
        temperature: τ.

    Returns:
        Scalar, float32; 0 if no two points have the same label.
    """
    return contrast_of_labels(-poincare.pairwise_distance(points, points, curvature) / temperature, labels)


def view_distance_loss(first: Tensor, second: Tensor, curvature: Tensor | float, temperature: float = 1.0) -> Tensor:
    """`meru.losses.simgcd.view_contrastive_loss` with −d/τ in place of cosines over τ.

    Args:
        first: Points of the ball of one view of B images, shape `(B, D)`.
        second: Points of another view of the same images, shape `(B, D)`.
        curvature: c > 0 of the ball.
        temperature: τ.

    Returns:
        Scalar, float32.
    """
    points = torch.cat([first, second])
    return contrast_of_views(-poincare.pairwise_distance(points, points, curvature) / temperature)


def distance_share(epoch: float | Tensor, *, maximum: float, epochs: int) -> float | Tensor:
    """α_d of an epoch: grows linearly to `maximum`, which the last of `epochs` epochs has; constant within an epoch.

        α_d = maximum · min(1, (e + 1)/epochs),   e = 0, 1, …

    Args:
        epoch: Progress of training in epochs; only the integer part e counts.
        maximum: In [0, 1].
        epochs: At least 1.
    """
    if isinstance(epoch, Tensor):
        return maximum * ((epoch.floor() + 1) / epochs).clamp(max=1)
    return maximum * min((math.floor(epoch) + 1) / epochs, 1.0)
