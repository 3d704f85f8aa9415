"""The nearest images and captions of queries in a sample, ranked together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from meru.data.images import read_image
from meru.data.records import ImageTextData
from meru.data.sampling import evenly_spread
from meru.evaluation.sample import Sample
from meru.reports.neighbours import Near, Query, neighbours_figure

IMAGES, CAPTIONS = 5, 3


@torch.no_grad()
def neighbours_of(
    sample: Sample,
    query: Tensor,
    *,
    data: ImageTextData,
    image: Tensor | None = None,
    text: str = "",
    label: int | None = None,
    leave_out: int | None = None,
) -> Query:
    """The neighbours of a query in a sample.

    Args:
        sample: The images and captions to search in; a caption that several images have counts once.
        query: The query's point, `(D,)`.
        data: Names the classes.
        image: The query, uint8 RGB `(3, H, W)`; None for a text.
        text: The query, or the name of the image.
        label: Its class, if that is known.
        leave_out: Row of the query in the sample, which is no neighbour of itself, like the captions of that image.
    """
    texts = sample.texts
    first = {caption: row for row, caption in reversed(list(enumerate(texts.captions)))}
    rows = torch.tensor([row for row in first.values() if int(texts.image_of[row]) != leave_out], dtype=torch.int64)
    images = torch.tensor([row for row in range(len(sample.records)) if row != leave_out], dtype=torch.int64)
    points = torch.cat([sample.images[images], texts.points[rows]])
    order = sample.space.similarity(query[None], points)[0].argsort(descending=True, stable=True).tolist()
    classes = [record.class_index for record in sample.records]
    found: dict[str, list[Near]] = {"image": [], "caption": []}
    for rank, place in enumerate(order, start=1):
        if place < len(images) and len(found["image"]) < IMAGES:
            row = int(images[place])
            same = None if label is None else classes[row] == label
            found["image"].append(Near(rank, read_image(sample.records[row].path), _name(data, classes[row]), same))
        elif place >= len(images) and len(found["caption"]) < CAPTIONS:
            row = int(rows[place - len(images)])
            same = None if label is None else classes[int(texts.image_of[row])] == label
            found["caption"].append(Near(rank, None, texts.captions[row], same))
    return Query(image, text, found["image"], found["caption"])


def draw_neighbours(sample: Sample, data: ImageTextData, *, queries: Sequence[Query] = (), title: str = "") -> Figure:
    """A plot of queries and their neighbours; without any, of three images of the sample."""
    return neighbours_figure(
        list(queries) or [_of_row(sample, data, row) for row in evenly_spread(len(sample.records), 3)], title=title
    )


def _of_row(sample: Sample, data: ImageTextData, row: int) -> Query:
    record = sample.records[row]
    return neighbours_of(
        sample,
        sample.images[row],
        data=data,
        image=read_image(record.path),
        text=_name(data, record.class_index),
        label=record.class_index if data.class_kind != "image" else None,
        leave_out=row,
    )


def _name(data: ImageTextData, class_index: int) -> str:
    return data.class_names[class_index] if data.class_kind != "image" else ""
