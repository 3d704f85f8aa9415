"""Data loading shared by both tasks: reading images, batches of samples, and ordered passes for evaluation.

A training sample is a pure function of (seed, epoch, index), and the order of the samples is a pure function of (seed,
epoch). The number of workers therefore changes nothing, a resumed run gets the same samples as an uninterrupted one,
and W processes with B samples each divide exactly the batch of one process with W·B samples. Samples are defined in
`meru.data.pairs` and `meru.data.discovery.loading`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from meru.data.corruptions.training import CorruptedViews
from meru.data.device_views import VIEW, padded, untaken
from meru.data.images import MAXIMUM_PIXELS, Decoded, Spare, check_maximum_pixels, read
from meru.data.records import Images
from meru.data.views import Size, Viewing
from meru.data.workers import TIMEOUT, OrderedLoader, loader_options
from meru.errors import UserError
from meru.files import os_error_message

log = logging.getLogger("meru")

Batch = dict[str, Tensor]


def reading_options(section: Mapping) -> dict[str, str | int]:
    """`on_error` and `maximum_pixels` of a configuration's `data`; runs of earlier versions lack `maximum_pixels`."""
    return {
        "on_error": section["on_error"],
        "maximum_pixels": check_maximum_pixels(section.get("maximum_pixels", MAXIMUM_PIXELS)),
    }


def training_options(section: Mapping) -> dict[str, str]:
    """`decode` and `augment_on` of a configuration's `data`, for training; runs of earlier versions lack them."""
    return {"decode": section.get("decode", "exact"), "augment_on": section.get("augment_on", "cpu")}


def read_or_skip(path: Path, *, on_error: str = "raise", maximum_pixels: int = MAXIMUM_PIXELS) -> Tensor | None:
    """The image as uint8 `(3, H, W)`; None if it cannot be decoded and `on_error` is `skip`."""
    decoded = decoded_or_none(path, on_error=on_error, maximum_pixels=maximum_pixels)
    return None if decoded is None else decoded.image


def decoded_or_none(path: Path, *, on_error: str, maximum_pixels: int, spare: Spare | None = None) -> Decoded | None:
    """As `read_or_skip`, with the full size; `spare` is that of `meru.data.images.read`."""
    try:
        return read(path, maximum_pixels=maximum_pixels, spare=spare)
    except UserError:
        if on_error == "raise":
            raise
        return None


def check_decoding(splits: Mapping[str, Sequence[Path]], **reading) -> None:
    """Check before a run that each split has an image that can be decoded; usually only the first one is read.

    Args:
        splits: Image files by the name of their split, which may be empty.
        reading: `on_error` and `maximum_pixels`. If errors are not skipped, the first image must be decodable.

    Raises:
        UserError: if there are training images and none can be decoded; for other splits this is a warning.
    """
    for name, paths in splits.items():
        if paths and all(read_or_skip(path, **reading) is None for path in paths):
            message = f"none of the {len(paths)} {name} images decodes, the first is {paths[0]}: restore the images"
            if name == "training":
                raise UserError(message, exit_code=1)
            log.warning("%s", message)


class ImageDataset(Dataset):
    """Images with known values for each, a transform, and a policy for images that cannot be decoded.

    Subclasses define the samples.

    Args:
        images: Files, uint8 `(n, 3, H, W)`, a sequence of uint8 `(3, H, W)`, or `meru.data.pixels.CachedPixels`.
        known: Values for each image that go into its sample, such as its class: tensors `(n,)` by name.
        transform: uint8 `(3, H, W)` → uint8 `(3, S, S)`.
        on_error: What to do with an image that cannot be decoded: `raise` or `skip`.
        maximum_pixels: Larger images count as undecodable, see `read_image`.
        decode: `exact`, or `scaled`: large JPEG files are decoded at a half, a quarter or an eighth of their sides if
            the transform still needs no enlargement.
        augment_on: `cpu`, or `device`: samples hold what `meru.data.device_views` makes the views from.

    Raises:
        UserError: for another `on_error`, or a limit that is not a whole number above 0.
    """

    def __init__(
        self,
        images: Images,
        known: Mapping[str, Tensor],
        *,
        transform: nn.Module,
        on_error: str = "raise",
        maximum_pixels: int = MAXIMUM_PIXELS,
        decode: str = "exact",
        augment_on: str = "cpu",
    ):
        if on_error not in ("raise", "skip"):
            raise UserError(f"data.on_error={on_error}: it must be raise or skip")
        self.images, self.known = images, known
        self.transform = transform
        self.on_error = on_error
        self.maximum_pixels = check_maximum_pixels(maximum_pixels)
        self.spare: Spare | None = getattr(transform, "spare", None) if decode == "scaled" else None
        self.views_wait = augment_on == "device" and isinstance(transform, Viewing)

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, keys: list) -> list[Batch] | UserError:
        # Returned as a value: raised in a worker, it would reach the user wrapped in a traceback.
        try:
            return [self[key] for key in keys]
        except UserError as error:
            return error
        except OSError as error:
            if error.errno is None:
                raise
            return UserError(os_error_message(error), exit_code=1)

    def decode(self, index: int) -> Decoded | None:
        """The image and its full size, or None if it is skipped."""
        image = self.images[index]
        if isinstance(image, Tensor):
            return Decoded(image, tuple(image.shape[1:]))
        if image is None or isinstance(image, Decoded):
            return image
        return decoded_or_none(image, on_error=self.on_error, maximum_pixels=self.maximum_pixels, spare=self.spare)

    def seen(self, image: Tensor, full: Size, *, name: str = "image", views: int = 1) -> Batch:
        """What the transform makes of an image of that full size, as an entry of a sample.

        Returns:
            uint8 `(3, S, S)`, or `(V, 3, S, S)` of V > 1 views; or the two entries of `untaken`.
        """
        if not isinstance(self.transform, (Viewing, CorruptedViews)):
            found = [self.transform(image).contiguous() for _ in range(views)]
        elif self.views_wait:
            drawn = [self.transform.draw(*full) for _ in range(views)]
            part, numbers = untaken(image, drawn, self.transform.image_size, full=full)
            return {name: part, f"{name}{VIEW}": numbers}
        else:
            found = [self.transform(image, full).contiguous() for _ in range(views)]
        return {name: torch.stack(found) if views > 1 else found[0]}

    def decode_from(self, index: int) -> tuple[int, int, Decoded]:
        """The first image from `index` on that can be decoded: its index, the number skipped before it, and the image.

        A training batch therefore keeps its size when images are skipped.

        Raises:
            UserError: if no image can be decoded.
        """
        for skipped in range(len(self)):
            chosen = (index + skipped) % len(self)
            if (image := self.decode(chosen)) is not None:
                return chosen, skipped, image
        raise UserError(
            f"none of the {len(self)} training images decodes, the first is {self.images[0]}: restore the images",
            exit_code=1,
        )

    def facts(self, index: int, *, skipped: int | bool) -> Batch:
        """The entries of a sample besides its image: `known`, `image_index` and `skipped`."""
        known = {name: values[index] for name, values in self.known.items()}
        return {**known, "image_index": torch.tensor(index), "skipped": torch.tensor(skipped)}


class OrderedImages(ImageDataset):
    """Every image by its index, transformed; with `skip`, images that cannot be decoded are left out."""

    def __getitem__(self, index: int) -> Batch:
        decoded = self.decode(index)
        skipped = decoded is None
        if skipped:  # a placeholder that collate_images removes
            decoded = Decoded(torch.zeros(3, 1, 1, dtype=torch.uint8), (1, 1))
        return {**self.seen(*decoded), **self.facts(index, skipped=skipped)}


def ordered_loader(
    images: Images,
    known: Mapping[str, Tensor],
    *,
    batch_size: int,
    workers: int = 2,
    timeout: float = TIMEOUT,
    **options,
) -> OrderedLoader:
    """Every image once and in order, in batches made by `collate_images`.

    Args:
        images, known, options: As for `OrderedImages`.
        batch_size: Images per batch; the last batch may be smaller.
        workers, timeout: As for `loader_options`.
    """
    data = OrderedImages(images, known, **options)
    return OrderedLoader(data, batch_size=batch_size, collate_fn=collate_images, **loader_options(workers, timeout))


def collate(samples: list[Batch] | UserError) -> Batch | UserError:
    """Training samples as one batch.

    Returns:
        The tensors of the samples stacked, `(B, …)`; token ids, whose names end in `tokens`, are padded with 0 to the
        longest caption, `(B, L)` or `(B, Q, L)`. `skipped` is the number of images that were replaced, int64 `()`.
    """
    if isinstance(samples, UserError):
        return samples
    batch = stacked(samples)
    return {**batch, "skipped": batch["skipped"].sum()}


def stacked(samples: list[Batch]) -> Batch:
    """The entries of samples stacked by name; token ids, and images whose views wait, are padded."""
    columns = {name: [sample[name] for sample in samples] for name in samples[0]}
    return {name: _together(name, column, padding=f"{name}{VIEW}" in columns) for name, column in columns.items()}


def _together(name: str, column: list[Tensor], *, padding: bool) -> Tensor:
    if padding:
        return padded(column)
    return _padded(column) if name.endswith("tokens") else torch.stack(column)


def _padded(column: list[Tensor]) -> Tensor:
    """Token ids of samples, `(L,)` or `(Q, L)` each, padded at the end with 0 to the longest and stacked."""
    longest = max(tokens.shape[-1] for tokens in column)
    return torch.stack([F.pad(tokens, (0, longest - tokens.shape[-1])) for tokens in column])


def collate_images(samples: list[Batch] | UserError) -> Batch | UserError:
    """As `collate`, without tokens and without skipped images, so that B may be smaller, even 0."""
    if isinstance(samples, UserError):
        return samples
    skipped = torch.stack([sample["skipped"] for sample in samples])
    names = (name for name in samples[0] if name != "skipped")
    columns = {name: torch.stack([sample[name] for sample in samples])[~skipped] for name in names}
    return {**columns, "skipped": skipped.sum()}
