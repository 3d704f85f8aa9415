"""Lists images in folders, for data that users keep in folders of their own."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from meru.data.folders import is_clutter, visible_folders

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm",
)  # fmt: skip
TRAINING_NAMES, TEST_NAMES = ("train", "training"), ("test", "testing", "val", "valid", "validation")


def images_below(folder: Path, *, without: Collection[Path] = ()) -> list[Path]:
    """The image files inside a folder and the folders in it, sorted; symbolic links are followed.

    Args:
        folder: An existing folder.
        without: Folders that are left out.
    """
    return sorted(path for inner, names in _walk(folder, without) for path in (inner / name for name in names))


def _walk(folder: Path, without: Collection[Path]) -> Iterator[tuple[Path, list[str]]]:
    left_out, seen = {each.resolve() for each in without}, set()
    for place, folders, files in os.walk(folder, followlinks=True):
        here = Path(place).resolve()
        if here in seen or here in left_out:  # a link may lead back to a folder above it
            folders.clear()
            continue
        seen.add(here)
        folders[:] = [name for name in folders if not is_clutter(name)]
        yield Path(place), [name for name in files if is_image(name)]


def is_image(name: str) -> bool:
    """Whether a file's name is that of an image, and not one that systems leave behind."""
    return not is_clutter(name) and name.lower().endswith(IMAGE_SUFFIXES)


def loose_images(folder: Path) -> list[Path]:
    """The images that lie in a folder itself, sorted."""
    return sorted(path for path in folder.iterdir() if is_image(path.name) and path.is_file())


def split_folders(root: Path) -> dict[str, Path]:
    """The folders `train` and `test` of an image folder; `train` alone, the root itself, if it is not divided.

    A root is divided if it has a folder of training images that holds class folders. Of several folders for the test,
    the first of `TEST_NAMES` counts.
    """
    inner = {path.name.lower(): path for path in visible_folders(root)}
    train = next((inner[name] for name in TRAINING_NAMES if name in inner and visible_folders(inner[name])), None)
    if train is None:
        return {"train": root}
    test = next((inner[name] for name in TEST_NAMES if name in inner), None)
    return {"train": train, **({"test": test} if test else {})}
