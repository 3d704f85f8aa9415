"""Labelled images of torchvision's classification data sets, in torchvision's own layouts.

Files and their order are torchvision's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision import datasets

from meru.data.discovery.splits import from_torchvision
from meru.data.folders import torchvision_root
from meru.data.labelled import LabelledData, labelled, named
from meru.data.records import Images
from meru.errors import UserError


class _Set(NamedTuple):
    """How one of torchvision's data sets is read.

    Attributes:
        made: Torchvision's class.
        folder: The folder that it expects inside its root.
        parts: Arguments for the training images, several if they are in parts, and for the test images.
        images: An object of the class → its files or images.
        labels: An object of the class → the class number of each.
        names: An object of the class → keys of the classes.
    """

    made: type
    folder: str
    parts: tuple[tuple[dict, ...], dict]
    images: Callable = lambda read: [Path(path) for path in read._image_files]
    labels: Callable = lambda read: read._labels
    names: Callable = lambda read: read.classes


def _splits(*train: str, test: str = "test") -> tuple[tuple[dict, ...], dict]:
    return tuple({"split": name} for name in train), {"split": test}


def _samples(read) -> list[Path]:
    return [Path(path) for path, _ in read._samples]


def _sample_labels(read) -> list[int]:
    return [label for _, label in read._samples]


_FLAGS = (({"train": True},), {"train": False})
SETS: dict[str, _Set] = {
    "food101": _Set(datasets.Food101, "food-101", _splits("train")),
    "dtd": _Set(datasets.DTD, "dtd/dtd", _splits("train", "val")),
    "pets": _Set(datasets.OxfordIIITPet, "oxford-iiit-pet", _splits("trainval"), lambda read: read._images),
    "flowers102": _Set(datasets.Flowers102, "flowers-102", _splits("train", "val")),
    "stl10": _Set(
        datasets.STL10,
        "stl10_binary",
        _splits("train"),
        lambda read: torch.from_numpy(read.data),
        lambda read: read.labels.tolist(),
    ),
    "mnist": _Set(
        datasets.MNIST,
        "MNIST",
        _FLAGS,
        lambda read: read.data[:, None].expand(-1, 3, -1, -1),
        lambda read: read.targets.tolist(),
        lambda read: [str(digit) for digit in range(10)],
    ),
    "clevr": _Set(
        datasets.CLEVRClassification,
        "clevr",
        _splits("train", test="val"),
        labels=lambda read: [count - 3 for count in read._labels],
        names=lambda read: [str(count) for count in range(3, 11)],
    ),
    "pcam": _Set(
        datasets.PCAM,
        "pcam",
        _splits("train", "val"),
        lambda read: _InHDF5(read._base_folder / read._FILES[read._split]["images"][0], "x"),
        lambda read: _InHDF5(read._base_folder / read._FILES[read._split]["targets"][0], "y").numbers(),
        lambda read: ["0", "1"],
    ),
    "sst2": _Set(
        datasets.RenderedSST2,
        "rendered-sst2",
        _splits("train", "val"),
        _samples,
        _sample_labels,
        lambda read: ["0", "1"],
    ),
}


def load_torchvision(*, root: str | Path, data_set: str, download: bool = False) -> LabelledData:
    """One of torchvision's data sets with a training and a test split, in torchvision's own layout.

    CLEVR gives the number of objects, and its validation images are the test images, as in CLIP.

    Args:
        root: The folder that holds the data set's, or the data set's own folder.
        data_set: One of `SETS`.
        download: Download it into `root` if it is missing.

    Raises:
        UserError: for a missing or incomplete folder, or another name.
    """
    if data_set not in SETS:
        raise UserError(f"data.load_labelled.data_set={data_set}: choose one of {', '.join(SETS)}")
    if data_set == "pcam":
        _require_h5py()
    layout = SETS[data_set]
    place = torchvision_root(root, layout.folder)
    training, test = layout.parts
    parts = [_read(layout, place, what=data_set, download=download, **options) for options in (*training, test)]
    *trained, tested = [labelled(images, labels) for _, images, labels in parts]
    images = _joined([part.images for part in trained])
    labels = [label for part in trained for label in part.labels.tolist()]
    return named(data_set, list(parts[0][0]), labelled(images, labels), tested)


def _read(layout: _Set, place: Path, *, what: str, download: bool, **options) -> tuple[Sequence[str], Images, list]:
    """Class names, images and labels of one split; what torchvision raises on another layout becomes one line."""
    made = layout.made
    try:
        read = from_torchvision(made, place, what=what, download=download, **options)
        return layout.names(read), layout.images(read), layout.labels(read)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:100]
        raise UserError(
            f"{place} is not laid out as torchvision's {made.__name__} wants ({reason}): restore its files, or "
            "let torchvision unpack it with data.download=true"
        ) from None


def _joined(parts: Sequence[Images]) -> Images:
    if len(parts) == 1:
        return parts[0]
    return _OneAfterAnother(parts) if isinstance(parts[0], _InHDF5) else [each for part in parts for each in part]


# ---------------------------------------------------------------- HDF5


def _require_h5py() -> None:
    try:
        import h5py  # noqa: F401
    except ImportError:
        raise UserError("PCAM's files are HDF5, read with h5py: pip install h5py") from None


class _InHDF5(Sequence):
    """Images of an HDF5 file, uint8 `(3, H, W)` each, read one by one; the file is opened where it is read."""

    def __init__(self, path: Path, name: str):
        import h5py

        self.path, self.name = path, name
        with h5py.File(path, "r") as file:
            self.length = len(file[name])

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Tensor:
        import h5py

        with h5py.File(self.path, "r") as file:
            return torch.from_numpy(np.asarray(file[self.name][index])).permute(2, 0, 1).contiguous()

    def numbers(self) -> list[int]:
        """All values of the file as whole numbers."""
        import h5py

        with h5py.File(self.path, "r") as file:
            return [int(each) for each in np.asarray(file[self.name][:]).reshape(-1)]


class _OneAfterAnother(Sequence):
    """Several sequences as one."""

    def __init__(self, parts: Sequence[Sequence]):
        self.parts = parts

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __getitem__(self, index: int) -> Tensor:
        for part in self.parts:
            if index < len(part):
                return part[index]
            index -= len(part)
        raise IndexError
