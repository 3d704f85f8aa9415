"""Zero-shot classification: an image is assigned to the class with the most similar prompts.

Names of the figures: see `meru.reports.tables`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from meru.errors import UserError
from meru.metrics.retrieval import Similarity, score_chunks


def class_prompts(class_names: Sequence[str], templates: Sequence[str]) -> list[list[str]]:
    """Every template filled with every class name: one list of prompts per class.

    Args:
        class_names: As they should appear in a sentence.
        templates: Sentences with `{}` where the name goes.

    Raises:
        UserError: if there is no template, or one lacks its `{}`.
    """
    if not templates:
        raise UserError("no prompt template for zero-shot; give data.prompts at least one, such as 'a photo of a {}.'")
    for template in templates:
        if "{}" not in template:
            raise UserError(f"prompt template {template!r} has no {{}}; put it where the class name goes")
    return [[template.replace("{}", name) for template in templates] for name in class_names]


@torch.no_grad()
def zero_shot_metrics(
    image_embeddings: Tensor,
    class_embeddings: Tensor,
    *,
    labels: Tensor,
    similarity: Similarity,
    ks: Sequence[int] = (1, 5),
    chunk_size: int = 1024,
) -> dict[str, float]:
    """Top-k accuracy of choosing among K classes: over images, and as the mean over classes.

    Exact for tied scores: the expectation over random orders of equal scores, so that a constant similarity
    scores k/K.

    Args:
        image_embeddings: Shape `(n, D)`.
        class_embeddings: One per class, averaged over its prompts by the model, shape `(K, D)`.
        labels: Class of each image in 0 … K − 1, shape `(n,)`.
        similarity: Maps `(chunk, D)` and `(K, D)` to scores `(chunk, K)`; higher is more similar.
        ks: Cut-offs, each ≥ 1. Those of K or more are uninformative and left out, except k = 1.
        chunk_size: Images scored at a time.

    Returns:
        `accuracy@k`, `class_mean/accuracy@k` (over the classes that occur in `labels`), both also as
        `chance_accuracy@k`, and `images`.

    Raises:
        ValueError: if shapes do not fit, a label is not a class, or a k is below 1.
        UserError: if a score is NaN or infinite; the message names the image.
    """
    images, classes = len(image_embeddings), len(class_embeddings)
    if labels.shape != (images,):
        raise ValueError(f"{images} images, but labels of shape {tuple(labels.shape)}")
    if images and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(f"labels must lie in 0 … {classes - 1}, the number of classes less one")
    if not ks or min(ks) < 1:
        raise ValueError(f"ks must be cut-offs of at least 1, got {tuple(ks)}")
    labels = labels.to(image_embeddings.device)
    ks = [k for k in ks if k < classes or k == 1]
    cut_offs = torch.tensor(ks, device=labels.device)

    hits = []
    chunks = score_chunks(image_embeddings, class_embeddings, similarity=similarity, chunk_size=chunk_size)
    for rows, scores in chunks:
        own = scores.gather(1, labels[rows, None])
        above = (scores > own).sum(dim=1, keepdim=True)
        tied = (scores == own).sum(dim=1, keepdim=True)
        # The right class is at each of the positions g + 1 … g + t with equal probability.
        hits.append(((cut_offs - above).double() / tied).clamp(0, 1))
    hit = torch.cat(hits)
    class_mean = torch.stack([hit[labels == index].mean(dim=0) for index in labels.unique()]).mean(dim=0)

    metrics = {"images": float(images)}
    for k, over_images, over_classes in zip(ks, hit.mean(dim=0).tolist(), class_mean.tolist(), strict=True):
        metrics |= {f"accuracy@{k}": over_images, f"class_mean/accuracy@{k}": over_classes}
        metrics |= {f"chance_accuracy@{k}": k / classes, f"class_mean/chance_accuracy@{k}": k / classes}
    return metrics
