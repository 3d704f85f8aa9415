"""Retrieval between images and captions as on COCO and Flickr30k: `suite=retrieval`.

The protocol of Karpathy & Fei-Fei, "Deep Visual-Semantic Alignments for Generating Image Descriptions", CVPR 2015, on
their test split: a caption finds its image among all images of the split, and an image finds one of its captions among
all captions (a hit if any of them is in the top k). Images are resized to a square, without a crop, so that all that
captions tell of is in them.

    text_to_image/image/recall@1    share of captions whose image is first
    image_to_text/image/recall@1    share of images with one of their own captions first
    images, captions                their numbers
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import torch

from meru.data.transforms import EvaluationTransform
from meru.errors import UserError
from meru.evaluation.image_text import embed_captions, embed_images
from meru.evaluation.suite import Subject
from meru.metrics.retrieval import retrieval_metrics
from meru.reports.bars import bars_figure
from meru.reports.tables import format_rows

ROWS = {"text → image": "text_to_image/image", "image → text": "image_to_text/image"}
COLUMNS = {f"R@{k}": f"recall@{k}" for k in (1, 5, 10)}


@torch.no_grad()
def evaluate_retrieval(subject: Subject) -> dict[str, float | None]:
    """The figures above, with chance levels; `retrieval_metrics` says how ties count, and what else there is.

    Raises:
        UserError: for persons, whose figures are those of `suite=persons`.
    """
    if subject.data.class_kind == "identity":
        raise UserError("suite=retrieval: a caption of a person fits all images of the person: choose suite=persons")
    subject = squashed(subject)
    records = subject.records()
    model = subject.model
    images = embed_images(model, subject.batches_of(records), device=subject.device)
    limit = subject.settings["captions_per_image"]
    of_image = [records[index].captions[:limit] for index in images["image_index"].tolist()]
    captions = [caption for some in of_image for caption in some]
    texts = embed_captions(model, captions, tokenizer=subject.tokenize, device=subject.device)
    rows = torch.arange(len(of_image), device=subject.device)
    own = rows.repeat_interleave(torch.tensor([len(some) for some in of_image], device=subject.device))
    directions = {
        "text_to_image": (texts, images["embeddings"], own, rows),
        "image_to_text": (images["embeddings"], texts, rows, own),
    }
    figures: dict[str, float | None] = {"images": float(len(rows)), "captions": float(len(own))}
    for direction, (queries, gallery, query_labels, gallery_labels) in directions.items():
        labels = {"query_labels": query_labels, "gallery_labels": gallery_labels}
        found = retrieval_metrics(queries, gallery, similarity=model.similarity, **labels)
        figures |= {f"{direction}/image/{name}": figure for name, figure in found.items()}
    return figures


def squashed(subject: Subject) -> Subject:
    """The same subject with images resized to a square, without a crop."""
    pretrained, transforms = subject.pretrained, subject.pretrained.transforms
    evaluation = EvaluationTransform(transforms.evaluation.image_size, squash=True)
    return replace(subject, pretrained=pretrained._replace(transforms=transforms._replace(evaluation=evaluation)))


def format_retrieval(figures: Mapping[str, float | None], title: str) -> str:
    """R@1, R@5 and R@10 in both directions."""
    table = format_rows(figures, title, rows=ROWS, columns=COLUMNS)
    return f"{table}\n{figures['images']:.0f} images, {figures['captions']:.0f} captions; images resized to a square"


retrieval_figure = partial(bars_figure, rows=ROWS, columns=COLUMNS)
