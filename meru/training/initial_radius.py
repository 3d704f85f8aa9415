"""Where the points of a hyperbolic model lie when a run starts from pretrained towers."""

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
    """Measure the projected norms of training images and captions, and set the alphas by them.

    It draws no random numbers. Call it in every process: all of them get the main process's alphas.

    Args:
        model: A hyperbolic one, with `initial_radius` and `start_at_radius`.
        images: See `meru.data.loading.evaluation_loader`.
        captions: Of the same images.
        tokenizer: The text tower's.
        device: The model's.
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
            "features of %s are shorter than model.initial_radius=%g and are not lengthened: their alpha stays at 1",
            " and ".join(short),
            radius,
        )
