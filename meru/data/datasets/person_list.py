"""Persons of one's own: a list of images with the person's identity and captions, `data=person_list`."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from meru.data.datasets.own.columns import usual_column
from meru.data.datasets.own.rows import Entry, Row, merged
from meru.data.datasets.own.splits import SPLITS, given_splits
from meru.data.datasets.own.tables import read_table, table_rows
from meru.data.datasets.person_search import clean_caption
from meru.data.records import ImageRecord, ImageTextData
from meru.errors import UserError
from meru.files import user_path

IDENTITY_NAMES = ("identity", "identity_id", "person_id", "person", "pid", "id", "label")

log = logging.getLogger("meru")


def load_person_list(
    *,
    path: str | Path | None,
    images: str | Path | None = None,
    columns: Mapping | None = None,
    encoding: str | None = None,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.1,
    seed: int = 0,
) -> ImageTextData:
    """Read a list of persons, without decoding any image.

    Captions are cleaned as those of the published data sets, see
    `meru.data.datasets.person_search.load_person_search`.

    Args:
        path: The list: JSON Lines, JSON, CSV, TSV or Parquet; a row gives an image, its identity, a number or a text,
            one or several captions, and perhaps a split.
        images: The folder that image paths start from; None: the folder of the list.
        columns: Names of the columns `image`, `identity`, `caption` and `split`; null ones are guessed.
        encoding: Of a text file; None: UTF-8, or UTF-16 with a byte order mark.
        validation_fraction, test_fraction: Shares of the identities that are set aside, at least one each unless 0, if
            the list gives no such split.
        seed: Chooses these.

    Returns:
        Identities numbered split by split, in the order of the list; `class_names` holds them as listed.

    Raises:
        UserError: one line, if the list or an image is missing, a row has no image, identity or caption, a path leads
            out of the folder, an identity is in two splits, or there are too few identities.
    """
    if path is None:
        raise UserError("data.path is missing: give data.path=<list of persons>; see docs/your-data.md")
    source = user_path(path)
    if not source.is_file():
        kind = "is a folder" if source.is_dir() else "does not exist"
        raise UserError(f"data.path={source} {kind}: give a list (.jsonl, .json, .csv) of image, identity and captions")
    root = user_path(images) if images is not None else source.parent
    entries = merged(_rows(source, columns or {}, encoding), root, source=source)
    splits = _divide(entries, validation_fraction, test_fraction, seed=seed, source=source)
    names = list(dict.fromkeys(entry.class_name for split in SPLITS for entry in splits[split]))
    number = {name: index for index, name in enumerate(names)}
    records = {
        split: tuple(ImageRecord(each.path, number[each.class_name], tuple(each.captions)) for each in splits[split])
        for split in SPLITS
    }
    return ImageTextData(tuple(names), *(records[split] for split in SPLITS), class_kind="identity")


def _rows(source: Path, columns: Mapping, encoding: str | None) -> list[Row]:
    """The rows of the list, with the identity as `class_name`, and clean captions."""
    names = read_table(source, encoding=encoding).names
    asked = columns.get("identity")
    identity = asked or usual_column(names, IDENTITY_NAMES)
    if identity not in names:
        key = f"data.columns.identity={asked}: {source} has no such column" if asked else f"{source} has no identities"
        raise UserError(f"{key}; it has {', '.join(names)}: set data.columns.identity to the column of the person's id")
    chosen = {"image": columns.get("image"), "caption": columns.get("caption"), "split": columns.get("split")}
    rows, used = table_rows(
        source,
        columns={**chosen, "class": identity},
        split=None,
        box_format="xywh",
        encoding=encoding,
        class_word="identity",
        without=("boxes",),
    )
    if not used.captions:
        raise UserError(f"{source} has no column of captions; it has {', '.join(names)}: set data.columns.caption")
    log.info("%s: %d rows; %s", source, len(rows), used.describe().replace("class from", "identity from"))
    first: dict[str, Row] = {}
    for row in rows:
        if row.class_name is None:
            raise UserError(f"{row.where}: the identity is empty: say which person it is, or remove the row")
        if (before := first.setdefault(row.image, row)).class_name != row.class_name:
            raise UserError(
                f"{row.where}: {row.image} has the identity {row.class_name}, but {before.class_name} at {before.where}"
            )
    cleaned = [replace(row, captions=tuple(filter(None, map(clean_caption, row.captions)))) for row in rows]
    if wordless := [row for row in cleaned if not row.captions]:
        raise UserError(f"{wordless[0].where}: the caption has no words: write one, or remove the row")
    return cleaned


def _divide(
    entries: Sequence[Entry], validation_fraction: float, test_fraction: float, *, seed: int, source: Path
) -> dict[str, list[Entry]]:
    """The images of each split; splits that the list does not give are cut by identity, and all are logged."""
    identities = list(dict.fromkeys(entry.class_name for entry in entries))
    if len(identities) < 2:
        raise UserError(f"{source}: all images are of one identity, {identities[0]}: person search needs several")
    given = given_splits(entries)
    how = "given" if any(given) else f"cut with data.split_seed={seed}"
    of_identity: dict[str, tuple[str, Entry]] = {}
    for entry, split in zip(entries, given, strict=True):
        before, other = of_identity.setdefault(entry.class_name, (split or "train", entry))
        if split and split != before:
            raise UserError(
                f"{entry.first.where}: identity {entry.class_name} is in {split} and, at {other.first.where}, in "
                f"{before}; a person may be in only one split"
            )
    split_of = {name: split for name, (split, _) in of_identity.items()}
    if not any(given):
        _set_aside(split_of, test_fraction, "test", seed=seed, source=source)
    if "validation" not in split_of.values() and validation_fraction:
        _set_aside(split_of, validation_fraction, "validation", seed=seed, source=source)
        how = f"given, validation cut with data.split_seed={seed}" if how == "given" else how
    splits = {split: [each for each in entries if split_of[each.class_name] == split] for split in SPLITS}
    if not splits["train"]:
        raise UserError(f"{source}: no image is in the split train: give images to train on")
    counts = Counter(split_of.values())
    told = (f"{split} {counts[split]} identities, {len(splits[split])} images" for split in SPLITS)
    log.info("splits (%s): %s", how, "; ".join(told))
    return splits


def _set_aside(split_of: dict[str, str], fraction: float, split: str, *, seed: int, source: Path) -> None:
    """Move a share of the training identities, at least one, to another split; the choice is by a hash of the name."""
    if not fraction:
        return

    def rank(name: str) -> bytes:
        return hashlib.sha256(f"{seed}/{split}/{name}".encode(errors="replace")).digest()

    training = sorted((name for name, of in split_of.items() if of == "train"), key=rank)
    count = max(1, round(fraction * len(split_of)))
    if count >= len(training):
        raise UserError(
            f"{source}: {len(training)} identities to train on are too few to set {count} aside for the {split}; "
            f"give more persons, or set data.{split}_fraction=0"
        )
    split_of |= dict.fromkeys(training[:count], split)
