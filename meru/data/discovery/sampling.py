"""Samplers for category discovery: SimGCD's weighted draws, HypGCD's neighbours, and the images of a stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.utils.data import Sampler

from meru.data.sampling import RunBatches
from meru.errors import UserError


class WeightedBatches(RunBatches):
    """SimGCD's sampler: as many draws with replacement as there are images, half of them labelled on average.

    Without labelled images, all are drawn with the same probability.

    Args:
        labelled: bool `(n,)`.
        options: As for `RunBatches`.
    """

    def __init__(self, *, labelled: Tensor, **options):
        super().__init__(length=len(labelled), **options)
        count = int(labelled.sum())
        # float64: with a million images, sums of float32 weights would no longer be exact.
        others = count / max(1, len(labelled) - count) if count else 1.0
        self.weights = torch.where(labelled, torch.tensor(1.0, dtype=torch.float64), others)

    def _order(self, epoch: int, generator: torch.Generator) -> Tensor:
        return _numbered(torch.multinomial(self.weights, self.length, replacement=True, generator=generator))


class NeighbourBatches(RunBatches):
    """HypGCD's sampler: randomly drawn images, each with its nearest neighbours; for one epoch at a time.

    A batch of B images over all processes has B // k queries, so a size that k does not divide is rounded down; the
    number of batches per epoch stays that of full batches. The images, not the queries, are divided between processes:
    the neighbours of one query may be in two processes, and at most `world_size` − 1 images of a batch are left over.

    Args:
        neighbours: Returns, for an epoch, the k nearest images of each, int64 `(n, k)`, the same in every process.
        independent: Whether every batch draws its queries from all images, as in the released code; otherwise every
            image is a query once before any is a query again.
        options: As for `RunBatches`.
    """

    def __init__(self, *, neighbours: Callable[[int], Tensor], independent: bool = False, **options):
        super().__init__(**options)
        self.neighbours, self.independent = neighbours, independent
        self.full_batch = self.batch_size * self.world_size

    def _order(self, epoch: int, generator: torch.Generator) -> Tensor:
        nearest = self.neighbours(epoch).cpu()
        if nearest.ndim != 2 or len(nearest) != self.length:
            raise ValueError(f"neighbours of {self.length} images must not have shape {tuple(nearest.shape)}")
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


class BatchesOfStage(Sampler[list[tuple[int, ...]]]):
    """Batches of some images, as keys of the whole data set.

    Args:
        batches: Batches of the places in `images`.
        images: Which images they are, int64 `(n,)`.
        first_epoch: Added to the epoch of every key, so that earlier stages have had other views.
    """

    def __init__(self, batches: RunBatches, *, images: Tensor, first_epoch: int):
        self.batches, self.images, self.first_epoch = batches, images.tolist(), first_epoch

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[tuple[int, ...]]]:
        for batch in self.batches:
            yield [(self.first_epoch + epoch, self.images[place], *rest) for epoch, place, *rest in batch]


def of_stage(batches: RunBatches, images: Tensor | None, first_epoch: int) -> RunBatches | BatchesOfStage:
    """The batches as `BatchesOfStage`; unchanged if the run has no stages and `images` is None."""
    return batches if images is None else BatchesOfStage(batches, images=images, first_epoch=first_epoch)


def _numbered(order: Tensor) -> Tensor:
    """Every index with the number of its earlier occurrences in the order: int64 `(n,)` → `(n, 2)`.

    Because of that number, two samples of one image in one epoch are augmented differently.
    """
    together, places = order.sort(stable=True)
    before = torch.empty_like(order)
    before[places] = torch.arange(len(order)) - torch.searchsorted(together, together)
    return torch.stack([order, before], dim=1)
