"""The nearest images and captions of queries in a sample, ranked together."""

from __future__ import annotations

import torch
from torch import Tensor

from meru.data.images import read_image
from meru.data.records import ImageTextData
from meru.evaluation.sample import Sample
from meru.reports.neighbours import Near, Query

IMAGES, CAPTIONS = 6, 3


@torch.no_grad()
def neighbours(
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


def _name(data: ImageTextData, class_index: int) -> str:
    return data.class_names[class_index] if data.class_kind != "image" else ""
