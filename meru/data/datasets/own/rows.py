"""Rows of any source of images with captions, and the records that they become."""

from __future__ import annotations

import logging
import re
import reprlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from meru.data.datasets.own.boxes import require_inside
from meru.data.folders import FileFinder, inner_path
from meru.data.image_folders import IMAGE_ENDINGS
from meru.data.images import image_size
from meru.data.records import Region
from meru.errors import UserError

log = logging.getLogger("meru")

ENCODING = "set data.encoding to its encoding, such as gb18030 or cp1252, or convert it to UTF-8"
PLACES = ("images", "Images", "imgs")  # folders inside the image root that paths often leave out


@dataclass(frozen=True)
class Row:
    """What a source says of an image.

    Attributes:
        image: Its path as listed.
        where: The place of the row, for messages.
        captions: Sentences, without empty ones; may be empty.
        class_name, split: As listed; None if unknown.
        regions: Boxes with phrases.
    """

    image: str
    where: str
    captions: tuple[str, ...] = ()
    class_name: str | None = None
    split: str | None = None
    regions: tuple[Region, ...] = ()


@dataclass
class Entry:
    """All that the rows of one image say."""

    path: Path
    first: Row
    class_name: str | None
    split: str | None
    captions: list[str] = field(default_factory=list)
    regions: list[Region] = field(default_factory=list)


def merged(rows: Sequence[Row], root: Path, *, source: Path) -> list[Entry]:
    """One entry for each image, in the order of first mention; repeated captions of an image are left out.

    Args:
        rows: The rows of the source.
        root: The folder that image paths start from.
        source: The file or folder, for messages.

    Raises:
        UserError: for an image outside `root`, missing images, rows of one image that differ in class or split, or a
            box outside its image.
    """
    entries: dict[Path, Entry] = {}
    repeated = 0
    paths = found_images(rows, root, source=source)
    _require_boxes_inside(rows, paths)
    for row, path in zip(rows, paths, strict=True):
        entry = entries.setdefault(path, Entry(path, row, row.class_name, row.split))
        for name in ("class_name", "split"):
            before, now = getattr(entry.first, name), getattr(row, name)
            if before != now:
                what = name.removesuffix("_name")
                raise UserError(f"{row.where}: {row.image} has the {what} {now}, but {before} at {entry.first.where}")
        new = [caption for caption in dict.fromkeys(row.captions) if caption not in entry.captions]
        repeated += entry.first is not row and not new and not set(row.regions) - set(entry.regions)
        entry.captions += new
        entry.regions += [region for region in row.regions if region not in entry.regions]
    if repeated:
        log.warning("%s: %d rows repeat an image with a caption of an earlier row and are left out", source, repeated)
    return list(entries.values())


def found_images(rows: Sequence[Row], root: Path, *, source: Path) -> list[Path]:
    """The image file of each row.

    Symbolic links inside `root` are followed.

    Raises:
        UserError: for a path outside `root`, or missing files; the message counts them and names the first.
    """
    names = [_inside(row, root) for row in rows]
    if not root.is_dir():
        raise UserError(f"data.images={root}: there is no such folder")
    finders = [FileFinder(folder) for folder in (root, *(root / name for name in PLACES)) if folder.is_dir()]
    finder = next((each for each in finders if each.find(names[0])), finders[0])
    paths = [finder.find(name) for name in names]
    checked = [_file_or_none(path) for path in paths]
    absent = [row for row, path in zip(rows, checked, strict=True) if path is None]
    if absent:
        count = len({row.image for row in absent})
        first = absent[0]
        raise UserError(
            f"{source}: {count} of {len(set(names))} images are not in {finder.folder}, the first is {first.image} "
            f"({first.where}): restore them, or set data.images to the folder that paths start from"
        )
    return checked


def _require_boxes_inside(rows: Sequence[Row], paths: Sequence[Path]) -> None:
    """Compare boxes with the sizes in the headers of the images."""
    boxed = [(row, path) for row, path in zip(rows, paths, strict=True) if row.regions]
    with ThreadPoolExecutor() as pool:
        sizes = pool.map(_size_or_none, [path for _, path in boxed])
        for (row, _), size in zip(boxed, sizes, strict=True):
            if size is not None:
                require_inside(row.regions, f"{row.where} ({row.image})", height=size[0], width=size[1])


def _size_or_none(path: Path) -> tuple[int, int] | None:
    try:
        return image_size(path)
    except UserError:  # decoding reports it, unless data.on_error=skip
        return None


def _file_or_none(path: Path | None) -> Path | None:
    """The path unless it is a folder; files with an image's ending are not looked at, which takes time on a network."""
    if path is None or path.name.lower().endswith(IMAGE_ENDINGS) or path.is_file():
        return path
    return None


def _inside(row: Row, root: Path) -> str:
    """The path of the row's image inside `root`."""
    listed = row.image.strip()
    if re.match(r"[a-z][a-z0-9+]+://", listed, re.IGNORECASE):
        raise UserError(f"{row.where}: the image is an address, {reprlib.repr(listed)}: download the images first")
    forms = [listed]
    for start in {root, root.resolve()}:
        if listed.replace("\\", "/").startswith(f"{start.as_posix().rstrip('/')}/"):
            forms.insert(0, listed[len(start.as_posix().rstrip("/")) + 1 :])
    inner = inner_path(forms[0])
    if inner is None:
        raise UserError(
            f"{row.where}: the image path {reprlib.repr(listed)} is outside {root}: give a path inside it, or set "
            "data.images to the folder that holds the images"
        )
    return inner


def image_names(value: object, where: str) -> list[str]:
    """The image path or paths in a cell.

    Raises:
        UserError: if there is none, or something other than text.
    """
    listed = value if isinstance(value, list) else [value]
    if isinstance(value, dict) and {"bytes", "path"} & set(value):
        raise UserError(f"{where}: the image is stored in the table: write the images to files and give their paths")
    for name in listed:
        if name is None or (isinstance(name, str) and not name.strip()):
            raise UserError(f"{where}: the image is empty: give its path, or remove the row")
        if not isinstance(name, str):
            raise UserError(f"{where}: the image is {reprlib.repr(name)}, not a path")
    if not listed:
        raise UserError(f"{where}: the list of images is empty: give a path, or remove the row")
    return listed


def sentences(values: Iterable[object], where: str, *, repeated: bool = False) -> tuple[str, ...]:
    """The captions in the cells of a row: texts or lists of texts, without empty ones; line breaks become spaces.

    A caption that is there twice is left out unless `repeated`.

    Raises:
        UserError: for a value that is not text, or if no caption is left.
    """
    found: list[str] = []
    for value in values:
        listed = value if isinstance(value, list) else [value]
        for text in listed:
            if text is None or text != text:  # NaN, as tables of numbers mark a missing value
                continue
            if not isinstance(text, str):
                raise UserError(f"{where}: the caption is {reprlib.repr(text)}, not text")
            found.append(" ".join(text.encode(errors="ignore").decode().split()))  # drops lone surrogates
    kept = [caption for caption in found if caption]
    captions = tuple(kept if repeated else dict.fromkeys(kept))
    if not captions:
        raise UserError(f"{where}: the caption is empty: write one, or remove the row")
    return captions


def label(value: object, where: str, *, what: str) -> str | None:
    """The class or split in a cell, as text; None if the cell is empty.

    Raises:
        UserError: for a list, a section, true or false, or a fractional number.
    """
    if value is None or value != value or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise UserError(f"{where}: the {what} is {reprlib.repr(value)}; give a name or a whole number")
    return str(value).strip()
