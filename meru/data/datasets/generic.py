"""Category discovery in CIFAR-10 and -100, ImageNet-100 and -1K, and Herbarium 2019.

Layouts, old classes and image order are those of the SimGCD release (Wen et al., "Parametric Classification
for Generalized Category Discovery: A Baseline Study", ICCV 2023). Only file names are read here.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.datasets import CIFAR10, CIFAR100

from meru.data.discovery.splits import (
    ClassList,
    DiscoveryData,
    check_class_count,
    discovery_data,
    from_torchvision,
)
from meru.data.folders import find_folder, torchvision_root
from meru.data.image_folders import ClassFolders, read_class_folders
from meru.errors import UserError

IMAGENET_CLASSES = 1000
KAGGLE_IMAGENET = ("ILSVRC/Data/CLS-LOC", "Data/CLS-LOC")

log = logging.getLogger("meru")


def load_cifar10_discovery(
    *, root: str | Path, download: bool = False, labelled_fraction: float = 0.5, split_seed: int = 0
) -> DiscoveryData:
    """CIFAR-10, classes 0 to 4 old; with `download`, it is downloaded into `root` if missing."""
    return _cifar(CIFAR10, root, download=download, num_old=5, fraction=labelled_fraction, seed=split_seed)


def load_cifar100_discovery(
    *, root: str | Path, download: bool = False, labelled_fraction: float = 0.5, split_seed: int = 0
) -> DiscoveryData:
    """CIFAR-100, classes 0 to 79 old; with `download`, it is downloaded into `root` if missing."""
    return _cifar(CIFAR100, root, download=download, num_old=80, fraction=labelled_fraction, seed=split_seed)


def load_imagenet100_discovery(
    *, root: str | Path, labelled_fraction: float = 0.5, split_seed: int = 0
) -> DiscoveryData:
    """The hundred classes of ImageNet-1K that the release chose; the first 50 of them are old.

    Args:
        root: Holds `train/` and `val/`, each with all 1000 class folders, because the hundred are chosen by number.
    """
    drawn = np.sort(np.random.RandomState(0).choice(IMAGENET_CLASSES, size=100, replace=False)).tolist()
    return _class_folders(
        root,
        ("train", "val"),
        what="ImageNet",
        classes=ClassList(tuple(drawn[:50]), tuple(drawn[50:])),
        count=IMAGENET_CLASSES,
        labelled_fraction=labelled_fraction,
        split_seed=split_seed,
    )


def load_imagenet1k_discovery(
    *, root: str | Path, labelled_fraction: float = 0.5, split_seed: int = 0
) -> DiscoveryData:
    """ImageNet-1K, `train/` and `val/` with one folder per class; the first 500 of them, by name, are old."""
    return _class_folders(
        root,
        ("train", "val"),
        what="ImageNet",
        classes=ClassList(tuple(range(500)), tuple(range(500, IMAGENET_CLASSES))),
        count=IMAGENET_CLASSES,
        labelled_fraction=labelled_fraction,
        split_seed=split_seed,
    )


def load_herbarium_discovery(
    *, root: str | Path, labelled_fraction: float = 0.5, split_seed: int = 0
) -> DiscoveryData:
    """Herbarium 2019, `small-train/` and `small-validation/` with a folder for each of the 683 classes."""
    classes = ClassList.read("herbarium")
    return _class_folders(
        root,
        ("small-train", "small-validation"),
        what="Herbarium 2019",
        classes=classes,
        count=len(classes.old) + len(classes.new),
        labelled_fraction=labelled_fraction,
        split_seed=split_seed,
    )


def _cifar(
    data_set: type[CIFAR10], root: str | Path, *, download: bool, num_old: int, fraction: float, seed: int
) -> DiscoveryData:
    root = torchvision_root(root, data_set.base_folder)
    train, test = (
        from_torchvision(data_set, root, what=data_set.__name__, download=download, train=train)
        for train in (True, False)
    )

    def images(part: CIFAR10) -> Tensor:
        return torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous()

    numbers = range(len(train.classes))
    return discovery_data(
        source=root,
        names=train.classes,
        classes=ClassList(tuple(numbers[:num_old]), tuple(numbers[num_old:])),
        train=(images(train), train.targets),
        test=(images(test), test.targets),
        labelled_fraction=fraction,
        split_seed=seed,
    )


def _read_class_folders(folder: Path, wanted: Collection[int], count: int) -> ClassFolders:
    read = read_class_folders(folder, wanted)
    check_class_count(Path(read.root), len(read.classes), count, "class folders")
    return read


def _class_folders(
    root: str | Path,
    splits: tuple[str, str],
    *,
    what: str,
    classes: ClassList,
    count: int,
    labelled_fraction: float,
    split_seed: int,
) -> DiscoveryData:
    """`splits`: the folders of training and test images inside `root`; `count`: number of class folders in each."""
    advice = f"put {splits[0]}/ and {splits[1]}/ with their class folders there"
    folder = find_folder(root, marker=splits[0], inside=KAGGLE_IMAGENET, what=what, advice=advice)
    read = {}
    for split in splits:
        if not (folder / split).is_dir():
            log.warning("%s has no %s: no metrics on test images", folder, split)
            continue
        read[split] = _read_class_folders(folder / split, {*classes.old, *classes.new}, count)
    train = read[splits[0]]
    if any(part.classes != train.classes for part in read.values()):
        raise UserError(f"{folder}: {splits[0]} and {splits[1]} have different class folders; complete both")
    listings = [(tuple(Path(path) for path, _ in part.samples), part.targets) for part in read.values()]
    return discovery_data(
        source=folder,
        names=train.classes,
        classes=classes,
        train=listings[0],
        test=listings[1] if len(listings) > 1 else ((), []),
        labelled_fraction=labelled_fraction,
        split_seed=split_seed,
    )
