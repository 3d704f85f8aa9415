"""Category discovery with words: `suite=words`.

The unlabelled training images of old and new classes are grouped by what an image–text model makes of them and of their
captions. Labels of old classes are given, as in category discovery (semi-supervised k-means; Vaze et al., CVPR 2022),
and groups are assigned to classes by one assignment over all (v2):

    tower/all/accuracy, …/old/…, …/new/…   features of the image tower
    image/…                                embeddings of the images
    captions/…                             average embedding of the captions of each image
    image_captions/…                       both side by side
    tower_captions/…                       the tower's features and the captions' embeddings side by side
    kmeans_<row>/…                         by k-means without any label, for the tower, captions, and both
    names/accuracy                         names of the classes found, three words from their captions, that lead to the
                                           class if its captions of test images are known

The names stand in `words_classes.csv`, with the class that each group is assigned to, and whether that class is new and
the name leads to it; and at the leaves of the tree in `words_tree.png`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from meru import sharing
from meru.errors import UserError
from meru.evaluation.discovery import read_embeddings
from meru.evaluation.image_text import embed_captions
from meru.evaluation.suite import Answer, Subject
from meru.metrics.class_tree import cosine_tree
from meru.metrics.clustering import kmeans
from meru.metrics.discovery import assigned_classes, discovery_metrics
from meru.metrics.semi_supervised import semi_supervised_kmeans
from meru.metrics.words import leading, names_of, naming_metrics, vocabulary
from meru.reports.bars import bars_figure
from meru.reports.class_tree import dendrogram_figure
from meru.reports.tables import format_rows

ROWS = {
    "image tower, before the projection": "tower",
    "image embeddings": "image",
    "caption embeddings": "captions",
    "image and caption embeddings": "image_captions",
    "image tower and caption embeddings": "tower_captions",
}
ALSO_WITHOUT_LABELS = ("tower", "captions", "tower_captions")
WITHOUT_LABELS = {
    f"{label}, without labels": f"kmeans_{row}" for label, row in ROWS.items() if row in ALSO_WITHOUT_LABELS
}
COLUMNS = {"All": "all/accuracy", "Old": "old/accuracy", "New": "new/accuracy"}
NAMED_BY = "tower_captions"


@torch.no_grad()
def evaluate_words(subject: Subject) -> Answer:
    """The figures above with their chance levels, and the names and the tree of the classes found.

    Raises:
        UserError: if an image does not decode, or there are fewer unlabelled images than classes.
    """
    data = subject.data.images
    if subject.settings.get("split"):
        raise UserError("suite=words groups the unlabelled training images: leave split out")
    read = read_embeddings(subject, data.train)
    if len(read["label"]) < len(data.train):
        raise UserError("suite=words needs every training image to decode: restore the images")
    rows = features_of(subject.model, read, captions=subject.data.train, subject=subject)
    if not sharing.leads():
        return Answer({}, {})
    labels, labelled = data.train.labels, data.train.labelled
    clusters, hidden = len(data.class_names), ~labelled
    if int(hidden.sum()) < clusters:
        raise UserError(f"suite=words: {int(hidden.sum())} unlabelled images cannot be grouped into {clusters} classes")
    figures: dict[str, float | None] = {"classes": float(clusters)}
    found = {}
    for name, features in rows.items():
        found[name] = semi_supervised_kmeans(features, labels, labelled, clusters)[hidden]
        if name in ALSO_WITHOUT_LABELS:
            found[f"kmeans_{name}"] = kmeans(features[hidden], clusters, restarts=1)
    for name, groups in found.items():
        for key, figure in discovery_metrics(groups, labels[hidden], data.num_old).items():
            if key.startswith("discovery/"):
                figures[f"{name}/{key.removeprefix('discovery/')}"] = figure
    named = _names(subject, found[NAMED_BY])
    return Answer(figures | named.figures, _files(subject, named, rows[NAMED_BY][hidden], found[NAMED_BY]))


def features_of(
    model: nn.Module, read: Mapping[str, Tensor], *, captions: Sequence[Sequence[str]], subject: Subject
) -> dict[str, Tensor]:
    """Unit vectors of every image for each of `ROWS`, on the CPU, `(n, …)`.

    Args:
        model: Has `embed_text` and `average`.
        read: Result of `read_embeddings`.
        captions: Of every image.
        subject: Gives tokenizer and device.
    """
    every = [caption for some in captions for caption in some]
    embedded = embed_captions(model, every, tokenizer=subject.tokenize, device=subject.device)
    pieces = embedded.split([len(some) for some in captions])
    texts = F.normalize(torch.stack([model.average(piece) for piece in pieces]), dim=-1).cpu()
    tower, image = read["features"], read["embeddings"]
    return {
        "tower": tower,
        "image": image,
        "captions": texts,
        "image_captions": torch.cat([image, texts], dim=1) / 2**0.5,
        "tower_captions": torch.cat([tower, texts], dim=1) / 2**0.5,
    }


class _Named(NamedTuple):
    """The classes found.

    Attributes:
        names: Group of unlabelled images → its words.
        class_of: Group → the class that it is assigned to.
        figures: Of the names.
        leads: Group → whether its name leads to its class; empty without captions of test images.
    """

    names: dict[int, tuple[str, ...]]
    class_of: dict[int, int]
    figures: dict[str, float]
    leads: dict[int, bool]


def _names(subject: Subject, groups: Tensor) -> _Named:
    data, described = subject.data.images, subject.data
    hidden = ~data.train.labelled
    own = [captions for captions, each in zip(described.train, hidden.tolist(), strict=True) if each]
    class_of = assigned_classes(groups.numpy(), data.train.labels[hidden].numpy())
    every = names_of(vocabulary(own, groups, len(data.class_names)))
    names = {group: every[group] for group in sorted(class_of)}
    figures: dict[str, float] = {}
    leads: dict[int, bool] = {}
    if described.test:
        known = vocabulary(described.test, data.test.labels, len(data.class_names))
        true = [class_of[group] for group in names]
        figures = naming_metrics(list(names.values()), true, known)
        leads = dict(zip(names, leading(list(names.values()), true, known), strict=True))
    return _Named(names, class_of, figures, leads)


def _files(subject: Subject, named: _Named, features: Tensor, groups: Tensor) -> dict:
    """The table of the classes found, and their tree if there are three."""
    data = subject.data.images
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["group", "images", "name", "class", "new", "leads to the class"])
    for group, name in named.names.items():
        true = named.class_of[group]
        size = int((groups == group).sum())
        leads = named.leads.get(group, "")
        writer.writerow([group, size, " ".join(name), data.class_names[true], true >= data.num_old, leads])
    files: dict = {"classes.csv": text.getvalue()}
    if len(named.names) >= 3:
        means = torch.stack([features[groups == group].mean(dim=0) for group in named.names])
        leaves = [
            f"{' '.join(name)} ({data.class_names[named.class_of[group]]})" for group, name in named.names.items()
        ]
        families = None if data.families is None else [data.families[named.class_of[group]] for group in named.names]
        files["tree.png"] = dendrogram_figure(cosine_tree(means, leaves), families or range(len(leaves)))
    return files


def format_words(figures: Mapping[str, float | None], title: str) -> str:
    """All, Old and New for every kind of features, with chance levels, and the share of names that lead to a class."""
    table = format_rows(figures, title, rows={**ROWS, **WITHOUT_LABELS}, columns=COLUMNS)
    if (share := figures.get("names/accuracy")) is not None:
        chance = figures["names/chance_accuracy"] or 0.0
        table += (
            f"\nnames of {figures['names/count']:.0f} classes found that lead to the class: {100 * share:.1f} "
            f"({100 * chance:.1f})"
        )
    return table


words_figure = partial(bars_figure, rows=ROWS, columns=COLUMNS)
