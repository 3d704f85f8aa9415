"""Folders of images: with text files beside them, one folder a class, or names that describe them."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

from meru.data.datasets.own.rows import ENCODING, Row
from meru.data.datasets.own.splits import SPLIT_NAMES
from meru.data.folders import folded, is_clutter
from meru.data.image_folders import IMAGE_ENDINGS
from meru.data.texts import read_text
from meru.errors import UserError

log = logging.getLogger("meru")

NEEDS_CAPTIONS = "write captions into a text file of the same name beside each image, one a line"


def images_in(folder: Path) -> list[str]:
    """Paths of all images below a folder, inside it, sorted; symbolic links are followed.

    Raises:
        UserError: if there are none.
    """
    found = sorted(inner for inner in files_in(folder) if inner.lower().endswith(IMAGE_ENDINGS))
    if not found:
        raise UserError(f"{folder} holds no images: give a folder of images, or a table that lists them")
    return found


def files_in(folder: Path) -> Iterator[str]:
    """Paths of all files below a folder, inside it, without clutter; symbolic links are followed."""
    seen: set[tuple[int, int]] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        found = os.stat(place)
        if (found.st_dev, found.st_ino) in seen:  # links may form a circle
            folders.clear()
            continue
        seen.add((found.st_dev, found.st_ino))
        folders[:] = sorted(name for name in folders if not is_clutter(name))
        inner = Path(place).relative_to(folder).as_posix()
        yield from (name if inner == "." else f"{inner}/{name}" for name in files if not is_clutter(name))


def split_of(inner: str) -> tuple[str | None, str]:
    """The split that the first folder of a path names, and the rest of the path; None: the folder names none."""
    first, _, rest = inner.partition("/")
    return (first, rest) if rest and first.lower() in SPLIT_NAMES else (None, inner)


def divided_by_folders(images: list[str]) -> bool:
    """Whether the outermost folders are splits: every image is in one, and one is for training."""
    splits = [split_of(inner)[0] for inner in images]
    return None not in splits and "train" in {SPLIT_NAMES[split.lower()] for split in splits}


def text_file_rows(folder: Path, images: list[str], *, encoding: str | None) -> list[Row]:
    """Images with a text file of the same name beside each, one caption a line.

    Raises:
        UserError: for images without a text file (the message counts them), and for empty ones.
    """
    texts = {folded(os.path.splitext(inner)[0]): inner for inner in files_in(folder) if inner.lower().endswith(".txt")}
    found = {inner: texts.get(folded(os.path.splitext(inner)[0])) for inner in images}
    if absent := [inner for inner, text in found.items() if text is None]:
        raise UserError(
            f"{len(absent)} of {len(images)} images have no text file beside them, the first is "
            f"{folder / absent[0]}: {NEEDS_CAPTIONS}"
        )
    if spare := sorted(set(texts.values()) - set(found.values())):
        log.warning("%s: %d text files have no image beside them, the first is %s", folder, len(spare), spare[0])
    splits, rows = divided_by_folders(images), []
    for inner, text in found.items():
        lines = read_text(folder / text, encoding=encoding, advice=ENCODING).split("\n")
        captions = tuple(dict.fromkeys(" ".join(line.split()) for line in lines if line.strip()))
        if not captions:
            raise UserError(f"{folder / text} is empty: write one caption a line")
        split = split_of(inner)[0] if splits else None
        rows.append(Row(inner, where=str(folder / text), captions=captions, split=split))
    return rows


def has_text_files(folder: Path, images: list[str]) -> bool:
    """Whether an image has a text file of the same name beside it."""
    stems = {folded(os.path.splitext(inner)[0]) for inner in images}
    return any(folded(inner[:-4]) in stems for inner in files_in(folder) if inner.lower().endswith(".txt"))


def class_folder_rows(folder: Path, images: list[str]) -> list[Row]:
    """Images whose folder names their class, below `train/`, `val/` and `test/` or not; without captions.

    Raises:
        UserError: for images outside class folders.
    """
    splits, rows, loose = divided_by_folders(images), [], []
    for inner in images:
        split, rest = split_of(inner) if splits else (None, inner)
        name, _, file = rest.partition("/")
        if not file:
            loose.append(inner)
        rows.append(Row(inner, where=str(folder / inner), class_name=name, split=split))
    if loose:
        raise UserError(
            f"{len(loose)} of {len(images)} images are in no class folder, the first is {folder / loose[0]}: put the "
            "images of each class into a folder of its own"
        )
    return rows


def has_class_folders(images: list[str]) -> bool:
    """Whether every image is in a folder, below those of the splits."""
    splits = divided_by_folders(images)
    return all("/" in (split_of(inner)[1] if splits else inner) for inner in images)


def file_name_rows(folder: Path, images: list[str]) -> list[Row]:
    """Images whose names describe them: `black_footed_albatross_01.jpg`; images with the same words form a class.

    Raises:
        UserError: for names without a word (the message counts them), and if all have the same words.
    """
    words = {inner: described(Path(inner).stem) for inner in images}
    if wordless := [inner for inner, text in words.items() if not text]:
        raise UserError(
            f"{len(wordless)} of {len(images)} file names have no words, the first is {folder / wordless[0]}: name the "
            f"images after what they show, or {NEEDS_CAPTIONS}"
        )
    if len(images) > 1 and len(set(words.values())) == 1:
        raise UserError(
            f"{folder}: all {len(images)} file names say '{words[images[0]]}': name the images after what they show, "
            f"or {NEEDS_CAPTIONS}"
        )
    splits, classes = divided_by_folders(images), len(set(words.values())) < len(images)
    return [
        Row(
            inner,
            where=str(folder / inner),
            captions=(text,),
            class_name=text if classes else None,
            split=split_of(inner)[0] if splits else None,
        )
        for inner, text in words.items()
    ]


def described(stem: str) -> str:
    """The words of a file name without digits, in lower case: "Black_footed-Tern 01" → "black footed tern"."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", stem)
    return " ".join(re.sub(r"[\W\d_]+", " ", spaced).lower().split())


def plain_class(name: str) -> str:
    """A class's name in plain words, without a number: "001.Black_footed_Tern" → "Black footed Tern"."""
    return " ".join(re.sub(r"^(\d+\.|n\d{8}-)", "", name).replace("_", " ").split()) or name
