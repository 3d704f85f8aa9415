"""Reads the lists of a folder in CUB's layout: images, classes, splits, boxes and parts."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from meru.data.folders import FileFinder, first_repeated, inner_path
from meru.data.texts import read_text
from meru.errors import UserError


class Index(NamedTuple):
    """The images of a folder and their classes; every mapping covers all images.

    Attributes:
        files: Image id → `<class folder>/<file>` as listed, with `/` between the two.
        paths: Image id → the file.
        labels: Image id → class id.
        in_training: Image id → whether it is for training.
        classes: Class id → class folder.
    """

    files: dict[int, str]
    paths: dict[int, Path]
    labels: dict[int, int]
    in_training: dict[int, bool]
    classes: dict[int, str]


def read_index(folder: Path) -> Index:
    """Read `images.txt` and the lists beside it.

    Raises:
        UserError: for a list that is missing, is malformed or contradicts itself or another; for an image that is
            missing, lies outside the folder or is listed twice; if there is no training image.
    """
    files = read_table(folder / "images.txt", "<image id> <class folder>/<file>", int, str)
    labels = read_table(folder / "image_class_labels.txt", "<image id> <class id>", int, int)
    in_training = read_table(folder / "train_test_split.txt", "<image id> <1 train, 0 test>", int, _zero_or_one)
    classes = read_table(folder / "classes.txt", "<class id> <class folder>", int, str)
    for name, table in (("image_class_labels.txt", labels), ("train_test_split.txt", in_training)):
        if missing := files.keys() - table.keys():
            raise UserError(
                f"{folder / name} lacks {len(missing)} of the images of images.txt, first image id "
                f"{min(missing)}: restore the file, or remove their lines from images.txt"
            )
    if unknown := {labels[image_id] for image_id in files} - classes.keys():
        raise UserError(
            f"{folder / 'classes.txt'} does not name class id {min(unknown)}, which image_class_labels.txt "
            "uses: restore the file, or add a line for it"
        )
    if not any(in_training[image_id] for image_id in files):
        raise UserError(
            f"{folder} has no training image (images.txt lists {len(files)}, train_test_split.txt marks none "
            "of them with 1): restore both files, or mark images for training with 1"
        )
    if repeated := first_repeated(classes.values()):
        first, second = (list(classes)[position] for position in repeated)
        raise UserError(
            f"{folder / 'classes.txt'}: class ids {first} and {second} both name {classes[first]}; restore the file, "
            "or give one of them another name"
        )
    files = _inner_paths(folder, files)
    return Index(files, _paths(folder, files, in_training), labels, in_training, classes)


def _inner_paths(folder: Path, files: dict[int, str]) -> dict[int, str]:
    inner = {image_id: inner_path(name) for image_id, name in files.items()}
    outside = next((image_id for image_id, path in inner.items() if path is None), None)
    if outside is not None:
        raise UserError(
            f"{folder / 'images.txt'}: image {outside} is {files[outside]!r}, which is outside the folder images; give "
            "a path inside it"
        )
    return inner


def _paths(folder: Path, files: dict[int, str], in_training: dict[int, bool]) -> dict[int, Path]:
    image_folder = folder / "images"
    found, absent = FileFinder(image_folder).find_all(files.values())
    if absent:
        raise UserError(
            f"{image_folder / absent[0]} is listed in images.txt but absent ({len(absent)} of {len(files)} "
            "images are): restore the images, or remove their lines"
        )
    if repeated := first_repeated(found):
        first, second = (list(files)[position] for position in repeated)
        leak = ", one for training and one for the test" if in_training[first] != in_training[second] else ""
        raise UserError(
            f"{folder / 'images.txt'}: images {first} and {second} are the same file, {files[first]}{leak}; keep one"
        )
    return dict(zip(files, found, strict=True))


def _zero_or_one(text: str) -> bool:
    return {"0": False, "1": True}[text]


def read_boxes(folder: Path, image_ids: Collection[int]) -> dict[int, tuple[float, float, float, float]]:
    """Image id → `(x, y, width, height)`; boxes of other images are left out.

    Raises:
        UserError: for a malformed line, two boxes for an image, or a box without extent.
    """
    path = folder / "bounding_boxes.txt"
    if not path.is_file():
        return {}
    boxes: dict[int, tuple[float, float, float, float]] = {}
    layout = "<image id> <x> <y> <width> <height>"
    for image_id, x, y, width, height in read_rows(path, layout, int, float, float, float, float):
        if image_id not in image_ids:  # a subset of the images may keep the whole list
            continue
        if image_id in boxes:
            raise UserError(f"{path} has two boxes for image {image_id}: restore the file, or remove one line")
        if not (all(map(math.isfinite, (x, y, width, height))) and width > 0 and height > 0):
            raise UserError(
                f"{path}: the box of image {image_id} is {x:g} {y:g} {width:g} {height:g}; width and height must be "
                "above 0, and all four finite"
            )
        boxes[image_id] = x, y, width, height
    return boxes


def read_parts(folder: Path, image_ids: Collection[int]) -> dict[int, dict[str, tuple[float, float]]]:
    """Image id → visible part → `(x, y)`; parts of other images are left out.

    Raises:
        UserError: for a malformed line, a part without a name, listed twice for an image, or without a finite position.
    """
    locations = folder / "parts" / "part_locs.txt"
    if not locations.is_file():
        return {}
    names = read_table(folder / "parts" / "parts.txt", "<part id> <name>", int, str)
    parts: dict[int, dict[str, tuple[float, float]]] = defaultdict(dict)
    seen: set[tuple[int, int]] = set()
    layout = "<image id> <part id> <x> <y> <visible>"
    for image_id, part_id, x, y, visible in read_rows(locations, layout, int, int, float, float, int):
        if part_id not in names:
            raise UserError(f"{locations} uses part id {part_id}, which parts.txt beside it does not name")
        if image_id not in image_ids:
            continue
        if (image_id, part_id) in seen:
            raise UserError(f"{locations} has part {part_id} of image {image_id} twice: remove one of the two lines")
        seen.add((image_id, part_id))
        if visible and not (math.isfinite(x) and math.isfinite(y)):
            raise UserError(f"{locations}: part {part_id} of image {image_id} is at {x:g} {y:g}, it must be finite")
        if visible:
            parts[image_id][names[part_id]] = (x, y)
    return parts


def read_table(path: Path, layout: str, *types: Callable) -> dict:
    """Reads `<id> <value>` lines into a dict; a repeated id is an error."""
    table = {}
    for key, value in read_rows(path, layout, *types):
        if key in table:
            raise UserError(f"{path} has two lines for id {key}: restore the file, or remove one of them")
        table[key] = value
    return table


def read_rows(path: Path, layout: str, *types: Callable) -> Iterator[tuple]:
    """The fields of every line, converted; the last field takes the rest of its line."""
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        line = line.strip()
        if not line:
            continue
        try:
            yield tuple(
                convert(field)
                for convert, field in zip(types, line.split(maxsplit=len(types) - 1), strict=True)
            )
        except (ValueError, KeyError):
            found = line if len(line) <= 60 else f"{line[:60]}…"
            raise UserError(
                f"{path}, line {number}: expected '{layout}', found '{found}'; "
                "correct the line, or restore the file"
            ) from None
