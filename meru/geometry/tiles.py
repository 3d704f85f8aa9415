"""Scores of all pairs of points one tile at a time, for losses that never hold a matrix of all of them.

What belongs to a space is in `meru.geometry.tiled_pairs`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# Rows and columns of a tile: such that a core's cache holds it, and on a GPU such that starting the kernels of a tile
# takes less time than computing them.
TILE = {"cpu": (512, 512), "cuda": (8192, 8192)}


def tile_shape(device: torch.device) -> tuple[int, int]:
    """Rows and columns of a tile."""
    return TILE.get(device.type, TILE["cuda"])


def tiles_of(rows: int, columns: int, device: torch.device) -> Iterator[tuple[slice, slice]]:
    """Slices of a `(rows, columns)` matrix, row by row."""
    height, width = tile_shape(device)
    for top in range(0, rows, height):
        for left in range(0, columns, width):
            yield slice(top, min(top + height, rows)), slice(left, min(left + width, columns))


@dataclass(kw_only=True)
class Tile:
    """A part of the matrix of logits, scaled scores.

    Attributes:
        logits: Shape `(R, C)`.
        scale: What the scores were multiplied by, a 0-dimensional tensor.
        rows, columns: Where it lies.
        slope: ∂h/∂d over the scale, for `Distances`; infinite where the gradient is 0. None if it was not asked for.
        near: Pairs that were compared by their difference, a `Near`, for `Distances`.
    """

    logits: Tensor
    scale: Tensor
    rows: slice
    columns: slice
    slope: Any = None
    near: Any = None


@dataclass(frozen=True)
class Near:
    """Positions `(n,)` within a tile, all different."""

    i: Tensor
    j: Tensor


class Pairs(ABC):
    """Scores of all pairs tile by tile, and gradients from those of the tiles.

    Attributes:
        in_float64: Whether tiles are computed by float64 matmuls though the points are float32.
    """

    in_float64 = False

    def use_float64(self) -> None:
        """From now on, compute tiles by float64 matmuls, forward and backward."""
        self.in_float64 = True

    @abstractmethod
    def tile(self, rows: slice, columns: slice, scale: Tensor, *, slope: bool = False) -> Tile:
        """The scaled scores of a part of the matrix; with `slope`, the tile can be pulled."""

    @abstractmethod
    def pull(self, tile: Tile, gradient: Tensor) -> None:
        """Add what the gradient `(R, C)` by the tile's logits means for the points; overwrites both."""

    @abstractmethod
    def gradients(self, total: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients by x, y and c (None where there is no curvature) once all tiles were pulled.

        Args:
            total: Σ gradient · logit over all tiles, which the caller may know to more digits than a sum would have.
        """
