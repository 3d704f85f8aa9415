"""Which columns of a table hold images, captions, classes, splits and boxes."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from meru.errors import UserError

# Usual names, the most specific first; a number may follow those of captions: caption_0, caption_1.
USUAL = {
    "image": (
        *("filepath", "file_path", "image_path", "img_path", "image_file", "file_name", "filename", "image_name"),
        *("image", "img", "images", "path", "file"),
    ),
    "caption": (
        *("title", "caption", "captions", "text", "texts", "sentence", "sentences", "description", "descriptions"),
        *("comment", "raw", "alt_text"),
    ),
    "class": ("class", "class_name", "label", "category", "species"),
    "split": ("split", "set", "subset", "partition"),
    "boxes": ("boxes", "regions"),
}


@dataclass(frozen=True)
class Columns:
    """Names of the columns in use, None or an empty tuple if there is none; and of those that are not used."""

    image: str
    captions: tuple[str, ...]
    class_name: str | None
    split: str | None
    boxes: str | None
    unused: tuple[str, ...] = ()

    def describe(self) -> str:
        """The columns and what they are used for, in one line for the log."""
        named = {
            "image": self.image, "captions": ", ".join(self.captions), "class": self.class_name, "split": self.split,
            "boxes": self.boxes,
        }  # fmt: skip
        used = "; ".join(f"{what} from {name}" for what, name in named.items() if name)
        if not self.unused:
            return used
        return f"{used}; not used: {', '.join(self.unused)} (data.columns.<use>=<name> uses one)"


def chosen_columns(names: Sequence[str], asked: Mapping, *, path: Path, without: Collection[str] = ()) -> Columns:
    """The columns that the user names, and for others the usual names that the table has.

    Args:
        names: Of the table's columns.
        asked: Names by `image`, `caption` (one, or a list), `class`, `split` and `boxes`; null ones are guessed.
        path: The table, for messages.
        without: Uses that these data have no column for, such as `boxes`.

    Raises:
        UserError: for a column that the table lacks, and for a table without images, or with neither captions nor
            classes; the message says which columns there are.
    """
    there = f"it has {', '.join(names)}"
    found: dict[str, tuple[str, ...]] = {}
    for what in USUAL:
        given = None if what in without else asked.get(what)
        listed = () if given is None else (given,) if isinstance(given, str) else tuple(given)
        if absent := [name for name in listed if name not in names]:
            raise UserError(f"data.columns.{what}={absent[0]}: {path} has no such column; {there}")
        found[what] = listed or (() if what in without else _usual(names, what))
    if not found["image"]:
        raise UserError(f"{path} has no column of images; {there}: set data.columns.image to one of these")
    if not found["caption"] and not found["class"]:
        raise UserError(f"{path} has no column of captions; {there}: set data.columns.caption to one of these")
    one = {what: columns[0] if columns else None for what, columns in found.items()}
    in_use = {name for columns in found.values() for name in columns}
    unused = tuple(name for name in names if name and name not in in_use)
    return Columns(one["image"], found["caption"], one["class"], one["split"], one["boxes"], unused)


def usual_column(names: Sequence[str], usual: Sequence[str]) -> str | None:
    """The column with the first of the usual names, in any case, with spaces or dashes; None if there is none."""
    plain = {_plain(name): name for name in reversed(names)}
    return next((plain[name] for name in usual if name in plain), None)


def _plain(name: str) -> str:
    return re.sub(r"[\s-]+", "_", name.strip().lower())


def _usual(names: Sequence[str], what: str) -> tuple[str, ...]:
    plain = {name: _plain(name) for name in names}
    for usual in USUAL[what]:
        if exact := [name for name in names if plain[name] == usual]:
            return (exact[0],)
        if what == "caption" and (numbered := [name for name in names if re.fullmatch(rf"{usual}_?\d+", plain[name])]):
            return tuple(numbered)
    return ()
