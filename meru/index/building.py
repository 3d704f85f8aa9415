"""Makes an index of images, or brings one up to date: only images that are new or have changed are embedded."""

from __future__ import annotations

import csv
import io
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig
from torch import Tensor
from tqdm import tqdm

from meru import distributed
from meru.assemble import is_discovery
from meru.data.datasets.own.folders import images_in
from meru.data.images import OR_SKIP, read_image
from meru.data.loading import ordered_loader
from meru.errors import UserError
from meru.files import output_folder, user_path, write_text
from meru.index.annotations import Annotations, read_annotations, read_labels, read_texts
from meru.index.embedding import Embedding
from meru.index.facts import FACTS, KINDS, read_facts
from meru.index.folder import Index
from meru.index.journal import Journal
from meru.index.writing import Making, write_index
from meru.runs.folder import hold, release
from meru.sources.opened import Opened
from meru.sources.opening import open_source

log = logging.getLogger("meru")

SKIPPED = "skipped.csv"
NONE = "none"  # for texts= and labels=


@dataclass(frozen=True)
class Wanted:
    """What the user wants an index of.

    Attributes:
        run: A source of a model, see `meru.sources.opening.open_source`.
        images: A folder of images; None: those of the data that the run was trained on.
        split: `train`, `validation` or `test` of these data; None: all.
        output: The index folder; None: `index` in the run folder.
        texts, labels: Files, or `none`; None: those of the data that the run was trained on.
        kind: `exact`, `ivf` or `hnsw`.
        batch_size: Images embedded at a time.
        workers: Processes that read images.
        lasting: Whether the folder is kept after the command.
    """

    run: str
    images: str | None = None
    split: str | None = None
    output: str | None = None
    texts: str | None = None
    labels: str | None = None
    kind: str = "exact"
    batch_size: int = 64
    workers: int = 2
    lasting: bool = True


@dataclass(frozen=True)
class Made:
    """What making an index did: numbers of images, and seconds."""

    index: Index
    embedded: int
    kept: int
    removed: int
    skipped: int
    seconds: float


def build_index(wanted: Wanted) -> Made:
    """Make an index, or bring it up to date.

    A command that was stopped goes on where it was. Images that cannot be read are listed in `skipped.csv`.

    Raises:
        UserError: if the source, the folder or a file cannot be used, or no image can be read.
    """
    began = time.perf_counter()
    if wanted.kind not in KINDS:
        raise UserError(f"kind={wanted.kind}: choose one of {', '.join(KINDS)}")
    if wanted.images and wanted.split:
        raise UserError("split= names a part of the run's own data: give images= or split=, not both")
    if wanted.images and not user_path(wanted.images).is_dir():
        raise UserError(f"images={wanted.images}: there is no such folder")
    asked = output_folder(wanted.output) if wanted.output else None
    opened = open_source(wanted.run)
    folder = asked or opened.output("index")
    if folder is None:
        raise UserError(f"run={wanted.run} is no run folder: name a folder for the index with output=")
    if folder.is_dir() and any(folder.iterdir()) and not _holds_index(folder):
        raise UserError(f"output={folder} is not empty and holds no index: name another folder")
    known = _annotations(wanted, opened)
    root, names = _images(wanted, known)
    if wanted.labels and wanted.labels != NONE:
        _require_labels(wanted.labels, known, root, names)
    embedding = Embedding.of(opened.pretrained)
    embedding.pretrained.to(distributed.start())
    making = Making(folder, wanted.run, opened, embedding, known, root, _files(root, names), wanted.kind)
    folder.mkdir(parents=True, exist_ok=True)
    hold(folder)
    try:
        counts = _build(making, names, wanted)
    finally:
        release(folder)
    return Made(*counts, seconds=time.perf_counter() - began)


def format_made(made: Made) -> str:
    """What was done, on two lines."""
    index, facts = made.index, made.index.facts
    rate = f", {made.embedded / made.seconds:.0f} images/s" if made.embedded else ""
    counts = [f"{made.embedded} embedded"]
    counts += [f"{number} {what}" for number, what in ((made.kept, "kept"), (made.removed, "removed")) if number]
    counts += [f"{made.skipped} not readable: see {index.folder / SKIPPED}"] if made.skipped else []
    found = "" if facts.kind == "exact" else f"; {facts.kind} finds {100 * facts.recall:.1f} % of the 10 most similar"
    labelled = sum(label is not None for label in index.labels or ())
    known = f"{labelled} labelled; texts to meet on the way: {len(index.texts)}"
    return (
        f"{len(index)} images ({', '.join(counts)}) in {made.seconds:.0f} s{rate}; {known}{found}\n"
        f"index: {index.folder}"
    )


def _build(making: Making, names: Sequence[str], wanted: Wanted) -> tuple[Index, int, int, int, int]:
    """Embed what is missing and write the index; returns it and the numbers of `Made`."""
    folder, files, fingerprint = making.folder, making.files, making.embedding.fingerprint
    before = _index_before(folder, fingerprint, making.root)
    kept = {}
    if before is not None:
        kept = {name: row for name, (row, *facts) in before.known_files.items() if files.get(name) == tuple(facts)}
    journal = Journal(folder, fingerprint=fingerprint, dimension=making.embedding.dimension)
    resumed = {name for name, entry in journal.entries.items() if files.get(name) == (entry["size"], entry["time"])}
    journal.keep(resumed)
    todo = [name for name in names if name not in kept and name not in resumed]
    if resumed:
        log.info("%d images were embedded by a command that was stopped", len(resumed))
    unread = _embed(making, journal, todo, wanted)
    _write_skipped(folder, unread, lasting=wanted.lasting)
    chosen = [name for name in names if name in kept or name in journal.entries]
    if not chosen:
        raise UserError(f"none of the {len(names)} images in {making.root} can be read: see {folder / SKIPPED}")
    index = write_index(making, chosen, (before, kept, journal))
    journal.remove()
    removed = len(before) - len(kept) if before is not None else 0
    return index, len(todo) - len(unread) + len(resumed), len(kept), removed, len(unread)


def _holds_index(folder: Path) -> bool:
    """Whether a folder holds an index, or one that is being made."""
    return any((folder / name).exists() for name in (FACTS, "building.jsonl", ".lock"))


def _index_before(folder: Path, fingerprint: str, root: Path) -> Index | None:
    """The index that is brought up to date; None if there is none of this model and these images."""
    if not (folder / FACTS).is_file():
        return None
    try:
        facts = read_facts(folder)
        if facts.fingerprint != fingerprint:
            log.info("the index was made by another model: all images are embedded again")
            return None
        if facts.images != str(root):
            raise UserError(f"output={folder} is an index of {facts.images}: name another folder for {root}")
        return Index(folder, facts)
    except UserError as error:
        if "is an index of" in str(error):
            raise
        log.warning("%s", error)
        return None


def _annotations(wanted: Wanted, opened: Opened) -> Annotations:
    """What is known of the images: from the run's data as far as they can be read, and from the user's files."""
    needed = wanted.images is None
    found = Annotations()
    if needed and not opened.has_data:
        raise UserError(f"run={wanted.run} says nothing of its data: give images=<folder>")
    if opened.has_data and (needed or wanted.texts is None or wanted.labels is None):
        config: DictConfig = opened.config
        classes = opened.pretrained.model.num_classes if is_discovery(config) else None
        try:
            found = read_annotations(config, num_classes=classes)
        except UserError as error:
            if needed:
                raise
            log.info("labels and texts of the run's data are left out: %s", error)
    changes: dict = {}
    if wanted.texts:
        changes["texts"] = {} if wanted.texts == NONE else read_texts(wanted.texts)
    if wanted.labels:
        changes |= {"label_of": {}, "label_of_caption": {}, "label_names": (), "class_kind": None}
        if wanted.labels != NONE:
            root = user_path(wanted.images) if wanted.images else _common_folder(found)
            of_image, names = read_labels(wanted.labels, root)
            changes |= {"label_of": of_image, "label_names": names, "class_kind": "class"}
    return Annotations(**{**vars(found), **changes})


def _images(wanted: Wanted, known: Annotations) -> tuple[Path, list[str]]:
    """The folder of the images, and their paths inside it, sorted."""
    if wanted.images:
        root = user_path(wanted.images)
        return root, images_in(root)
    if wanted.split and not known.images.get(wanted.split):
        have = [name for name, paths in known.images.items() if paths]
        raise UserError(f"split={wanted.split}: the run's data have no such images; choose {' or '.join(have)}")
    root = _common_folder(known)
    paths = [path for name, of_split in known.images.items() if wanted.split in (None, name) for path in of_split]
    return root, sorted({path.relative_to(root).as_posix() for path in paths})


def _require_labels(file: str, known: Annotations, root: Path, names: Sequence[str]) -> None:
    """An error if the user's labels are of other images; a message if some are."""
    there = {os.path.realpath(root / name) for name in names}
    if absent := [path for path in known.label_of if path not in there]:
        told = f"labels={file}: {len(absent)} of {len(known.label_of)} images are not in {root}, say {absent[0]}"
        if len(absent) == len(known.label_of):
            raise UserError(f"{told}: write paths inside that folder")
        log.warning("%s", told)


def _common_folder(known: Annotations) -> Path:
    folders = {str(path.parent) for paths in known.images.values() for path in paths}
    return Path(os.path.commonpath(folders)) if folders else Path.cwd()


def _files(root: Path, names: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Size and time of change of every file that exists."""
    found = {}
    for name in names:
        with suppress(OSError):
            facts = (root / name).stat()
            found[name] = (facts.st_size, facts.st_mtime_ns)
    return found


def _embed(making: Making, journal: Journal, todo: Sequence[str], wanted: Wanted) -> dict[str, str]:
    """Embed images into the journal; returns why some could not be read."""
    embedding, root = making.embedding, making.root
    loader = ordered_loader(
        [root / name for name in todo],
        {},
        batch_size=wanted.batch_size,
        transform=embedding.pretrained.transforms.evaluation,
        workers=wanted.workers if len(todo) > wanted.batch_size else 0,
        on_error="skip",
    )
    every = 0.1 if sys.stderr.isatty() else 20.0  # in a log file, a line that changes all the time would be long
    read: set[int] = set()
    with tqdm(total=len(todo), desc="embedding", unit="image", mininterval=every, disable=not todo) as progress:
        for batch in loader if todo else ():
            if len(batch["image"]):
                numbers = batch["image_index"].tolist()
                points, classes = embedding.images(batch["image"])
                _require_finite(points)
                journal.append(_entries([todo[number] for number in numbers], making.files, classes), points)
                read.update(numbers)
            progress.update(len(batch["image"]) + int(batch["skipped"]))
    return {todo[number]: _why(root / todo[number]) for number in range(len(todo)) if number not in read}


def _entries(names: Sequence[str], files: Mapping[str, tuple[int, int]], classes: Tensor | None) -> list[dict]:
    entries = []
    for number, name in enumerate(names):
        size, changed = files.get(name, (0, 0))  # 0: it appeared meanwhile, and is embedded again the next time
        entry = {"name": name, "size": size, "time": changed}
        entries.append(entry if classes is None else {**entry, "cluster": int(classes[number])})
    return entries


def _require_finite(points: Tensor) -> None:
    if not points.isfinite().all():
        raise UserError("the model gives NaN or infinite points: its weights are unusable", exit_code=1)


def _why(path: Path) -> str:
    """Why an image cannot be read."""
    try:
        read_image(path)
    except UserError as error:
        return str(error).removesuffix(OR_SKIP)
    return "could not be read when the index was made"


def _write_skipped(folder: Path, unread: Mapping[str, str], *, lasting: bool) -> None:
    """List the images that could not be read, in `skipped.csv`; without any, there is no such file."""
    path = folder / SKIPPED
    if not unread:
        path.unlink(missing_ok=True)
        return
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("image", "reason"), *unread.items()])
    write_text(path, text.getvalue())
    first = next(iter(unread.values()))
    where = f"see {path}" if lasting else f"the first: {first}"
    log.warning("%d images cannot be read and are left out; %s", len(unread), where)
