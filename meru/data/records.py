"""Records of images with captions, in three splits: the common form of all image–text data sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

if TYPE_CHECKING:
    from meru.data.shards.load import TrainingShards

# Files; uint8 (n, 3, H, W) for images kept in memory; or a sequence that reads uint8 (3, H, W) by itself.
Images = Sequence[Path] | Tensor | Sequence[Tensor]


class Region(NamedTuple):
    """A box in an image with words for what it holds.

    Attributes:
        box: `(x, y, width, height)`, in pixels as `ImageRecord.box`.
        phrase: Words for it; "" if there are none.
    """

    box: tuple[float, float, float, float]
    phrase: str


class Crop(NamedTuple):
    """A part of an image that the data set has as an image of its own.

    Attributes:
        image: A file, or the content of one.
        phrase: Words for it; "" if there are none.
        name: What messages call it, beside the place of the whole image.
    """

    image: Path | bytes
    phrase: str
    name: str


@dataclass(frozen=True)
class ImageRecord:
    """One image and its annotations.

    Attributes:
        path: The image file.
        class_index: Position of its class in `ImageTextData.class_names`; for persons, the number of the identity;
            without classes, a number of its own.
        captions: At least one sentence.
        box: Bounding box of the object, `(x, y, width, height)`, or None. In pixels of the image as viewers and
            annotation tools show it, that is, after an EXIF rotation.
        parts: Visible parts only, name → `(x, y)` in the same pixels.
        colours: Part → colour for its class, see `meru.data.datasets.cub.class_attributes`; empty if there are none.
        back_translations: Captions translated to another language and back, one for each of `captions`; or none.
        regions: Boxes with phrases, and crops.
        caption_weights: How often training draws each of `captions`, > 0, relative to the others; empty: equally often.
    """

    path: Path
    class_index: int
    captions: tuple[str, ...]
    box: tuple[float, float, float, float] | None = None
    parts: dict[str, tuple[float, float]] = field(default_factory=dict)
    colours: dict[str, str] = field(default_factory=dict)
    back_translations: tuple[str, ...] = ()
    regions: tuple[Region | Crop, ...] = ()
    caption_weights: tuple[float, ...] = ()


@dataclass(frozen=True)
class ImageTextData:
    """Three disjoint splits, and the meaning of their classes.

    Attributes:
        class_names: In plain words, by `ImageRecord.class_index`; for persons, the numbers of the identities; empty
            without classes.
        train, validation: Chosen without looking at `test`; `validation` may be empty.
        test: The official test split; may be empty.
        class_kind: `class`; `identity` for persons, which are not classified by name; or `image` without classes.
        shards: The training split, if it is read as a stream; `train` then holds its first samples only.
    """

    class_names: tuple[str, ...]
    train: tuple[ImageRecord, ...]
    validation: tuple[ImageRecord, ...]
    test: tuple[ImageRecord, ...]
    class_kind: str = "class"
    shards: TrainingShards | None = None

    def paths(self) -> dict[str, list[Path]]:
        """The image files of each split."""
        splits = {"training": self.train, "validation": self.validation, "test": self.test}
        return {name: [record.path for record in records] for name, records in splits.items()}
