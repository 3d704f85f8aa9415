"""Batches for category discovery: two views of every training image, and the labels that training may see.

A training sample is a pure function of (seed, epoch, index, how often the image came before in the epoch), the order of
the samples one of (seed, epoch), and of the neighbours where batches are made of them. Resuming, workers and processes
are as in `meru.data.loading`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from meru.data.discovery.splits import DiscoverySplit
from meru.data.loading import (
    Batch,
    _Images,
    collate,
    collate_images,
)
from meru.data.sampling import RunBatches, derived_seed
from meru.data.workers import TIMEOUT, EpochwiseLoader, Loader, loader_options
from meru.errors import UserError

SAMPLERS = ("weighted", "uniform", "neighbours")
UNLABELLED = -1


class _SplitImages(_Images):
    """What both data sets of discovery share: pictures are files, or already in memory."""

    def __init__(self, split: DiscoverySplit, *, transform: nn.Module, **reading):
        super().__init__(split.images, transform=transform, **reading)
        self.split = split

    def _path(self, index: int) -> Path:
        return self.records[index]

    def _decode(self, index: int) -> Tensor | None:
        return self.records[index] if isinstance(self.records, Tensor) else super()._decode(index)


class TrainingViews(_SplitImages):
    """Two views of a training image; the key is `(epoch, index)`, or `(epoch, index, number)` of an image seen before.

    Args:
        split: Training images.
        transform: uint8 `(3, H, W)` → uint8 `(3, S, S)`, drawing from torch's default generator.
        seed: Seed of the augmentation.
        reading: `on_error` and `maximum_pixels`, as for `meru.data.loading.TrainingPairs`.
    """

    def __init__(self, split: DiscoverySplit, *, transform: nn.Module, seed: int, **reading):
        super().__init__(split, transform=transform, **reading)
        self.seed = seed
        # What is not labelled must not reach any loss, so it does not get as far as a batch.
        self.labels = torch.where(split.labelled, split.labels, UNLABELLED)

    def __getitem__(self, key: tuple[int, ...]) -> Batch:
        index, skipped, image = self._decode_from(key[1])
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(derived_seed(self.seed, "views", *key))
            views = torch.stack([self.transform(image) for _ in range(2)])
        return {
            "image": views,
            "label": self.labels[index],
            "labelled": self.split.labelled[index],
            "image_index": torch.tensor(index),
            "skipped": torch.tensor(skipped),
        }


class KeptViews(Dataset):
    """Two of the kept views of an image, drawn by its key; the rest as in `TrainingViews`.

    Args:
        split: Training images.
        views: What the frozen part of the tower says of V ≥ 2 views of every image, `(n, V, …)`.
        seed: Seed of the draw.
    """

    def __init__(self, split: DiscoverySplit, *, views: Tensor, seed: int):
        self.split, self.views, self.seed = split, views, seed
        self.labels = torch.where(split.labelled, split.labels, UNLABELLED)

    def __getitem__(self, key: tuple[int, ...]) -> Batch:
        index = key[1]
        generator = torch.Generator().manual_seed(derived_seed(self.seed, "kept views", *key))
        two = torch.randperm(self.views.shape[1], generator=generator)[:2]
        return {
            "frozen_output": self.views[index, two],
            "label": self.labels[index],
            "labelled": self.split.labelled[index],
            "image_index": torch.tensor(index),
            "skipped": torch.tensor(False),
        }


class OrderedImages(_SplitImages):
    """Images in order with their true labels; `skip` leaves out those that do not decode."""

    def __getitem__(self, index: int) -> Batch:
        image = self._decode(index)
        skipped = image is None
        if skipped:
            image = torch.zeros(3, 1, 1, dtype=torch.uint8)  # a place holder that collate_images takes out
        return {
            "image": self.transform(image).contiguous(),
            "label": self.split.labels[index],
            "labelled": self.split.labelled[index],
            "image_index": torch.tensor(index),
            "skipped": torch.tensor(skipped),
        }


class WeightedBatches(RunBatches):
    """SimGCD's: as many draws with replacement as there are images, half of them labelled on average.

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
    """HypGCD's: a batch is some images drawn by lot, each with its nearest neighbours; for one epoch at a time.

    A batch of B images in all processes has B // k queries, so a size that k does not divide is rounded down; the
    number of batches in an epoch is that of full ones all the same. Processes share out images, not queries: the
    neighbours of one may be in two processes, and at most `world_size` − 1 images of a batch are left over.

    Args:
        labelled: bool `(n,)`.
        neighbours: Gives, for an epoch, the k nearest images of every one, int64 `(n, k)`, the same in every process.
        stratified: Whether every second query is a labelled image.
        independent: Whether every batch draws its queries anew from all images, as released; else no image is a query
            again before all others were.
        options: As for `RunBatches`.
    """

    def __init__(
        self,
        *,
        labelled: Tensor,
        neighbours: Callable[[int], Tensor],
        stratified: bool = False,
        independent: bool = False,
        **options,
    ):
        super().__init__(length=len(labelled), **options)
        self.labelled, self.neighbours = labelled, neighbours
        self.stratified, self.independent = stratified, independent
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
        count = self.steps_per_epoch * queries_per_batch
        if self.independent:
            orders = [torch.randperm(self.length, generator=generator) for _ in range(self.steps_per_epoch)]
            queries = torch.cat([order[:queries_per_batch] for order in orders])
        elif self.stratified:
            queries = torch.empty(count, dtype=torch.int64)
            for start, stratum in enumerate((self.labelled, ~self.labelled)):
                queries[start::2] = _passes(stratum.nonzero().flatten(), len(queries[start::2]), generator)
        else:
            queries = _passes(torch.arange(self.length), count, generator)
        batches = _numbered(nearest[queries].flatten()).unflatten(0, (self.steps_per_epoch, -1))
        return batches[:, : self.batch_size * self.world_size].flatten(0, 1)


def discovery_training_loader(
    split: DiscoverySplit,
    *,
    transform: nn.Module,
    sampler: str,
    batch_size: int,
    seed: int,
    total_steps: int,
    start_step: int = 0,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 2,
    timeout: float = TIMEOUT,
    neighbours: Callable[[int], Tensor] | None = None,
    stratified: bool = False,
    independent: bool = False,
    kept_views: Tensor | None = None,
    **reading,
) -> DataLoader | EpochwiseLoader:
    """Batches of this process from `start_step` to `total_steps`, through all epochs.

    Args:
        split, transform, seed, reading: As for `TrainingViews`.
        sampler: `weighted`, see `WeightedBatches`; `uniform`, every image once an epoch; `neighbours`, see
            `NeighbourBatches`.
        batch_size, rank, world_size, start_step, total_steps: As for `RunBatches`.
        neighbours, stratified, independent: For `neighbours`. The first is asked at the start of every epoch, with the
            model as the epoch finds it, and once more where a run resumes within one.
        kept_views: As for `KeptViews`, to train on instead of the images, which are then not read.

    Returns:
        Batches: `image` uint8 `(B, 2, 3, S, S)`, two views; `label` int64 `(B,)`, −1 of images that are not labelled;
        `labelled` bool `(B,)`; `image_index` int64 `(B,)`, the place in the split; `skipped` int64 `()`.
        With `kept_views` they have `frozen_output` `(B, 2, …)` instead of `image`.

    Raises:
        UserError: for an unknown sampler, or a batch larger than the training set or smaller than k.
        ValueError: without `neighbours` for the sampler of that name.
    """
    if sampler not in SAMPLERS:
        raise UserError(f"discovery.sampler={sampler}: choose one of {', '.join(SAMPLERS)}")
    if sampler == "neighbours" and neighbours is None:
        raise ValueError("the sampler of neighbours needs a way to find them")
    if kept_views is None:
        data = TrainingViews(split, transform=transform, seed=seed, **reading)
    else:
        data, workers = KeptViews(split, views=kept_views, seed=seed), 0  # copies to workers would be all the work

    def order(start: int, until: int) -> RunBatches:
        options = {
            "batch_size": batch_size,
            "seed": seed,
            "rank": rank,
            "world_size": world_size,
            "start_step": start,
            "total_steps": until,
        }
        if sampler == "uniform":
            return RunBatches(length=len(split), **options)
        if sampler == "weighted":
            return WeightedBatches(labelled=split.labelled, **options)
        return NeighbourBatches(
            labelled=split.labelled, neighbours=neighbours, stratified=stratified, independent=independent, **options
        )

    def loader(start: int, until: int) -> DataLoader:
        return Loader(data, batch_sampler=order(start, until), collate_fn=collate, **loader_options(workers, timeout))

    if sampler != "neighbours":
        return loader(start_step, total_steps)
    epoch = order(start_step, total_steps).steps_per_epoch
    return EpochwiseLoader(loader, start_step=start_step, total_steps=total_steps, epoch=epoch)


def every_view_loader(
    split: DiscoverySplit,
    *,
    transform: nn.Module,
    epoch: int,
    batch_size: int,
    seed: int,
    workers: int,
    timeout: float = TIMEOUT,
    **reading,
) -> DataLoader:
    """Every image once and in order, with the two views that training with `uniform` order has in that epoch.

    Returns:
        Batches as of `discovery_training_loader`.
    """
    data = TrainingViews(split, transform=transform, seed=seed, **reading)
    keys = [(epoch, index) for index in range(len(split))]
    return Loader(data, sampler=keys, batch_size=batch_size, collate_fn=collate, **loader_options(workers, timeout))


def weighted_view_loader(
    split: DiscoverySplit,
    *,
    transform: nn.Module,
    epoch: int,
    batch_size: int,
    seed: int,
    workers: int,
    timeout: float = TIMEOUT,
    **reading,
) -> DataLoader:
    """One pass over the images as `weighted` draws them in that epoch, with replacement, in that order.

    Returns:
        Batches as of `discovery_training_loader`, the last one smaller.
    """
    data = TrainingViews(split, transform=transform, seed=seed, **reading)
    length = len(split)  # one batch is an epoch
    (keys,) = WeightedBatches(
        labelled=split.labelled, batch_size=length, seed=seed, start_step=epoch, total_steps=epoch + 1
    )
    return Loader(data, sampler=keys, batch_size=batch_size, collate_fn=collate, **loader_options(workers, timeout))


def discovery_evaluation_loader(
    split: DiscoverySplit,
    *,
    transform: nn.Module,
    batch_size: int,
    workers: int = 2,
    timeout: float = TIMEOUT,
    **reading,
) -> DataLoader:
    """Every image once and in order, with its true label.

    Returns:
        Batches: `image` uint8 `(B, 3, S, S)`; `label` int64, `labelled` bool and `image_index` int64, all `(B,)`;
        `skipped` int64 `()`. Images that were skipped are not among them.
    """
    data = OrderedImages(split, transform=transform, **reading)
    return Loader(data, batch_size=batch_size, collate_fn=collate_images, **loader_options(workers, timeout))


def _passes(candidates: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """So many of the candidates, in passes of a random order each: none comes twice before all came once."""
    passes = -(-count // max(1, len(candidates)))
    orders = [candidates[torch.randperm(len(candidates), generator=generator)] for _ in range(passes)]
    return torch.cat([candidates[:0], *orders])[:count]


def _numbered(order: Tensor) -> Tensor:
    """Every index of the order with the number of times it came before: int64 `(n,)` → `(n, 2)`.

    With that number two samples of one image in one epoch are augmented differently.
    """
    together, places = order.sort(stable=True)
    before = torch.empty_like(order)
    before[places] = torch.arange(len(order)) - torch.searchsorted(together, together)
    return torch.stack([order, before], dim=1)
