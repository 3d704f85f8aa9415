"""The losses of CLIP and MERU without towers, on random features, compared with their published form."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from meru.benchmarks.measuring import median_seconds
from meru.encoders.image import ImageEncoder
from meru.encoders.text import TextEncoder, TextTransformer
from meru.models import combined, values_of
from meru.models.clip import CLIP
from meru.models.dual_encoder import DualEncoder
from meru.models.meru import MERU
from meru.models.terms import Step

LOSS = {
    "contrastive": {"weight": 1.0, "positives": "pair"},
    "entailment": {"weight": 0.2, "minimum_radius": 0.1},
}


def measure_losses(batch_size: int, dimension: int, repeats: int, device: str) -> list[dict]:
    """Measure forward and backward of the contrastive loss and MERU's entailment, from features `(B, D)`.

    Returns:
        For every form `model`, `loss`, `seconds`, and on a GPU `peak_bytes` in addition to the features.
    """
    features = [torch.randn(batch_size, dimension, device=device, requires_grad=True) for _ in range(2)]
    rows = []
    for name, loss in loss_forms(dimension, batch_size, device).items():

        def work(loss: Callable[..., Tensor] = loss) -> Tensor:
            value = loss(*features)
            torch.autograd.grad(value, features)
            return value.detach()

        row = {"model": name, "loss": work().item()}
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            work()
            row["peak_bytes"] = torch.cuda.max_memory_allocated() - before
        rows.append({**row, "seconds": median_seconds(work, device, warmup=1, repeats=repeats)})
    return rows


def loss_forms(dimension: int, batch_size: int, device: str) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """The losses as functions of the features of images and captions."""
    shared = {"embedding_dimension": dimension, "loss": LOSS}
    clip, meru = (kind(**towers(), **shared).to(device) for kind in (CLIP, MERU))
    batch = {"image": torch.empty(batch_size, 0, device=device)}

    def loss_of(model: DualEncoder, image: Tensor, text: Tensor) -> Tensor:
        step = Step(batch=batch, image=model.lift_image(image), text=model.lift_text(text))
        return combined(model.loss, values_of(model.terms, model, step), {}).loss

    return {
        "clip": partial(loss_of, clip),
        "clip, published form": published_clip,
        "meru": partial(loss_of, meru),
        "meru, published form": published_meru,
    }


def towers() -> dict[str, object]:
    """Placeholder towers, which never run because the features are given."""
    numbers = (0.5, 0.5, 0.5)
    network = nn.Module()
    network.output_tokens = True
    image = ImageEncoder(network=network, width=8, image_size=8, pixel_mean=numbers, pixel_std=numbers)
    text = TextTransformer(architecture="L1_W8_A1", vocabulary_size=8, context_length=8)
    return {"image": image, "text": TextEncoder(network=text, tokenizer=None)}


def published_clip(image: Tensor, text: Tensor) -> Tensor:
    """Cross-entropy in both directions over a matrix of cosines."""
    logits = F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T / 0.07
    return both_directions(logits)


def published_meru(image: Tensor, text: Tensor) -> Tensor:
    """Desai et al., ICML 2023, equations 3 to 9 as they are printed, at c = 1."""
    scale = image.shape[-1] ** -0.5
    image, text = (lifted(scale * features) for features in (image, text))
    image_time, text_time = ((1 + x.square().sum(-1, keepdim=True)).sqrt() for x in (image, text))
    inner = image @ text.T - image_time @ text_time.T
    contrastive = both_directions(-torch.acosh((-inner).clamp(min=1 + 1e-8)) / 0.07)

    paired = (text * image).sum(-1) - (text_time * image_time)[:, 0]
    length = text.norm(dim=-1)
    numerator = image_time[:, 0] + text_time[:, 0] * paired
    denominator = length * (paired.square() - 1).clamp(min=1e-8).sqrt()
    angle = torch.acos((numerator / denominator).clamp(-1 + 1e-8, 1 - 1e-8))
    aperture = torch.asin((0.2 / length).clamp(max=1 - 1e-8))
    return contrastive + 0.2 * (angle - aperture).clamp(min=0).mean()


def lifted(v: Tensor) -> Tensor:
    length = v.norm(dim=-1, keepdim=True).clamp(min=1e-8)
    return torch.sinh(length.clamp(max=math.asinh(2.0**15))) / length * v


def both_directions(logits: Tensor) -> Tensor:
    own = torch.arange(len(logits), device=logits.device)
    return 0.5 * (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own))
