"""What is known of the images of an index: labels, and captions as texts that are met between a query and the root."""

from __future__ import annotations

import csv
import io
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig

from meru.assemble import is_discovery
from meru.configuration import absolute_paths
from meru.data.caption_queries import caption_queries
from meru.data.discovery.splits import UNKNOWN
from meru.data.families import families_by_name
from meru.data.records import ImageRecord
from meru.data.sampling import evenly_spread
from meru.data.texts import read_text
from meru.errors import UserError
from meru.evaluation.clusters import cluster_names
from meru.files import user_path
from meru.tasks.data import load_data, load_discovery_data

log = logging.getLogger("meru")

MOST_CAPTIONS, MOST_PHRASES = 15_000, 3_000
OFTEN = 3  # captions that have a phrase, at least


@dataclass(frozen=True)
class Annotations:
    """Labels and texts.

    Attributes:
        label_of: Label by the real path of an image.
        label_names: By label.
        class_kind: `class` or `identity`; None without labels.
        texts: Sentences, each once; and their labels, None where one has no meaning.
        label_of_caption: Label by caption, of all splits, so that a query from the annotation knows what it shows;
            captions of several labels are left out.
        text_classes: Names of the classes that labels of texts mean; empty if they mean none. The labels of images may
            be the user's own.
        families: Family of each of these classes; None if there are none.
        images: Images of the splits, by split.
        cluster_names: Names of the classes that a discovery model predicts.
    """

    label_of: Mapping[str, int] = field(default_factory=dict)
    label_names: Sequence[str] = ()
    class_kind: str | None = None
    texts: Mapping[str, int | None] = field(default_factory=dict)
    label_of_caption: Mapping[str, int] = field(default_factory=dict)
    text_classes: Sequence[str] = ()
    families: Sequence[str] | None = None
    images: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    cluster_names: Sequence[str] = ()


def read_annotations(config: DictConfig, *, num_classes: int | None) -> Annotations:
    """Labels, captions and images of the data that a model was trained on.

    Args:
        config: Of the run.
        num_classes: K of a discovery model.

    Raises:
        UserError: if the data are missing or damaged.
    """
    absolute_paths(config)
    return _of_discovery(config, num_classes) if is_discovery(config) else _of_pairs(config)


def _of_pairs(config: DictConfig) -> Annotations:
    data = load_data(config)
    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    records = [record for of_split in splits.values() for record in of_split]
    labelled = data.class_kind != "image"
    texts: dict[str, int | None] = {}
    # Captions of the test images answer queries about them too well; they are texts only where there are no others.
    described = [*data.train, *data.validation] or data.test
    captions = [(record.captions[0], record.class_index) for record in described]
    captions += [(caption, record.class_index) for record in described for caption in record.captions[1:]]
    for phrase in general_phrases([caption for caption, _ in captions]):
        texts.setdefault(phrase, None)
    for place in evenly_spread(len(captions), MOST_CAPTIONS):
        caption, index = captions[place]
        label = index if labelled else None
        texts[caption] = label if texts.get(caption, label) == label else None  # one that fits two classes says nothing
    named = data.class_kind == "class"
    return Annotations(
        label_of={os.path.realpath(record.path): record.class_index for record in records} if labelled else {},
        label_names=data.class_names,
        class_kind=data.class_kind if labelled else None,
        texts=texts,
        label_of_caption=_labels_of_captions(records) if labelled else {},
        text_classes=data.class_names if named else (),
        families=families_by_name(data.class_names, config.data.get("families")) if named else None,
        images={name: [record.path for record in of_split] for name, of_split in splits.items()},
    )


def _labels_of_captions(records: Sequence[ImageRecord]) -> dict[str, int]:
    """Label of every caption that belongs to one label only."""
    found: dict[str, int | None] = {}
    for record in records:
        for caption in record.captions:
            same = found.get(caption, record.class_index) == record.class_index
            found[caption] = record.class_index if same else None
    return {caption: label for caption, label in found.items() if label is not None}


def general_phrases(captions: Sequence[str]) -> list[str]:
    """Phrases that occur in several captions, which are more general than a whole caption; the most frequent first."""
    found: Counter[str] = Counter()
    for caption in captions:
        found.update({query.text.lower() for query in caption_queries(caption) if query.kind == "phrase"})
    return [phrase for phrase, count in found.most_common(MOST_PHRASES) if count >= OFTEN]


def _of_discovery(config: DictConfig, num_classes: int | None) -> Annotations:
    data = load_discovery_data(config)
    splits = {"train": data.train, "test": data.test}
    files = {name: split for name, split in splits.items() if len(split) and isinstance(split.images[0], Path)}
    if not files:
        raise UserError("the run's images are not files: give images=<folder>")
    label_of = {
        os.path.realpath(path): label
        for split in files.values()
        for path, label in zip(split.images, split.labels.tolist(), strict=True)
        if label != UNKNOWN
    }
    return Annotations(
        label_of,
        data.class_names,
        "class",
        images={name: list(split.images) for name, split in files.items()},
        cluster_names=cluster_names(data, num_classes) if num_classes else (),
    )


def read_texts(file: str) -> dict[str, None]:
    """Sentences of a text file, one a line, each once.

    Raises:
        UserError: if it cannot be read or holds none.
    """
    path = user_path(file)
    lines = [line.strip() for line in read_text(path, needed="").splitlines()]
    found = dict.fromkeys(line for line in lines if line)
    if not found:
        raise UserError(f"texts={file} holds no text: write one sentence a line")
    return found


def read_labels(file: str, folder: Path) -> tuple[dict[str, int], list[str]]:
    """Labels of a CSV file with the columns `image`, a path inside the folder, and `label`: by real path, and names.

    Raises:
        UserError: if it cannot be read, has no such columns, no label, or several labels for one image.
    """
    path = user_path(file)
    try:
        table = csv.DictReader(io.StringIO(read_text(path, needed=""), newline=""), strict=True)
        if not table.fieldnames or not {"image", "label"} <= set(table.fieldnames):
            raise UserError(f"labels={file}: its first line must name the columns image and label, by commas")
        rows = [(row["image"], " ".join(row["label"].split())) for row in table if row["image"] and row["label"]]
    except csv.Error as error:
        raise UserError(f"labels={file} is no CSV file ({error}): repair it") from None
    given: dict[str, str] = {}
    for image, label in rows:
        if given.setdefault(image, label) != label:
            raise UserError(f"labels={file}: {image} has the labels {given[image]} and {label}: keep one")
    if not given:
        raise UserError(f"labels={file} holds no label: write a line image,label for each image")
    names = sorted(set(given.values()))
    number = {name: label for label, name in enumerate(names)}
    return {os.path.realpath(folder / image): number[label] for image, label in given.items()}, names


class Average(NamedTuple):
    """What several texts have in common: its name, its kind (see `TEXT_KINDS`), and the rows of the texts."""

    name: str
    kind: str
    rows: list[int]


def averages(known: Annotations) -> list[Average]:
    """What several texts have in common: classes, families of several classes, and all captions.

    An average lies the nearer to the root, the more its texts differ.
    """
    if not (labelled := [row for row, label in enumerate(known.texts.values()) if label is not None]):
        return []
    found: list[Average] = []
    if known.text_classes:
        of_class: dict[int, list[int]] = {}
        labels = list(known.texts.values())
        for row in labelled:
            of_class.setdefault(labels[row], []).append(row)
        found += [Average(known.text_classes[label], "class", rows) for label, rows in of_class.items()]
        of_family: dict[str, list[int]] = {}
        for label in of_class if known.families else ():
            of_family.setdefault(known.families[label], []).append(label)
        for family, members in of_family.items():
            if len(members) > 1:
                rows = [row for label in members for row in of_class[label]]
                found.append(Average(f"{family} ({len(members)} classes)", "family", rows))
    return [*found, Average("all captions", "all", labelled)]
