"""Computes all figures of an image–text model on one split; every image and caption is embedded once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from meru import sharing
from meru.geometry.all_pairs import exact_product
from meru.metrics.class_hierarchy import class_hierarchy_metrics
from meru.metrics.retrieval import image_text_retrieval
from meru.metrics.zero_shot import class_prompts, zero_shot_metrics

BatchTokenizer = Callable[[list[str]], Tensor]  # captions → int64 (B, L), padded with 0


@torch.no_grad()
def embed_images(model: nn.Module, batches: Iterable[dict[str, Tensor]], *, device: torch.device) -> dict[str, Tensor]:
    """Embeddings of all images, and the indices of their records; in `sharing.together`, the processes divide them.

    Args:
        model: Has `embed_image`.
        batches: With `image`, `class_index` and `image_index`, from an evaluation loader.

    Returns:
        `embeddings` `(n, D)`, `class_index` and `image_index` `(n,)`, on `device`.
    """

    def embed(batch: dict[str, Tensor]) -> dict[str, Tensor] | None:
        if not len(batch["image"]):
            return None
        known = {name: batch[name].to(device) for name in ("class_index", "image_index")}
        return {"embeddings": model.embed_image(batch["image"].to(device, non_blocking=True)), **known}

    return sharing.rows_of(batches, embed, device=device)


@torch.no_grad()
def embed_captions(
    model: nn.Module,
    captions: Sequence[str],
    *,
    tokenizer: BatchTokenizer,
    device: torch.device,
    batch_size: int = 256,
) -> Tensor:
    """Embeddings of captions, `(m, D)`, on `device`. Distinct captions are embedded once, similar lengths together.

    In `sharing.together`, the processes divide them.
    """
    unique = sorted(set(captions), key=lambda caption: (len(caption), caption))
    batches = [unique[start : start + batch_size] for start in range(0, len(unique), batch_size)]

    def embed(some: list[str]) -> dict[str, Tensor]:
        return {"embeddings": model.embed_text(tokenizer(some).to(device))}

    place = {caption: i for i, caption in enumerate(unique)}
    return sharing.rows_of(batches, embed, device=device)["embeddings"][[place[caption] for caption in captions]]


@torch.no_grad()
def evaluate_image_text(
    model: nn.Module,
    batches: Iterable[dict[str, Tensor]],
    *,
    captions: Sequence[Sequence[str]],
    class_names: Sequence[str],
    tokenizer: BatchTokenizer,
    device: torch.device,
    templates: Sequence[str] = (),
    captions_per_image: int | None = None,
    class_kind: str = "class",
    families: Sequence[str] | None = None,
) -> dict[str, float]:
    """Retrieval in both directions at image and class level, and zero-shot classification.

    Classes are represented by prompts with their names (`zero_shot`) and by the average of all captions of their images
    in this split (`class_captions`; Reed et al., CVPR 2016, section 5), because captions rarely name a species.

    For identities of persons there is only retrieval, by the model's similarity (`…/identity`) and by the cosine of the
    embeddings (`…/identity_cosine`): every caption is a query, every image is in the gallery, without a camera filter.
    Without classes there is only retrieval at image level. The model is put into evaluation mode temporarily.

    Args:
        model: Has `embed_image`, `embed_text`, `similarity` and `average`.
        batches: The images of the split, from an evaluation loader.
        captions: Captions of every record of the split, by its `image_index`.
        class_names: Names by `class_index`, for the prompts.
        tokenizer: Captions → padded token ids.
        device: The model's device.
        captions_per_image: Use only this many captions of each image, the first ones; None: all.
        templates: Prompt templates, averaged by the model for each class; unused for identities.
        class_kind: `class`, `identity`, or `image` without classes.
        families: Family of each class, for the figures of `meru.metrics.class_hierarchy`; None: without these.

    Returns:
        Figures by the names that `meru.reports.tables` lists; in `sharing.together`, empty in other processes than the
        main one.
    """
    was_training = model.training
    model.eval()
    images = embed_images(model, batches, device=device)
    texts, text_image = [], []
    for row, record in enumerate(images["image_index"].tolist()):
        chosen = captions[record][:captions_per_image]
        texts += chosen
        text_image += [row] * len(chosen)
    text_embeddings = embed_captions(model, texts, tokenizer=tokenizer, device=device)
    classes = None
    if class_kind not in ("identity", "image"):
        classes = embed_classes(model, class_names, tokenizer=tokenizer, device=device, templates=templates)
    model.train(was_training)
    if not sharing.leads():
        return {}
    text_image_index = torch.tensor(text_image, device=device)
    metrics = _retrieval(model, images, text_embeddings, text_image_index, class_kind)
    if classes is not None:
        metrics |= _classification(model, images, classes, text_embeddings, text_image_index, families)
    return metrics


def _retrieval(
    model: nn.Module, images: dict[str, Tensor], texts: Tensor, text_image_index: Tensor, class_kind: str
) -> dict[str, float]:
    """Retrieval in both directions; what stands for classes depends on `class_kind`."""
    labels = {"text_image_index": text_image_index, "image_class_index": images["class_index"]}
    retrieve = partial(image_text_retrieval, images["embeddings"], texts, **labels)
    metrics = retrieve(similarity=model.similarity)
    if class_kind == "identity":
        beside = retrieve(similarity=lambda x, y: exact_product(F.normalize(x, dim=-1), F.normalize(y, dim=-1)))
        return _at_identity(metrics, "identity") | _at_identity(beside, "identity_cosine")
    if class_kind == "image":
        return {name: figure for name, figure in metrics.items() if "/class/" not in name}
    return metrics


def _classification(
    model: nn.Module,
    images: dict[str, Tensor],
    classes: Tensor,
    texts: Tensor,
    text_image_index: Tensor,
    families: Sequence[str] | None,
) -> dict[str, float]:
    """`zero_shot/…` with embeddings of all classes, and `class_captions/…` with captions of the classes that occur."""
    present, labels = images["class_index"].unique(return_inverse=True)
    text_labels = labels[text_image_index]
    described = torch.stack([model.average(texts[text_labels == k]) for k in range(len(present))])
    metrics = {}
    choices = {
        "zero_shot": (classes, images["class_index"], range(len(classes))),
        "class_captions": (described, labels, present.tolist()),
    }
    for row, (candidates, right, numbers) in choices.items():
        compared = {"labels": right, "similarity": model.similarity}
        figures = zero_shot_metrics(images["embeddings"], candidates, **compared)
        if families:
            of_candidates = [families[number] for number in numbers]
            figures |= class_hierarchy_metrics(images["embeddings"], candidates, families=of_candidates, **compared)
        metrics |= {f"{row}/{name}": figure for name, figure in figures.items()}
    return metrics


def _at_identity(metrics: dict[str, float], row: str) -> dict[str, float]:
    """The figures at class level, under another name."""
    return {name.replace("/class/", f"/{row}/"): figure for name, figure in metrics.items() if "/class/" in name}


@torch.no_grad()
def embed_classes(
    model: nn.Module,
    class_names: Sequence[str],
    *,
    tokenizer: BatchTokenizer,
    device: torch.device,
    templates: Sequence[str],
) -> Tensor:
    """One embedding per class, `(K, D)`: the model's average over the prompts with its name."""
    prompts = class_prompts(class_names, templates)
    flat = [prompt for of_class in prompts for prompt in of_class]
    embeddings = embed_captions(model, flat, tokenizer=tokenizer, device=device)
    return model.average(embeddings.unflatten(0, (len(prompts), -1)))
