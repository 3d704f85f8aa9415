"""Images with one label each, in a training and a test split: what classification is measured on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from meru.data.records import Images
from meru.errors import UserError

NAMES = Path(__file__).parent / "class_names.json"  # of data sets whose files have codes or abbreviations


@dataclass(frozen=True)
class LabelledImages:
    """Images in the data set's own order.

    Attributes:
        images: Files, or decoded images: uint8 `(n, 3, H, W)`, or a sequence of uint8 `(3, H, W)`.
        labels: Position of each image's class in `LabelledData.class_names`, int64 `(n,)`.
    """

    images: Images
    labels: Tensor

    def __post_init__(self):
        if len(self.images) != len(self.labels):
            raise ValueError(f"{len(self.images)} images, but {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class LabelledData:
    """The images of one classification benchmark.

    Attributes:
        class_names: In plain words, as they should stand in a sentence.
        train: The images that a classifier may be fitted to, the official validation images among them; may be empty.
        test: The official test images.
        class_keys: The names of the classes in the data set's own files, such as folders or WordNet's ids, by which
            a list of parents refers to them; as `class_names` if not given.
        families: The group of each class; None if the data set's files give none.
    """

    class_names: tuple[str, ...]
    train: LabelledImages
    test: LabelledImages
    class_keys: tuple[str, ...] = ()
    families: tuple[str, ...] | None = None

    def __post_init__(self):
        if not self.class_keys:
            object.__setattr__(self, "class_keys", self.class_names)
        for name, each in (("class keys", self.class_keys), ("families", self.families)):
            if each is not None and len(each) != len(self.class_names):
                raise ValueError(f"{len(each)} {name} of {len(self.class_names)} classes")
        for name, split in (("training", self.train), ("test", self.test)):
            outside = split.labels[(split.labels < 0) | (split.labels >= len(self.class_names))]
            if len(outside):
                raise UserError(
                    f"label {int(outside[0])} of a {name} image is out of range: there are {len(self.class_names)} "
                    "classes, counted from 0"
                )


def labelled(images: Images, labels: Sequence[int]) -> LabelledImages:
    """Images and their labels as a split."""
    return LabelledImages(images, torch.as_tensor(labels, dtype=torch.int64))


@dataclass(frozen=True)
class LabelSets:
    """Images with any number of classes each.

    Attributes:
        class_names: In plain words.
        images: As of `LabelledImages`.
        targets: int64 `(n, K)`: 1 where an image shows a class, 0 where it does not, and −1 where that is not decided.
    """

    class_names: tuple[str, ...]
    images: Images
    targets: Tensor

    def __post_init__(self):
        if self.targets.shape != (len(self.images), len(self.class_names)):
            raise ValueError(f"targets of shape {tuple(self.targets.shape)} for {len(self.images)} images")


NO_IMAGES = LabelledImages((), torch.zeros(0, dtype=torch.int64))


def named(data_set: str, keys: Sequence[str], train: LabelledImages, test: LabelledImages) -> LabelledData:
    """Labelled images with class names in plain words.

    Args:
        data_set: A key of `class_names.json`, whose names apply; others have their own names, without underscores.
        keys: The classes' names in the data set's files.
        train, test: The images.
    """
    known = json.loads(NAMES.read_text(encoding="utf-8")).get(data_set, {})
    names = tuple(known.get(key, key.replace("_", " ").replace("/", " ")) for key in keys)
    return LabelledData(names, train, test, class_keys=tuple(keys))
