"""Effect of corrupted images and shortened captions on retrieval and on the distance from the origin.

This tests the claim that more general inputs lie nearer to the origin. Images are corrupted before the model's usual
transform; captions lose their last words. For every family of corruptions and every severity:

    fog/3/text_to_image/class/recall@1     R@1 among images in fog of severity 3, all captions as queries
    fog/3/radius                           mean distance of these images from the origin
    fog/mean/…                             the mean of both over the severities
    fog/relative                           that R@1 as a share of the R@1 without corruption
    fog/rank_correlation                   see `mean_rank_correlation`; None on a sphere, where every radius is 1
    fog/feature_rank_correlation           the same of the length of the feature that each point was made from: what
                                           the tower does without the space
    mean/…, relative                       R@1, radius and share, averaged over the families
    caption/0.5/…                          R@1 and radius of captions cut to the first half of their words
    clean/…                                without corruption
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from scipy.stats import rankdata
from torch import Tensor, nn

from meru.data.corruptions.families import FAMILIES, SEVERITIES, Corruption
from meru.evaluation.image_text import BatchTokenizer, embed_captions, embed_images
from meru.metrics.retrieval import retrieval_metrics

Figures = dict[str, float | None]
SAME_RADIUS = 1e-5  # share of the largest radius: smaller differences are rounding
CAPTION_SHARES = (0.25, 0.5, 0.75, 1.0)


def shortened(caption: str, share: float) -> str:
    """The first `share` of a caption's words, rounded up to at least one word."""
    words = caption.split()
    return " ".join(words[: math.ceil(share * len(words))])


@torch.no_grad()
def evaluate_robustness(
    model: nn.Module,
    batches: Callable[[Corruption | None], Iterable[dict[str, Tensor]]],
    *,
    captions: Sequence[Sequence[str]],
    tokenizer: BatchTokenizer,
    device: torch.device,
    class_kind: str = "class",
    captions_per_image: int | None = None,
    corruptions: Sequence[str] | None = None,
    severities: Sequence[int] = SEVERITIES,
) -> Figures:
    """Evaluate a split at every severity of every corruption, and with its captions at every length.

    Args:
        model: Has `image_features`, `lift_image`, `embed_text`, `similarity` and `radius`; in evaluation mode.
        batches: Returns the images of the split in order, each with that corruption; None: unchanged.
        captions: Captions of every record of the split, by its `image_index`.
        tokenizer: Captions → padded token ids.
        device: The model's device.
        class_kind: `class` or `identity`: the label that decides which images are relevant for a caption.
        captions_per_image: How many captions of each image to use, the first ones; None: all.
        corruptions, severities: Families, None: all; and at least one of 1 to 5.

    Returns:
        Figures by the names above; the R@1 also with its chance level.
    """
    known, clean, clean_lengths = _placed(model, batches(None), device)
    labels = known["class_index"]
    of_image = [captions[record][:captions_per_image] for record in known["image_index"].tolist()]
    whole = [caption for some in of_image for caption in some]
    text_labels = labels.repeat_interleave(torch.tensor([len(some) for some in of_image], device=device))
    # All lengths together: a caption cut twice to the same words has one embedding, not two that differ by rounding.
    cuts = [shortened(text, share) for share in CAPTION_SHARES for text in whole]
    texts = embed_captions(model, cuts, tokenizer=tokenizer, device=device).chunk(len(CAPTION_SHARES))

    search = {"ks": (1,), "query_labels": text_labels, "gallery_labels": labels, "similarity": model.similarity}

    def measured(row: str, queries: Tensor, gallery: Tensor, radius: Tensor) -> Figures:
        found = retrieval_metrics(queries, gallery, **search)
        names = {f"text_to_image/{class_kind}/{name}": found[name] for name in ("recall@1", "chance_recall@1")}
        return {f"{row}/{name}": value for name, value in (names | {"radius": radius.double().mean().item()}).items()}

    figures = measured("clean", texts[-1], clean, clean_radius := model.radius(clean))
    degrees, families = sorted(set(severities)), list(FAMILIES if corruptions is None else dict.fromkeys(corruptions))
    ascending = torch.tensor([0, *degrees]).expand(len(labels), -1)
    for family in families:
        placed = [_placed(model, batches(Corruption(family, severity)), device)[1:] for severity in degrees]
        radii = [clean_radius, *(model.radius(points) for points, _ in placed)]
        for severity, (points, _), radius in zip(degrees, placed, radii[1:], strict=True):
            figures |= measured(f"{family}/{severity}", texts[-1], points, radius)
        lengths = [clean_lengths, *(of_features for _, of_features in placed)]
        for name, values in (("rank_correlation", radii), ("feature_rank_correlation", lengths)):
            figures[f"{family}/{name}"] = mean_rank_correlation(ascending, torch.stack(values, dim=1))
    figures |= summarised(figures, families, degrees)
    radii = [model.radius(embeddings) for embeddings in texts]
    for share, embeddings, radius in zip(CAPTION_SHARES, texts, radii, strict=True):
        figures |= measured(f"caption/{share:g}", embeddings, clean, radius)
    figures["caption/rank_correlation"] = mean_rank_correlation(_lengths(cuts), torch.stack(radii, dim=1))
    return figures


class _WithLength:
    """Embeds images as a model does, with the length of the feature that each point is made from as last column."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def embed_image(self, images: Tensor) -> Tensor:
        features = self.model.image_features(images)
        return torch.cat([self.model.lift_image(features), features.norm(dim=-1, keepdim=True)], dim=-1)


def _placed(
    model: nn.Module, batches: Iterable[dict[str, Tensor]], device: torch.device
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """What `embed_images` returns, the points `(n, D)` and the lengths `(n,)` of their features."""
    known = embed_images(_WithLength(model), batches, device=device)
    return known, known["embeddings"][:, :-1].contiguous(), known["embeddings"][:, -1]


def summarised(figures: Figures, families: Sequence[str], severities: Sequence[int]) -> Figures:
    """The means over severities and over families, and the share of the clean R@1 that is kept.

    Args:
        figures: With `clean/…` and `<family>/<severity>/…`.
        families, severities: Those that the figures have.
    """
    names = [name.removeprefix("clean/") for name in figures if name.startswith("clean/")]
    recall = next(name for name in names if name.endswith("/recall@1"))
    clean = figures[f"clean/{recall}"]
    means: Figures = {}
    for family in families:
        for name in names:
            means[f"{family}/mean/{name}"] = _mean([figures[f"{family}/{each}/{name}"] for each in severities])
        means[f"{family}/relative"] = means[f"{family}/mean/{recall}"] / clean if clean else None
    if families:
        for name in names:
            means[f"mean/{name}"] = _mean([means[f"{family}/mean/{name}"] for family in families])
        means["relative"] = means[f"mean/{recall}"] / clean if clean else None
    return means


def _lengths(cuts: Sequence[str]) -> Tensor:
    """Words of all cuts of a caption, `(m, shares)`, from a list with all captions at the first share, and so on."""
    return torch.tensor([len(cut.split()) for cut in cuts]).view(len(CAPTION_SHARES), -1).t()


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def mean_rank_correlation(degrees: Tensor, radii: Tensor) -> float | None:
    """Spearman's rank correlation of degree and radius within each image or caption, averaged over them.

    Every image is its own control, because differences between images say nothing about degradation. Pooling all of
    them, even after subtracting the clean radius, would count four views of one image as four observations, weight
    images by how far they move, and give the clean ones a variance of 0.

    An item whose radius is the same at every degree counts as 0, because it is no evidence for the claim; an item whose
    degree never varies (a caption of one word) is left out.

    Args:
        degrees: Strengths of the degradation, shape `(n, levels)`.
        radii: Distances from the origin, shape `(n, levels)`.

    Returns:
        −1 … 1; None if it is undefined: all radii are equal except for rounding, or no degree varies.
    """
    # Ranks all items at once: calling scipy.stats.spearmanr for each takes a minute for 20,000 items.
    radii = radii.detach().double().cpu()
    radii = (radii / (SAME_RADIUS * radii.max()).clamp(min=1e-30)).round()
    varied = (degrees != degrees[:, :1]).any(dim=1)
    if bool((radii == radii[0, 0]).all()) or not varied.any():
        return None
    x, y = (torch.from_numpy(rankdata(values[varied].numpy(), axis=1)) for values in (degrees, radii))
    x, y = x - x.mean(dim=1, keepdim=True), y - y.mean(dim=1, keepdim=True)
    scale = (x.square().sum(dim=1) * y.square().sum(dim=1)).sqrt()
    return ((x * y).sum(dim=1) / scale.clamp(min=1e-30)).mean().item()
