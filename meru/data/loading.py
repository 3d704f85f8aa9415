"""Batches for training and evaluation.

A training sample is a pure function of (seed, epoch, index), and the order of the samples one of (seed,
epoch): the number of workers changes nothing, a run resumed at any step sees what it would have seen, and W
processes with B samples each share out exactly the batch that one process with W·B samples has.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from meru.data.augmentation import CaptionAugmentation
from meru.data.images import MAXIMUM_PIXELS, check_maximum_pixels, read_image
from meru.data.parts import CropParts, Part
from meru.data.records import ImageRecord
from meru.data.sampling import RunBatches, derived_seed
from meru.data.workers import TIMEOUT, Loader, loader_options
from meru.errors import UserError
from meru.files import os_error_message

log = logging.getLogger("meru")

Batch = dict[str, Tensor]
Tokenize = Callable[[str], Tensor]  # caption → int64 (L,), start-of-text … end-of-text


def reading_options(section: Mapping) -> dict[str, str | int]:
    """`on_error` and `maximum_pixels` of a configuration's `data`; runs of earlier versions lack the second."""
    return {
        "on_error": section["on_error"],
        "maximum_pixels": check_maximum_pixels(section.get("maximum_pixels", MAXIMUM_PIXELS)),
    }


def read_or_skip(path: Path, *, on_error: str = "raise", maximum_pixels: int = MAXIMUM_PIXELS) -> Tensor | None:
    """The picture as uint8 `(3, H, W)`; None where it does not decode and `on_error` is `skip`."""
    try:
        return read_image(path, maximum_pixels=maximum_pixels)
    except UserError:
        if on_error == "raise":
            raise
        return None


def check_decoding(splits: Mapping[str, Sequence[Path]], **reading) -> None:
    """See before a run that an image of each split decodes: in most cases the first one is all that is read.

    Args:
        splits: Image files by the name of their split; it may have none.
        reading: `on_error` and `maximum_pixels`. Where errors are not skipped, the first image has to decode.

    Raises:
        UserError: there are training images and none of them decodes; of other splits this is only said.
    """
    for name, paths in splits.items():
        if paths and all(read_or_skip(path, **reading) is None for path in paths):
            message = f"none of the {len(paths)} {name} images decodes, {paths[0]} the first: restore the images"
            if name == "training":
                raise UserError(message, exit_code=1)
            log.warning("%s", message)


class _Images(Dataset):
    """What both data sets share: records, a transform, and what becomes of an image that does not decode."""

    def __init__(
        self,
        records: Sequence,
        *,
        transform: nn.Module,
        on_error: str = "raise",
        maximum_pixels: int = MAXIMUM_PIXELS,
    ):
        if on_error not in ("raise", "skip"):
            raise UserError(f"data.on_error={on_error}: it must be raise or skip")
        self.records = records
        self.transform = transform
        self.on_error = on_error
        self.maximum_pixels = check_maximum_pixels(maximum_pixels)

    def __len__(self) -> int:
        return len(self.records)

    def __getitems__(self, keys: list) -> list[Batch] | UserError:
        # Handed on as a value: raised in a worker, it would reach the user wrapped in a traceback.
        try:
            return [self[key] for key in keys]
        except UserError as error:
            return error
        except OSError as error:
            if error.errno is None:
                raise
            return UserError(os_error_message(error), exit_code=1)

    def _decode(self, index: int) -> Tensor | None:
        """The picture as uint8 `(3, H, W)`, or None where it is to be skipped."""
        return read_or_skip(self._path(index), on_error=self.on_error, maximum_pixels=self.maximum_pixels)

    def _path(self, index: int) -> Path:
        return self.records[index].path

    def _decode_from(self, index: int) -> tuple[int, int, Tensor]:
        """The first index from `index` on whose picture decodes, how many before it do not, and the picture."""
        for skipped in range(len(self.records)):
            chosen = (index + skipped) % len(self.records)
            if (image := self._decode(chosen)) is not None:
                return chosen, skipped, image
        raise UserError(
            f"none of the {len(self.records)} training images decodes, {self._path(0)} the first: restore the images",
            exit_code=1,
        )


class TrainingPairs(_Images):
    """Augmented photographs, each with one of its captions drawn at random; the key is `(epoch, index)`.

    Args:
        records: The training split.
        transform: uint8 `(3, H, W)` → uint8 `(3, S, S)`, drawing from torch's default generator.
        tokenize: Caption → int64 `(L,)`.
        seed: Seed of the captions drawn and of the augmentation.
        on_error: What to do about an image that does not decode: `raise`, or `skip`, which takes the next
            record that does, so that batches keep their size.
        maximum_pixels: Larger images count as ones that do not decode, see `read_image`.
        parts: Draws a part of every picture; None: pictures and captions only.
        augment_text: Changes captions; None: they stay as they are.
    """

    def __init__(
        self,
        records: Sequence[ImageRecord],
        *,
        transform: nn.Module,
        tokenize: Tokenize,
        seed: int,
        on_error: str = "raise",
        maximum_pixels: int = MAXIMUM_PIXELS,
        parts: CropParts | None = None,
        augment_text: CaptionAugmentation | None = None,
    ):
        super().__init__(records, transform=transform, on_error=on_error, maximum_pixels=maximum_pixels)
        self.tokenize = tokenize
        self.seed = seed
        self.parts = parts
        self.augment_text = augment_text

    def __getitem__(self, key: tuple[int, int]) -> Batch:
        epoch, index = key
        chosen, skipped, image = self._decode_from(index)
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
        return {
            **sample,
            "class_index": torch.tensor(record.class_index),
            "image_index": torch.tensor(chosen),
            "skipped": torch.tensor(skipped),
        }

    def _part_of(self, image: Tensor, part: Part | None) -> Batch:
        """What `HyCoCLIP` takes of a part; the whole picture, not to be learned from, where there is none."""
        if part is not None:
            left, top, width, height = part.window
            image = image[:, top : top + height, left : left + width]
        return {
            "part_image": self.transform(image).contiguous(),
            "part_tokens": self.tokenize(part.phrase if part is not None else ""),
            "has_part": torch.tensor(part is not None),
            "has_part_text": torch.tensor(part is not None and part.phrase != ""),
        }


class EvaluationImages(_Images):
    """Photographs in order, without captions; `skip` leaves out those that do not decode."""

    def __getitem__(self, index: int) -> Batch:
        image = self._decode(index)
        skipped = image is None
        if skipped:
            image = torch.zeros(3, 1, 1, dtype=torch.uint8)  # a place holder that collate_images takes out
        return {
            "image": self.transform(image).contiguous(),
            "class_index": torch.tensor(self.records[index].class_index),
            "image_index": torch.tensor(index),
            "skipped": torch.tensor(skipped),
        }


def collate(samples: list[Batch] | UserError) -> Batch | UserError:
    """Training samples as one batch.

    Returns:
        `image` uint8 `(B, 3, S, S)`; `tokens` int64 `(B, L)`, padded with 0 to the longest caption;
        `class_index` and `image_index` int64 `(B,)`; `skipped` int64 `()`, the images replaced. With parts also
        `part_image` and `part_tokens`, of the same kinds, and `has_part` and `has_part_text`, bool `(B,)`.
    """
    if isinstance(samples, UserError):
        return samples
    columns = {name: [sample[name] for sample in samples] for name in samples[0]}
    batch = {
        name: pad_sequence(column, batch_first=True) if name.endswith("tokens") else torch.stack(column)
        for name, column in columns.items()
    }
    return {**batch, "skipped": batch["skipped"].sum()}


def collate_images(samples: list[Batch] | UserError) -> Batch | UserError:
    """As `collate`, without tokens and without the images that were skipped: B may be smaller, even 0."""
    if isinstance(samples, UserError):
        return samples
    skipped = torch.stack([sample["skipped"] for sample in samples])
    names = (name for name in samples[0] if name != "skipped")
    columns = {name: torch.stack([sample[name] for sample in samples])[~skipped] for name in names}
    return {**columns, "skipped": skipped.sum()}


def training_loader(
    records: Sequence[ImageRecord],
    *,
    transform: nn.Module,
    tokenize: Tokenize,
    batch_size: int,
    seed: int,
    total_steps: int,
    start_step: int = 0,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 2,
    timeout: float = TIMEOUT,
    on_error: str = "raise",
    maximum_pixels: int = MAXIMUM_PIXELS,
    parts: CropParts | None = None,
    augment_text: CaptionAugmentation | None = None,
) -> DataLoader:
    """Batches (see `collate`) of this process from `start_step` to `total_steps`, through all epochs.

    Steps count batches; `steps_per_epoch` says how many make an epoch. With accumulation several of them make
    one step of the optimizer. The arguments are those of `TrainingPairs` and `RunBatches`.
    """
    data = TrainingPairs(
        records,
        transform=transform,
        tokenize=tokenize,
        seed=seed,
        on_error=on_error,
        maximum_pixels=maximum_pixels,
        parts=parts,
        augment_text=augment_text,
    )
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


def evaluation_loader(
    records: Sequence[ImageRecord],
    *,
    transform: nn.Module,
    batch_size: int,
    workers: int = 2,
    timeout: float = TIMEOUT,
    on_error: str = "raise",
    maximum_pixels: int = MAXIMUM_PIXELS,
) -> DataLoader:
    """Every record once and in order (see `collate_images`); `image_index` is the place in `records`."""
    data = EvaluationImages(records, transform=transform, on_error=on_error, maximum_pixels=maximum_pixels)
    return Loader(data, batch_size=batch_size, collate_fn=collate_images, **loader_options(workers, timeout))
