"""The loader of a user's own images, `data=pairs`: docs/your-data.md."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from meru.data.datasets.own.boxes import FORMATS
from meru.data.datasets.own.folders import (
    class_folder_rows,
    file_name_rows,
    has_class_folders,
    has_text_files,
    images_in,
    plain_class,
    text_file_rows,
)
from meru.data.datasets.own.karpathy import is_karpathy, karpathy_rows
from meru.data.datasets.own.rows import Entry, Row, merged
from meru.data.datasets.own.splits import SPLIT_NAMES, SPLITS, divide
from meru.data.datasets.own.tables import ENDINGS, LIST, PARQUET, table_rows
from meru.data.records import ImageRecord, ImageTextData
from meru.errors import UserError
from meru.files import user_path

log = logging.getLogger("meru")

KINDS = ("table", "karpathy", "text_files", "class_folders", "file_names")
OF_FILES = ("table", "karpathy")


def load_pairs(
    *,
    path: str | Path | None,
    images: str | Path | None = None,
    kind: str | None = None,
    columns: Mapping | None = None,
    box_format: str = "xywh",
    encoding: str | None = None,
    prompts: Sequence[str] | None = ("a photo of a {}.",),
    validation_fraction: float = 0.1,
    test_fraction: float = 0.1,
    seed: int = 0,
) -> ImageTextData:
    """Read a user's own images with captions, without decoding any image.

    Args:
        path: A table (CSV, TSV, JSON Lines, JSON, Parquet), a list of Karpathy's, a folder of images, or a folder with
            a table for each split.
        images: The folder that listed image paths start from; None: the folder of the list.
        kind: One of `KINDS`; None: guessed from what is at `path`, and logged.
        columns: Names of a table's columns, see `meru.data.datasets.own.columns`; null ones are guessed.
        box_format: One of `meru.data.datasets.own.boxes.FORMATS`.
        encoding: Of text files; None: UTF-8, or UTF-16 with a byte order mark.
        prompts: Sentences with `{}` for the class name, the captions of images that have only a class.
        validation_fraction, test_fraction: Shares of the images that are set aside if the data give no splits.
        seed: Chooses these.

    Returns:
        Records in the order of the source. Without classes, and with captions but a single class, `class_kind` is
        `image`.

    Raises:
        UserError: one line, if anything is missing or not as it must be.
    """
    if path is None:
        raise UserError("data.path is missing: give data.path=<table or folder of images>; see docs/your-data.md")
    source = user_path(path)
    _check(source, kind, box_format, encoding)
    kind = kind or _guessed(source)
    if kind not in OF_FILES and (images is not None or any((columns or {}).values())):
        raise UserError(f"data.images and data.columns are for tables, but data.path={source} is a folder of images")
    root = user_path(images) if images is not None else source if source.is_dir() else source.parent
    if kind == "table":
        rows = _tables(source, columns=columns or {}, box_format=box_format, encoding=encoding)
    elif kind == "karpathy":
        rows = karpathy_rows(source)
    else:
        rows = _folder(source, kind, encoding)
        root = source
    entries = merged(rows, root, source=source)
    fractions = {"validation_fraction": validation_fraction, "test_fraction": test_fraction}
    return _data(_with_classes(entries, source), prompts, source=source, seed=seed, **fractions)


def _check(source: Path, kind: str | None, box_format: str, encoding: str | None) -> None:
    if kind not in (*KINDS, None):
        raise UserError(f"data.kind={kind}: choose one of {', '.join(KINDS)}, or null to guess")
    if box_format not in FORMATS:
        raise UserError(f"data.box_format={box_format}: choose one of {', '.join(FORMATS)}")
    if encoding is not None:
        try:
            "a".encode(encoding)
        except (LookupError, UnicodeError):
            raise UserError(f"data.encoding={encoding}: unknown; give, for instance, gb18030 or cp1252") from None
    if not source.exists():
        raise UserError(f"data.path={source}: there is no such file or folder")
    if source.is_file() and kind not in (*OF_FILES, None):
        raise UserError(f"data.kind={kind} needs a folder of images, but data.path={source} is a file")
    if source.is_dir() and kind == "karpathy":
        raise UserError(f"data.kind={kind} needs a file, but data.path={source} is a folder")


def _guessed(source: Path) -> str:
    """The kind of what is at a path; for folders, the guess is logged."""
    if source.is_file():
        return "karpathy" if source.suffix.lower() == LIST and is_karpathy(source) else "table"
    if _tables_in(source):
        return "table"
    images = images_in(source)
    if has_text_files(source, images):
        kind, what = "text_files", "captions from the text files beside them"
    elif has_class_folders(images):
        kind, what = "class_folders", "classes from the names of their folders, captions from data.prompts"
    else:
        kind, what = "file_names", "captions from their file names"
    log.info("%s: %d images, %s (data.kind=%s)", source, len(images), what, kind)
    others = sorted(each.name for each in source.iterdir() if each.suffix.lower() in ENDINGS and each.suffix != ".txt")
    if others:
        log.warning("%s is not read; to use it set data.path=%s", others[0], source / others[0])
    return kind


def _folder(source: Path, kind: str, encoding: str | None) -> list[Row]:
    images = images_in(source)
    if kind == "text_files":
        return text_file_rows(source, images, encoding=encoding)
    return class_folder_rows(source, images) if kind == "class_folders" else file_name_rows(source, images)


def _tables_in(folder: Path) -> dict[Path, str | None]:
    """The tables of a folder with their splits: `metadata.…`, or some for each split, `train.csv` and `test.csv`."""
    found = sorted(each for each in folder.iterdir() if each.suffix.lower() in ENDINGS and each.is_file())
    if metadata := [each for each in found if each.stem.lower() == "metadata"]:
        return {metadata[0]: None}
    splits = {each: re.split(r"[-_.]", each.stem)[0].lower() for each in found}
    tables = {each: split for each, split in splits.items() if split in SPLIT_NAMES}
    if "train" in {SPLIT_NAMES[split] for split in tables.values()}:
        return tables
    if found and all(each.suffix.lower() == PARQUET for each in found):
        return dict.fromkeys(found)
    return {}


def _tables(source: Path, *, columns: Mapping, box_format: str, encoding: str | None) -> list[Row]:
    tables = {source: None} if source.is_file() else _tables_in(source)
    if not tables:
        raise UserError(f"data.kind=table: {source} has neither metadata.csv nor train.csv: set data.path to a table")
    rows = []
    for path, split in tables.items():
        of_table, used = table_rows(path, columns=columns, split=split, box_format=box_format, encoding=encoding)
        log.info("%s: %d rows; %s", path, len(of_table), used.describe())
        rows += of_table
    return rows


def _with_classes(entries: list[Entry], source: Path) -> list[Entry]:
    """Check that all images have a class or none has."""
    classless = [entry for entry in entries if entry.class_name is None]
    if classless and len(classless) < len(entries):
        raise UserError(
            f"{classless[0].first.where}: {len(classless)} of {len(entries)} images have no class, this is the first: "
            "give all of them one, or none"
        )
    return entries


def _data(
    entries: list[Entry], prompts: Sequence[str] | None, *, source: Path, seed: int, **fractions: float
) -> ImageTextData:
    """Records in three splits; captions from class names where there are none."""
    classes = sorted({entry.class_name for entry in entries} - {None})
    if len(classes) == 1:
        if not all(entry.captions for entry in entries):
            raise UserError(f"{source}: all images are of one class, {classes[0]}: give at least two, or captions")
        log.warning("%s: all images are of one class, %s, so classes are not used", source, classes[0])
        entries = [replace(entry, class_name=None) for entry in entries]
        classes = []
    plain = {name: plain_class(name) for name in classes}
    if len(set(plain.values())) < len(classes):
        plain = {name: name for name in classes}
    splits = divide(entries, seed=seed, source=source, **fractions)
    number = {name: index for index, name in enumerate(classes)}
    position = {id(entry): index for index, entry in enumerate(entries)}

    def record(entry: Entry) -> ImageRecord:
        name = entry.class_name
        captions = entry.captions or [each.replace("{}", plain[name]) for each in prompts or ("{}",)]
        return ImageRecord(
            path=entry.path,
            class_index=number[name] if classes else position[id(entry)],
            captions=tuple(captions),
            regions=tuple(entry.regions),
        )

    records = {split: tuple(map(record, splits[split])) for split in SPLITS}
    return ImageTextData(
        tuple(plain.values()),
        *(records[split] for split in SPLITS),
        class_kind="class" if classes else "image",
    )
