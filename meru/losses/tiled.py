"""Contrastive losses of large batches, one tile of the matrix of scores at a time, forward and backward.

The losses are those of `meru.losses.contrastive` and `meru.losses.semantic_margin`. Row sums of exponentials are
accumulated over the tiles, and the backward pass computes the tiles again, so that memory grows with B instead of B².
Both directions share one matrix where a process has all rows and columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from meru.geometry.spaces import Hyperboloid
from meru.geometry.tiled_pairs import can_tile, pairs_of
from meru.geometry.tiles import Pairs, Tile, tiles_of
from meru.losses.tile_sums import Contrast, Sigmoid, Softmax

# From this number of pairs on, tiles take no longer than the whole matrix, and models use them by themselves.
TILED_FROM = 2**20
SPREAD = 60.0  # logits that differ by less have exponentials in float32's range


@torch.compiler.disable
def tiled_contrast(
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    contrast: Contrast,
    *,
    bias: Tensor | None = None,
    within: tuple[Tensor, ...] = (),
) -> tuple[Tensor, Tensor]:
    """Losses of every row, and of every column where `contrast.both`, exact to rounding.

    With softmax, z_ij = s (S_ij + λ D_ij) and the loss of a row is −Σ_j T_ij log softmax_j(z_i): see
    `semantic_margin_loss`, and with λ = α = 0 `row_contrast`. With `contrast.sigmoid` it is Σ_j softplus(∓z_ij): see
    `sigmoid_row_contrast`. Memory is O((B1 + B2)·D), and nothing waits for a GPU. Differentiable once, by the points,
    the curvature, the scale and the bias.

    Args:
        x: Points of this process, shape `(B1, D)`; half precision is widened, float64 stays float64.
        y: Points that they are compared with, shape `(B2, D)`.
        scale: s > 0, a scalar.
        contrast: The settings.
        bias: Added to the logits, a scalar; only with `contrast.sigmoid`.
        within: If margins are those of similarities within a modality: the points of the rows' modality that are the
            partners of the columns, `(B2, D)`, and with `contrast.both` those of the columns' modality that are the
            partners of the rows, `(B1, D)`. Without, margins are those of the scores themselves.

    Returns:
        Shapes `(B1,)` and `(B2,)`; the second `(0,)` without `both`.

    Raises:
        ValueError: if both directions are asked for without all rows, or a space has no tiles.
    """
    if not can_tile(contrast.space):
        raise ValueError(f"{type(contrast.space).__name__} has no tiles")
    if contrast.both and (len(x) != len(y) or contrast.first):
        raise ValueError(f"both directions need as many rows as columns, got {len(x)} and {len(y)}")
    dtype = torch.float64 if torch.float64 in (x.dtype, y.dtype) else torch.float32
    x, y, scale = x.to(dtype), y.to(dtype), scale.to(dtype)
    curvature = contrast.space.curvature if isinstance(contrast.space, Hyperboloid) else 1.0
    if not isinstance(curvature, Tensor):
        curvature = x.new_full((), curvature)
    neighbours = tuple(each.detach().to(dtype) for each in within) if contrast.margin else ()
    return _TiledContrast.apply(
        x, y, curvature.reshape(()).to(x), scale, None if bias is None else bias.to(dtype), contrast, neighbours
    )


class _TiledContrast(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, c: Tensor, scale: Tensor, bias: Tensor | None, contrast: Contrast, within: tuple
    ) -> tuple[Tensor, Tensor]:
        with torch.autocast(x.device.type, enabled=False):
            work = _Work(x, y, c, scale, bias, contrast, within)
            for tile, margins in work.tiles():
                work.add(tile, margins)
                del tile  # before the next one is made
            losses = [direction.losses() for direction in work.directions]
        ctx.save_for_backward(x, y, c, scale, bias, *within)
        ctx.contrast, ctx.work = contrast, [direction.sums for direction in work.directions]
        ctx.in_float64 = work.in_float64
        return losses[0], losses[1] if contrast.both else x.new_zeros(0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_rows: Tensor, by_columns: Tensor) -> tuple[Tensor | None, ...]:
        x, y, c, scale, bias, *within = ctx.saved_tensors
        with torch.autocast(x.device.type, enabled=False):
            work = _Work(x, y, c, scale, bias, ctx.contrast, tuple(within), in_float64=ctx.in_float64)
            by_scale, by_bias, total = (scale.new_zeros(()) for _ in range(3))
            for direction, sums, gradient in zip(work.directions, ctx.work, (by_rows, by_columns), strict=False):
                direction.sums, direction.gradient = sums, gradient.to(x)
            work.prepare_gradients()
            for tile, margins in work.tiles(slope=True):
                towards, of_raised, of_logits = work.gradient_by_logits(tile, margins)
                by_scale, total = by_scale + of_raised, total + of_logits
                if bias is not None:
                    by_bias += towards.sum()
                work.pairs.pull(tile, towards)
                del tile, towards  # before the next one is made
            by_x, by_y, by_c = work.pairs.gradients(total)
        return by_x, by_y, by_c, by_scale / scale, None if bias is None else by_bias, None, None


class _Work:
    """The pairs and directions of a loss."""

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        c: Tensor,
        scale: Tensor,
        bias: Tensor | None,
        contrast: Contrast,
        within: tuple[Tensor, ...],
        *,
        in_float64: tuple[bool, ...] = (),
    ):
        def pairs(x: Tensor, y: Tensor) -> Pairs:
            return pairs_of(
                contrast.space, x, y, c, squared=contrast.squared, first=contrast.first, static=contrast.static
            )

        self.device, self.scale, self.margin, self.squared = x.device, scale, contrast.margin, contrast.squared
        self.shape = len(x), len(y)
        self.pairs = pairs(x, y)
        self.margins = []
        if within:
            self.margins = [pairs(x, within[0]), *([pairs(within[1], y)] if contrast.both else [])]
        for each, doubled in zip((self.pairs, *self.margins), in_float64, strict=False):
            if doubled:
                each.use_float64()
        self.over: Tensor | None = None
        self.factors: list[Tensor] = []
        # One exponential serves rows and columns unless they differ too much, which only a CPU tells without waiting.
        kind = Sigmoid if contrast.sigmoid else Softmax
        self.directions: list[Sigmoid | Softmax] = [
            kind(contrast, self.shape, dim=dim, scale=scale, bias=bias) for dim in ((1, 0) if contrast.both else (1,))
        ]
        counts = x.device.type == "cpu" and not contrast.static
        softmax = [each for each in self.directions if isinstance(each, Softmax) and each.plain]
        self.sharing = softmax if counts and len(softmax) == 2 else []

    @property
    def in_float64(self) -> tuple[bool, ...]:
        """Which of the pairs went over to float64 matmuls."""
        return tuple(each.in_float64 for each in (self.pairs, *self.margins))

    def tiles(self, *, slope: bool = False) -> Iterator[tuple[Tile, list[Tensor | None]]]:
        """The tiles, each with λ s times the similarities within a modality for every direction, None without them."""
        margin, margins = self.scale * self.margin, cast("list[Tensor | None]", [None] * len(self.directions))
        for rows, columns in tiles_of(*self.shape, self.device):
            if self.margins:
                margins = [pairs.tile(rows, columns, margin).logits for pairs in self.margins]
            yield self.pairs.tile(rows, columns, self.scale, slope=slope), margins

    def add(self, tile: Tile, margins: list[Tensor | None]) -> None:
        """Take in a tile, forward."""
        if self.sharing:
            tops = [tile.logits.amax(direction.dim) for direction in self.sharing]
            over = tops[0].max()
            if all(over - top.min() < SPREAD for top in tops):
                e = (tile.logits - over).exp_()
                for shared, top in zip(self.sharing, tops, strict=True):
                    shared.add_shared(tile, e, over, top)
                return
        for direction, margin in zip(self.directions, margins, strict=True):
            direction.add(tile, margin)

    def prepare_gradients(self) -> None:
        """To be called before the backward pass, when the directions have their sums and gradients."""
        if self.sharing:
            maxima = [direction.sums["raised/maximum"] for direction in self.sharing]
            over = maxima[0].max()
            if all(over - each.min() < SPREAD for each in maxima):
                self.over = over
                self.factors = [direction.factors(over) for direction in self.sharing]

    def gradient_by_logits(self, tile: Tile, margins: list[Tensor | None]) -> tuple[Tensor, Tensor, Tensor]:
        """Sums of `Direction.gradient_by_logits` over the directions."""
        if self.over is not None:
            # −d² is needed again for its gradient; other logits make room.
            z = tile.logits - self.over if self.squared else tile.logits.sub_(self.over)
            rows, columns = self.factors
            towards = z.exp().mul_(rows[tile.rows, None] + columns[tile.columns])
            for shared in self.sharing:
                shared.take_positives(towards, tile, shared.gradient)
            product = torch.dot(towards.flatten(), z.flatten())
            return towards, product, product
        towards, of_raised, of_logits = self.directions[0].gradient_by_logits(tile, margins[0])
        for direction, margin in zip(self.directions[1:], margins[1:], strict=True):
            more = direction.gradient_by_logits(tile, margin)
            towards, of_raised, of_logits = towards.add_(more[0]), of_raised + more[1], of_logits + more[2]
        return towards, of_raised, of_logits
