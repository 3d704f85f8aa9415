"""What `index.json` of an index says; it is written last and makes the index valid."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path

from meru.errors import UserError
from meru.files import os_error_message, write_text
from meru.geometry.spaces import SPACES, Hyperboloid, Space

FACTS = "index.json"
VERSION = 2
KINDS = ("exact", "ivf", "hnsw")
TEXT_KINDS = ("caption", "class", "family", "all")  # a sentence; averages of the sentences of a class, …


@dataclass(frozen=True)
class Facts:
    """Facts about an index.

    Attributes:
        source: What `run=` was; the whole path of a folder or file.
        name: The model's name in titles.
        model: Name of its class.
        fingerprint: See `meru.index.embedding`.
        space: By the names of `meru.geometry.spaces.SPACES`.
        curvature: c of the hyperboloid, else None.
        dimension: D of the points.
        has_text: Whether the model embeds texts.
        attends: Whether attention of words was trained.
        images: Folder of the images.
        count: Number of images.
        kind: How it is searched: `exact`, or `ivf` or `hnsw` of FAISS.
        recall: Share of the 10 most similar images that `kind` finds, measured when it was made; 1 for `exact`.
        class_kind: What labels mean: `class` or `identity`; None without labels.
        label_names: By label.
        cluster_names: Names of a discovery model's classes, by number.
        longest, rounding: See `ExactScan`.
        generation: Number in the names of the files.
    """

    source: str
    name: str
    model: str
    fingerprint: str
    space: str
    curvature: float | None
    dimension: int
    has_text: bool
    attends: bool
    images: str
    count: int
    kind: str
    recall: float
    class_kind: str | None
    label_names: list[str]
    cluster_names: list[str]
    longest: float
    rounding: float
    generation: int

    def space_object(self) -> Space:
        """The space."""
        return Hyperboloid(self.curvature) if self.curvature is not None else SPACES[self.space]()


def name_of_space(space: Space) -> str:
    """Its name in `SPACES`."""
    return next(name for name, kind in SPACES.items() if type(space) is kind)


def write_facts(folder: Path, facts: Facts) -> None:
    """Write `index.json`."""
    text = json.dumps({"version": VERSION, **dataclasses.asdict(facts)}, ensure_ascii=False, indent=1)
    write_text(folder / FACTS, text + "\n")


def read_facts(folder: Path) -> Facts:
    """Read `index.json`.

    Raises:
        UserError: if it is missing or damaged, or of another version.
    """
    path = folder / FACTS
    if not path.is_file():
        what = "no such folder" if not folder.is_dir() else f"no index: {FACTS} is missing"
        raise UserError(f"index={folder}: {what}; make one with scripts/index.py run=… images=… output={folder}")
    try:
        told = json.loads(path.read_text("utf-8", "surrogateescape"))
    except OSError as error:
        raise UserError(f"index={folder}: {os_error_message(error)}", exit_code=1) from None
    except ValueError:
        raise UserError(f"{path} is damaged: make the index again with scripts/index.py") from None
    version = told.pop("version", None) if isinstance(told, dict) else None
    if version != VERSION:
        raise UserError(f"{path} has version {version}, and this is {VERSION}: make the index again")
    try:
        facts = Facts(**told)
        facts.space_object()
        sound = facts.kind in KINDS and all(
            type(number) is int and number >= 1 for number in (facts.count, facts.dimension, facts.generation)
        )
        sound &= all(0 < number < math.inf for number in (facts.curvature or 1, facts.longest, 1 + facts.rounding))
    except (TypeError, KeyError):
        sound = False
    if not sound:
        raise UserError(f"{path} is damaged: make the index again with scripts/index.py")
    return facts
