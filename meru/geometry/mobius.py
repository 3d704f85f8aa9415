"""Möbius addition in the Poincaré ball, with its gradient written out."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from meru.geometry.paired import exact_square


def mobius_sum(x: Tensor, y: Tensor, c: Tensor, edge: float) -> Tensor:
    """x ⊕ y in a form in which nothing cancels where y is near −x.

        x ⊕ y = α x + β s,   s = x + y,   α = c‖s‖²/n,   β = (1 − c‖x‖²)/n
        n = (1 − c‖x‖²)(1 − c‖y‖²) + c‖s‖²

    Only 1 − c‖x‖² and 1 − c‖y‖² are computed in float64: at the edge of the ball, float32 would lose them.

    Args:
        x: Points, shape `(…, D)`.
        y: Points; the dimensions before D broadcast with those of `x`.
        c: Curvature, a 0-dimensional tensor of the points' dtype.
        edge: Its square is the least n, for points beyond the edge of the ball.
    """
    return _MobiusSum.apply(x, y, c, edge)


class _MobiusSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, y: Tensor, c: Tensor, edge: float) -> Tensor:
        square_x, square_y = exact_square(x), exact_square(y)
        total = x + y
        square = (total * total).sum(-1).double()
        wide_c = c.double()
        gap_x, gap_y = 1 - wide_c * square_x, 1 - wide_c * square_y
        norm = torch.addcmul(wide_c * square, gap_x, gap_y).clamp_min(edge**2)
        along, beyond = wide_c * square / norm, gap_x / norm
        ctx.save_for_backward(x, y, c, square_x, square_y, square, norm)
        return total.mul_(beyond.to(x.dtype)[..., None]).addcmul_(x, along.to(x.dtype)[..., None])

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, y, c, square_x, square_y, square, norm = ctx.saved_tensors
        total, wide_c = x + y, c.double()
        gap_x, gap_y = 1 - wide_c * square_x, 1 - wide_c * square_y
        along, beyond = wide_c * square / norm, gap_x / norm
        by_along, by_beyond = (gradient * x).sum(-1).double(), (gradient * total).sum(-1).double()
        by_norm = -(by_along * along + by_beyond * beyond) / norm
        by_square = by_along / norm + by_norm  # of c‖s‖², and so on
        by_gap_x, by_gap_y = by_beyond / norm + by_norm * gap_y, by_norm * gap_x
        weights = torch.stack([along + beyond, beyond, 2 * wide_c * by_square, -2 * wide_c * by_gap_x,
                               -2 * wide_c * by_gap_y.expand_as(norm)]).to(x.dtype)[..., None]  # fmt: skip
        to_x, to_y, outwards, inwards_x, inwards_y = weights
        common = total.mul_(outwards)
        by_x = (gradient * to_x).add_(common).addcmul_(x, inwards_x)
        by_y = common.addcmul_(gradient, to_y).addcmul_(y, inwards_y)
        by_c = (square * by_square - square_x * by_gap_x - square_y * by_gap_y).sum().to(c.dtype)
        return by_x.sum_to_size(x.shape), by_y.sum_to_size(y.shape), by_c, None
