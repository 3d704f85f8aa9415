"""Contrastive losses of rows or columns as sums over the tiles of a matrix of scores, and their gradients by a tile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from meru.geometry.spaces import Space
from meru.geometry.tiles import Tile


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
        share: α of `soft_targets`, for which 0 saves some of the work.
        static: See `pairs_of`.
    """

    space: Space
    squared: bool = False
    labels: tuple[Tensor, Tensor] | None = None
    first: int = 0
    both: bool = False
    sigmoid: bool = False
    margin: float = 0.0
    share: Tensor | float = 0.0
    static: bool | None = None


class Direction:
    """The losses of rows (dim 1) or columns (dim 0): sums over the tiles, and gradients."""

    def __init__(self, contrast: Contrast, shape: tuple[int, int], *, dim: int, scale: Tensor, bias: Tensor | None):
        self.contrast, self.dim, self.scale, self.bias = contrast, dim, scale, bias
        self.number = shape[1 - dim]
        self.gradient = scale.new_zeros(0)  # by the losses, from the backward pass
        self.sums: dict[str, Tensor] = {}
        self.labels: tuple[Tensor, ...] = contrast.labels or ()
        self.shares = 1 / self._positives(*self.labels).to(scale) if self.labels else scale.new_zeros(0)

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
        rows, columns = self.labels
        return rows[tile.rows, None] == columns[tile.columns]

    def take_positives(self, matrix: Tensor, tile: Tile, share: Tensor) -> None:
        """Subtract from a tile, in place, a share for every row (or column), spread over its positives."""
        if not self.labels:
            if (found := self.partners(tile)) is not None:
                offset, which = found
                matrix.diagonal(offset).sub_(share[which])
        else:
            part = self.part(tile)
            matrix.sub_(self.positive(tile) * self.along((share * self.shares)[part]))


class Softmax(Direction):
    """−Σ_j T_ij log softmax_j(z_i) = log Σ_j exp z_ij − (1 − α) Σ_j Y_ij z_ij − α Σ_j q_ij z_ij, q = softmax(s S).

    Large logits leave few digits for their differences: sums of exponentials are kept as their maximum and the rest,
    and sums of logits in float64.
    """

    def __init__(self, contrast: Contrast, shape: tuple[int, int], **rest: Any):
        super().__init__(contrast, shape, **rest)
        self.believes = isinstance(contrast.share, Tensor) or contrast.share != 0
        self.plain = not self.believes and not contrast.margin  # then z is the logits
        self.sums = {"positive": self._zeros(), **self._nothing("raised")}
        if contrast.margin:
            self.sums["own"] = self.scale.new_zeros(self.number)
        if self.believes:
            self.sums |= {"belief": self._zeros(), **self._nothing("plain")}

    def _zeros(self) -> Tensor:
        return self.scale.new_zeros(self.number, dtype=torch.float64)

    def _nothing(self, name: str) -> dict[str, Tensor]:
        """The sum of no exponentials: its maximum, and the sum over that."""
        return {
            f"{name}/maximum": self.scale.new_full((self.number,), torch.finfo(self.scale.dtype).min),
            f"{name}/sum": self.scale.new_zeros(self.number),
        }

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
        if self.believes:
            before = self.sums["plain/sum"][part].clone()
            e, kept = self._add_exponentials("plain", logits, part)
            top = z.amax(self.dim)
            mean = ((z - self.along(top)) * e).sum(self.dim).double() + top.double() * e.sum(self.dim)
            belief, total = self.sums["belief"][part], self.sums["plain/sum"][part].double()
            belief.mul_(before * kept).add_(mean).div_(total)

    def _add_positives(self, z: Tensor, tile: Tile) -> None:
        found, part = self.partners(tile), self.part(tile)
        if found is not None and "own" in self.sums:
            self.sums["own"][found[1]] = tile.logits.diagonal(found[0])
        if self.labels:
            positive = (self.positive(tile) * z).sum(self.dim, dtype=torch.float64)
            self.sums["positive"][part] += positive * self.shares[part]
        elif found is not None:
            self.sums["positive"][found[1]] = z.diagonal(found[0]).double()

    def _add_exponentials(self, name: str, z: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        """Add those of a tile to a sum; gives them, over the new maximum, and what multiplied the earlier sum."""
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
        """Of every row, or column, once all tiles are in; what only they need is forgotten."""
        top, total, share = self.sums["raised/maximum"].double(), self.sums["raised/sum"], self.contrast.share
        losses = (1 - share) * (top - self.sums.pop("positive")) + total.log()
        if self.believes:
            losses = losses + share * (top - self.sums.pop("belief"))
        return losses.to(self.scale)

    def gradient_by_logits(self, tile: Tile, margin: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Gradient by z of a tile, and its products with z and with s S, up to constants per row.

        The gradients of a row add up to 0, so that constants do not change the sum of the products over all tiles.
        """
        part, logits = self.part(tile), tile.logits
        z = self.raised(logits, margin)
        z = z - self.along(self.sums["raised/maximum"][part])
        towards = z.exp().mul_(self.along((self.gradient / self.sums["raised/sum"])[part]))
        self.take_positives(towards, tile, (1 - self.contrast.share) * self.gradient)
        if self.believes:
            belief = (logits - self.along(self.sums["plain/maximum"][part])).exp_()
            belief.mul_(self.along((self.contrast.share * self.gradient / self.sums["plain/sum"])[part]))
            towards.sub_(belief)
        by_scale = by_scores = torch.dot(towards.flatten(), z.flatten())
        if self.contrast.margin:
            by_scores = torch.dot(towards.flatten(), (logits - self.along(self.sums["own"][part])).flatten())
        return towards, by_scale, by_scores


class Sigmoid(Direction):
    """Σ_j softplus(−y_ij z_ij), z = s S + b."""

    def __init__(self, contrast: Contrast, shape: tuple[int, int], **rest: Any):
        super().__init__(contrast, shape, **rest)
        self.sums = {"loss": self.scale.new_zeros(self.number)}

    def signed(self, tile: Tile) -> Tensor:
        """−y z of a tile."""
        z = tile.logits + (0 if self.bias is None else self.bias)
        if self.labels:
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
        if self.labels:
            towards = torch.where(self.positive(tile), -towards, towards)
        elif (found := self.partners(tile)) is not None:
            towards.diagonal(found[0]).neg_()
        product = torch.dot(towards.flatten(), tile.logits.flatten())
        return towards, product, product
