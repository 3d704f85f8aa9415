"""Splits of a user's own images: as given, or cut by a seed."""

from __future__ import annotations

import hashlib
import logging
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from meru.data.datasets.own.rows import Entry
from meru.errors import UserError

log = logging.getLogger("meru")

SPLITS = ("train", "validation", "test")
# Names in use → split; `restval` is what Karpathy's list leaves of COCO's validation images.
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training", "restval"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
MOST_COMPARED = 100_000  # images; beyond that, looking for equal files takes too long before a run
_READ = 2**20  # bytes at a time


def divide(
    entries: Sequence[Entry], *, validation_fraction: float, test_fraction: float, seed: int, source: Path
) -> dict[str, list[Entry]]:
    """Divide images into the three splits, and log how many there are in each.

    Without given splits, test and validation images are cut; with given ones that include no validation images, these
    are cut from the training images. Each class gives its share, and keeps at least one training image. Images with
    the same bytes stay together.

    Raises:
        UserError: for an unknown name of a split, or no training images.
    """
    given = given_splits(entries)
    if any(given):
        splits = {split: [e for e, s in zip(entries, given, strict=True) if s == split] for split in SPLITS}
        how = "given"
    else:
        rest, test = cut(entries, test_fraction, seed=seed, purpose="test")
        splits = {"train": rest, "validation": [], "test": test}
        how = f"cut with data.split_seed={seed}"
    if not splits["train"]:
        raise UserError(f"{source}: no image is in the split train: give images to train on")
    if not splits["validation"] and validation_fraction:
        splits["train"], splits["validation"] = cut(
            splits["train"], validation_fraction, seed=seed, purpose="validation"
        )
        how = f"given, validation cut with data.split_seed={seed}" if how == "given" else how
    counts = ", ".join(f"{len(splits[split])} {split}" for split in SPLITS)
    log.info("splits (%s): %s images%s", how, counts, _of_classes(splits))
    return splits


def given_splits(entries: Sequence[Entry]) -> list[str | None]:
    """The split of each image as given, one of `SPLITS`; None for all images if none has one.

    Raises:
        UserError: for an unknown name of a split, and if only some images have one.
    """
    given = [_split(entry) for entry in entries]
    if any(given) and None in given:
        where = entries[given.index(None)].first.where
        raise UserError(f"{where}: this image has no split, while others have: give train, validation or test")
    return given


def _split(entry: Entry) -> str | None:
    if entry.split is None:
        return None
    if (found := SPLIT_NAMES.get(entry.split.lower())) is None:
        raise UserError(
            f"{entry.first.where}: unknown split {entry.split}: name it train, validation or test "
            f"(also {', '.join(name for name in SPLIT_NAMES if name not in SPLITS)})"
        )
    return found


def _of_classes(splits: dict[str, list[Entry]]) -> str:
    counts = {split: Counter(entry.class_name for entry in splits[split]) for split in SPLITS}
    names = set().union(*counts.values())
    if names == {None}:
        return ""
    spans = []
    for split in SPLITS:
        of_class = [counts[split][name] for name in names]
        least, most = min(of_class), max(of_class)
        spans.append(str(least) if least == most else f"{least} to {most}")
    return f"; of each of {len(names)} classes {', '.join(spans)}"


def cut(entries: Sequence[Entry], fraction: float, *, seed: int, purpose: str) -> tuple[list[Entry], list[Entry]]:
    """Set a share of the images aside, of each class in proportion: the rest and those set aside, both in order.

    At least one image is set aside, unless `fraction` is 0 or there is only one; classes with one image keep it.
    The choice within a class is by a hash of seed and listed path, so it does not depend on the order of the list.
    """
    groups = _alike(entries)  # each is one candidate
    by_class: dict[str | None, list[list[int]]] = defaultdict(list)
    for group in groups:
        by_class[entries[group[0]].class_name].append(group)

    def rank(group: list[int]) -> bytes:
        name = entries[group[0]].first.image.replace("\\", "/")
        return hashlib.sha256(f"{seed}/{purpose}/{name}".encode(errors="replace")).digest()

    wanted = {name: fraction * len(members) for name, members in by_class.items()}
    quota = {name: min(math.floor(wanted[name]), len(members) - 1) for name, members in by_class.items()}
    total = max(1, round(fraction * len(groups))) if fraction else 0
    # Largest remainders first; among equal ones those whose first image ranks first.
    by_remainder = sorted(by_class, key=lambda name: (quota[name] - wanted[name], min(map(rank, by_class[name]))))
    for name in by_remainder:
        if sum(quota.values()) < total and quota[name] < len(by_class[name]) - 1:
            quota[name] += 1
    taken = [group for name, members in by_class.items() for group in sorted(members, key=rank)[: quota[name]]]
    chosen = {index for group in taken for index in group}
    aside = [entry for index, entry in enumerate(entries) if index in chosen]
    return [entry for index, entry in enumerate(entries) if index not in chosen], aside


def _alike(entries: Sequence[Entry]) -> list[list[int]]:
    """Positions of images with the same bytes, together; only files of one size are read."""
    if len(entries) > MOST_COMPARED:
        log.info("%d images: whether some are the same file twice is not checked", len(entries))
        return [[index] for index in range(len(entries))]
    by_size: dict[int, list[int]] = defaultdict(list)
    for index, entry in enumerate(entries):
        by_size[_size(entry.path)].append(index)
    groups: dict[object, list[int]] = defaultdict(list)
    for size, members in by_size.items():
        for index in members:
            groups[(size, _digest(entries[index].path) if len(members) > 1 else b"")].append(index)
    return sorted(groups.values())


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # reading the image reports it
        return -1


def _digest(path: Path) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    try:
        with open(path, "rb") as file:
            while block := file.read(_READ):
                digest.update(block)
    except OSError:  # reading the image reports it
        return str(path).encode(errors="replace")
    return digest.digest()
