"""The answer of a discovery run: the class that every image is predicted to be of, as a table for other programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor

from meru.data.discovery.splits import UNKNOWN, DiscoveryData, DiscoverySplit
from meru.files import make_folder_of, write_text

COLUMNS = ("image", "predicted", "confidence", "labelled", "class", "split")


def cluster_names(data: DiscoveryData, num_classes: int) -> list[str]:
    """Names of a classifier's outputs: those of the old classes, then `new 1`, `new 2`, …"""
    return [*data.class_names[: data.num_old], *(f"new {number + 1}" for number in range(num_classes - data.num_old))]


def save_clusters(
    path: Path,
    data: DiscoveryData,
    train: Mapping[str, Tensor],
    test: Mapping[str, Tensor],
    *,
    num_classes: int,
    root: str | Path | None,
) -> None:
    """Write a CSV of all images that decode.

    Its columns: `image`, the path inside `root`, the whole path for images elsewhere, or the position of an image that
    has no file; `predicted`, see `cluster_names`; `confidence`, the probability of that class in (0, 1]; `labelled`,
    yes or no; `class`, the true class, empty if it is not known; `split`, train or test.

    Args:
        path: The file.
        data: The images.
        train, test: Results of `read_features` for these splits; empty: they are left out.
        num_classes: Number of classes in the classifier.
        root: Folder of the data.

    Raises:
        UserError: if the file cannot be written.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    names = cluster_names(data, num_classes)
    for name, split, read in (("train", data.train, train), ("test", data.test, test)):
        table.writerows((*row, name) for row in _rows(data, split, read, names, root))
    make_folder_of(path)
    write_text(path, text.getvalue())


def _rows(
    data: DiscoveryData, split: DiscoverySplit, read: Mapping[str, Tensor], names: list[str], root: str | Path | None
) -> Iterator[tuple[str, ...]]:
    if not read:
        return
    columns = (read[name].tolist() for name in ("image_index", "prediction", "confidence", "labelled", "label"))
    for index, predicted, confidence, labelled, label in zip(*columns, strict=True):
        image = index if isinstance(split.images, Tensor) else _inside(split.images[index], root)
        true = "" if label == UNKNOWN else data.class_names[label]
        yield str(image), names[predicted], f"{confidence:.4f}", "yes" if labelled else "no", true


def _inside(path: Path, root: str | Path | None) -> str:
    return path.relative_to(root).as_posix() if root and path.is_relative_to(root) else str(path)
