"""Initial radius of the points of a hyperbolic model with pretrained towers."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import nn
from torch.utils.data import DataLoader

from meru.encoders.text import CaptionTokenizer

log = logging.getLogger("meru")


def start_at_initial_radius(
    model: nn.Module, images: DataLoader, captions: Sequence[str], tokenizer: CaptionTokenizer, *, device: torch.device
) -> None:
    """Measure the projected norms of training images and captions, and set the alphas accordingly.

    Uses no random numbers. Call this in every process: all of them get the main process's alphas.

    Args:
        model: A hyperbolic model with `initial_radius` and `start_at_radius`.
        images: See `meru.data.pairs.evaluation_loader`.
        captions: Captions of the same images.
        tokenizer: The text tower's tokenizer.
        device: Device of the model.
    """
    size = images.batch_size
    norms = model.start_at_radius(
        (batch["image"].to(device) for batch in images),
        (tokenizer.batch(captions[start : start + size]).to(device) for start in range(0, len(captions), size)),
    )
    radius = model.initial_radius
    log.info(
        "projected norms: images %.3g, captions %.3g; alphas start at %.3g and %.3g, radius %g",
        *norms,
        model.visual_alpha.exp().item(),
        model.textual_alpha.exp().item(),
        radius,
    )
    short = [kind for kind, norm in zip(("images", "captions"), norms, strict=True) if norm < radius]
    if short:
        log.info(
            "features of %s are shorter than model.initial_radius=%g, so their alpha stays at 1",
            " and ".join(short),
            radius,
        )
