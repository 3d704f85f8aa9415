"""Contrastive losses of large batches, one tile of the matrix of scores at a time, forward and backward.

The losses are those of `meru.losses.contrastive` and `meru.losses.semantic_margin`. Row sums of exponentials are
accumulated over the tiles, and the backward pass computes the tiles again, so that memory grows with B instead of B².
Both directions share one matrix where a process has all rows and columns.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from meru.geometry.spaces import Hyperboloid, Space
from meru.geometry.tiles import Pairs, Tile, can_tile, pairs_of, tiles_of

# From this number of pairs on, tiles take no longer than the whole matrix; the models then use them by themselves.
TILED_FROM = 2**20
SPREAD = 60.0  # logits that differ by less have exponentials in float32's range


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """How scores become losses.

    Attributes:
        space: In which points are compared.
        squared: Whether scores are −d² instead of the space's own.
        labels: Of rows `(B1,)` and columns `(B2,)`, int64: pairs with equal labels are positives; None: only partners.
        first: The partner of row i is column `first` + i.
        both: Whether columns have losses too; then B1 = B2 and `first` = 0.
        sigmoid: Every pair is judged by itself, see `sigmoid_row_contrast`.
        margin: λ of `semantic_margin_loss`.
        within: Whether margins are those of similarities within a modality, else those of the scores themselves.
        share: α of `soft_targets`; None: 0.
        static: See `pairs_of`.
    """

    space: Space
    squared: bool = False
    labels: tuple[Tensor, Tensor] | None = None
    first: int = 0
    both: bool = False
    sigmoid: bool = False
    margin: float = 0.0
    within: bool = False
    share: Tensor | float | None = None
    static: bool | None = None


def tiles_pay(space: Space, rows: int, columns: int) -> bool:
    """Whether a loss of so many rows and columns is computed by tiles: from `TILED_FROM` pairs on.

    Below, the whole matrix is as fast, and small.
    """
    return rows * columns >= TILED_FROM and can_tile(space)


@torch.compiler.disable
def tiled_contrast(
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    contrast: Contrast,
    *,
    bias: Tensor | None = None,
    within: tuple[Tensor, Tensor] | None = None,
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
        within: With `contrast.within`, the points that the rows' and the columns' own similarities are computed with:
            those in the places of the columns, in the modality of the rows, and those in the places of the rows, in the
            modality of the columns; None: y's partners are x themselves, as in a single process.

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
    neighbours = tuple(each.detach().to(dtype) for each in (within or (x, y))) if contrast.within else ()
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

        self.device, self.scale, self.margin = x.device, scale, contrast.margin
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
        plain = contrast.both and not contrast.sigmoid and not contrast.margin and contrast.share is None
        self.shares_exponentials = plain and x.device.type == "cpu" and not contrast.static
        kind = _Sigmoid if contrast.sigmoid else _Softmax
        self.directions = [
            kind(contrast, self.shape, dim=dim, scale=scale, bias=bias) for dim in ((1, 0) if contrast.both else (1,))
        ]

    @property
    def in_float64(self) -> tuple[bool, ...]:
        """Which of the pairs went over to float64 matmuls."""
        return tuple(each.in_float64 for each in (self.pairs, *self.margins))

    def tiles(self, *, slope: bool = False) -> Iterator[tuple[Tile, list[Tensor | None]]]:
        """The tiles, each with λ s times the similarities within a modality for every direction, None without them."""
        margin = self.scale * self.margin
        for rows, columns in tiles_of(*self.shape, self.device):
            margins = [pairs.tile(rows, columns, margin).logits for pairs in self.margins]
            tile = self.pairs.tile(rows, columns, self.scale, slope=slope)
            yield tile, margins or [None] * len(self.directions)

    def add(self, tile: Tile, margins: list[Tensor | None]) -> None:
        """Take in a tile, forward."""
        if self.shares_exponentials:
            tops = [tile.logits.amax(direction.dim) for direction in self.directions]
            over = tops[0].max()
            if all(over - top.min() < SPREAD for top in tops):
                e = (tile.logits - over).exp_()
                for direction, top in zip(self.directions, tops, strict=True):
                    direction.add_shared(tile, e, over, top)
                return
        for direction, margin in zip(self.directions, margins, strict=True):
            direction.add(tile, margin)

    def prepare_gradients(self) -> None:
        """To be called before the backward pass, when the directions have their sums and gradients."""
        if self.shares_exponentials:
            maxima = [direction.sums["raised/maximum"] for direction in self.directions]
            over = maxima[0].max()
            if all(over - each.min() < SPREAD for each in maxima):
                self.over = over
                self.factors = [direction.factors(over) for direction in self.directions]

    def gradient_by_logits(self, tile: Tile, margins: list[Tensor | None]) -> tuple[Tensor, Tensor, Tensor]:
        """Sums of `_Direction.gradient_by_logits` over the directions."""
        if self.over is not None:
            z = tile.logits - self.over
            rows, columns = self.factors
            towards = z.exp().mul_(rows[tile.rows, None] + columns[tile.columns])
            for direction in self.directions:
                direction.take_positives(towards, tile, direction.gradient)
            product = torch.dot(towards.flatten(), z.flatten())
            return towards, product, product
        towards, of_raised, of_logits = self.directions[0].gradient_by_logits(tile, margins[0])
        for direction, margin in zip(self.directions[1:], margins[1:], strict=True):
            more = direction.gradient_by_logits(tile, margin)
            towards, of_raised, of_logits = towards.add_(more[0]), of_raised + more[1], of_logits + more[2]
        return towards, of_raised, of_logits


class _Direction:
    """The losses of rows (dim 1) or columns (dim 0): sums over the tiles, and gradients."""

    def __init__(
        self, contrast: Contrast, shape: tuple[int, int], *, dim: int, scale: Tensor, bias: Tensor | None
    ):
        self.contrast, self.dim, self.scale, self.bias = contrast, dim, scale, bias
        self.number = shape[1 - dim]
        self.gradient: Tensor | None = None
        self.sums: dict[str, Tensor] = {}
        self.shares = None if contrast.labels is None else 1 / self._positives(*contrast.labels).to(scale)

    def _positives(self, rows: Tensor, columns: Tensor) -> Tensor:
        """How many positives every row, or column, has."""
        own, others = (rows, columns) if self.dim == 1 else (columns, rows)
        others = others.sort().values
        own = own.contiguous()
        return torch.searchsorted(others, own, right=True) - torch.searchsorted(others, own)

    def part(self, tile: Tile) -> slice:
        """The rows, or columns, of a tile."""
        return tile.rows if self.dim == 1 else tile.columns

    def along(self, values: Tensor) -> Tensor:
        """Values of rows, or columns, in a shape that broadcasts over a tile."""
        return values[:, None] if self.dim == 1 else values

    def partners(self, tile: Tile) -> tuple[int, slice] | None:
        """The diagonal of a tile that has partners, and the rows or columns that it belongs to; None without any."""
        first = self.contrast.first
        start = max(tile.rows.start, tile.columns.start - first)
        stop = min(tile.rows.stop, tile.columns.stop - first)
        if stop <= start:
            return None
        shift = 0 if self.dim == 1 else first
        return tile.rows.start + first - tile.columns.start, slice(start + shift, stop + shift)

    def positive(self, tile: Tile) -> Tensor:
        """Where pairs have equal labels, bool, shape of the tile."""
        rows, columns = self.contrast.labels
        return rows[tile.rows, None] == columns[tile.columns]

    def take_positives(self, matrix: Tensor, tile: Tile, share: Tensor | float) -> None:
        """Subtract from a tile, in place, a share for every row (or column), spread over its positives."""
        if self.contrast.labels is None:
            if (found := self.partners(tile)) is not None:
                offset, which = found
                matrix.diagonal(offset).sub_(share[which] if isinstance(share, Tensor) else share)
        else:
            part = self.part(tile)
            matrix.sub_(self.positive(tile) * self.along((share * self.shares)[part]))


class _Softmax(_Direction):
    """−Σ_j T_ij log softmax_j(z_i) = log Σ_j exp z_ij − (1 − α) Σ_j Y_ij z_ij − α Σ_j q_ij z_ij, q = softmax(s S).

    Large logits leave few digits for their differences: sums of exponentials are kept as their maximum and the rest,
    and sums of logits in float64.
    """

    def __init__(self, contrast: Contrast, shape: tuple[int, int], **rest: Any):
        super().__init__(contrast, shape, **rest)
        self.sums = {"own": self.scale.new_zeros(self.number), "positive": self._zeros(), **self._nothing("raised")}
        if contrast.share is not None:
            self.sums |= {"belief": self._zeros(), **self._nothing("plain")}

    def _zeros(self) -> Tensor:
        return self.scale.new_zeros(self.number, dtype=torch.float64)

    def _nothing(self, name: str) -> dict[str, Tensor]:
        """The sum of no exponentials: its maximum, and the sum over that."""
        return {
            f"{name}/maximum": self.scale.new_full((self.number,), torch.finfo(self.scale.dtype).min),
            f"{name}/sum": self.scale.new_zeros(self.number),
        }

    @property
    def share(self) -> Tensor | float:
        """α."""
        return 0.0 if self.contrast.share is None else self.contrast.share

    def raised(self, logits: Tensor, margin: Tensor | None) -> Tensor:
        """z up to a constant per row, which changes neither loss nor gradient: D_ij = S_i,own − S_ij."""
        if not self.contrast.margin:
            return logits
        if margin is None:
            return logits * (1 - self.contrast.margin)
        return logits - margin

    def add(self, tile: Tile, margin: Tensor | None) -> None:
        """Take in a tile."""
        part, logits = self.part(tile), tile.logits
        z = self.raised(logits, margin)
        self._add_positives(z, tile)
        self._add_exponentials("raised", z, part)
        if self.contrast.share is not None:
            before = self.sums["plain/sum"][part].clone()
            e, kept = self._add_exponentials("plain", logits, part)
            top = z.amax(self.dim)
            mean = ((z - self.along(top)) * e).sum(self.dim).double() + top.double() * e.sum(self.dim)
            belief, total = self.sums["belief"][part], self.sums["plain/sum"][part].double()
            belief.mul_(before * kept).add_(mean).div_(total)

    def _add_positives(self, z: Tensor, tile: Tile) -> None:
        found, part = self.partners(tile), self.part(tile)
        if found is not None:
            self.sums["own"][found[1]] = tile.logits.diagonal(found[0])
        if self.contrast.labels is not None:
            positive = (self.positive(tile) * z).sum(self.dim, dtype=torch.float64)
            self.sums["positive"][part] += positive * self.shares[part]
        elif found is not None:
            self.sums["positive"][found[1]] = z.diagonal(found[0]).double()

    def _add_exponentials(self, name: str, z: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        """Add those of a tile to a sum; gives them, over the new maximum, and what the earlier sum was multiplied by."""
        top = z.amax(self.dim)
        new, kept = self._raise_maximum(name, top, part)
        e = (z - self.along(new)).exp_()
        self.sums[f"{name}/sum"][part] += e.sum(self.dim)
        return e, kept

    def _raise_maximum(self, name: str, top: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        """Let a sum be over a maximum of at least `top`; gives the maximum, and what the sum was multiplied by."""
        maximum = self.sums[f"{name}/maximum"][part]
        new = torch.maximum(maximum, top)
        kept = (maximum - new).exp_()
        self.sums[f"{name}/sum"][part] *= kept
        maximum.copy_(new)
        return new, kept

    def add_shared(self, tile: Tile, e: Tensor, over: Tensor, top: Tensor) -> None:
        """Take in a tile without margins or beliefs.

        Args:
            e: exp(z − over) of the tile; none of its rows, or columns, is all 0.
            over: The tile's maximum.
            top: Maxima of its rows, or columns.
        """
        part = self.part(tile)
        self._add_positives(tile.logits, tile)
        new, _ = self._raise_maximum("raised", top, part)
        self.sums["raised/sum"][part] += e.sum(self.dim) * (over - new).exp_()

    def factors(self, over: Tensor) -> Tensor:
        """What exp(z − over) is multiplied by for the gradient by z, apart from the positives."""
        return self.gradient / self.sums["raised/sum"] * (over - self.sums["raised/maximum"]).exp_()

    def losses(self) -> Tensor:
        """Of every row, or column, once all tiles are in."""
        top, total, share = self.sums["raised/maximum"].double(), self.sums["raised/sum"], self.share
        losses = (1 - share) * (top - self.sums["positive"]) + total.log()
        if self.contrast.share is not None:
            losses = losses + share * (top - self.sums["belief"])
        return losses.to(self.scale)

    def gradient_by_logits(self, tile: Tile, margin: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Gradient by z of a tile, and its products with z and with s S, up to constants per row.

        The gradients of a row add up to 0, so that constants do not change the sum of the products over all tiles.
        """
        part, logits = self.part(tile), tile.logits
        z = self.raised(logits, margin)
        z = z - self.along(self.sums["raised/maximum"][part])
        towards = z.exp().mul_(self.along((self.gradient / self.sums["raised/sum"])[part]))
        self.take_positives(towards, tile, (1 - self.share) * self.gradient)
        if self.contrast.share is not None:
            belief = (logits - self.along(self.sums["plain/maximum"][part])).exp_()
            belief.mul_(self.along((self.share * self.gradient / self.sums["plain/sum"])[part]))
            towards.sub_(belief)
        by_scale = by_scores = torch.dot(towards.flatten(), z.flatten())
        if self.contrast.margin:
            by_scores = torch.dot(towards.flatten(), (logits - self.along(self.sums["own"][part])).flatten())
        return towards, by_scale, by_scores


class _Sigmoid(_Direction):
    """Σ_j softplus(−y_ij z_ij), z = s S + b."""

    def __init__(self, contrast: Contrast, shape: tuple[int, int], **rest: Any):
        super().__init__(contrast, shape, **rest)
        self.sums = {"loss": self.scale.new_zeros(self.number)}

    def signed(self, tile: Tile) -> Tensor:
        """−y z of a tile."""
        z = tile.logits + (0 if self.bias is None else self.bias)
        if self.contrast.labels is not None:
            return torch.where(self.positive(tile), -z, z)
        if (found := self.partners(tile)) is not None:
            z.diagonal(found[0]).neg_()
        return z

    def add(self, tile: Tile, margin: Tensor | None) -> None:
        """Take in a tile."""
        self.sums["loss"][self.part(tile)] += F.softplus(self.signed(tile)).sum(self.dim)

    def losses(self) -> Tensor:
        """Of every row, or column, once all tiles are in."""
        return self.sums["loss"].clone()

    def gradient_by_logits(self, tile: Tile, margin: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Gradient by z of a tile, and twice its product with s S, b left out."""
        towards = torch.sigmoid(self.signed(tile)).mul_(self.along(self.gradient[self.part(tile)]))
        if self.contrast.labels is not None:
            towards = torch.where(self.positive(tile), -towards, towards)
        elif (found := self.partners(tile)) is not None:
            towards.diagonal(found[0]).neg_()
        product = torch.dot(towards.flatten(), tile.logits.flatten())
        return towards, product, product
