"""COCO and Flickr30k with the splits and captions of Karpathy's lists, as retrieval is measured on them.

Karpathy & Fei-Fei, "Deep Visual-Semantic Alignments for Generating Image Descriptions", CVPR 2015: `dataset_coco.json`
and `dataset_flickr30k.json` of his archive `caption_datasets.zip`. COCO's images lie in `train2014/` and `val2014/`;
all test images are in the latter, so a copy without the former can be evaluated on.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from meru.data.datasets.own.karpathy import karpathy_rows
from meru.data.datasets.own.rows import Row
from meru.data.datasets.own.splits import SPLIT_NAMES, SPLITS
from meru.data.folders import FileFinder, find_folder, first_repeated, inner_path
from meru.data.records import ImageRecord, ImageTextData
from meru.errors import UserError
from meru.files import user_path

LIST_PAGE = "caption_datasets.zip, see https://cs.stanford.edu/people/karpathy/deepimagesent"

log = logging.getLogger("meru")


@dataclass(frozen=True)
class Layout:
    """File names of a data set.

    Attributes:
        name: In messages.
        list_name: Karpathy's list.
        folders: Where the paths of the list start from, inside the data set's folder, in the spellings in use.
        access: How to obtain the images.
    """

    name: str
    list_name: str
    folders: tuple[str, ...]
    access: str


LAYOUTS = {
    "coco": Layout(
        "COCO",
        "dataset_coco.json",
        ("images", "coco", "coco2014"),
        "the images are train2014.zip and val2014.zip of https://cocodataset.org/#download",
    ),
    "flickr30k": Layout(
        "Flickr30k",
        "dataset_flickr30k.json",
        ("flickr30k-images", "flickr30k_images", "flickr30k_images/flickr30k_images", "images", "Images"),
        "the images are given on request, see https://shannon.cs.illinois.edu/DenotationGraph",
    ),
}


def load_karpathy(
    *, root: str | Path, layout: str, path: str | Path | None = None, images: str | Path | None = None
) -> ImageTextData:
    """Read a data set, without decoding any image.

    Args:
        root: The folder with the list and the images.
        layout: `coco` or `flickr30k`.
        path: The list, or a folder that holds it by its usual name, also in a folder inside; None: `root`.
        images: The folder with the images, COCO's with `val2014/` inside; None: found in `root`.

    Returns:
        All captions of every image as they are listed (`raw`). A split none of whose images is there is empty, with a
        line in the log; `restval` is part of the training split. There are no classes: `class_index` counts images.

    Raises:
        UserError: if the list or test images are missing, or some of the images of another split; for a malformed
            entry, and an image that is listed twice.
    """
    if layout not in LAYOUTS:
        raise UserError(f"data.load.layout={layout}: choose one of {', '.join(LAYOUTS)}")
    wanted = LAYOUTS[layout]
    path = _list(path or root, wanted)
    rows = karpathy_rows(path)
    by_split = {split: [row for row in rows if _split(row) == split] for split in SPLITS}
    if not by_split["test"]:
        raise UserError(f"{path}: no image is in the split test: restore the list ({LIST_PAGE})")
    finder = _finder(user_path(root), path, images, by_split["test"], wanted)
    counts, records = iter(range(len(rows))), {}
    for split in reversed(SPLITS):  # the test images first: without them, the others do not matter
        records[split] = tuple(_records(split, by_split[split], finder, path, wanted, counts))
    return ImageTextData((), *(records[split] for split in SPLITS), class_kind="image")


def _list(path: str | Path, wanted: Layout) -> Path:
    if user_path(path).is_file():
        return user_path(path)
    advice = f"{wanted.list_name} is in {LIST_PAGE}, and {wanted.access}"
    return find_folder(path, marker=wanted.list_name, what=wanted.name, advice=advice) / wanted.list_name


def _split(row: Row) -> str:
    split = SPLIT_NAMES.get(str(row.split).lower())
    if split is None:
        raise UserError(f"{row.where}: split is {row.split!r}, it must be train, restval, val or test")
    return split


def _finder(
    root: Path, path: Path, images: str | Path | None, rows: Sequence[Row], wanted: Layout
) -> FileFinder:
    """Finds files in the first folder that holds the first test image."""
    if images is not None:
        places = [user_path(images)]
    else:
        starts = dict.fromkeys((root, path.parent, path.parent.parent))
        places = [start / name for start in starts for name in ("", *wanted.folders)]
    finders = [FileFinder(place) for place in places if place.is_dir()]
    first = _inside(rows[0])
    for finder in finders:
        if finder.find(first):
            return finder
    where = f"data.images={images}" if images is not None else f"{root} and its folders {', '.join(wanted.folders)}"
    raise UserError(
        f"{where}: no test image of {path.name} is there, such as {first}: set data.images to the folder that paths "
        f"start from; {wanted.access}"
    )


def _inside(row: Row) -> str:
    inner = inner_path(row.image)
    if inner is None:
        raise UserError(f"{row.where}: the image path {row.image!r} leaves the folder of images: restore the list")
    return inner


def _records(
    split: str, rows: Sequence[Row], finder: FileFinder, path: Path, wanted: Layout, counts: Iterator[int]
) -> Iterator[ImageRecord]:
    """The records of a split; none if none of its images is there, unless it is the test split."""
    files, absent = finder.find_all([_inside(row) for row in rows])
    if absent and len(absent) == len(rows) and split != "test":
        log.info("%s: none of the %d %s images is in %s: left out", path.name, len(rows), split, finder.folder)
        return
    if absent:
        raise UserError(
            f"{finder.folder / absent[0]} is listed in {path.name} but absent ({len(absent)} of {len(rows)} {split} "
            f"images are): complete the images; {wanted.access}"
        )
    if repeated := first_repeated(files):
        first, second = (rows[position] for position in repeated)
        raise UserError(f"{second.where}: {second.image} is the same image as at {first.where}; keep one")
    for row, file in zip(rows, files, strict=True):
        yield ImageRecord(path=file, class_index=next(counts), captions=row.captions)
