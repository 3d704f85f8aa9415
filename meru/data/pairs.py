"""Batches of images with captions for training, and of images alone for evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from meru.data.augmentation import CaptionAugmentation
from meru.data.loading import Batch, ImageDataset, collate, ordered_loader
from meru.data.parts import CropParts, Part
from meru.data.records import ImageRecord
from meru.data.sampling import RunBatches, derived_seed
from meru.data.workers import TIMEOUT, Loader, loader_options

Tokenize = Callable[[str], Tensor]  # caption → int64 (L,), start-of-text … end-of-text


class TrainingPairs(ImageDataset):
    """Augmented images, each with a randomly chosen caption; the key is `(epoch, index)`.

    Args:
        records: The training split.
        transform: uint8 `(3, H, W)` → uint8 `(3, S, S)`, drawing from torch's default generator.
        tokenize: Caption → int64 `(L,)`.
        seed: Seed of the choice of captions and of the augmentation.
        parts: Draws one part of each image at random; None: images and captions only.
        queries: Caption → further entries of its sample, see `meru.data.caption_queries.query_entries`; None: none.
        augment_text: Changes captions; None: captions stay as they are.
        reading: `on_error` and `maximum_pixels`, as for `ImageDataset`. With `skip`, an image that cannot
            be decoded is replaced by the next one that can, so that batches keep their size.
    """

    def __init__(
        self,
        records: Sequence[ImageRecord],
        *,
        transform: nn.Module,
        tokenize: Tokenize,
        seed: int,
        parts: CropParts | None = None,
        queries: Callable[[str], Batch] | None = None,
        augment_text: CaptionAugmentation | None = None,
        **reading,
    ):
        super().__init__(*_images_and_classes(records), transform=transform, **reading)
        self.records = records
        self.tokenize = tokenize
        self.seed = seed
        self.parts = parts
        self.queries = queries
        self.augment_text = augment_text

    def __getitem__(self, key: tuple[int, int]) -> Batch:
        epoch, index = key
        chosen, skipped, image = self.decode_from(index)
        record = self.records[chosen]
        with torch.random.fork_rng(devices=[]):
            # torch.manual_seed would reset the generator of the GPU too when there are no workers.
            torch.default_generator.manual_seed(derived_seed(self.seed, "sample", epoch, index))
            number = int(torch.randint(len(record.captions), ()))
            caption = self.augment_text(record, number) if self.augment_text else record.captions[number]
            sample = {"image": self.transform(image).contiguous(), "tokens": self.tokenize(caption)}
            if self.parts:
                height, width = image.shape[1:]
                part = self.parts(record, height=height, width=width, caption=caption)
                sample |= self._part_of(image, part)
            if self.queries:
                sample |= self.queries(caption)
        return {**sample, **self.facts(chosen, skipped=skipped)}

    def _part_of(self, image: Tensor, part: Part | None) -> Batch:
        """The part's entries in a sample for `HyCoCLIP`; without a part, the whole image, marked as not to be used."""
        if part is not None:
            left, top, width, height = part.window
            image = image[:, top : top + height, left : left + width]
        return {
            "part_image": self.transform(image).contiguous(),
            "part_tokens": self.tokenize(part.phrase if part is not None else ""),
            "has_part": torch.tensor(part is not None),
            "has_part_text": torch.tensor(part is not None and part.phrase != ""),
        }


def training_loader(
    records: Sequence[ImageRecord],
    *,
    batch_size: int,
    seed: int,
    total_steps: int,
    start_step: int = 0,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 2,
    timeout: float = TIMEOUT,
    **samples,
) -> DataLoader:
    """Batches of this process from `start_step` to `total_steps`, through all epochs.

    Steps count batches; `steps_per_epoch` gives the number per epoch. With accumulation, several batches make one
    optimizer step.

    Args:
        records, seed, samples: As for `TrainingPairs`.
        batch_size, total_steps, start_step, rank, world_size: As for `RunBatches`.
        workers, timeout: As for `loader_options`.

    Returns:
        Batches: `image` uint8 `(B, 3, S, S)`; `tokens` int64 `(B, L)`, padded with 0 to the longest caption;
        `class_index` and `image_index` int64 `(B,)`; `skipped` int64 `()`, the number of images replaced. With parts
        also `part_image` and `part_tokens`, of the same types, and `has_part` and `has_part_text`, bool `(B,)`. With
        queries also those of `query_entries`, stacked.
    """
    data = TrainingPairs(records, seed=seed, **samples)
    batches = RunBatches(
        length=len(records),
        batch_size=batch_size,
        seed=seed,
        rank=rank,
        world_size=world_size,
        start_step=start_step,
        total_steps=total_steps,
    )
    return Loader(data, batch_sampler=batches, collate_fn=collate, **loader_options(workers, timeout))


def evaluation_loader(records: Sequence[ImageRecord], **options) -> DataLoader:
    """Every record's image once and in order, without captions.

    Args:
        records: The records of one split.
        options: As for `meru.data.loading.ordered_loader`.

    Returns:
        Batches: `image` uint8 `(B, 3, S, S)`; `class_index` and `image_index` int64 `(B,)`, the latter the position in
        `records`; `skipped` int64 `()`. Skipped images are not included.
    """
    return ordered_loader(*_images_and_classes(records), **options)


def _images_and_classes(records: Sequence[ImageRecord]) -> tuple[list, dict[str, Tensor]]:
    classes = torch.tensor([record.class_index for record in records], dtype=torch.int64)
    return [record.path for record in records], {"class_index": classes}
