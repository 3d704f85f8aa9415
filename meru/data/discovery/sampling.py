"""The images of a training step of category discovery: SimGCD's weighted draws, HypGCD's neighbours."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from meru.data.sampling import RunBatches
from meru.errors import UserError


class WeightedBatches(RunBatches):
    """As many draws with replacement as there are images, half of them labelled on average: SimGCD's.

    Args:
        labelled: bool `(n,)`.
        options: As for `RunBatches`.
    """

    def __init__(self, *, labelled: Tensor, **options):
        super().__init__(length=len(labelled), **options)
        count = int(labelled.sum())
        # float64: over a million images the sums of float32 weights would no longer be exact.
        others = count / max(1, len(labelled) - count)
        self.weights = torch.where(labelled, torch.tensor(1.0, dtype=torch.float64), others)

    def _order(self, epoch: int, generator: torch.Generator) -> Tensor:
        return _numbered(torch.multinomial(self.weights, self.length, replacement=True, generator=generator))


class NeighbourBatches(RunBatches):
    """Batches of randomly drawn images, each with its nearest neighbours: HypGCD's; for one epoch at a time.

    A batch of B images in all processes has B // k queries, so a size that k does not divide is rounded down; the
    number of batches in an epoch is that of full ones all the same. Processes share out images, not queries: the
    neighbours of one may be in two processes, and at most `world_size` − 1 images of a batch are left over.

    Args:
        neighbours: Gives, for an epoch, the k nearest images of every one, int64 `(n, k)`, the same in every process.
        independent: Whether every batch draws its queries anew from all images, as released; else no image is a query
            again before all others were.
        options: As for `RunBatches`.
    """

    def __init__(self, *, neighbours: Callable[[int], Tensor], independent: bool = False, **options):
        super().__init__(**options)
        self.neighbours, self.independent = neighbours, independent
        self.full_batch = self.batch_size * self.world_size

    def _order(self, epoch: int, generator: torch.Generator) -> Tensor:
        nearest = self.neighbours(epoch).cpu()
        if nearest.ndim != 2 or len(nearest) != self.length:
            raise ValueError(f"neighbours of {self.length} images, but of shape {tuple(nearest.shape)}")
        if (nearest < 0).any() or (nearest >= self.length).any():
            raise ValueError(f"a neighbour is out of range 0 … {self.length - 1}")
        k = nearest.shape[1]
        if k > self.full_batch:
            raise UserError(
                f"a batch of {self.full_batch} images (data.batch_size): it must have at least discovery.neighbours={k}"
            )
        queries_per_batch = self.full_batch // k
        self.batch_size = queries_per_batch * k // self.world_size
        if not self.batch_size:
            raise UserError(
                f"a batch of {queries_per_batch} × {k} neighbours (data.batch_size={self.full_batch}) leaves some of "
                f"{self.world_size} processes without an image: give a larger batch"
            )
        queries = self._queries(queries_per_batch, generator)
        batches = _numbered(nearest[queries].flatten()).unflatten(0, (self.steps_per_epoch, -1))
        return batches[:, : self.batch_size * self.world_size].flatten(0, 1)

    def _queries(self, per_batch: int, generator: torch.Generator) -> Tensor:
        """The randomly drawn images of an epoch, int64 `(steps_per_epoch · per_batch,)`."""
        count = self.steps_per_epoch * per_batch
        passes = self.steps_per_epoch if self.independent else -(-count // self.length)
        orders = [torch.randperm(self.length, generator=generator) for _ in range(passes)]
        if self.independent:
            return torch.cat([order[:per_batch] for order in orders])
        return torch.cat(orders)[:count]


def _numbered(order: Tensor) -> Tensor:
    """Every index of the order with the number of times it came before: int64 `(n,)` → `(n, 2)`.

    With that number two samples of one image in one epoch are augmented differently.
    """
    together, places = order.sort(stable=True)
    before = torch.empty_like(order)
    before[places] = torch.arange(len(order)) - torch.searchsorted(together, together)
    return torch.stack([order, before], dim=1)
