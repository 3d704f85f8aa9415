"""Effect of degraded images and shortened captions on retrieval and on the distance from the origin.

This tests the claim that more general inputs lie nearer to the origin. Images are degraded before the model's usual
transform, as by a worse camera; captions lose their last words. For every degree:

    resolution/4/text_to_image/class/recall@1   R@1 among images downsampled by 4, all captions as queries
    resolution/4/radius                         mean distance of these images from the origin
    resolution/rank_correlation                 see `mean_rank_correlation`; None on a sphere, where every radius is 1
    caption/0.5/…                               the same of captions cut to the first half of their words
    clean/…                                     without degradation
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from matplotlib.figure import Figure
from scipy.stats import rankdata
from torch import Tensor, nn
from torchvision.transforms import v2

from meru.evaluation.image_text import BatchTokenizer, embed_captions, embed_images
from meru.metrics.retrieval import retrieval_metrics
from meru.reports.attention import printable

Degradation = Callable[[Tensor], Tensor]  # uint8 (3, H, W) → uint8 (3, H', W'), the same for the same image
SAME_RADIUS = 1e-5  # share of the largest radius: smaller differences are rounding


@dataclass(frozen=True)
class Downsample:
    """Divides both sides by `factor`; the model's transform enlarges the image again."""

    factor: int

    def __call__(self, image: Tensor) -> Tensor:
        """uint8 `(3, H, W)` → uint8 `(3, H / factor, W / factor)`."""
        # Not to 1 × 1, for which PyTorch's antialiasing raises an internal error.
        sides = [max(min(side, 2), round(side / self.factor)) for side in image.shape[1:]]
        return v2.functional.resize(image, sides, interpolation=v2.InterpolationMode.BICUBIC)


@dataclass(frozen=True)
class Occlude:
    """Covers `share` of the area by a grey box of the image's shape, at random; larger boxes contain smaller ones."""

    share: float

    def __call__(self, image: Tensor) -> Tensor:
        """uint8 `(3, H, W)` → the same shape."""
        sides = torch.tensor(image.shape[1:])
        box = (sides * math.sqrt(self.share)).round()
        top, left = (torch.rand(2, generator=_generator(image)) * (sides - box)).round().int().tolist()
        height, width = box.int().tolist()
        image = image.clone()
        image[:, top : top + height, left : left + width] = 128
        return image


@dataclass(frozen=True)
class Darken:
    """Multiplies every value by `brightness`."""

    brightness: float

    def __call__(self, image: Tensor) -> Tensor:
        """uint8 `(3, H, W)` → the same shape."""
        return (image * self.brightness).round().to(torch.uint8)


@dataclass(frozen=True)
class AddNoise:
    """Adds independent Gaussian noise to every value; the standard deviation is in units of 8-bit values."""

    deviation: float

    def __call__(self, image: Tensor) -> Tensor:
        """uint8 `(3, H, W)` → the same shape."""
        noise = self.deviation * torch.randn(image.shape, generator=_generator(image))
        return (image + noise).round().clamp(0, 255).to(torch.uint8)


def _generator(image: Tensor) -> torch.Generator:
    """A generator seeded by the image itself, so that its index, the batch and the worker process do not matter."""
    return torch.Generator().manual_seed(zlib.crc32(image.contiguous().numpy().tobytes()))


# Family → degree → degradation, weakest first.
DEGRADATIONS: dict[str, dict[float, Degradation]] = {
    "resolution": {factor: Downsample(factor) for factor in (2, 4, 8)},
    "occlusion": {share: Occlude(share) for share in (0.25, 0.5)},
    "darkness": {0.25: Darken(0.25)},
    "noise": {40: AddNoise(40)},
}
CAPTION_SHARES = (0.25, 0.5, 0.75, 1.0)
LABELS = {
    "clean": "clean",
    "resolution": "resolution ÷{:g}",
    "occlusion": "{:.0%} occluded",
    "darkness": "darkness, {:.0%} of the light",
    "noise": "noise, σ = {:g} of 255",
    "caption": "captions, first {:.0%} of words",
}


def shortened(caption: str, share: float) -> str:
    """The first `share` of a caption's words, rounded up to at least one word."""
    words = caption.split()
    return " ".join(words[: math.ceil(share * len(words))])


@torch.no_grad()
def evaluate_robustness(
    model: nn.Module,
    batches: Callable[[Degradation | None], Iterable[dict[str, Tensor]]],
    *,
    captions: Sequence[Sequence[str]],
    tokenizer: BatchTokenizer,
    device: torch.device,
    class_kind: str = "class",
    captions_per_image: int | None = None,
) -> dict[str, float | None]:
    """Evaluate a split at every degree of every degradation, and with its captions at every length.

    Args:
        model: Has `embed_image`, `embed_text`, `similarity` and `radius`; in evaluation mode.
        batches: Returns the images of the split in order, from an evaluation loader that applies a degradation first
            (None: unchanged).
        captions: Captions of every record of the split, by its `image_index`.
        tokenizer: Captions → padded token ids.
        device: The model's device.
        class_kind: `class` or `identity`: the label that decides which images are relevant for a caption.
        captions_per_image: Use only this many captions of each image, the first ones; None: all.

    Returns:
        Figures by the names above; the R@1 also with its chance level.
    """
    clean = embed_images(model, batches(None), device=device)
    labels = clean["class_index"]
    of_image = [captions[record][:captions_per_image] for record in clean["image_index"].tolist()]
    whole = [caption for some in of_image for caption in some]
    text_labels = labels.repeat_interleave(torch.tensor([len(some) for some in of_image], device=device))
    # All lengths together: a caption cut twice to the same words has one embedding, not two that differ by rounding.
    cuts = [shortened(text, share) for share in CAPTION_SHARES for text in whole]
    texts = embed_captions(model, cuts, tokenizer=tokenizer, device=device).chunk(len(CAPTION_SHARES))

    figures: dict[str, float | None] = {}

    def note(row: str, queries: Tensor, gallery: Tensor, radius: Tensor) -> None:
        search = {"query_labels": text_labels, "gallery_labels": labels, "similarity": model.similarity}
        found = retrieval_metrics(queries, gallery, ks=(1,), **search)
        for name in ("recall@1", "chance_recall@1"):
            figures[f"{row}/text_to_image/{class_kind}/{name}"] = found[name]
        figures[f"{row}/radius"] = radius.double().mean().item()

    clean_radius = model.radius(clean["embeddings"])
    note("clean", texts[-1], clean["embeddings"], clean_radius)
    for family, degrees in DEGRADATIONS.items():
        radii = [clean_radius]
        for degree, degradation in degrees.items():
            embeddings = embed_images(model, batches(degradation), device=device)["embeddings"]
            radii.append(model.radius(embeddings))
            note(f"{family}/{degree:g}", texts[-1], embeddings, radii[-1])
        if len(degrees) > 1:
            ascending = torch.arange(len(radii)).expand(len(labels), -1)
            figures[f"{family}/rank_correlation"] = mean_rank_correlation(ascending, torch.stack(radii, dim=1))
    radii = [model.radius(embeddings) for embeddings in texts]
    for share, embeddings, radius in zip(CAPTION_SHARES, texts, radii, strict=True):
        note(f"caption/{share:g}", embeddings, clean["embeddings"], radius)
    words = torch.tensor([len(cut.split()) for cut in cuts]).view(len(CAPTION_SHARES), -1)
    figures["caption/rank_correlation"] = mean_rank_correlation(words.t(), torch.stack(radii, dim=1))
    return figures


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


def format_robustness(figures: Mapping[str, float | None], title: str) -> str:
    """A plain-text table: R@1 in percent, chance level and mean radius by degree, then the rank correlations."""
    rows = rows_of(figures)
    width = max(len(label) for label, _ in rows)
    lines = [f"{title}: text → image R@1, percent (chance level), and mean distance from the origin"]
    lines.append(" " * width + f"{'R@1':>6}{'':8}{'radius':>8}")
    for label, row in rows:
        recall, chance, radius = (figures[name] for name in _names(figures, row))
        lines.append(label.ljust(width) + f"{100 * recall:>6.1f} {f'({100 * chance:.1f})':<7}{radius:>8.4f}")
    meanings = {
        "resolution": "negative: coarser is nearer to the origin",
        "occlusion": "negative: more hidden is nearer",
        "caption": "positive: shorter is nearer",
    }
    lines.append("rank correlation of degree and distance, within an image or caption")
    for family, meaning in meanings.items():
        correlation = figures[f"{family}/rank_correlation"]
        shown = "–" if correlation is None else f"{correlation:+.2f}"
        lines.append(f"{family.ljust(width)}{shown:>6}  {meaning}")
    return "\n".join(lines)


def robustness_figure(figures: Mapping[str, float | None], title: str = "") -> Figure:
    """A plot of R@1 above mean distance from the origin, one column per family, from clean to most degraded."""
    families = [*DEGRADATIONS, "caption"]
    figure = Figure(figsize=(2.6 * len(families), 5), layout="constrained")
    if title:
        figure.suptitle(printable(title, width=35 * len(families)), fontsize=10, parse_math=False)
    axes = figure.subplots(2, len(families))  # the scale of the radius differs between families
    for (above, below), family in zip(axes.T, families, strict=True):
        rows = [row for _, row in rows_of(figures) if row.partition("/")[0] == family]
        rows = rows[::-1] if family == "caption" else ["clean", *rows]  # the whole caption is the clean case
        recall, chance, radius = zip(*([figures[name] for name in _names(figures, row)] for row in rows), strict=True)
        ticks = [row.partition("/")[2] or "clean" for row in rows]
        above.plot(ticks, [100 * share for share in recall], marker="o")
        above.plot(ticks, [100 * share for share in chance], color="grey", linestyle=":")
        below.plot(ticks, radius, marker="o", color="tab:orange")
        above.set_ylim(0, None)
        above.set_title("caption, share of words" if family == "caption" else family, fontsize=9)
        if figures["resolution/rank_correlation"] is None:
            below.set_ylim(0, 1.1)  # shows a constant, not its rounding errors
    axes[0, 0].set_ylabel("R@1, percent (dotted: chance)")
    axes[1, 0].set_ylabel("mean distance from the origin")
    return figure


def rows_of(figures: Mapping[str, float | None]) -> list[tuple[str, str]]:
    """The label of every `…/radius`, and the prefix of its name."""
    rows = [name.removesuffix("/radius") for name in figures if name.endswith("/radius")]
    parts = [row.partition("/") for row in rows]
    labels = [LABELS[family].format(float(degree or 0)) for family, _, degree in parts]
    return list(zip(labels, rows, strict=True))


def _names(figures: Mapping[str, float | None], row: str) -> list[str]:
    """The names of the row's R@1, its chance level and its radius."""
    recall = next(name for name in figures if name.startswith(f"{row}/") and name.endswith("/recall@1"))
    return [recall, recall.replace("/recall@1", "/chance_recall@1"), f"{row}/radius"]
