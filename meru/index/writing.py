"""Writes the files of an index, as a new generation, and removes those of the one before."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save
from torch import Tensor

from meru.data.discovery.splits import UNKNOWN
from meru.files import user_path, write_atomically, write_text
from meru.geometry.disk import DiskView
from meru.geometry.spaces import Hyperboloid
from meru.index.annotations import Annotations, averages
from meru.index.approximate import ApproximateSearch, recall_of
from meru.index.embedding import Embedding
from meru.index.facts import TEXT_KINDS, Facts, name_of_space, write_facts
from meru.index.folder import Index
from meru.index.journal import Journal
from meru.index.scan import ExactScan, own_number, shrunk
from meru.sources.opened import Opened

log = logging.getLogger("meru")

CHUNK = 16_384  # rows written at a time
SAMPLE = 20_000  # points that choose the plane of the disk
MEASURED_ON = 200  # queries
Parts = tuple["Index | None", Mapping[str, int], Journal]


@dataclass(frozen=True)
class Making:
    """An index that is being made.

    Attributes:
        folder: The index folder.
        source: The source of the model as the user gave it.
        opened: The same, opened.
        embedding: Its model.
        known: Labels and texts.
        root: Folder of the images.
        files: Size and time of change of each image, by its path in that folder.
        kind: See `Facts`.
    """

    folder: Path
    source: str
    opened: Opened
    embedding: Embedding
    known: Annotations
    root: Path
    files: Mapping[str, tuple[int, int]]
    kind: str


def write_index(making: Making, names: Sequence[str], parts: Parts) -> Index:
    """Write an index of images whose points are computed.

    Args:
        making: What it is an index of.
        names: The images, in order.
        parts: The index before, rows of the images whose points it has, and the journal with all others.

    Returns:
        The new index.
    """
    folder, embedding = making.folder, making.embedding
    generation = 1 + max((number for _, number in _generations(folder)), default=0)

    def place(name: str, ending: str) -> Path:
        return folder / f"{name}.{generation}.{ending}"

    rows, clusters = _gathering(names, parts)
    write_atomically(place("points", "f32"), lambda file: _write_rows(file, rows()))
    points = torch.from_file(str(place("points", "f32")), shared=False, size=len(names) * rows.dimension)
    points = points.view(len(names), rows.dimension)
    exact = _write_half(place("half", "f16"), points)
    texts = _texts(making, parts[0])
    rest = _rest(making, points, texts, names, clusters)
    labels = making.known.label_of_caption if "labels" in rest else {}
    write_text(place("texts", "json"), json.dumps({"texts": texts.names, "label_of_caption": labels}))
    write_atomically(place("rest", "safetensors"), lambda file: file.write(save(rest)))
    lines = ({"name": name, "size": making.files[name][0], "time": making.files[name][1]} for name in names)
    write_text(place("images", "jsonl"), "".join(json.dumps(line) + "\n" for line in lines))
    recall = 1.0
    if making.kind != "exact":
        log.info("building FAISS's index (%s) of %d points", making.kind, len(points))
        approximate = ApproximateSearch.of(making.kind, embedding.space, points)
        approximate.write(folder / f"faiss.{generation}")
        recall = recall_of(approximate, ExactScan.of(embedding.space, points), _sample(points, rest["text_points"]))
    facts = _facts(making, points, rest, recall=recall, generation=generation, **exact)
    write_facts(folder, facts)
    _remove_others(folder, generation)
    return Index(folder, facts)


def _write_half(path: Path, points: Tensor) -> dict[str, float]:
    """Write the points in half precision; returns `longest` and `rounding` of `ExactScan`."""
    longest = max(float(part.norm(dim=1).max()) for part in points.split(CHUNK)) or 1.0
    write_atomically(path, lambda file: _write_rows(file, (shrunk(part, longest) for part in points.split(CHUNK))))
    lost = (part / longest - shrunk(part, longest).float() for part in points.split(CHUNK))
    return {"longest": longest, "rounding": max(float(part.norm(dim=1).max()) for part in lost)}


def _facts(making: Making, points: Tensor, rest: Mapping[str, Tensor], **measured: Any) -> Facts:
    space, model = making.embedding.space, making.embedding.pretrained.model
    path, known = user_path(making.source), making.known
    return Facts(
        source=str(path) if path.exists() else making.source,
        name=making.opened.name,
        model=type(model).__name__,
        fingerprint=making.embedding.fingerprint,
        space=name_of_space(space),
        curvature=float(space.curvature) if isinstance(space, Hyperboloid) else None,
        dimension=points.shape[1],
        has_text=making.embedding.pretrained.tokenizer is not None,
        attends=bool(getattr(model, "has_word_attention", False)),
        images=str(making.root),
        count=len(points),
        kind=making.kind,
        class_kind=known.class_kind if "labels" in rest else None,
        label_names=list(known.label_names) if "labels" in rest else [],
        cluster_names=list(known.cluster_names) if "clusters" in rest else [],
        **measured,
    )


class _Rows:
    """Points of images in their order, from the index before and from the journal, block by block."""

    def __init__(self, names: Sequence[str], parts: Parts):
        before, kept, journal = parts
        self.names, self.kept, self.entries = names, kept, journal.entries
        self.old = before.exact.points if before is not None else None
        self.new = journal.points()
        self.dimension = journal.dimension

    def __call__(self) -> Iterator[Tensor]:
        for start in range(0, len(self.names), CHUNK):
            rows = [
                self.new[self.entries[name]["row"]] if name in self.entries else self.old[self.kept[name]]
                for name in self.names[start : start + CHUNK]
            ]
            yield torch.stack(rows)


def _gathering(names: Sequence[str], parts: Parts) -> tuple[_Rows, list[int] | None]:
    """The points of the images, and the classes that a discovery model predicts for them."""
    before, kept, journal = parts
    rows = _Rows(names, parts)
    old = before.clusters if before is not None else None
    if old is None and not any("cluster" in entry for entry in journal.entries.values()):
        return rows, None
    return rows, [
        journal.entries[name]["cluster"] if name in journal.entries else old[kept[name]] for name in names
    ]


def _write_rows(file: Any, parts: Iterator[Tensor]) -> None:
    for part in parts:
        file.write(part.contiguous().numpy().data)


class Texts(NamedTuple):
    """Sentences, and what several of them have in common, with their points `(T, D)` and `TEXT_KINDS`."""

    names: list[str]
    points: Tensor
    kinds: list[str]


def _texts(making: Making, before: Index | None) -> Texts:
    """The texts that may be met between a query and the root; those of the index before are not embedded again."""
    embedding, known = making.embedding, making.known
    if embedding.pretrained.tokenizer is None or not known.texts:
        return Texts([], torch.zeros(0, making.embedding.dimension), [])
    names = list(known.texts)
    same = before is not None and before.texts[: len(names)] == names
    points = before.text_points[: len(names)].clone() if same else embedding.texts(names)
    several = averages(known)
    return Texts(
        [*names, *(average.name for average in several)],
        torch.cat([points, *(embedding.space.average(points[average.rows])[None] for average in several)]),
        [*("caption" for _ in names), *(average.kind for average in several)],
    )


def _rest(
    making: Making, points: Tensor, texts: Texts, names: Sequence[str], clusters: list[int] | None
) -> dict[str, Tensor]:
    """All that is small; see `meru.index.folder`."""
    embedding, known = making.embedding, making.known
    space = embedding.space
    sample = points[:: max(1, len(points) // SAMPLE)]
    found = {
        "own": torch.cat([own_number(space, part) for part in points.split(CHUNK)]),
        "text_points": texts.points,
        "text_kinds": torch.tensor([TEXT_KINDS.index(kind) for kind in texts.kinds], dtype=torch.int64),
        "plane": DiskView.fit(space, sample, texts.points).plane,
        "root": space.root(sample),
    }
    if known.label_of:
        labels = [known.label_of.get(os.path.realpath(making.root / name), UNKNOWN) for name in names]
        if any(label != UNKNOWN for label in labels):
            found["labels"] = torch.tensor(labels)
    if clusters is not None:
        found["clusters"] = torch.tensor(clusters)
    return {name: value.contiguous() for name, value in found.items()}


def _sample(points: Tensor, texts: Tensor) -> Tensor:
    """Queries that measure recall: half of them images, half texts."""
    def some(rows: Tensor, count: int) -> Tensor:
        return rows[:: max(1, len(rows) // count)][:count]

    of_texts = some(texts, MEASURED_ON // 2) if len(texts) else texts
    return torch.cat([some(points, MEASURED_ON - len(of_texts)), of_texts])


def _generations(folder: Path) -> Iterator[tuple[Path, int]]:
    """Files of an index, each with its generation; the names tell even where `index.json` is damaged."""
    for path in folder.iterdir():
        if match := re.fullmatch(r"(?:points|half|rest|images|texts|faiss)\.(\d+)(?:\.\w+)?", path.name):
            yield path, int(match.group(1))


def _remove_others(folder: Path, generation: int) -> None:
    """Delete files of other generations."""
    for path, number in list(_generations(folder)):
        if number != generation:
            with suppress(OSError):  # another process reads it, on a system that keeps such files
                path.unlink()
