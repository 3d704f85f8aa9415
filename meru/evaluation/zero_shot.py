"""Zero-shot classification of labelled images.

A class is the average of its prompts in the model's own way: on the hyperboloid the mean of their tangent vectors at
the origin, lifted once; on the sphere the mean of unit vectors, scaled to length 1. An image belongs to the most
similar class.

    zero_shot/class_mean/accuracy@1   top-1 of each class, averaged over the classes
    zero_shot/accuracy@1, @5          over all images
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from meru.errors import UserError
from meru.evaluation.image_text import embed_classes, embed_images
from meru.evaluation.suite import Subject
from meru.metrics.zero_shot import zero_shot_metrics
from meru.reports.bars import bars_figure
from meru.reports.tables import format_rows

ROWS = {"zero-shot": "zero_shot"}
COLUMNS = {"mean of classes": "class_mean/accuracy@1", "top-1": "accuracy@1", "top-5": "accuracy@5"}


def evaluate_zero_shot(subject: Subject) -> dict[str, float | None]:
    """The figures above with their chance levels, and the number of images."""
    images, classes = embed_labelled(subject)
    found = zero_shot_metrics(
        images["embeddings"], classes, labels=images["class_index"], similarity=subject.model.similarity
    )
    return {f"zero_shot/{name}": figure for name, figure in found.items()} | {"classes": float(len(classes))}


@torch.no_grad()
def embed_labelled(subject: Subject) -> tuple[dict[str, Tensor], Tensor]:
    """The labelled images of the split and the classes.

    Returns:
        `embed_images`'s result, and a point per class `(K, D)`.

    Raises:
        UserError: if there are no prompts.
    """
    split = subject.labelled()
    images = embed_images(
        subject.model, subject.batches(split.images, {"class_index": split.labels}), device=subject.device
    )
    return images, embed_names(subject, subject.data.class_names)


def embed_names(subject: Subject, names: tuple[str, ...]) -> Tensor:
    """A point for each class name `(K, D)`, averaged over the prompts of `templates`, else of the data.

    Raises:
        UserError: if there are no prompts.
    """
    templates = subject.settings["templates"] or subject.section.get("prompts")
    if not templates:
        raise UserError("data.prompts is null: give templates with {} for the class name, 'templates=[\"a {}\"]'")
    return embed_classes(subject.model, names, tokenizer=subject.tokenize, device=subject.device, templates=templates)


def format_zero_shot(figures: Mapping[str, float | None], title: str) -> str:
    """One row of shares."""
    table = format_rows(figures, title, rows=ROWS, columns=_shown(figures))
    return f"{table}\n{figures['zero_shot/images']:.0f} images of {figures['classes']:.0f} classes"


def _shown(figures: Mapping[str, float | None]) -> dict[str, str]:
    """The columns that there are figures for; with few classes there is no top-5."""
    return {label: name for label, name in COLUMNS.items() if f"zero_shot/{name}" in figures}


zero_shot_figure = partial(bars_figure, rows=ROWS, columns=COLUMNS)
