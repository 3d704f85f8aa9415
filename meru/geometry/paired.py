"""Figures of two points, row by row: exact in float32, with few kernels and little memory.

The points are split once, in float64, into a base z and what is orthogonal to it:

    x − y = ε z + w,   w ⟂ z,   z = x + y          for distances, which are symmetric
    y − x = ε z + w,   w ⟂ z,   z = x              for angles at x

From the three numbers ‖z‖², ε and ‖w‖² follow the figure and its gradients, which are combinations of z and w, without
a cancellation anywhere. So only the split and scalars `(…)` need float64: far from the origin, rounding w to float32
before it is known to be small would turn a point's direction by 6e-8, which there is a long way. The split is made for
a few rows at a time, which stay in a core's cache; for the backward pass, only z and w are kept, in the points' dtype.
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
PIECE = {"cpu": 2**15, "cuda": 2**22}


class Split(NamedTuple):
    """The three numbers of a pair, float64, shape `(n,)`: ‖z‖², ε, ‖w‖²."""

    base: Tensor
    along: Tensor
    across: Tensor


class Figure(NamedTuple):
    """The value of a figure and its derivatives, float64, shape `(n,)`.

    The gradient by x is `x_base`·z + `x_across`·w, that by y likewise; `c` is the derivative by the curvature. The
    derivatives are None if they were not asked for.
    """

    value: Tensor
    derivatives: tuple[Tensor, Tensor, Tensor, Tensor, Tensor] | None


Formula = Callable[[Split, Tensor, bool], Figure]


def hyperboloid_distance(x: Tensor, y: Tensor, c: Tensor) -> Tensor:
    """Geodesic distance of points of the hyperboloid of curvature −c, row by row; `x` and `y` broadcast."""
    return _figure(x, y, c, partial(_distance, _hyperboloid_excess), symmetric=True)


def hyperboloid_inner(x: Tensor, y: Tensor, c: Tensor) -> Tensor:
    """⟨x, y⟩_L = −cosh(√c d)/c, row by row; `x` and `y` broadcast."""
    return _figure(x, y, c, _inner, symmetric=True)


def hyperboloid_angle(x: Tensor, y: Tensor, c: Tensor, tolerance: float) -> Tensor:
    """The exterior angle at x of the triangle O x y, row by row: see `meru.geometry.lorentz.exterior_angle`."""
    return _figure(x, y, c, partial(_hyperboloid_angle, tolerance), symmetric=False)


def flat_angle(x: Tensor, y: Tensor, tolerance: float) -> Tensor:
    """The same in flat space: see `meru.geometry.spaces.Euclidean.exterior_angle`."""
    return _figure(x, y, x.new_ones(()), partial(_flat_angle, tolerance), symmetric=False)


def ball_distance(x: Tensor, y: Tensor, c: Tensor, edge: float) -> Tensor:
    """Geodesic distance in the Poincaré ball, row by row, in which 1 − c‖x‖² is at least `edge`."""
    return _figure(x, y, c, partial(_distance, partial(_ball_excess, edge)), symmetric=True)


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
    """A formula of pairs `(n, D)` as a function of points and curvature; differentiable once."""

    @staticmethod
    def forward(
        ctx, x: Tensor, y: Tensor, c: Tensor, formula: Formula, symmetric: bool, differentiate: bool
    ) -> Tensor:
        split, base, across = _split(x, y, symmetric, keep=differentiate)
        value, derivatives = formula(split, c.double(), differentiate)
        if derivatives is not None:
            ctx.save_for_backward(base, across, torch.stack(derivatives), c)
        return value.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        base, across, derivatives, c = ctx.saved_tensors
        weights = derivatives * gradient
        by_x_base, by_x_across, by_y_base, by_y_across = weights[:4].to(base.dtype)[..., None]
        needs_x, needs_y, needs_c = ctx.needs_input_grad[:3]
        by_x = (base * by_x_base).addcmul_(across, by_x_across) if needs_x else None
        by_y = (base * by_y_base).addcmul_(across, by_y_across) if needs_y else None
        return by_x, by_y, weights[4].sum().to(c.dtype) if needs_c else None, None, None, None


def _split(x: Tensor, y: Tensor, symmetric: bool, *, keep: bool) -> tuple[Split, Tensor | None, Tensor | None]:
    """The three numbers of every pair, and, to keep, z and w in the points' dtype."""
    rows, columns = x.shape
    split = Split(*x.new_empty(3, rows, dtype=torch.float64))
    across = torch.empty_like(x, memory_format=torch.contiguous_format) if keep else None
    base = torch.empty_like(x, memory_format=torch.contiguous_format) if keep and symmetric else x
    for piece in pieces(rows, columns, x.device):
        wide_x, wide_y = x[piece].double(), y[piece].double()
        z, difference = (wide_x + wide_y, wide_x - wide_y) if symmetric else (wide_x, wide_y - wide_x)
        square = torch.sum(z * z, -1, out=split.base[piece])
        along = torch.div((difference * z).sum(-1), square.clamp_min(SMALLEST), out=split.along[piece])
        w = difference.addcmul_(z, along[:, None], value=-1)
        torch.sum(w * w, -1, out=split.across[piece])
        if keep:
            across[piece] = w
            if symmetric:
                base[piece] = z
    return split, base, across


class _ExactSquare(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        flat = x.reshape(-1, x.shape[-1])
        square = flat.new_empty(len(flat), dtype=torch.float64)
        for piece in pieces(*flat.shape, x.device):
            wide = flat[piece].double()
            torch.sum(wide * wide, -1, out=square[piece])
        return square.view(x.shape[:-1])

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return x * (2 * gradient).to(x.dtype)[..., None]


# ---------------------------------------------------------------- formulas


def _distance(excess: Callable, split: Split, c: Tensor, differentiate: bool) -> Figure:
    """d = arcosh(1 + t)/√c; the derivative by t is 0 where points coincide."""
    t, derivatives = excess(split, c, differentiate)
    sinh = (t * (t + 2)).sqrt()
    root_c = c.sqrt()
    value = torch.log1p(t + sinh) / root_c
    if not differentiate:
        return Figure(value, None)
    slope = 1 / (root_c * sinh).masked_fill(sinh == 0, torch.inf)
    x_base, x_across, y_base, y_across, by_scale = (slope * each for each in derivatives)
    # d = F(√c x, √c y)/√c, so the derivative by c follows from those by x and y (Euler).
    return Figure(value, (x_base, x_across, y_base, y_across, (by_scale - value) / (2 * c)))


def _inner(split: Split, c: Tensor, differentiate: bool) -> Figure:
    t, derivatives = _hyperboloid_excess(split, c, differentiate)
    value = -(1 + t) / c
    if not differentiate:
        return Figure(value, None)
    x_base, x_across, y_base, y_across, by_scale = (each / -c for each in derivatives)
    return Figure(value, (x_base, x_across, y_base, y_across, by_scale / (2 * c) - value / c))


def _hyperboloid_excess(split: Split, c: Tensor, differentiate: bool) -> Figure:
    """t = cosh(√c d) − 1 for z = x + y; instead of the derivative by c, x·∂t/∂x + y·∂t/∂y.

        t = (c‖w‖²/2 + 2q)/(1 − q),   q = c ε²‖z‖²/(T + U)²,   T² = 1 + c‖x‖²,   U² = 1 + c‖y‖²
        ∂t/∂x = c/(2T) v,   ∂t/∂y = −c/(2U) v,   v = ε (4 + 2t)/(T + U) z + (T + U) w
    """
    square, along, across = split.base * c, split.along, split.across * c
    ahead, behind = 1 + along, 1 - along
    time_x = (1 + (ahead * ahead * square + across) / 4).sqrt()
    time_y = (1 + (behind * behind * square + across) / 4).sqrt()
    times = time_x + time_y
    q = square * (along / times).square()
    t = (across / 2 + 2 * q) / (1 - q)
    if not differentiate:
        return Figure(t, None)
    v_base = along * (4 + 2 * t) / times
    to_x, to_y = c / (2 * time_x), -c / (2 * time_y)
    # 2 c v·x and 2 c v·y
    v_x, v_y = v_base * ahead * square + times * across, v_base * behind * square - times * across
    by_scale = v_x / (4 * time_x) - v_y / (4 * time_y)
    return Figure(t, (to_x * v_base, to_x * times, to_y * v_base, to_y * times, by_scale))


def _ball_excess(edge: float, split: Split, c: Tensor, differentiate: bool) -> Figure:
    """t = 2c‖x − y‖²/((1 − c‖x‖²)(1 − c‖y‖²)) for z = x + y; the rest as for the hyperboloid.

    Beyond the edge, 1 − c‖x‖² is constant.
    """
    square, along, across = split.base * c, split.along, split.across * c
    ahead, behind = 1 + along, 1 - along
    square_x, square_y = (ahead * ahead * square + across) / 4, (behind * behind * square + across) / 4
    gap_x, gap_y = (1 - square_x).clamp_min(edge), (1 - square_y).clamp_min(edge)
    by_difference = 4 / (gap_x * gap_y)
    t = by_difference * (along * along * square + across) / 2
    if not differentiate:
        return Figure(t, None)
    # Halves, because x = (z + (x − y))/2 and y = (z − (x − y))/2.
    to_x, to_y = ((t / gap).masked_fill(gap == edge, 0) for gap in (gap_x, gap_y))
    derivatives = (
        c * (by_difference * along + to_x * ahead), c * (by_difference + to_x),
        c * (to_y * behind - by_difference * along), -c * (by_difference + to_y),
    )  # fmt: skip
    by_scale = 2 * (t + to_x * square_x + to_y * square_y)
    return Figure(t, (*derivatives, by_scale))


def _hyperboloid_angle(tolerance: float, split: Split, c: Tensor, differentiate: bool) -> Figure:
    """The angle at z = x, where y has the coordinates m, l in the tangent plane: m² + l² = sinh²(√c d).

        θ = atan2(m, l),   m = √c‖w‖,   l = R (a T − U),   a = 1 + ε,   R = √c‖x‖
    """
    square, across = split.base * c, split.across * c
    a = 1 + split.along
    time_x = (1 + square).sqrt()
    time_y = (1 + a * a * square + across).sqrt()
    radius = square.sqrt().clamp_min(tolerance)
    # |a| T − U from the difference of the squares, and a T − U from it
    lead = (split.along * (2 + split.along) - across) / (time_y + a.abs() * time_x) + 2 * a.clamp_max(0) * time_x
    along = radius * lead
    sinh_square = across + along * along
    near = (sinh_square <= tolerance**2 * square.clamp_min(1)) | (square <= tolerance**2)
    m = across.sqrt()
    value = torch.atan2(m, along).masked_fill(near, 0)
    if not differentiate:
        return Figure(value, None)
    weight = c / sinh_square.masked_fill(near, torch.inf)
    turn = weight * m * (1 + sinh_square).sqrt() / radius
    steep = along / m.masked_fill(m < FLAT, torch.inf)
    by_c = weight * m * radius * (a * radius * along / time_x + across) / (2 * c * c * time_y)
    return Figure(
        value,
        (
            turn / time_x,
            -weight * (m * time_x / radius + a * steep),
            -turn / time_y,
            weight * (steep + m * radius / time_y),
            by_c,
        ),
    )


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
