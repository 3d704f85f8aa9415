"""Centres of many points: their weighted sum in ambient space, scaled back onto the hyperboloid or into the ball.

Far from the origin the sum's norm, √(T² − ‖S‖²), is a small difference of large numbers. The sums are therefore made in
float64, a few points at a time, so that the points are never all held in float64; nothing of their size is kept for the
backward pass but the points themselves.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from meru.geometry.all_pairs import root
from meru.geometry.paired import pieces


def hyperboloid_centroid(x: Tensor, weights: Tensor | None, c: Tensor) -> Tensor:
    """Lorentz centroid S/(√c √(T² − ‖S‖²)) of points `(…, N, D)` with weights `(…, N)`, shape `(…, D)`."""
    c = c.double()
    space, time = _sums(x, weights, c)
    mass = root(time.square() - (space * space).sum(-1))
    return _divide(space, c.sqrt() * mass).to(x.dtype)


def ball_midpoint(x: Tensor, weights: Tensor | None, c: Tensor, edge: float) -> Tensor:
    """The same of points `(…, N, D)` of the Poincaré ball, in which 1 − c‖x‖² is at least `edge`."""
    c = c.double()
    space, time = _sums(x, weights, c, edge=edge)
    return _into_ball(space, time, c).to(x.dtype)


def ball_midpoints_of_groups(x: Tensor, group: Tensor, groups: int, c: Tensor, edge: float) -> Tensor:
    """The same of each group of points `(n, D)`, with groups `(n,)`, shape `(groups, D)`; 0 for an empty group."""
    c, weights = c.double(), x.new_ones(1, len(x), dtype=torch.float64)
    space, time = _Sums.apply(x[None], weights, c, edge, group, groups)
    return _into_ball(space, time, c).to(x.dtype)


def _into_ball(space: Tensor, time: Tensor, c: Tensor) -> Tensor:
    mass = root(time.square() - (space * space).sum(-1))
    return _divide(space, c.sqrt() * (mass + time))


def _divide(space: Tensor, by: Tensor) -> Tensor:
    return space / by.masked_fill(by == 0, 1)[..., None]


def _sums(x: Tensor, weights: Tensor | None, c: Tensor, *, edge: float | None = None) -> tuple[Tensor, Tensor]:
    """Σ w_n x_n, float64 `(…, D)`, and Σ w_n x_t,n, `(…)`, of the points on the hyperboloid."""
    weights = x.new_ones(x.shape[-2], dtype=torch.float64) if weights is None else weights.double()
    shape = torch.broadcast_shapes(x.shape[:-1], weights.shape)
    (*outer, number), dimension = shape, x.shape[-1]
    count = torch.Size(outer).numel()
    x = x.expand(*shape, dimension).reshape(count, number, dimension)
    space, time = _Sums.apply(x, weights.expand(shape).reshape(count, number), c, edge, None, count)
    return space.view(*outer, dimension), time.view(outer)


class _Sums(torch.autograd.Function):
    """S `(G, D)` and T `(G,)` of points `(G, N, D)` with weights `(G, N)`; differentiable once.

    Weights and curvature are float64. With `edge`, the points are those of the ball and are mapped onto the
    hyperboloid, by λ = 2/(1 − c‖x‖²). With `group`, shape `(N,)`, the sums are those of its groups, of points
    `(1, N, D)`.
    """

    @staticmethod
    def forward(
        ctx, x: Tensor, weights: Tensor, c: Tensor, edge: float | None, group: Tensor | None, groups: int
    ) -> tuple[Tensor, Tensor]:
        space = weights.new_zeros(groups, x.shape[-1])
        square = torch.empty_like(weights)
        for some, part in _pieces(x):
            wide = x[some, part].double()
            square[some, part] = (wide * wide).sum(-1)
            pull = weights[some, part]
            if edge is not None:
                pull = pull * _scale(square[some, part], c, edge)
            if group is None:
                space[some].add_((wide * pull[..., None]).sum(-2))
            else:
                space.index_add_(0, group[part], wide[0] * pull[0, :, None])
        scale = 1.0 if edge is None else _scale(square, c, edge)
        times = weights * (1 / c + scale * scale * square).sqrt()
        time = times.sum(-1) if group is None else times.new_zeros(groups).index_add_(0, group, times[0])
        ctx.save_for_backward(x, weights, c, square, group)
        ctx.edge = edge
        return space, time

    @staticmethod
    @once_differentiable
    def backward(ctx, by_space: Tensor, by_time: Tensor) -> tuple[Tensor | None, ...]:
        x, weights, c, square, group = ctx.saved_tensors
        scale = torch.ones_like(square)
        by_square = by_c = torch.zeros_like(square)
        if ctx.edge is not None:
            scale = _scale(square, c, ctx.edge)
            growth = (scale * scale / 2).masked_fill(scale == 2 / ctx.edge, 0)  # dλ/d(c‖x‖²)
            by_square, by_c = c * growth, square * growth
        time = (1 / c + scale * scale * square).sqrt()
        time_by_square = scale * (scale + 2 * square * by_square) / (2 * time)
        time_by_c = (2 * scale * square * by_c - 1 / c.square()) / (2 * time)
        by_time = by_time[:, None] if group is None else by_time[group][None]
        by_scale = torch.empty_like(square)
        by_x = torch.empty_like(x)
        for some, part in _pieces(x):
            wide = x[some, part].double()
            towards = by_space[some, None] if group is None else by_space[group[part]][None]
            product = torch.sum(wide * towards, -1, out=by_scale[some, part])
            if ctx.needs_input_grad[0]:
                times = by_time[some] if group is None else by_time[:, part]
                inwards = time_by_square[some, part] * times + by_square[some, part] * product
                inwards = 2 * weights[some, part] * inwards
                outwards = weights[some, part] * scale[some, part]
                by_x[some, part] = (wide * inwards[..., None]).addcmul_(towards, outwards[..., None])
        by_weights = scale * by_scale + time * by_time
        by_curvature = (weights * (by_c * by_scale + time_by_c * by_time)).sum()
        return by_x, by_weights, by_curvature, None, None, None


def _scale(square: Tensor, c: Tensor, edge: float) -> Tensor:
    return 2 / (1 - c * square).clamp_min(edge)


def _pieces(x: Tensor) -> Iterator[tuple[slice, slice]]:
    """Slices of the first two dimensions of `(G, N, D)`: several whole sets, or a part of one."""
    for some in pieces(x.shape[0], x.shape[1] * x.shape[2], x.device):
        for part in pieces(x.shape[1], x.shape[2] * (min(some.stop, x.shape[0]) - some.start), x.device):
            yield some, part
