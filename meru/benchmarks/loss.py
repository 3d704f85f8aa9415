"""The losses of CLIP, MERU and SMS without towers, on random features, compared with their published form."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from meru.benchmarks.measuring import interleaved_medians, peak_bytes
from meru.encoders.image import ImageEncoder
from meru.encoders.text import TextEncoder, TextTransformer
from meru.models import combined, values_of
from meru.models.clip import CLIP
from meru.models.dual_encoder import DualEncoder
from meru.models.meru import MERU
from meru.models.terms import Step
from meru.reports.tables import markdown_table

CONTRAST = {"weight": 1.0, "positives": "pair"}
ENTAILMENT = {"weight": 0.2, "minimum_radius": 0.1}
SEMANTIC_MARGIN = {"weight": 1.0, "margin": 0.2, "margin_source": "intra", "soft_label": 0.4}
LOSSES: dict[str, tuple[type[DualEncoder], dict]] = {
    "clip": (CLIP, {"contrastive": CONTRAST}),
    "meru": (MERU, {"contrastive": CONTRAST, "entailment": ENTAILMENT}),
    "sms": (
        MERU,
        {
            "contrastive": {"weight": 0.0, "positives": "class"},
            "entailment": ENTAILMENT | {"weight": 0.0},
            "semantic_margin": SEMANTIC_MARGIN,
        },
    ),
}
Loss = Callable[[Tensor, Tensor], Tensor]


def report(batch: int, dimension: int, repeats: int, device: str, only: str | None) -> str:
    """Time and memory of every form of the losses, or only of one, as a Markdown table."""
    rows = measure_losses(batch, dimension, repeats, device, only=only)
    base: dict[str, dict] = {}
    lines = []
    for row in rows:
        first = base.setdefault(row["model"].split(",")[0], row)
        lines.append([
            row["model"],
            f"{row['loss']:.5f}",
            f"{1000 * row['seconds']:.1f} ms",
            f"{row['seconds'] / first['seconds']:.2f}",
            f"{row['peak_bytes'] / 2**20:.0f} MiB",
            f"{row['peak_bytes'] / first['peak_bytes']:.3f}",
        ])  # fmt: skip
    note = (
        f"Forward and backward from features, B = {batch:,}, D = {dimension}; ratios to the first form of each loss, "
        f"medians of {repeats} interleaved rounds. Memory: peak in addition to the features, with their gradients. The "
        "published forms compute a matrix for each direction, as the authors' code does."
    )
    return note + "\n\n" + markdown_table(["loss", "value", "time", "ratio", "peak memory", "ratio"], lines)


def measure_losses(
    batch_size: int, dimension: int, repeats: int, device: str, *, only: str | None = None
) -> list[dict]:
    """Measure forward and backward of the losses, from features `(B, D)`.

    Args:
        batch_size, dimension: B and D.
        repeats: Rounds of measurement.
        device: Where.
        only: The part after the comma of a form, such as `tiled`; None: all forms.

    Returns:
        For every form `model`, `loss`, `seconds`, and `peak_bytes` in addition to the features.
    """
    generator = torch.Generator().manual_seed(0)
    features = [torch.randn(batch_size, dimension, generator=generator).to(device).requires_grad_() for _ in range(2)]
    forms = loss_forms(dimension, batch_size, device)
    forms = {name: loss for name, loss in forms.items() if only is None or name.endswith(f", {only}")}

    def work(loss: Loss) -> Tensor:
        value = loss(*features)
        torch.autograd.grad(value, features)
        return value.detach()

    rows = []
    for name, loss in forms.items():
        rows.append({"model": name, "loss": work(loss).item(), "peak_bytes": peak_bytes(loss, features, True, device)})
    seconds = interleaved_medians([partial(work, loss) for loss in forms.values()], device, repeats=repeats)
    return [{**row, "seconds": median} for row, median in zip(rows, seconds, strict=True)]


def loss_forms(dimension: int, batch_size: int, device: str) -> dict[str, Loss]:
    """The losses as functions of the features of images and captions: published, on whole matrices, and by tiles."""
    batch = {
        "image": torch.empty(batch_size, 0, device=device),
        "class_index": torch.arange(batch_size, device=device) // 4,
    }

    def loss_of(model: DualEncoder, image: Tensor, text: Tensor) -> Tensor:
        step = Step(batch=batch, image=model.lift_image(image), text=model.lift_text(text))
        return combined(model.loss, values_of(model.terms, model, step), {}).loss

    one, scale = (torch.tensor(value, device=device, requires_grad=True) for value in (1.0, 1 / 0.07))
    published: dict[str, Loss] = {
        "clip": partial(published_clip, scale),
        "meru": partial(published_meru, one, scale),
    }
    forms: dict[str, Loss] = {}
    for name, (kind, loss) in LOSSES.items():
        if name in published:
            forms[f"{name}, published form"] = published[name]
        for form, tiled_from in (("whole matrix", math.inf), ("tiled", 0)):
            model = kind(**towers(), embedding_dimension=dimension, loss=loss).to(device)
            model.tiled_from = tiled_from
            forms[f"{name}, {form}"] = partial(loss_of, model)
    return forms


def towers() -> dict[str, object]:
    """Placeholder towers, which never run because the features are given."""
    numbers = (0.5, 0.5, 0.5)
    network = nn.Module()
    network.output_tokens = True
    image = ImageEncoder(network=network, width=8, image_size=8, pixel_mean=numbers, pixel_std=numbers)
    text = TextTransformer(architecture="L1_W8_A1", vocabulary_size=8, context_length=8)
    return {"image": image, "text": TextEncoder(network=text, tokenizer=None)}


def published_clip(scale: Tensor, image: Tensor, text: Tensor) -> Tensor:
    """Cross-entropy in both directions over matrices of cosines."""
    image, text = F.normalize(image, dim=-1), F.normalize(text, dim=-1)
    return both_directions(scale * image @ text.T, scale * text @ image.T)


def published_meru(curvature: Tensor, scale: Tensor, image: Tensor, text: Tensor) -> Tensor:
    """Desai et al., ICML 2023, equations 3 to 9 as they are printed, with learned curvature and scale."""
    c = curvature
    image, text = (lifted(image.shape[-1] ** -0.5 * features, c) for features in (image, text))
    contrastive = both_directions(-scale * distances(image, text, c), -scale * distances(text, image, c))

    image_time, text_time = (time(x, c) for x in (image, text))
    paired = c * ((text * image).sum(-1) - (text_time * image_time)[:, 0])
    length = text.norm(dim=-1)
    numerator = image_time[:, 0] + text_time[:, 0] * paired
    denominator = length * (paired.square() - 1).clamp(min=1e-8).sqrt()
    angle = torch.acos((numerator / denominator).clamp(-1 + 1e-8, 1 - 1e-8))
    aperture = torch.asin((0.2 / (length * c.sqrt())).clamp(max=1 - 1e-8))
    return contrastive + 0.2 * (angle - aperture).clamp(min=0).mean()


def time(x: Tensor, c: Tensor) -> Tensor:
    return (1 / c + x.square().sum(-1, keepdim=True)).sqrt()


def distances(x: Tensor, y: Tensor, c: Tensor) -> Tensor:
    inner = x @ y.T - time(x, c) @ time(y, c).T
    return torch.acosh((-c * inner).clamp(min=1 + 1e-8)) / c.sqrt()


def lifted(v: Tensor, c: Tensor) -> Tensor:
    length = (c.sqrt() * v.norm(dim=-1, keepdim=True)).clamp(min=1e-8)
    return torch.sinh(length.clamp(max=math.asinh(2.0**15))) / length * v


def both_directions(rows: Tensor, columns: Tensor) -> Tensor:
    own = torch.arange(len(rows), device=rows.device)
    return 0.5 * (F.cross_entropy(rows, own) + F.cross_entropy(columns, own))
