"""Images with several labels: PASCAL VOC 2007 and COCO."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from meru.data.discovery.splits import existing_images
from meru.data.folders import find_folder
from meru.data.labelled import LabelSets
from meru.data.texts import read_text
from meru.errors import UserError

VOC_NAMES = {  # file name → plain words; others are plain
    "aeroplane": "airplane",
    "diningtable": "dining table",
    "motorbike": "motorbike",
    "pottedplant": "potted plant",
    "tvmonitor": "tv monitor",
}
COCO_YEARS = ("val2017", "val2014")


def load_voc2007(*, root: str | Path) -> LabelSets:
    """The test images of PASCAL VOC 2007: `JPEGImages/`, and `ImageSets/Main/<class>_test.txt` with 1, −1 or 0.

    0, objects of that class that are hard to see only, is not decided, as in the challenge.

    Args:
        root: `VOC2007`, or a folder that holds it, such as `VOCdevkit`.

    Raises:
        UserError: for a missing folder, list or image, or a line of another form.
    """
    folder = find_folder(
        root,
        marker="ImageSets/Main/aeroplane_test.txt",
        inside=("VOC2007", "VOCdevkit/VOC2007"),
        what="PASCAL VOC 2007",
        advice="unpack VOCtest_06-Nov-2007.tar there",
    )
    lists = sorted((folder / "ImageSets" / "Main").glob("*_test.txt"))
    columns: dict[str, dict[str, int]] = {}
    for path in lists:
        column = columns[path.name.removesuffix("_test.txt")] = {}
        for line, text in enumerate(read_text(path).split("\n"), start=1):
            words = text.split()
            if words and (len(words) != 2 or words[1] not in ("1", "-1", "0")):
                raise UserError(f"{path}, line {line}: expected '<image> 1', -1 or 0, found {text[:40]!r}")
            if words:
                column[words[0]] = {"1": 1, "-1": 0, "0": -1}[words[1]]
    first = columns["aeroplane"]
    if strange := [path for path, column in zip(lists, columns.values(), strict=True) if column.keys() != first.keys()]:
        raise UserError(f"{strange[0]} lists other images than aeroplane_test.txt: restore the files")
    images = existing_images(folder / "JPEGImages", [f"{name}.jpg" for name in first])
    targets = torch.tensor([[column[name] for column in columns.values()] for name in first], dtype=torch.int64)
    return LabelSets(tuple(VOC_NAMES.get(name, name) for name in columns), images, targets)


def load_coco_objects(*, root: str | Path) -> LabelSets:
    """The validation images of COCO by the categories of their objects: `annotations/instances_val2017.json`.

    Crowds count as objects. Images without an object are kept.

    Args:
        root: Holds `annotations/` and `val2017/`; 2014's are read if these are missing.

    Raises:
        UserError: for a missing folder, file or image, or a file that is not COCO's.
    """
    folder = find_folder(
        root,
        marker=[f"annotations/instances_{year}.json" for year in COCO_YEARS],
        what="COCO",
        advice="unpack annotations_trainval2017.zip and val2017.zip there",
    )
    year = next(year for year in COCO_YEARS if (folder / "annotations" / f"instances_{year}.json").is_file())
    path = folder / "annotations" / f"instances_{year}.json"
    try:
        read = json.loads(read_text(path))
        categories = {each["id"]: str(each["name"]) for each in sorted(read["categories"], key=lambda each: each["id"])}
        files = {each["id"]: str(each["file_name"]) for each in read["images"]}
        pairs = {(each["image_id"], each["category_id"]) for each in read["annotations"]}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a file of COCO's instances ({error}): restore it") from None
    rows, columns = ({key: place for place, key in enumerate(table)} for table in (files, categories))
    if strange := [pair for pair in pairs if pair[0] not in rows or pair[1] not in columns]:
        raise UserError(f"{path} has an object of image {strange[0][0]}, category {strange[0][1]}, which it lacks")
    targets = torch.zeros(len(files), len(categories), dtype=torch.int64)
    for image, category in pairs:
        targets[rows[image], columns[category]] = 1
    images = existing_images(folder / year, list(files.values()))
    return LabelSets(tuple(categories.values()), images, targets)
