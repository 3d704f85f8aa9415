"""Numerical basis of hyperbolic space: full precision under autocast, functions smooth at 0, all-pairs distances.

Float32 stores points well enough, but the textbook formulas subtract nearly equal numbers, near the diagonal
and far from the origin, and lose every digit. Two rules keep relative errors small at any radius:

- Points are compared row by row through their difference: see `meru.geometry.paired`.
- All pairs are compared by one matmul in float32; pairs too near for it are compared again row by row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from meru.geometry.paired import hyperboloid_distance

TINY = 1e-15  # a length to divide by instead of 0; its square is still a normal float32 number
# The rounding error of ‖x‖‖y‖ − x·y by matmul is a few ulp of ‖x‖‖y‖; pairs below this share of it are near.
NEARNESS = {torch.float32: 1e-2, torch.float64: 1e-8}
# A float64 matmul tells points apart that differ by this share of ‖x‖‖y‖ or more: 1e-7 of their lengths, which is what
# float32 can store.
RESOLUTION = 1e-14
# Pairs up to which a GPU computes all in float64 without looking for near ones, for which it would have to wait.
FEW_PAIRS = 2**20
# Elements processed at a time: as many as fit a core's cache, and on a GPU as many as occupy it fully.
BLOCK = {"cpu": 2**19, "cuda": 2**26}


@contextmanager
def full_precision(curvature: Tensor | float, *points: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Turn autocast off inside: `with full_precision(curvature, x, y) as (c, x, y):`.

    Args:
        curvature: c > 0, a number or a tensor with one element.
        *points: Tensors with the same last dimension.

    Yields:
        The curvature as a 0-dimensional tensor, then the points, all of one dtype: float32, or float64 where
        an input was float64.

    Raises:
        ValueError: if the curvature is not a positive number (a tensor's value is not read, because that would
            synchronise a GPU) or the last dimensions differ.
    """
    if len({tensor.shape[-1:] for tensor in points}) != 1 or points[0].ndim == 0:
        shapes = " and ".join(str(tuple(tensor.shape)) for tensor in points)
        raise ValueError(f"points need one last dimension D, got shapes {shapes}")
    dtype = torch.float64 if any(tensor.dtype == torch.float64 for tensor in points) else torch.float32
    with torch.autocast(points[0].device.type, enabled=False):
        points = tuple(tensor.to(dtype) for tensor in points)
        yield _curvature(curvature, points[0]), *points


def _curvature(curvature: Tensor | float, like: Tensor) -> Tensor:
    if isinstance(curvature, Tensor):
        if curvature.numel() != 1:
            raise ValueError(f"curvature needs one element, got shape {tuple(curvature.shape)}")
        return curvature.reshape(()).to(like)
    if not 0 < curvature < math.inf:
        raise ValueError(f"curvature c must be positive (the space has curvature −c), got {curvature}")
    return like.new_full((), curvature)


@contextmanager
def exact_matmul() -> Iterator[None]:
    """Compute float32 matmuls inside in float32, even if the process chose TF32 or bfloat16 for them."""
    choose: Callable[..., None] = torch.set_float32_matmul_precision
    before: str | list[str]
    exact: str | list[str] = "highest"
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:  # set by `fp32_precision` (torch >= 2.9), which torch refuses to mix with older settings
        mkldnn: Any = torch.backends.mkldnn  # its type stub has no `matmul`
        backends: list[Any] = [torch.backends.cuda.matmul, mkldnn.matmul]
        before, exact = [backend.fp32_precision for backend in backends], ["ieee", "ieee"]

        def choose_of_backends(precisions: list[str]) -> None:
            for backend, precision in zip(backends, precisions, strict=True):
                backend.fp32_precision = precision

        choose = choose_of_backends

    if before == exact:
        yield
        return
    try:
        choose(exact)
        yield
    finally:
        choose(before)


def exact_product(x: Tensor, y: Tensor) -> Tensor:
    """x yᵀ, the product of every row of `x` with every row of `y`, in float32 in both passes.

    `exact_matmul` around a plain `x @ y.mT` is not enough: its backward runs later, outside the context.

    Args:
        x: Shape `(…, B1, D)`; half precision is widened, float64 stays float64.
        y: Shape `(…, B2, D)`; the dimensions before the last two broadcast with those of `x`.

    Returns:
        Shape `(…, B1, B2)`, regardless of autocast.
    """
    dtype = torch.float64 if torch.float64 in (x.dtype, y.dtype) else torch.float32
    x, y = x.to(dtype), y.to(dtype)
    if y.ndim == 2 < x.ndim:  # one matmul instead of a batch of them
        return _ExactProduct.apply(x.flatten(0, -2), y).unflatten(0, x.shape[:-1])
    return _ExactProduct.apply(x, y)


class _ExactProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(x, y)
        with torch.autocast(x.device.type, enabled=False), exact_matmul():
            return x @ y.mT

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, y = ctx.saved_tensors
        needs_x, needs_y = ctx.needs_input_grad
        towards_x = _ExactProduct.apply(gradient, y.mT).sum_to_size(x.shape) if needs_x else None
        towards_y = _ExactProduct.apply(gradient.mT, x.mT).sum_to_size(y.shape) if needs_y else None
        return towards_x, towards_y


def root(square: Tensor) -> Tensor:
    """√square; 0, with gradient 0 instead of infinity, where `square` ≤ 0."""
    flat = square <= 0
    return torch.where(flat, 0, torch.where(flat, 1, square).sqrt())


def length(x: Tensor, *, keepdim: bool = False) -> Tensor:
    """‖x‖ over the last dimension, with gradient 0 at x = 0."""
    return root((x * x).sum(-1, keepdim=keepdim))


def sinhc(square: Tensor) -> Tensor:
    """sinh(z)/z as a function of z² ≥ 0, in which it is smooth; 1 at 0."""
    small = square < 1e-2
    series = 1 + square / 6 * (1 + square / 20 * (1 + square / 42 * (1 + square / 72)))
    z = torch.where(small, 1, square).sqrt()
    return torch.where(small, series, torch.sinh(z) / z)


def tanhc(square: Tensor) -> Tensor:
    """tanh(z)/z as a function of z² ≥ 0, in which it is smooth; 1 at 0."""
    small = square < 1e-2
    series = 1 - square / 3 * (1 - square * 2 / 5 * (1 - square * 17 / 42 * (1 - square * 62 / 153)))
    z = torch.where(small, 1, square).sqrt()
    return torch.where(small, series, torch.tanh(z) / z)


def hyperboloid_time(x: Tensor, c: Tensor | float = 1.0, *, keepdim: bool = False) -> Tensor:
    """Time component √(1/c + ‖x‖²) of the points with space components `x`."""
    return (1 / c + (x * x).sum(-1, keepdim=keepdim)).sqrt()


class AllPairsDistance(torch.autograd.Function):
    """Distances `(B1, B2)` between points `x` `(B1, D)` and `y` `(B2, D)` of the hyperboloid of curvature −c.

    Only the result, and nothing else of that size, is kept for the backward pass. With ρ, σ the radii of x and y, in
    units of 1/√c, and all terms are ≥ 0, so that nothing cancels near the origin or far from it:

        cosh(√c d) − 1 = 2 sinh²((ρ − σ)/2) + c (‖x‖‖y‖ − x·y)

    `dtype` is that of the result and of the matmul, by default that of the points; for near pairs, float64 points
    with a float32 matmul still give their float64 distance. On a GPU, few pairs are computed by a float64 matmul, in
    which points are equal that float32 cannot tell apart.
    """

    @staticmethod
    def forward(ctx, x: Tensor, y: Tensor, c: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        ctx.given, ctx.matmul = x.dtype, dtype or x.dtype
        distances = x.new_empty(len(x), len(y), dtype=ctx.matmul)
        if ctx.matmul == torch.float32 and _without_waiting(distances):
            ctx.matmul, x, y = torch.float64, x.double(), y.double()
            near = _fill(distances, x, y, c.double(), look_for_near=False)
            ctx.save_for_backward(x, y, c, distances, near)
            return distances
        near = _fill(distances, x.to(ctx.matmul), y.to(ctx.matmul), c.to(ctx.matmul))
        if ctx.matmul == torch.float32 and 64 * near.shape[1] > distances.numel():
            # The points are close together, as those of an untrained tower: a float64 matmul separates them.
            ctx.matmul, x, y = torch.float64, x.double(), y.double()
            near = _fill(distances, x, y, c.double())
        for i, j in _pieces(near, x):
            distances[i, j] = hyperboloid_distance(x[i], y[j], c.to(x)).to(distances.dtype)
        ctx.save_for_backward(x, y, c, distances, near)
        return distances

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, y, c, distances, near = ctx.saved_tensors
        given = c.dtype
        with torch.autocast(x.device.type, enabled=False), exact_matmul():
            far_x, far_y, far_c = (each.to(ctx.matmul) for each in (x, y, c))
            far = _far_gradients(gradient, far_x, far_y, far_c, distances, near)
            gradient_x, gradient_y = (each.to(x) for each in far)
            c = c.to(x)
            for i, j in _pieces(near, x):
                with torch.enable_grad():
                    pair = x[i].requires_grad_(), y[j].requires_grad_()
                    distance = hyperboloid_distance(*pair, c)
                towards_x, towards_y = torch.autograd.grad(distance, pair, gradient[i, j].to(x))
                gradient_x.index_add_(0, i, towards_x)
                gradient_y.index_add_(0, j, towards_y)
            # d = F(√c x, √c y)/√c, so the derivative by c follows from those by x and y (Euler).
            by_scale = (gradient_x * x).sum() + (gradient_y * y).sum() - (gradient * distances).sum()
            return gradient_x.to(ctx.given), gradient_y.to(ctx.given), (by_scale / (2 * c)).to(given), None


def _without_waiting(distances: Tensor) -> bool:
    return distances.is_cuda and distances.numel() <= FEW_PAIRS


def _fill(distances: Tensor, x: Tensor, y: Tensor, c: Tensor, *, look_for_near: bool = True) -> Tensor:
    """Write the distances of all pairs by matmul; returns the indices `(2, n)` of pairs too near for it.

    Without looking for those, pairs below the resolution get distance 0.
    """
    x, y = c.sqrt() * x, c.sqrt() * y
    length_x, length_y = (torch.linalg.vector_norm(each, dim=-1) for each in (x, y))
    (sinh_x, cosh_x), (sinh_y, cosh_y) = _half_radius(length_x[:, None]), _half_radius(length_y)
    near = [torch.empty(2, 0, dtype=torch.long, device=x.device)]
    with exact_matmul():
        for block in _blocks(distances):
            excess = torch.outer(length_x[block], length_y).addmm_(x[block], y.T, alpha=-1).clamp_(min=0)
            gap = (sinh_x[block] * cosh_y).addcmul_(cosh_x[block], sinh_y, value=-1)  # sinh((ρ − σ)/2)
            excess.addcmul_(gap, gap, value=2)
            if look_for_near:
                near.append(_near(excess, length_x[block], length_y, first_row=block.start))
            else:
                excess.masked_fill_(excess <= RESOLUTION * torch.outer(length_x[block], length_y), 0)
            distances[block] = _arcosh1p_(excess).div_(c.sqrt())
    return torch.cat(near, 1)


def _half_radius(sinh: Tensor) -> tuple[Tensor, Tensor]:
    """sinh(ρ/2), cosh(ρ/2) from sinh(ρ) ≥ 0, without cancellation at 0."""
    cosh_half = ((1 + (1 + sinh * sinh).sqrt()) / 2).sqrt()
    return sinh / (2 * cosh_half), cosh_half


def _near(excess: Tensor, length_x: Tensor, length_y: Tensor, *, first_row: int) -> Tensor:
    """Indices `(2, n)` of the pairs whose cosh(√c d) − 1 is within the rounding error of a matmul."""
    floor = NEARNESS[excess.dtype] * length_x
    rows = (excess.amin(1) <= floor * length_y.max()).nonzero()[:, 0]
    if not len(rows):  # as usual: then a GPU is waited for once
        return rows.new_empty(2, 0)
    close = (excess[rows] <= floor[rows, None] * length_y).nonzero().T
    return torch.stack([rows[close[0]] + first_row, close[1]])


def _arcosh1p_(t: Tensor) -> Tensor:
    """arcosh(1 + t) in place, for t ≥ 0; vectorised, unlike torch.acosh on CPUs.

    Two roots for √(t(t + 2)): the product would overflow float32 from a distance of 45 on.
    """
    return t.add_((t + 2).sqrt_().mul_(t.sqrt())).log1p_()


def _far_gradients(
    gradient: Tensor, x: Tensor, y: Tensor, c: Tensor, distances: Tensor, near: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients by `x` and `y` through all but the near pairs: two matmuls with the weights g/sinh(√c d)."""
    if near.shape[1]:
        gradient = gradient.index_put(tuple(near), gradient.new_zeros(()))
    time_x, time_y = hyperboloid_time(x, c), hyperboloid_time(y, c)
    gradient_x = torch.zeros_like(x)
    sum_x, sum_time_x = torch.zeros_like(y), torch.zeros_like(time_y)
    for block in _blocks(distances):
        e = (distances[block].to(x.dtype) * c.sqrt()).expm1_().clamp_(max=1e38)  # inf/inf would be NaN
        sinh = e.addcdiv_(e, e + 1).div_(2)
        weights = gradient[block] / F.threshold(sinh, 0, math.inf, inplace=True)  # 0 at distance 0
        radial = (weights @ time_y) / time_x[block]
        gradient_x[block] = x[block] * radial[:, None] - weights @ y
        sum_x.addmm_(weights.T, x[block])
        sum_time_x.addmv_(weights.T, time_x[block])
    gradient_y = y * (sum_time_x / time_y)[:, None] - sum_x
    return gradient_x.mul_(c.sqrt()), gradient_y.mul_(c.sqrt())


def _blocks(matrix: Tensor) -> Iterator[slice]:
    """Slices of the rows of a `(B1, B2)` matrix; none where it is empty."""
    rows, columns = matrix.shape
    step = max(1, BLOCK.get(matrix.device.type, BLOCK["cuda"]) // max(1, columns))
    for start in range(0, rows if columns else 0, step):
        yield slice(start, min(start + step, rows))


def _pieces(near: Tensor, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The indices of near pairs, in pieces whose points fill a block."""
    size = max(1, BLOCK.get(x.device.type, BLOCK["cuda"]) // max(1, x.shape[1]))
    for piece in near.split(size, 1) if near.shape[1] else ():
        yield piece[0], piece[1]
