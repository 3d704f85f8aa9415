"""Labelled images in folders of classes: any folder, and data sets that come as such."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

import torch

from meru.data.folders import find_folder, visible_folders
from meru.data.image_folders import cut, labelled_folders, read_class_folders
from meru.data.labelled import NO_IMAGES, LabelledData, LabelledImages, labelled, named
from meru.data.texts import read_text
from meru.errors import UserError
from meru.files import user_path

TESTS = ("test", "val", "valid", "validation")  # the first that exists holds the test images
TEST_SHARE = 0.2  # of data sets without test images of their own
NO_CLASSES = ("BACKGROUND_Google",)
IMAGENET_CLASSES = 1000

log = logging.getLogger("meru")


class _Layout(NamedTuple):
    """Where a data set's class folders may lie inside its root, and a name by which they are recognised."""

    marker: str
    inside: tuple[str, ...]


LAYOUTS: dict[str, _Layout] = {
    "eurosat": _Layout("AnnualCrop", ("eurosat/2750", "2750", "EuroSAT")),
    "caltech101": _Layout("accordion", ("caltech101/101_ObjectCategories", "101_ObjectCategories")),
    "resisc45": _Layout("airplane", ("NWPU-RESISC45",)),
    "country211": _Layout("test", ("country211",)),
}


def load_class_folders(*, root: str | Path, seed: int = 0, data_set: str | None = None) -> LabelledData:
    """Images in a folder per class, inside `train/` and `test/` (or `val/`, `valid/`), or without these.

    Args:
        root: The folder.
        seed: Chooses a fifth of each class for the test, if there are no test images.
        data_set: One of `LAYOUTS`, whose folders are found and whose classes get plain names; None: any folder.

    Raises:
        UserError: if there are no class folders, or those of training and test differ.
    """
    if data_set is None:
        folder = user_path(root)
        if not folder.is_dir():
            raise UserError(f"data.root={root} is not a folder")
    else:
        marker, inside = LAYOUTS[data_set]
        folder = find_folder(root, marker=marker, inside=inside, what=data_set, advice="unpack its archive there")
    tests = [name for name in TESTS if (folder / name).is_dir()]
    if tests:
        keys, train, test = _in_splits(folder, tests)
    else:
        whole = folder / "train" if [each.name for each in visible_folders(folder)] == ["train"] else folder
        keys, images = labelled_folders(read_class_folders(whole), without=NO_CLASSES)
        train, test = cut(images, share=TEST_SHARE, seed=seed)
        log.warning(
            "%s has no test images: %d of %d are taken instead, by seed %d; a run may have been trained on them",
            folder,
            len(test),
            len(images),
            seed,
        )
    if len(keys) < 2:
        raise UserError(f"{folder} has the one class {keys[0]}: classification needs at least two class folders")
    return named(data_set, keys, train, test)


def _in_splits(folder: Path, tests: list[str]) -> tuple[list[str], LabelledImages, LabelledImages]:
    """The class folders' names, and the images of training (and of further splits, for validation) and of the test."""
    keys, test = labelled_folders(read_class_folders(folder / tests[0]), without=NO_CLASSES)
    train = NO_IMAGES
    for name in ("train", *tests[1:]):
        if (folder / name).is_dir():
            own, images = labelled_folders(read_class_folders(folder / name), without=NO_CLASSES)
            if differing := set(own) ^ set(keys):
                raise UserError(f"{folder}: {name} and {tests[0]} differ in the class folder {min(differing)}")
            train = LabelledImages((*train.images, *images.images), torch.cat([train.labels, images.labels]))
    return keys, train, test


def load_sun397(*, root: str | Path, seed: int = 0) -> LabelledData:
    """SUN397: `SUN397/ClassName.txt` with `<letter>/<class>/*.jpg`, and the official partition's lists if there.

    `Training_01.txt` and `Testing_01.txt` may lie in the folder, beside it, or in `Partitions/`. Without them, `seed`
    chooses half of each class for the test.

    Raises:
        UserError: for a missing folder, or a list that names an image that is missing.
    """
    folder = find_folder(
        root, marker="ClassName.txt", inside=("SUN397",), what="SUN397", advice="unpack SUN397.tar.gz there"
    )
    keys = [line.strip().lstrip("/").partition("/")[2] for line in read_text(folder / "ClassName.txt").split()]
    number = {key: position for position, key in enumerate(keys)}
    label = {}
    for path in sorted(folder.rglob("sun_*.jpg")):
        key = "/".join(path.relative_to(folder).parts[1:-1])
        if key not in number:
            raise UserError(f"{folder / 'ClassName.txt'} does not list the class {key} of {path}: restore the file")
        label[path] = number[key]
    if not label:
        raise UserError(f"{folder} has no image sun_*.jpg in <letter>/<class>/: unpack SUN397.tar.gz again")
    places = (folder, folder.parent, folder.parent / "Partitions", folder / "Partitions")
    lists = [
        next((place / name for place in places if (place / name).is_file()), None)
        for name in ("Training_01.txt", "Testing_01.txt")
    ]
    if None in lists:
        log.info("%s has no Training_01.txt and Testing_01.txt: half of each class is held back", folder)
        return named("sun397", keys, *cut(labelled(tuple(label), list(label.values())), share=0.5, seed=seed))
    parts = []
    for path in lists:
        files = [folder / line.strip().lstrip("/") for line in read_text(path).split("\n") if line.strip()]
        if absent := [file for file in files if file not in label]:
            raise UserError(f"{path} lists {absent[0]}, which is missing: restore the images")
        parts.append(labelled(files, [label[file] for file in files]))
    return named("sun397", keys, *parts)


def load_imagenet(*, root: str | Path) -> LabelledData:
    """ImageNet-1K, or some of its classes: `val/` and, for a linear probe, `train/`, with WordNet's ids as folders.

    With all 1000 classes, the names are those of open_clip (Radford et al., ICML 2021); with fewer, the first lemma of
    each id, as timm lists them.

    Raises:
        UserError: for a missing folder, or class folders that are no WordNet ids.
    """
    folder = find_folder(
        root,
        marker="val",
        inside=("ILSVRC/Data/CLS-LOC", "Data/CLS-LOC"),
        what="ImageNet",
        advice="put val/ with its class folders there",
    )
    read = load_class_folders(root=folder)
    keys = read.class_keys
    if len(keys) == IMAGENET_CLASSES:
        from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES as names
    else:
        from timm.data import ImageNetInfo

        known = ImageNetInfo("imagenet-22k")
        if strange := [key for key in keys if key not in known.label_names()]:
            raise UserError(f"{folder / 'val' / strange[0]} is not named by a WordNet id such as n01440764")
        names = [known.label_name_to_description(key, detailed=False).partition(",")[0] for key in keys]
    return LabelledData(tuple(names), read.train, read.test, class_keys=keys)
