"""Scores of all pairs of points one tile at a time, for losses that never hold a matrix of all of them.

A tile is one matmul, as in `meru.geometry.all_pairs`. With a few additional columns E of every point, that matmul gives

    h = E_x·E_y + s X·Y,   d = 2√h in flat space,   d = 2 asinh(√h)/√c on the hyperboloid

because h = ½ (cosh(√c d) − 1)/… is a sum of products of what belongs to x and what belongs to y. So gradients by X and
E are two more matmuls per tile, and those by the points follow once, row by row.

Pairs too near for a matmul are computed from their difference. How they are found depends on the device:

- On a CPU they are counted, so that all are found, and a float64 matmul takes over where there are many.
- On a GPU, counting would make the host wait. The points are centred instead, in float64, so that a cloud of points
  is no nearer than its extent, and in every tile each row's own partner and its nearest other column are computed from
  the difference. Further near ones keep the accuracy of a float32 matmul: about 3e-4 of the points' distance
  from the centre.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from meru.geometry.all_pairs import NEARNESS, exact_matmul, hyperboloid_distance, length, root
from meru.geometry.spaces import Euclidean, Hyperboloid, Space, Sphere
from meru.geometry.tiles import Near, Pairs, Tile, tile_shape

PIECE = 2**19  # numbers of the points that are compared by their difference at a time


def can_tile(space: Space) -> bool:
    """Whether `pairs_of` supports a space: exactly these, because a subclass may compare in another way."""
    return type(space) in (Sphere, Euclidean, Hyperboloid)


def pairs_of(
    space: Space, x: Tensor, y: Tensor, c: Tensor, *, squared: bool = False, first: int = 0, static: bool | None = None
) -> Pairs:
    """The pairs of points `x` `(B1, D)` and `y` `(B2, D)`, float32 or both float64, without autograd.

    Args:
        space: Its type decides what is compared.
        x: Points of this process.
        y: Points that they are compared with.
        c: Curvature, a 0-dimensional tensor; only the hyperboloid reads it.
        squared: Scores are −d² instead of −d.
        first: The partner of row i is column `first` + i.
        static: Whether all shapes are known in advance, see above; by default on all devices but a CPU.
    """
    if isinstance(space, Sphere):
        return Products(x, y)
    curved = isinstance(space, Hyperboloid)
    static = x.device.type != "cpu" if static is None else static
    return Distances(x, y, c, curved=curved, squared=squared, first=first, static=static)


class Products(Pairs):
    """Inner products x·y: cosines of unit vectors."""

    def __init__(self, x: Tensor, y: Tensor):
        self.x, self.y = x, y
        self.towards: tuple[Tensor, Tensor] | None = None

    def tile(self, rows: slice, columns: slice, scale: Tensor, *, slope: bool = False) -> Tile:
        """See `Pairs`."""
        with exact_matmul():
            logits = torch.mm(self.x[rows] * scale, self.y[columns].T)
        return Tile(logits=logits, scale=scale, rows=rows, columns=columns)

    def pull(self, tile: Tile, gradient: Tensor) -> None:
        """See `Pairs`."""
        if self.towards is None:
            self.towards = torch.zeros_like(self.x), torch.zeros_like(self.y)
        with exact_matmul():
            self.towards[0][tile.rows].addmm_(gradient, self.y[tile.columns] * tile.scale)
            self.towards[1][tile.columns].addmm_(gradient.T, self.x[tile.rows] * tile.scale)

    def gradients(self, total: Tensor) -> tuple[Tensor | None, ...]:
        """See `Pairs`."""
        return *(self.towards or (torch.zeros_like(self.x), torch.zeros_like(self.y))), None


@dataclass(frozen=True)
class Sides:
    """What the matmul of a tile needs: X and Y with the factor s between them, E_x and E_y, and sizes q.

    The rounding error of h is a few ulp of q_x q_y.
    """

    points: tuple[Tensor, ...]
    factor: float
    extras: tuple[Tensor, ...]
    sizes: tuple[Tensor, ...]


class Distances(Pairs):
    """Scores −d or −d² of flat space or of the hyperboloid; see `pairs_of`."""

    def __init__(self, x: Tensor, y: Tensor, c: Tensor, *, curved: bool, squared: bool, first: int, static: bool):
        self.given = x, y
        self.c = c if curved else torch.ones_like(c)
        self.curved, self.squared, self.first, self.static = curved, squared, first, static
        self.matmul = x.dtype
        self.centre = self._centre() if static else None
        self.sides = self._sides()
        self.towards: dict[str, tuple[Tensor, ...]] = {}

    # ------------------------------------------------------------------------------------------------ one tile
    def tile(self, rows: slice, columns: slice, scale: Tensor, *, slope: bool = False) -> Tile:
        """See `Pairs`."""
        h = self._half_excess(rows, columns)
        near = self._static_near(h, rows, columns) if self.static else self._counted_near(h, rows, columns)
        if not self.static and self.matmul == torch.float32 and 64 * len(near.i) > h.numel():
            self.use_float64()  # the points are close together, as those of an untrained tower
            h = self._half_excess(rows, columns)
            near = self._counted_near(h, rows, columns)
        sloping, logits = self._logits(h, scale.to(h), slope=slope)
        if len(near.i):
            exact = torch.cat([self._exact(*pair) for pair in self._pairs(near, rows, columns)]).to(logits)
            logits[near.i, near.j] = (exact.square() if self.squared else exact) * -scale.to(logits)
        return Tile(logits=logits.to(scale), scale=scale, rows=rows, columns=columns, slope=sloping, near=near)

    def use_float64(self) -> None:
        """See `Pairs`."""
        super().use_float64()
        self.matmul = torch.float64
        self.sides = self._sides()
        self.towards = {name: tuple(each.double() for each in both) for name, both in self.towards.items()}

    def _half_excess(self, rows: slice, columns: slice) -> Tensor:
        """h ≥ 0 by matmul: sinh²(½√c d) on the hyperboloid, d²/4 in flat space."""
        (x, y), (extra_x, extra_y) = self.sides.points, self.sides.extras
        with exact_matmul():
            if extra_x.shape[1] == 2:  # the first column of E_y is 1
                constant, factor = extra_x[rows].split(1, 1)
                h = torch.addcmul(constant, factor, extra_y[columns, 1])
            else:
                h = torch.mm(extra_x[rows], extra_y[columns].T)
            return h.addmm_(x[rows], y[columns].T, alpha=self.sides.factor).clamp_(min=0)

    def _logits(self, h: Tensor, scale: Tensor, *, slope: bool) -> tuple[Tensor | None, Tensor]:
        """A tile's slope, if asked for, and scaled scores; overwrites h."""
        sloping, unit = None, scale.new_ones(())  # of half the distance, 1/√c
        if self.curved:
            unit = self.c.to(h).sqrt()
            cosh = (h + 1).sqrt_()
            if h.device.type == "cpu":  # asinh(√h) by functions that are vectorised there
                logits = cosh + 1
                torch.div(h, logits, out=logits)
                sinh = h.sqrt_()
                logits.add_(sinh).log1p_()
            else:
                sinh = h.sqrt_()
                logits = torch.asinh(sinh)
            if slope:
                sloping = sinh.mul_(cosh.mul_(unit / scale))
        else:
            logits = h.sqrt_()
            if slope:
                sloping = logits / scale
        if sloping is not None:  # a gradient at distance 0 is 0
            sloping = F.threshold(sloping, 0, math.inf, inplace=True)
        if self.squared:
            return sloping, logits.square_().mul_(-4 * scale / unit.square())
        return sloping, logits.mul_(-2 * scale / unit)

    # ------------------------------------------------------------------------------------------------ near pairs
    def _counted_near(self, h: Tensor, rows: slice, columns: slice) -> Near:
        """All pairs within the rounding error of the matmul."""
        size_x, size_y = self._floor(rows), self.sides.sizes[1][columns]
        some = (h.amin(1) <= size_x * size_y.max()).nonzero()[:, 0]  # one pass; usually there are none
        close = (h[some] <= size_x[some, None] * size_y).nonzero().T
        return Near(some[close[0]], close[1])

    def _static_near(self, h: Tensor, rows: slice, columns: slice) -> Near:
        """The partners in the tile, and every row's nearest other column; h is infinite at partners from now on."""
        start = max(rows.start, columns.start - self.first)
        stop = max(start, min(rows.stop, columns.stop - self.first))
        own = torch.arange(start, stop, device=h.device)
        i, j = own - rows.start, own + (self.first - columns.start)
        if stop > start:
            h.diagonal(rows.start + self.first - columns.start).fill_(math.inf)
        if h.shape[1] == 1 and stop > start:
            return Near(i, j)
        return Near(torch.cat([i, torch.arange(len(h), device=h.device)]), torch.cat([j, h.argmin(1)]))

    def _floor(self, rows: slice) -> Tensor:
        return self.sides.sizes[0][rows] * (NEARNESS[self.matmul] / 2)

    def _pairs(self, near: Near, rows: slice, columns: slice) -> Iterator[tuple[Tensor, Tensor]]:
        """The points of near pairs, in pieces."""
        for i, j in self._pieces(near):
            yield self.given[0][i + rows.start], self.given[1][j + columns.start]

    def _pieces(self, near: Near) -> Iterator[tuple[Tensor, Tensor]]:
        size = max(1, PIECE // max(1, self.given[0].shape[1])) if not self.static else max(1, len(near.i))
        yield from zip(near.i.split(size), near.j.split(size), strict=True)

    def _exact(self, x: Tensor, y: Tensor) -> Tensor:
        """Distances row by row, from differences."""
        return hyperboloid_distance(x, y, self.c) if self.curved else length(x - y)

    # ------------------------------------------------------------------------------------------------ gradients
    def pull(self, tile: Tile, gradient: Tensor) -> None:
        """See `Pairs`."""
        if self.squared:  # ∂(−d²)/∂d = −2d
            gradient.mul_(tile.logits.div_(-tile.scale).sqrt_()).mul_(2)
        if len(tile.near.i):
            self._pull_near(tile, gradient)
        weights = gradient.to(self.matmul).div_(tile.slope)
        (x, y), (extra_x, extra_y) = self.sides.points, self.sides.extras
        towards_x, towards_y = self._sums("points", (x, y))
        towards_extra_x, towards_extra_y = self._sums("extras", (extra_x, extra_y))
        rows, columns = tile.rows, tile.columns
        with exact_matmul():
            towards_x[rows].addmm_(weights, y[columns])
            towards_y[columns].addmm_(weights.T, x[rows])
            if extra_x.shape[1] == 2:  # thin matmuls are slow on CPUs
                for number in (0, 1):
                    towards_extra_x[rows, number].addmv_(weights, extra_y[columns, number])
                    towards_extra_y[columns, number].addmv_(weights.T, extra_x[rows, number])
            else:
                towards_extra_x[rows].addmm_(weights, extra_y[columns])
                towards_extra_y[columns].addmm_(weights.T, extra_x[rows])

    def _sums(self, name: str, like: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if name not in self.towards:
            self.towards[name] = torch.zeros_like(like[0]), torch.zeros_like(like[1])
        return self.towards[name]

    def _pull_near(self, tile: Tile, gradient: Tensor) -> None:
        """Gradients of the pairs that were compared by their difference, which then are 0 in `gradient`."""
        near = tile.near
        weights = gradient[near.i, near.j] * -tile.scale  # by the distance
        gradient[near.i, near.j] = gradient.new_zeros(())  # a number would be copied to a GPU, which waits
        sums = self._sums("near", self.given)
        pairs = zip(self._pieces(near), self._pairs(near, tile.rows, tile.columns), strict=True)
        done = 0
        for (i, j), (of_x, of_y) in pairs:
            with torch.enable_grad():
                pair = of_x.requires_grad_(), of_y.requires_grad_()
                distance = self._exact(*pair)
            towards = torch.autograd.grad(distance, pair, weights[done : done + len(i)].to(distance))
            done += len(i)
            sums[0].index_add_(0, i + tile.rows.start, towards[0].to(sums[0]))
            sums[1].index_add_(0, j + tile.columns.start, towards[1].to(sums[1]))

    def gradients(self, total: Tensor) -> tuple[Tensor | None, ...]:
        """See `Pairs`."""
        by_points = self._sums("points", self.sides.points)
        by_extras = self._sums("extras", self.sides.extras)
        near = self.towards.get("near")
        results, of_points = [], total.new_zeros((), dtype=torch.float64)
        for side in (0, 1):
            given, towards, result = self.given[side], by_points[side], by_points[side]
            height = tile_shape(given.device)[0] // 4
            for start in range(0, len(given), height):
                rows = slice(start, start + height)
                with torch.enable_grad():
                    x = given[rows].detach().to(self._fine).requires_grad_()
                    centred, *extras, _ = self._side(x)
                    outputs, incoming = [extras[side]], [-by_extras[side][rows].to(x)]  # of −d
                    incoming_points = towards[rows].to(x) * -self.sides.factor
                    if centred is not x:
                        outputs, incoming = [*outputs, centred], [*incoming, incoming_points]
                (gradient,) = torch.autograd.grad(outputs, x, incoming)
                if centred is x:
                    gradient = gradient + incoming_points
                if near is not None:
                    gradient = gradient + near[side][rows].to(x)
                of_points = of_points + (gradient * x.detach()).sum()
                result[rows] = gradient.to(result)
            results.append(result.to(given))
        if not self.curved:
            return *results, None
        # d = F(√c x, √c y)/√c, so the derivative by c follows from those by x and y (Euler).
        power = 2 if self.squared else 1
        return *results, ((of_points - power * total) / (2 * self.c)).to(self.c)

    # ------------------------------------------------------------------------------------------------ both sides
    @property
    def _fine(self) -> torch.dtype:
        """The type in which what the matmul needs is computed, before it is rounded."""
        return torch.float64 if self.static else self.matmul

    def _centre(self) -> tuple[Any, ...]:
        """The mean point of flat space; on the hyperboloid the mean direction, and the mean radius at c = 1."""
        count = sum(map(len, self.given))
        if not self.curved:
            return sum(each.double().sum(0) for each in self.given) / count, None
        unit = self.c.double().sqrt()
        radii = [unit * length(points.double()) for points in self.given]
        shares = [torch.where(radius > 0, unit / radius, 0)[:, None] for radius in radii]
        directions = (share * points.double() for share, points in zip(shares, self.given, strict=True))
        return sum(each.sum(0) for each in directions) / count, sum(each.asinh().sum() for each in radii) / count

    def _sides(self) -> Sides:
        """What the matmuls need of both sides."""
        points, extras, sizes = [], [], []
        for side, given in enumerate(self.given):
            centred, *both, size = self._side(given.to(self._fine))
            points.append(centred.to(self.matmul))
            extras.append(both[side].to(self.matmul))
            sizes.append(size.to(self.matmul))
        scaled = not self.curved or self.static
        factor = -0.5 if scaled else float(self.c) / -2  # c is read on a CPU only
        return Sides(tuple(points), factor, tuple(extras), tuple(sizes))

    def _side(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """X `(B, D)`, E as rows and as columns of a tile `(B, 5)` or `(B, 2)`, and q `(B,)`, of points `(B, D)`."""
        if not self.curved:
            x = x if self.centre is None else x - self.centre[0]
            square = (x * x).sum(-1)
            one = torch.ones_like(square)
            return x, torch.stack([square, one], 1) / 4, torch.stack([one, square], 1), root(square)
        c = self.c.to(x)
        radius = root(c * (x * x).sum(-1))  # sinh ρ
        one = torch.ones_like(radius)
        if self.centre is None:
            # cosh(√c d) − 1 = κ_x + (1 + κ_x) κ_y − c x·y, κ = cosh ρ − 1
            less_one = radius * radius / (1 + (1 + radius * radius).sqrt())
            return x, torch.stack([less_one, 1 + less_one], 1) / 2, torch.stack([one, less_one], 1), radius
        direction, mean = self.centre
        points = c.sqrt() * x - radius[:, None] * direction
        square = (points * points).sum(-1)
        turn = square / (2 * radius.clamp_min(torch.finfo(x.dtype).tiny))
        apart = torch.asinh(radius) - mean
        sinh, less_one = torch.sinh(apart), 2 * torch.sinh(apart / 2).square()
        # cosh(ρ − σ) − 1 + ‖x‖‖y‖ − x·y = κ_x + (1 + κ_x) κ_y − S_x S_y + (turn_x r_y + r_x turn_y) − X·Y, where κ
        # and S are cosh − 1 and sinh of ρ less the mean radius
        as_row = torch.stack([less_one, 1 + less_one, -sinh, turn, radius], 1) / 2
        as_column = torch.stack([one, less_one, sinh, radius, turn], 1)
        return points, as_row, as_column, (square + sinh.square()).sqrt()
