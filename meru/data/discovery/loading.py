"""Batches for category discovery: two views of every training image, and the labels that training may use.

A training sample is a pure function of (seed, epoch, index, earlier occurrences of the image in the epoch). The order
of the samples is a pure function of (seed, epoch), and of the neighbours if batches are made of them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from meru.data.cached_rows import ViewChoice, as_it_is, cached_loader
from meru.data.discovery.sampling import NeighbourBatches, WeightedBatches, of_stage
from meru.data.discovery.splits import DiscoverySplit
from meru.data.loading import Batch, ImageDataset, collate, ordered_loader
from meru.data.pixels import CachedPixels
from meru.data.sampling import RunBatches, derived_seed
from meru.data.workers import TIMEOUT, EpochwiseLoader, Loader, OrderedLoader, loader_options
from meru.errors import UserError

SAMPLERS = ("weighted", "uniform", "neighbours")
UNLABELLED = -1


class TrainingViews(ImageDataset):
    """Two views of a training image; the key is `(epoch, index)`, or `(epoch, index, number)` for a repeated image.

    Args:
        split: Training images.
        transform: uint8 `(3, H, W)` → uint8 `(3, S, S)`, drawing from torch's default generator.
        seed: Seed of the augmentation.
        pixels: The images of the split, decoded before; None: they are read.
        reading: `on_error`, `maximum_pixels`, `decode` and `augment_on`, as for `ImageDataset`.
    """

    def __init__(
        self,
        split: DiscoverySplit,
        *,
        transform: nn.Module,
        seed: int,
        pixels: CachedPixels | None = None,
        **reading,
    ):
        images, known = split.images if pixels is None else pixels, _known_in_training(split)
        super().__init__(images, known, transform=transform, **reading)
        self.seed = seed

    def __getitem__(self, key: tuple[int, ...]) -> Batch:
        index, skipped, decoded = self.decode_from(key[1])
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(derived_seed(self.seed, "views", *key))
            views = self.seen(*decoded, views=2)
        return {**views, **self.facts(index, skipped=skipped)}


class CachedTrainingViews(Dataset):
    """Two cached views of each image, chosen at random by its key, as `TrainingViews`; a list of keys gives a batch.

    Args:
        split: Training images.
        views: Rows of the tower's frozen part for V ≥ 2 views of every image, `(n, V, F)`.
        seed: Seed of the choice.
    """

    def __init__(self, split: DiscoverySplit, *, views: Tensor, seed: int):
        self.known, self.views = _known_in_training(split), views
        self.choice = ViewChoice(seed, images=len(split), views=views.shape[1])

    def __getitems__(self, keys: list[tuple[int, ...]]) -> Batch:
        index = torch.tensor([key[1] for key in keys])
        repeat = torch.tensor([key[2] if len(key) > 2 else 0 for key in keys])
        epochs = {key[0] for key in keys}
        if len(epochs) > 1:
            raise ValueError(f"a batch of the epochs {sorted(epochs)}")
        view = self.choice.two(epochs.pop(), index, repeat)
        return {
            "image": self.views[index[:, None], view],
            **{name: values[index] for name, values in self.known.items()},
            "image_index": index,
            "skipped": torch.tensor(0),
        }


def _known_in_training(split: DiscoverySplit) -> dict[str, Tensor]:
    """`label`, −1 where losses may not see it, and `labelled`."""
    label = torch.where(split.labelled, split.training_labels, UNLABELLED)
    return {"label": label, "labelled": split.labelled}


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
    independent: bool = False,
    views: Tensor | None = None,
    images: Tensor | None = None,
    first_epoch: int = 0,
    **reading,
) -> DataLoader | EpochwiseLoader:
    """Batches of this process from `start_step` to `total_steps`, through all epochs.

    Args:
        split, transform, seed, reading: As for `TrainingViews`; `reading` may hold `pixels`.
        sampler: `weighted`, see `WeightedBatches`; `uniform`, every image once per epoch; `neighbours`, see
            `NeighbourBatches`.
        batch_size, rank, world_size, start_step, total_steps: As for `RunBatches`.
        neighbours, independent: For the sampler `neighbours`. `neighbours` is called at the start of every epoch, with
            the model at that point, and once more when a run resumes within an epoch.
        views: As for `CachedTrainingViews`, to train on these without reading the images.
        images, first_epoch: Of one stage, see `of_stage`; neighbours are then places in `images`. None: all images.

    Returns:
        Batches: `image`, two views, uint8 `(B, 2, 3, S, S)`, or cached rows `(B, 2, F)`, or what `taken` takes; int64
        `(B,)` `label`, −1 for unlabelled images, and `image_index`, the place in the split; `labelled` bool `(B,)`;
        `skipped` int64 `()`.

    Raises:
        UserError: for an unknown sampler, or a batch larger than the training set or smaller than k.
        ValueError: without `neighbours` for the sampler of that name.
    """
    if sampler == "neighbours" and neighbours is None:
        raise ValueError("the sampler 'neighbours' needs the argument neighbours")
    if views is None:
        data, together = TrainingViews(split, transform=transform, seed=seed, **reading), collate
    else:
        data, together = CachedTrainingViews(split, views=views, seed=seed), as_it_is
        workers = 0  # sending rows between processes would be slower
    plan = {"batch_size": batch_size, "seed": seed, "rank": rank, "world_size": world_size}
    labelled = split.labelled if images is None else split.labelled[images]
    order = partial(_sampler(sampler, labelled, neighbours, independent), **plan)

    def loader(start: int, until: int) -> DataLoader:
        batches = of_stage(order(start_step=start, total_steps=until), images, first_epoch)
        return Loader(data, batch_sampler=batches, collate_fn=together, **loader_options(workers, timeout))

    if sampler != "neighbours":
        return loader(start_step, total_steps)
    epoch = order(start_step=start_step, total_steps=total_steps).steps_per_epoch
    return EpochwiseLoader(loader, start_step=start_step, total_steps=total_steps, epoch=epoch)


def _sampler(
    name: str, labelled: Tensor, neighbours: Callable[[int], Tensor] | None, independent: bool
) -> Callable[..., RunBatches]:
    """The sampler of that name, as a function of the other arguments of `RunBatches`."""
    if name == "uniform":
        return partial(RunBatches, length=len(labelled))
    if name == "weighted":
        return partial(WeightedBatches, labelled=labelled)
    if name == "neighbours":
        return partial(NeighbourBatches, length=len(labelled), neighbours=neighbours, independent=independent)
    raise UserError(f"discovery.sampler={name}: choose one of {', '.join(SAMPLERS)}")


def weighted_view_loader(
    split: DiscoverySplit,
    *,
    epoch: int,
    seed: int,
    batch_size: int,
    workers: int,
    timeout: float = TIMEOUT,
    **options,
) -> DataLoader:
    """One epoch of images as the sampler `weighted` draws them, with replacement and in its order.

    Args:
        split: Training images.
        epoch: From 0.
        seed, options: `transform`, `batch_size`, `workers`, `timeout` and those of reading, as above.

    Returns:
        Batches as those of `discovery_training_loader`; the last one may be smaller.
    """
    length = len(split)  # one batch covers the epoch
    (keys,) = WeightedBatches(
        labelled=split.labelled, batch_size=length, seed=seed, start_step=epoch, total_steps=epoch + 1
    )
    data = TrainingViews(split, seed=seed, **options)
    loading = {"collate_fn": collate, **loader_options(workers, timeout)}
    return OrderedLoader(data, sampler=keys, batch_size=batch_size, **loading)


def discovery_evaluation_loader(
    split: DiscoverySplit,
    *,
    rows: Tensor | None = None,
    pixels: CachedPixels | None = None,
    batch_size: int,
    **options,
) -> DataLoader:
    """Every image once and in order, with its true label.

    Args:
        split: Training or test images.
        rows: Cached rows of the images `(n, 1, F)`, to give these instead of the images.
        pixels: The images, decoded before; None: they are read.
        batch_size, options: As for `meru.data.loading.ordered_loader`.

    Returns:
        Batches: `image` uint8 `(B, 3, S, S)`, or rows `(B, F)`; `label` int64, `labelled` bool and `image_index`
        int64, all `(B,)`; `skipped` int64 `()`. Skipped images are not included.
    """
    known = {"label": split.labels, "labelled": split.labelled}
    if rows is not None:
        return cached_loader(rows, known, batch_size=batch_size)
    return ordered_loader(split.images if pixels is None else pixels, known, batch_size=batch_size, **options)
