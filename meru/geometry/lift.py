"""The exponential map at the origin, with its gradient written out: a third of the kernels of autograd's.

Vectors and their scale are taken apart, so that the scaled vectors are never in memory.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from meru.geometry.all_pairs import TINY


def stretch(v: Tensor, c: Tensor, scale: Tensor, maximum_radius: float) -> Tensor:
    """sinh(min(z, L))/z · s v with z = √c s‖v‖, s > 0 the scale and L the maximum radius, for vectors `(…, D)`.

    Differentiable once.
    """
    return _Stretch.apply(v, c, scale, maximum_radius)


class _Stretch(torch.autograd.Function):
    @staticmethod
    def forward(ctx, v: Tensor, c: Tensor, scale: Tensor, maximum_radius: float) -> Tensor:
        z = (torch.linalg.vector_norm(v, dim=-1, keepdim=True) * (c.sqrt() * scale)).clamp_min(TINY)
        factor = torch.sinh(z.clamp_max(maximum_radius)) / z
        ctx.save_for_backward(v, c, scale, z, factor)
        ctx.maximum_radius = maximum_radius
        return v * (factor * scale)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        v, c, scale, z, factor = ctx.saved_tensors
        product = (gradient * v).sum(-1, keepdim=True)
        # With f(z) the factor, growth = f'(z)/z, in float64 because it is a difference near 0, where it tends to 1/3.
        z = z.double().clamp_min(1e-4)
        shortened = z.clamp_max(ctx.maximum_radius)
        growth = (shortened.cosh() * (z <= ctx.maximum_radius) - shortened.sinh() / z) / (z * z)
        by_square = growth * product * scale
        by_v = (gradient * (factor * scale)).addcmul_(v, (c * scale * scale * by_square).to(v.dtype))
        by_z = by_square * z * z  # z times the derivative by z, through the factor
        by_c = (by_z.sum() / (2 * c)).to(c.dtype) if ctx.needs_input_grad[1] else None
        by_scale = ((factor * product).sum() + by_z.sum() / scale).to(scale.dtype) if ctx.needs_input_grad[2] else None
        return by_v, by_c, by_scale, None
