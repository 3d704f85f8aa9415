"""Images of old and new classes with the captions of each, for category discovery with words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from meru.data.discovery.splits import DiscoveryData
from meru.data.records import ImageTextData
from meru.errors import UserError

Captions = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class DescribedDiscovery:
    """The images of a discovery benchmark and their captions.

    Attributes:
        images: Old and new classes, labelled and unlabelled images.
        train, test: The captions of each image of `images.train` and `images.test`, in order.
    """

    images: DiscoveryData
    train: Captions
    test: Captions

    def __post_init__(self):
        for name, split, captions in (("train", self.images.train, self.train), ("test", self.images.test, self.test)):
            if len(split) != len(captions):
                raise ValueError(f"{len(split)} {name} images, captions of {len(captions)}")


def described(images: DiscoveryData, pairs: ImageTextData, *, source: str | Path) -> DescribedDiscovery:
    """Join the two by the images' files.

    Args:
        images: Old and new classes.
        pairs: The same images with captions, in any splits.
        source: The data set's folder, for messages.

    Raises:
        UserError: if an image has no captions, or the images are no files.
    """
    known = {record.path: record.captions for split in (pairs.train, pairs.validation, pairs.test) for record in split}

    def captions(paths: Sequence[Path]) -> Captions:
        if absent := [path for path in paths if path not in known]:
            raise UserError(
                f"{source}: {absent[0]} has no captions ({len(absent)} of {len(paths)} images): category discovery "
                "with words needs some for every image; choose other data"
            )
        return tuple(known[path] for path in paths)

    paths = images.paths()
    if len(paths["training"]) != len(images.train):
        raise UserError(f"{source}: the images are in memory, not in files, and cannot be matched with captions")
    return DescribedDiscovery(images, captions(paths["training"]), captions(paths["test"]))
