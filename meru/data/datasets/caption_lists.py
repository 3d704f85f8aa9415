"""Images with captions from coarse to fine, as HierarCaps gives them, for `suite=entailment`.

Alper & Averbuch-Elor, "Emergent Visual-Semantic Hierarchies in Image-Text Representations", ECCV 2024. Its test file,
`hierarcaps_test.csv`, has the columns `id,captions,image_url`; the captions are joined by ` => `, and the images are
those of COCO's val2014 that the addresses end in.
"""

from __future__ import annotations

import csv
import io
import json
import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from meru.data.folders import FileFinder, inner_path
from meru.data.records import ImageRecord, ImageTextData
from meru.data.texts import read_json, read_text
from meru.errors import UserError
from meru.files import user_path

IMAGE_COLUMNS = ("image", "image_path", "path", "filepath", "file_path", "file_name", "filename", "image_url", "url")
CAPTION_COLUMNS = ("captions", "positive_captions", "hierarchical_captions", "caption_hierarchy", "caption")
SEPARATORS = ("=>", "||")
TABLES = {".csv": ",", ".tsv": "\t"}
COCO_FILE = re.compile(r"COCO_(train|val)2014_\d+\.jpg")
TEST_FILE = "hierarcaps_test.csv"
RELEASE = f"HierarCaps' {TEST_FILE} is in https://github.com/TAU-VAILab/hierarcaps"
PLACES = ("../assets/test_imgs", "test_imgs", "val2014", "images", ".")  # of images, from the table's folder


@dataclass(frozen=True)
class CaptionLists(ImageTextData):
    """Test images whose captions are ordered from coarse to fine; `class_index` numbers the images."""


def load_caption_lists(
    *, root: str | Path, path: str | Path | None = None, images: str | Path | None = None
) -> ImageTextData:
    """Read the lists, without decoding any image.

    Args:
        root: A copy of HierarCaps' repository, or a folder with its test file; unused if both others are given.
        path: A CSV or TSV with a header, a JSON list or JSONL, with a column for the image and one for the captions,
            from coarse to fine: a list, also written as JSON, or a text in which ` => ` or ` || ` separates them; or a
            folder with HierarCaps' test file. None: `root`.
        images: The folder with the images. Of an address, the file's name counts; a file of COCO may also be in
            `val2014/` or `train2014/` inside. None: where HierarCaps' repository has them, `images` beside the table,
            or the folder of the table.

    Returns:
        `CaptionLists`: a test split, a record a row; rows of one image have one `class_index`.

    Raises:
        UserError: for a missing file or column, a row without captions, or an image that is missing; it says where.
    """
    path = _table(user_path(path or root))
    places = [user_path(images)] if images is not None else [path.parent / place for place in PLACES]
    if not (present := [place for place in places if place.is_dir()]):
        raise UserError(f"data.images={images} is no folder: name the folder with the images, COCO's val2014")
    rows = [_row(row, where) for where, row in _rows(path)]
    if not rows:
        raise UserError(f"{path} has no row: name a file of captions from coarse to fine; {RELEASE}")
    if all(len(captions) == 1 for _, captions in rows):
        raise UserError(
            f"{path}: every image has a single caption, but lists from coarse to fine are needed: separate their "
            "captions by ' => '"
        )
    files = _find(present, [name for name, _ in rows], path)
    number = {file: position for position, file in enumerate(dict.fromkeys(files))}
    records = tuple(
        ImageRecord(path=file, class_index=number[file], captions=captions)
        for file, (_, captions) in zip(files, rows, strict=True)
    )
    return CaptionLists((), (), (), records, class_kind="image")


def _table(path: Path) -> Path:
    """The file with the lists: `path` itself, or HierarCaps' test file inside."""
    for file in (path, path / TEST_FILE, path / "data" / TEST_FILE):
        if file.is_file():
            return file
    reason = f"holds no {TEST_FILE}, nor does its folder data" if path.is_dir() else "does not exist"
    raise UserError(
        f"data.path={path} {reason}: name a table of captions from coarse to fine, or a copy of HierarCaps; {RELEASE}"
    )


def _rows(path: Path) -> Iterator[tuple[str, Mapping]]:
    """The rows of a file with their places, for messages."""
    ending = path.suffix.lower()
    if ending in TABLES:
        table = csv.DictReader(io.StringIO(read_text(path), newline=""), delimiter=TABLES[ending])
        try:
            yield from ((f"{path}, line {table.line_num}", row) for row in table)
        except csv.Error as error:
            raise UserError(f"{path}, line {table.line_num}: no valid table ({error}); restore the file") from None
    elif ending in (".json", ".jsonl"):
        read = read_json(path)
        for number, row in enumerate(read if isinstance(read, list) else [read], start=1):
            if not isinstance(row, dict):
                raise UserError(
                    f"{path}, entry {number} is {reprlib.repr(row)}, not an object with fields: restore the file"
                )
            yield f"{path}, entry {number}", row
    else:
        raise UserError(f"data.path={path}: its name must end in .csv, .tsv, .json or .jsonl")


def _row(row: Mapping, where: str) -> tuple[str, tuple[str, ...]]:
    """The name of the image's file, and its captions."""
    name = _column(row, IMAGE_COLUMNS, "the image", where)
    file = _file(name) if isinstance(name, str) else None
    if file is None:
        raise UserError(f"{where}: the image {reprlib.repr(name)} is no path inside data.images: restore the file")
    captions = _captions(_column(row, CAPTION_COLUMNS, "captions", where))
    if not captions:
        raise UserError(f"{where}: no captions, a list of texts from coarse to fine: give them, or leave the row out")
    return file, captions


def _file(name: str) -> str | None:
    """The path of an image inside its folder, of an address the name of its file; None if there is none."""
    if "://" in name:
        name = unquote(re.split(r"[?#]", name)[0].rpartition("/")[2])
    return inner_path(name)


def _column(row: Mapping, names: Iterable[str], what: str, where: str) -> object:
    for name in names:
        if name in row:
            return row[name]
    there = ", ".join(str(name) for name in row if name is not None)
    raise UserError(f"{where} has no column for {what} ({', '.join(names)}); there are {there or 'none'}")


def _captions(value: object) -> tuple[str, ...]:
    """The captions of a field, stripped; none if it is neither a list of texts nor a text."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        with suppress(ValueError):  # a caption in square brackets
            value = json.loads(value)
    if isinstance(value, str):
        separator = next((each for each in SEPARATORS if each in value), None)
        value = value.split(separator) if separator else [value]
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        return ()
    return tuple(stripped for each in value if (stripped := " ".join(each.split())))


def _find(places: list[Path], names: list[str], path: Path) -> list[Path]:
    """The file of each name in the first folder that holds the first image, also in the folders of COCO."""
    finders = [FileFinder(place) for place in places]
    finder = next((each for each in finders if _image(each, names[0])), finders[-1])
    found = [_image(finder, name) for name in names]
    absent = [name for name, file in zip(names, found, strict=True) if file is None]
    if absent:
        raise UserError(
            f"{finder.folder / absent[0]} is listed in {path} but absent ({len(absent)} of {len(names)} images are): "
            "set data.images to the folder with the images; HierarCaps' are in COCO's val2014"
        )
    return found


def _image(finder: FileFinder, name: str) -> Path | None:
    coco = COCO_FILE.fullmatch(name)
    return finder.find(name) or (finder.find(f"{coco[1]}2014/{name}") if coco else None)
