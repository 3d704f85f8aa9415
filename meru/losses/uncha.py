"""Uncertainty of points, and the entailment that it calibrates: UNCHA, CVPR 2026."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from meru.geometry.all_pairs import full_precision, length


def uncertainty(points: Tensor) -> Tensor:
    """u(x) = ln(1 + exp(−‖x‖)): general points, which lie near the origin, are uncertain.

    Args:
        points: Space components, shape `(…, D)`.

    Returns:
        Shape `(…)`, float32, in (0, ln 2]; gradient 0 at the origin.
    """
    with full_precision(1.0, points) as (_, x):
        return F.softplus(-length(x))


def confidence(points: Tensor) -> Tensor:
    """exp(−u/2) of points `(…, D)`, by which their logits are multiplied: shape `(…)`, in [1/√2, 1), without gradient.

    The paper clamps it to [0.1, 10], which these bounds make superfluous.
    """
    return torch.exp(-0.5 * uncertainty(points.detach()))


def calibrated_residual(residual: Tensor, uncertain: Tensor) -> Tensor:
    """½ sg(r)/exp(u) + ½ u, which teaches u alone: as a function of u it is smallest at u = ln r.

    Args:
        residual: r ≥ 0, the entailment of each pair, shape `(…)`; it gets no gradient (sg).
        uncertain: u of the general point of each pair, shape `(…)`.

    Returns:
        Shape `(…)`, float32.
    """
    with torch.autocast(residual.device.type, enabled=False):
        return 0.5 * (residual.detach().float() * torch.exp(-uncertain) + uncertain)
