"""Figures of two points, row by row: exact in float32, with few kernels and little memory.

One of the points is the base z, and the other one is split into what lies along it and what is orthogonal to it, once
and in float64:

    other = (1 + ε) z + w,   w ⟂ z

From the three numbers ‖z‖², ε and ‖w‖² follow the figure and its gradients, which are combinations of z and w, without
a cancellation anywhere. So only the split and scalars `(…)` need float64. Float32 would not do for the split: far from
the origin, a distance of √c d across the ray to a point changes its direction by √c d e^−ρ only, and the directions
would be rounded to 6e-8 before they are compared. The split is made for a few rows at a time, which stay in a core's
cache; for the backward pass only z and w are kept, in the points' dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

SMALLEST = 1e-300  # a square to divide by instead of 0, float64
FLAT = 1e-30  # the length of w below which a point is straight ahead or straight back: an angle has no gradient there
# Numbers of one operand that are processed at a time.
PIECE = {"cpu": 2**17, "cuda": 2**22}


class Split(NamedTuple):
    """The three numbers of a pair, float64, shape `(n,)`: ‖z‖², ε, ‖w‖²."""

    base: Tensor
    along: Tensor
    across: Tensor


class Figure(NamedTuple):
    """The value of a figure and its derivatives, float64, shape `(n,)`.

    Derivatives, None if they were not asked for: of the gradient by z the shares of z and w, of that by the other point
    the shares of z and w, and the derivative by the curvature.
    """

    value: Tensor
    derivatives: tuple[Tensor, ...] | None


Formula = Callable[[Split, Tensor, bool], Figure]


def hyperboloid_distance(x: Tensor, y: Tensor, c: Tensor) -> Tensor:
    """Geodesic distance of points of the hyperboloid of curvature −c, row by row; `x` and `y` broadcast."""
    return _figure(x, y, c, _hyperboloid_distance, symmetric=True)


def hyperboloid_inner(x: Tensor, y: Tensor, c: Tensor) -> Tensor:
    """⟨x, y⟩_L = −cosh(√c d)/c, row by row; `x` and `y` broadcast."""
    return _figure(x, y, c, _hyperboloid_inner, symmetric=True)


def hyperboloid_angle(x: Tensor, y: Tensor, c: Tensor, tolerance: float) -> Tensor:
    """The exterior angle at x of the triangle O x y, row by row: see `meru.geometry.lorentz.exterior_angle`."""
    return _figure(x, y, c, partial(_hyperboloid_angle, tolerance), symmetric=False)


def flat_angle(x: Tensor, y: Tensor, tolerance: float) -> Tensor:
    """The same in flat space: see `meru.geometry.spaces.Euclidean.exterior_angle`."""
    return _figure(x, y, x.new_ones(()), partial(_flat_angle, tolerance), symmetric=False)


def ball_distance(x: Tensor, y: Tensor, c: Tensor, edge: float) -> Tensor:
    """Geodesic distance in the Poincaré ball, row by row, in which 1 − c‖x‖² is at least `edge`."""
    return _figure(x, y, c, partial(_ball_distance, edge), symmetric=True)


def angle_between(x: Tensor, y: Tensor) -> Tensor:
    """Angle 2 atan2(‖x − y‖, ‖x + y‖) of unit vectors, row by row; `x` and `y` broadcast. Float32 is enough."""
    return _AngleBetween.apply(x, y)


def exact_square(x: Tensor) -> Tensor:
    """‖x‖² of points `(…, D)`, float64 `(…)`: where 1 − c‖x‖² is small, float32 would lose it."""
    if torch.compiler.is_exporting():
        return x.double().square().sum(-1)
    return _ExactSquare.apply(x)


def pieces(rows: int, columns: int, device: torch.device) -> Iterator[slice]:
    """Slices of the rows of a matrix whose numbers fit a core's cache, or that occupy a GPU."""
    step = max(1, PIECE.get(device.type, PIECE["cuda"]) // max(1, columns))
    for start in range(0, rows, step):
        yield slice(start, start + step)


# ---------------------------------------------------------------- split and gradients


def _figure(x: Tensor, y: Tensor, c: Tensor, formula: Formula, *, symmetric: bool) -> Tensor:
    shape = torch.broadcast_shapes(x.shape, y.shape)
    x, y = (each.expand(shape).reshape(shape[:-1].numel(), shape[-1]) for each in (x, y))
    differentiate = torch.is_grad_enabled() and any(each.requires_grad for each in (x, y, c))
    return _Figure.apply(x, y, c, formula, symmetric, differentiate).view(shape[:-1])


class _Figure(torch.autograd.Function):
    """A formula of pairs `(n, D)` as a function of points and curvature; differentiable once.

    The base is x; for a symmetric formula it is the shorter of the two points, so that the order does not matter.
    """

    @staticmethod
    def forward(
        ctx, x: Tensor, y: Tensor, c: Tensor, formula: Formula, symmetric: bool, differentiate: bool
    ) -> Tensor:
        norm = torch.linalg.vector_norm
        swapped = norm(x, dim=-1) > norm(y, dim=-1) if symmetric else None
        split, base, across = _split(x, y, swapped, keep=differentiate)
        value, derivatives = formula(split, c.double(), differentiate)
        if derivatives is not None:
            of_base, of_other, (of_c,) = torch.stack(derivatives).split((2, 2, 1))
            if swapped is not None:
                of_base[1], of_other[1] = (torch.where(swapped, -each[1], each[1]) for each in (of_base, of_other))
                of_base, of_other = torch.where(swapped, of_other, of_base), torch.where(swapped, of_base, of_other)
            ctx.save_for_backward(base, across, of_base, of_other, of_c, c)
        return value.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        base, across, of_x, of_y, of_c, c = ctx.saved_tensors
        by_x, by_y = (
            _combination(base, across, (shares * gradient).to(base.dtype)) if needed else None
            for shares, needed in zip((of_x, of_y), ctx.needs_input_grad, strict=False)
        )
        by_c = (of_c * gradient).sum().to(c.dtype) if ctx.needs_input_grad[2] else None
        return by_x, by_y, by_c, None, None, None


def _combination(base: Tensor, across: Tensor, shares: Tensor) -> Tensor:
    return (base * shares[0, :, None]).addcmul_(across, shares[1, :, None])


def _split(
    x: Tensor, y: Tensor, swapped: Tensor | None, *, keep: bool
) -> tuple[Split, Tensor | None, Tensor | None]:
    """The three numbers of every pair, and, to keep, z and w in the points' dtype; z is y where `swapped`,
    and w then has the other sign."""
    split = Split(*x.new_empty(3, len(x), dtype=torch.float64))
    base = across = None
    if keep:
        across = torch.empty_like(x, memory_format=torch.contiguous_format)
        base = x if swapped is None else torch.empty_like(across)
    weight = None if swapped is None else swapped.double()[:, None]
    for piece in pieces(len(x), x.shape[1], x.device):
        z, other = x[piece].double(), y[piece].double()
        difference = other - z
        if weight is not None:  # by a weight of 0 or 1, because torch.where is slow on CPUs
            z = torch.lerp(z, other, weight[piece])
        norm = torch.linalg.vector_norm(z, dim=-1, out=split.base[piece])
        square = norm.square().clamp_min_(SMALLEST)
        along = torch.div((difference * z).sum(-1), square, out=split.along[piece])
        w = difference.addcmul_(z, along[:, None], value=-1)
        torch.linalg.vector_norm(w, dim=-1, out=split.across[piece])
        if across is not None:
            across[piece] = w
        if base is not None and base is not x:
            base[piece] = z
    split.base.square_()
    split.across.square_()
    if swapped is not None:  # `difference` was y − x
        split.along.copy_(torch.where(swapped, -split.along, split.along))
    return split, base, across


class _AngleBetween(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, y: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm
        difference = x - y
        apart = norm(difference, dim=-1)
        together = norm(torch.add(x, y, out=difference), dim=-1)
        ctx.save_for_backward(x, y, apart, together)
        return 2 * torch.atan2(apart, together.masked_fill((apart == 0) & (together == 0), 1))

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, y, apart, together = ctx.saved_tensors
        square = apart * apart + together * together
        weight = 2 * gradient / square.masked_fill(square == 0, torch.inf)
        of_difference = weight * together / apart.masked_fill(apart == 0, torch.inf)
        of_sum = weight * apart / together.masked_fill(together == 0, torch.inf)
        difference, total = (x - y).mul_(of_difference[..., None]), (x + y).mul_(of_sum[..., None])
        by_x = (difference - total).sum_to_size(x.shape)
        return by_x, difference.add_(total).neg_().sum_to_size(y.shape)


class _ExactSquare(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        flat = x.reshape(-1, x.shape[-1])
        square = flat.new_empty(len(flat), dtype=torch.float64)
        for piece in pieces(len(flat), x.shape[-1], x.device):
            wide = flat[piece].double()
            torch.sum(wide * wide, -1, out=square[piece])
        return square.view(x.shape[:-1])

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return x * (2 * gradient).to(x.dtype)[..., None]


# ---------------------------------------------------------------- formulas


class _Sides(NamedTuple):
    """A pair on the hyperboloid, seen from z, in units of 1/√c; float64, shape `(n,)`.

    With T, U the time components of z and of the other point times √c, R = √c‖z‖ and a = 1 + ε:

        lead = a T − U,   along = R lead,   across = c‖w‖²,   sinh²(√c d) = along² + across
    """

    square: Tensor  # R²
    a: Tensor
    time: Tensor  # T
    other_time: Tensor  # U
    lead: Tensor
    along: Tensor
    across: Tensor
    sinh_square: Tensor


def _sides(split: Split, c: Tensor) -> _Sides:
    square, across, a = split.base * c, split.across * c, 1 + split.along
    time, other_time = (1 + square).sqrt(), (1 + a * a * square + across).sqrt()
    # |a| T − U from the difference of the squares, and a T − U from it
    ahead = (split.along * (2 + split.along) - across) / (other_time + a.abs() * time)
    lead = ahead + 2 * a.clamp_max(0) * time
    along = square.sqrt() * lead
    return _Sides(square, a, time, other_time, lead, along, across, along * along + across)


def _hyperboloid_distance(split: Split, c: Tensor, differentiate: bool) -> Figure:
    """d from sinh(√c d); its gradients are 0 where points coincide."""
    sides, root_c = _sides(split, c), c.sqrt()
    sinh = sides.sinh_square.sqrt()
    # arsinh(s) = ln(1 + s + s²/(1 + √(1 + s²))): vectorised, unlike torch.asinh on CPUs
    value = torch.log1p(sinh + sides.sinh_square / (1 + (1 + sides.sinh_square).sqrt())) / root_c
    if not differentiate:
        return Figure(value, None)
    *derivatives, by_scale = _towards(sides, root_c / sinh.masked_fill(sinh == 0, torch.inf))
    # d = F(√c x, √c y)/√c, so the derivative by c follows from those by x and y (Euler).
    return Figure(value, (*derivatives, (by_scale / c - value) / (2 * c)))


def _hyperboloid_inner(split: Split, c: Tensor, differentiate: bool) -> Figure:
    sides = _sides(split, c)
    value = -(1 + sides.sinh_square).sqrt() / c
    if not differentiate:
        return Figure(value, None)
    *derivatives, by_scale = _towards(sides, -torch.ones_like(value))
    return Figure(value, (*derivatives, (by_scale / (2 * c) - value) / c))


def _towards(sides: _Sides, slope: Tensor) -> tuple[Tensor, ...]:
    """Gradients of cosh(√c d), times slope/c: shares of z and w, and c (z·∂z + other·∂other).

        ∂cosh/∂z = −c v,   ∂cosh/∂other = c T/U v,   v = w + lead/T · z
    """
    to_other = slope * sides.time / sides.other_time
    turn = sides.lead / sides.time
    of_base = turn * sides.square
    by_scale = to_other * (sides.a * of_base + sides.across) - slope * of_base
    return -slope * turn, -slope, to_other * turn, to_other, by_scale


def _ball_distance(edge: float, split: Split, c: Tensor, differentiate: bool) -> Figure:
    """d = arcosh(1 + t)/√c,   t = 2c‖x − y‖²/((1 − c‖x‖²)(1 − c‖y‖²)); beyond the edge, 1 − c‖x‖² is constant."""
    square, across, along, root_c = split.base * c, split.across * c, split.along, c.sqrt()
    a = 1 + along
    gap, other_gap = (1 - square).clamp_min(edge), (1 - a * a * square - across).clamp_min(edge)
    by_difference = 4 / (gap * other_gap)
    t = by_difference * (along * along * square + across) / 2
    sinh = (t * (t + 2)).sqrt()
    value = torch.log1p(t + sinh) / root_c
    if not differentiate:
        return Figure(value, None)
    slope = root_c / sinh.masked_fill(sinh == 0, torch.inf)
    by_difference = slope * by_difference
    outwards, other_outwards = ((2 * slope * t / each).masked_fill(each == edge, 0) for each in (gap, other_gap))
    derivatives = (
        outwards - by_difference * along,
        -by_difference,
        by_difference * along + other_outwards * a,
        by_difference + other_outwards,
    )
    by_scale = derivatives[0] * square + derivatives[2] * a * square + derivatives[3] * across
    return Figure(value, (*derivatives, (by_scale / c - value) / (2 * c)))


def _hyperboloid_angle(tolerance: float, split: Split, c: Tensor, differentiate: bool) -> Figure:
    """θ = atan2(m, along), m = √across: both are coordinates of y in the tangent plane at x."""
    sides = _sides(split, c)
    _, a, time, other_time, _, along, across, sinh_square = sides
    near = (sinh_square <= tolerance**2 * sides.square.clamp_min(1)) | (sides.square <= tolerance**2)
    m, radius = across.sqrt(), sides.square.sqrt().clamp_min(tolerance)
    value = torch.atan2(m, along).masked_fill(near, 0)
    if not differentiate:
        return Figure(value, None)
    weight = c / sinh_square.masked_fill(near, torch.inf)
    turn = weight * m * (1 + sinh_square).sqrt() / radius
    steep = weight * along / m.masked_fill(m < FLAT, torch.inf)
    sideways = weight * m / radius
    by_c = sideways * sides.square * (a * radius * along / time + across) / (2 * c * c * other_time)
    derivatives = (
        turn / time, -sideways * time - a * steep, -turn / other_time,
        steep + sideways * sides.square / other_time, by_c,
    )  # fmt: skip
    return Figure(value, derivatives)


def _flat_angle(tolerance: float, split: Split, c: Tensor, differentiate: bool) -> Figure:
    """atan2(‖w‖, ε‖x‖) at z = x; c is not used."""
    radius, m = split.base.sqrt().clamp_min(tolerance), split.across.sqrt()
    along = split.along * radius
    apart = split.across + along * along
    near = (apart <= tolerance**2 * split.base.clamp_min(1)) | (split.base <= tolerance**2)
    value = torch.atan2(m, along).masked_fill(near, 0)
    if not differentiate:
        return Figure(value, None)
    weight = 1 / apart.masked_fill(near, torch.inf)
    turn, steep = weight * m / radius, weight * along / m.masked_fill(m < FLAT, torch.inf)
    return Figure(value, (turn, -turn - (1 + split.along) * steep, -turn, steep, torch.zeros_like(m)))
