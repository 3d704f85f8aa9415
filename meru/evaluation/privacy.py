"""What hidden heads cost: `suite=privacy`.

The captions of a split search its images, and the images its captions, with the heads visible, blurred and covered, on
the same images, whatever `data.hidden_heads` was in training. A grey box of the size of the head in another place says
how much of the difference is due to a box, and not to the head. `meru.data.heads` says where heads are.

    visible/text_to_image/identity/recall@1   R@1 of captions among images as they are; also mean_average_precision
    blur/…, cover/…                           among images with heads blurred or covered
    elsewhere/…                               among images with a box of the same size in another place
    …/radius                                  mean distance of these images from the origin
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from meru import sharing
from meru.data.heads import WAYS, HiddenHeads
from meru.errors import UserError
from meru.evaluation.image_text import embed_captions, embed_images
from meru.evaluation.suite import Subject
from meru.metrics.retrieval import retrieval_metrics
from meru.reports.bars import bars_figure
from meru.reports.tables import format_rows

ROWS = {
    "heads visible": "visible",
    "heads blurred": "blur",
    "heads covered": "cover",
    "as much covered elsewhere": "elsewhere",
}
LABELS = {row: label for label, row in ROWS.items()}
METRICS = ("recall@1", "mean_average_precision")

log = logging.getLogger("meru")


@torch.no_grad()
def evaluate_privacy(subject: Subject) -> dict[str, float | None]:
    """The figures above, with chance levels.

    Raises:
        UserError: if no image decodes, or the head of an image has no known place.
    """
    records, kind = subject.records(), subject.data.class_kind
    heads = HiddenHeads(subject.section, persons=kind == "identity")
    seen = {"visible": records, **{how: heads.records(records, how) for how in WAYS}}
    limit = subject.settings["captions_per_image"]
    texts: Tensor | None = None
    figures: dict[str, float | None] = {}
    for row, changed in seen.items():
        log.info("images, %s", LABELS[row])
        images = embed_images(subject.model, subject.batches_of(changed), device=subject.device)
        if not images:
            raise UserError(f"none of the {len(records)} images decodes: restore the images")
        places = images["image_index"].tolist()
        if texts is None:
            of_image = [records[place].captions[:limit] for place in places]
            texts = _embedded(subject, of_image)
        if sharing.leads():
            figures |= _figures(subject, row, images, texts, [len(some) for some in of_image])
    return figures | {"images": float(len(places)), "captions": float(len(texts))} if figures else {}


def _embedded(subject: Subject, of_image: Sequence[Sequence[str]]) -> Tensor:
    captions = [caption for some in of_image for caption in some]
    return embed_captions(subject.model, captions, tokenizer=subject.tokenize, device=subject.device)


def _figures(
    subject: Subject, row: str, images: dict[str, Tensor], texts: Tensor, counts: Sequence[int]
) -> dict[str, float | None]:
    """The figures of one row; `counts` are the numbers of captions of each image."""
    kind = subject.data.class_kind
    labels = images["image_index"] if kind == "image" else images["class_index"]
    of_texts = labels.repeat_interleave(torch.tensor(counts, device=labels.device))
    sides = {
        "text_to_image": (texts, images["embeddings"], of_texts, labels),
        "image_to_text": (images["embeddings"], texts, labels, of_texts),
    }
    figures: dict[str, float | None] = {}
    for direction, (queries, gallery, asked, given) in sides.items():
        metrics = retrieval_metrics(
            queries, gallery, query_labels=asked, gallery_labels=given, similarity=subject.model.similarity, ks=(1,)
        )
        for name in (*METRICS, *(f"chance_{name}" for name in METRICS)):
            figures[f"{row}/{direction}/{kind}/{name}"] = metrics[name]
    return {**figures, f"{row}/radius": subject.model.radius(images["embeddings"]).double().mean().item()}


def columns_of(figures: Mapping[str, float | None]) -> dict[str, str]:
    """R@1 and mAP in both directions: title → the rest of the name."""
    kind = next(name.split("/")[2] for name in figures if name.startswith("visible/text_to_image/"))
    return {
        "t → i": f"text_to_image/{kind}/recall@1",
        "mAP": f"text_to_image/{kind}/mean_average_precision",
        "i → t": f"image_to_text/{kind}/recall@1",
    }


def format_privacy(figures: Mapping[str, float | None], title: str) -> str:
    """R@1 in both directions and mAP of captions, for every way of hiding heads."""
    table = format_rows(figures, title, rows=ROWS, columns=columns_of(figures))
    return (
        f"{table}\nt → i, i → t: R@1 from captions to images and back; mAP: from captions to images\n"
        f"{figures['images']:.0f} images, {figures['captions']:.0f} captions"
    )


def privacy_figure(figures: Mapping[str, float | None], title: str = "") -> Figure:
    """A plot of the same as bars."""
    return bars_figure(figures, title, rows=ROWS, columns=columns_of(figures))
