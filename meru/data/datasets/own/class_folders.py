"""Class folders with the images of each class, perhaps below `train/` and `test/`."""

from __future__ import annotations

from pathlib import Path

from meru.data.datasets.own.folders import files_in
from meru.data.folders import is_clutter, visible_folders
from meru.data.image_folders import IMAGE_ENDINGS

TRAINING_NAMES, TEST_NAMES = ("train", "training"), ("test", "testing", "val", "valid", "validation")


def images_below(folder: Path, *, without: Path | None = None) -> list[Path]:
    """The image files inside a folder and the folders in it, sorted; symbolic links are followed.

    Args:
        folder: An existing folder.
        without: A folder that is left out; None: there is none.
    """
    found = sorted(folder / inner for inner in files_in(folder) if inner.lower().endswith(IMAGE_ENDINGS))
    if without is None:
        return found
    left_out = without.resolve()
    return [path for path in found if not path.parent.resolve().is_relative_to(left_out)]


def loose_images(folder: Path) -> list[Path]:
    """The images that lie in a folder itself, sorted."""
    named = (path for path in folder.iterdir() if path.name.lower().endswith(IMAGE_ENDINGS))
    return sorted(path for path in named if not is_clutter(path.name) and path.is_file())


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
