"""Labelled images in one folder per class."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from pathlib import Path

import torch
from torch import Tensor
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import IMG_EXTENSIONS

from meru.data.folders import is_clutter, visible_folders
from meru.data.labelled import LabelledImages
from meru.errors import UserError

IMAGE_ENDINGS = (*IMG_EXTENSIONS, ".gif", ".avif", ".jp2", ".jfif", ".jpe")


class ClassFolders(ImageFolder):
    """Torchvision's `ImageFolder` without clutter, if wanted restricted to some class folders.

    Args:
        root: Holds a folder per class.
        wanted: Numbers of the class folders to read, in the order of their names; None: all.

    Raises:
        UserError: if a class folder that is read has no image.
    """

    def __init__(self, root: Path, wanted: Collection[int] | None = None):
        self.wanted = None if wanted is None else set(wanted)
        start = len(str(root))

        def is_image(path: str) -> bool:
            parts = path[start:].split(os.sep)
            return path.lower().endswith(IMAGE_ENDINGS) and not any(part and is_clutter(part) for part in parts)

        super().__init__(str(root), is_valid_file=is_image, allow_empty=True)
        if empty := sorted(self.class_to_idx.keys() - {self.classes[number] for number in set(self.targets)}):
            raise UserError(
                f"{root}: no image in {len(empty)} of the class folders, {', '.join(empty[:3])} "
                f"{'first' if len(empty) > 3 else 'alone'}; complete the folder"
            )

    def find_classes(self, directory: str) -> tuple[list[str], dict[str, int]]:
        """The names of the class folders, sorted, and the numbers of those that are read."""
        names = sorted(entry.name for entry in os.scandir(directory) if entry.is_dir() and not is_clutter(entry.name))
        return names, {
            name: number for number, name in enumerate(names) if self.wanted is None or number in self.wanted
        }


def read_class_folders(folder: Path, wanted: Collection[int] | None = None) -> ClassFolders:
    """The class folders in `folder`, or one level deeper if it was unpacked into a folder of its own name.

    Raises:
        UserError: if there are no class folders, or they cannot be read.
    """
    if (folder / folder.name).is_dir():
        folder = folder / folder.name
    try:
        if not visible_folders(folder):
            images = any(entry.name.lower().endswith(IMAGE_ENDINGS) for entry in os.scandir(folder))
            found = "images but no class folders" if images else "no class folders"
            raise UserError(f"{folder} holds {found}: put the images of each class into a folder of its own")
        return ClassFolders(folder, wanted)
    except OSError as error:
        raise UserError(f"{folder}: {' '.join(str(error).split())}") from None


def labelled_folders(found: ClassFolders, *, without: Iterable[str] = ()) -> tuple[list[str], LabelledImages]:
    """The names of the class folders and their images.

    Args:
        without: Folders that are no classes.
    """
    names = [name for name in found.classes if name not in set(without)]
    number = {name: position for position, name in enumerate(names)}
    kept = [(Path(path), found.classes[label]) for path, label in found.samples if found.classes[label] in number]
    labels = torch.tensor([number[name] for _, name in kept], dtype=torch.int64)
    return names, LabelledImages(tuple(path for path, _ in kept), labels)


def cut(images: LabelledImages, *, share: float, seed: int) -> tuple[LabelledImages, LabelledImages]:
    """Divide labelled files at random within each class.

    Args:
        share: Share of each class in the second part, rounded, but at least one image is in each part of a class with
            two or more.
        seed: Of the choice.

    Returns:
        The first and the second part, in order.
    """
    generator = torch.Generator().manual_seed(seed)
    second: list[int] = []
    for label in images.labels.unique():
        places = (images.labels == label).nonzero().flatten()
        count = min(max(round(share * len(places)), 1), len(places) - 1)
        second += places[torch.randperm(len(places), generator=generator)[: max(count, 0)]].tolist()
    chosen = torch.zeros(len(images), dtype=torch.bool)
    chosen[second] = True
    return where(images, ~chosen), where(images, chosen)


def where(images: LabelledImages, chosen: Tensor) -> LabelledImages:
    """The images where `chosen`, bool `(n,)`, in order."""
    if isinstance(images.images, Tensor):
        return LabelledImages(images.images[chosen], images.labels[chosen])
    kept = tuple(images.images[place] for place in chosen.nonzero().flatten().tolist())
    return LabelledImages(kept, images.labels[chosen])
