"""Records of images with captions, in three splits: what every image–text data set is read into."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

Images = Sequence[Path] | Tensor  # files, or uint8 (n, 3, H, W) of a data set that keeps its images in memory


@dataclass(frozen=True)
class ImageRecord:
    """One image and all that is known about it.

    Attributes:
        path: The image file.
        class_index: Position of its class in `ImageTextData.class_names`; of persons, the number of the identity.
        captions: At least one sentence.
        box: Bounding box of what it shows, `(x, y, width, height)`, or None. In pixels of the image as viewers show
            it, and annotation tools: where a file says by EXIF that it lies on its side, of the turned image.
        parts: Visible parts only, name → `(x, y)` in the same pixels.
        colours: Part → colour, of its class: see `meru.data.datasets.cub.class_attributes`. Empty where it has none.
        back_translations: Captions translated to another language and back, one for each of `captions`; or none.
    """

    path: Path
    class_index: int
    captions: tuple[str, ...]
    box: tuple[float, float, float, float] | None = None
    parts: dict[str, tuple[float, float]] = field(default_factory=dict)
    colours: dict[str, str] = field(default_factory=dict)
    back_translations: tuple[str, ...] = ()


@dataclass(frozen=True)
class ImageTextData:
    """Three disjoint splits, and what the class of an image means.

    Attributes:
        class_names: In plain words, by `ImageRecord.class_index`; of persons, who have none, the identities' numbers.
        train, validation: May not be chosen by looking at `test`; `validation` may be empty.
        test: The official one; may be empty, too.
        class_kind: `class`, or `identity` for persons: then nothing is classified by name.
    """

    class_names: tuple[str, ...]
    train: tuple[ImageRecord, ...]
    validation: tuple[ImageRecord, ...]
    test: tuple[ImageRecord, ...]
    class_kind: str = "class"

    def paths(self) -> dict[str, list[Path]]:
        """The image files of each split."""
        splits = {"training": self.train, "validation": self.validation, "test": self.test}
        return {name: [record.path for record in records] for name, records in splits.items()}
