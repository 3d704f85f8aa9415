"""Linear layer of the Poincaré ball: Ganea et al., "Hyperbolic Neural Networks", NeurIPS 2018, section 3.2."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from meru.geometry import poincare
from meru.geometry.all_pairs import exact_product, full_precision


class MobiusLinear(nn.Module):
    """M ⊗ x ⊕ b with M ⊗ x = exp₀(M log₀(x)); for c → 0 it is Mx + b.

    Args:
        inputs, outputs: Dimensions of the points before and after.
        curvature: c > 0 of both balls, fixed.

    Attributes:
        weight: M, shape `(outputs, inputs)`.
        bias: The tangent vector at the origin whose exponential map is b, shape `(outputs,)`, so that any optimizer
            can update it.
    """

    def __init__(self, inputs: int, outputs: int, *, curvature: float):
        super().__init__()
        if curvature <= 0:
            raise ValueError(f"curvature must be positive, got {curvature}")
        bound = inputs**-0.5  # as nn.Linear
        self.curvature = curvature
        self.weight = nn.Parameter(torch.empty(outputs, inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound))

    def forward(self, points: Tensor) -> Tensor:
        """Points `(n, inputs)` → points `(n, outputs)`, float32 regardless of autocast; float64 stays float64."""
        with full_precision(self.curvature, points) as (c, points):
            turned = poincare.exp_map0(exact_product(poincare.log_map0(points, c), self.weight), c)
            shift = poincare.exp_map0(self.bias, c)
            return poincare.project(poincare.mobius_add(poincare.project(turned, c), shift, c), c)
