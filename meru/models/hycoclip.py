"""HyCoCLIP: Pal et al., "Compositional Entailment Learning for Hyperbolic Vision-Language Models", ICLR 2025."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from meru import distributed
from meru.losses.entailment import norm_regulariser
from meru.models import Term
from meru.models.large_batches import both_losses, goes_by_tiles, row_losses
from meru.models.meru import MERU
from meru.models.terms import Step, real_count

# Of the relations of `relation_losses` in ARGENT and UNCHA: the pair within the modalities is averaged.
RELATION_WEIGHTS = (0.5, 0.5, 0.25, 0.25)


@dataclass(kw_only=True)
class PartStep(Step):
    """A step with a part of each image and its text.

    Attributes:
        part_image, part_text: Points `(B, D)`.
        has_part, has_text: Rows with a part, and with a text for it, bool `(B,)`.
    """

    part_image: Tensor
    part_text: Tensor
    has_part: Tensor
    has_text: Tensor


def part_contrastive(model: HyCoCLIP, step: PartStep) -> Tensor:
    """Contrast of images and their parts with captions, and of captions and part texts with images.

        ¼ [CE(image → text) + CE(text → image) + CE(part image → text) + CE(part text → image)]

    CE is the loss of `loss.contrastive.kind`. Parts are not contrasted with parts. Terms without a sample in the batch
    are left out of the average.
    """
    size = len(step.image)
    if goes_by_tiles(model, size):
        image_loss, text_loss = both_losses(model, step.image, step.text, step.batch)
        part_image_loss = row_losses(model, step.part_image, step.text, step.batch)
        part_text_loss = row_losses(model, step.part_text, step.image, step.batch)
    else:
        towards_text = model.similarity(torch.cat([step.image, step.part_image]), distributed.gather(step.text))
        towards_image = model.similarity(torch.cat([step.text, step.part_text]), distributed.gather(step.image))
        targets = model.positive_targets(step.batch)
        scores = (*towards_text.split(size), *towards_image.split(size))
        image_loss, part_image_loss, text_loss, part_text_loss = (
            model.contrast(each, targets, step.batch) for each in scores
        )
    everyone = torch.ones_like(step.has_part)
    masks = torch.stack([everyone, everyone, step.has_part, step.has_text])
    return average_of_terms(torch.stack([image_loss, text_loss, part_image_loss, part_text_loss]), masks)


def part_entailment(model: HyCoCLIP, step: PartStep) -> Tensor:
    """Images lie beyond texts, wholes beyond parts: twice the mean of the relations that have samples.

    With `loss.entailment.kind=argent`, the sum weighted by `RELATION_WEIGHTS`.
    """
    losses, masks = relation_losses(model, step)
    if model.loss["entailment"].get("kind") == "argent":
        return (losses.new_tensor(RELATION_WEIGHTS) * distributed.masked_mean(losses, masks)).sum()
    return 2 * average_of_terms(losses, masks)


def relation_losses(model: MERU, step: PartStep) -> tuple[Tensor, Tensor]:
    """The entailment of each pair in the four relations, and the rows that have the pair, `(4, B)` each.

    In order: image beyond text, part image beyond part text, image beyond part image, text beyond part text.
    """
    across, within = apertures(model)
    losses = [
        model.entailment_loss(step.text, step.image, across),
        model.entailment_loss(step.part_text, step.part_image, across),
        model.entailment_loss(step.part_image, step.image, within, within_modality=True),
        model.entailment_loss(step.part_text, step.text, within, within_modality=True),
    ]
    masks = [torch.ones_like(step.has_part), step.has_text, step.has_part, step.has_text]
    return torch.stack(losses), torch.stack(masks)


def part_norm(model: MERU, step: PartStep) -> Tensor:
    """ARGENT's regulariser of the norms of images, captions, parts and their texts, averaged over these four."""
    values = norm_regulariser(torch.stack([step.image, step.text, step.part_image, step.part_text]))
    everyone = torch.ones_like(step.has_part)
    return average_of_terms(values, torch.stack([everyone, everyone, step.has_part, step.has_text]))


class HyCoCLIP(MERU):
    """MERU on images, captions and a part of each; parts are more general than their wholes.

    The parameters and their names are MERU's. A batch also has `part_image` `(B, 3, S, S)`, `part_tokens` `(B, L)`, and
    `has_part` and `has_part_text`, bool `(B,)`: rows with False do not train with the part, or with its text.

    Args:
        loss: Besides MERU's: `entailment.across_aperture`, η of a text's cone around an image, and
            `entailment.within_aperture`, η of a part's cone around its whole.
        **meru: Arguments of `MERU`.
    """

    own_terms: ClassVar[Mapping[str, Term]] = MERU.own_terms | {
        "contrastive": part_contrastive,
        "entailment": part_entailment,
        "norm": part_norm,
    }

    def encode(self, batch: Mapping[str, Tensor]) -> PartStep:
        """Embed a batch with MERU's keys and those of the parts."""
        return encode_with_part(self, batch)

    @torch.no_grad()
    def logs(self, step: PartStep) -> dict[str, Tensor]:
        """MERU's figures and those of the parts; `share_in_cone` uses the aperture across modalities."""
        return {**super().logs(step), **part_figures(self, step)}


def encode_with_part(model: MERU, batch: Mapping[str, Tensor]) -> PartStep:
    """Embed a batch with MERU's keys and those of the parts."""
    size = len(batch["image"])
    # Wholes and parts in one pass, so that they share batch norm statistics and the matrices are larger.
    tokens, part_tokens = batch["tokens"], batch["part_tokens"]
    length = max(tokens.shape[1], part_tokens.shape[1])
    padded = [F.pad(each, (0, length - each.shape[1])) for each in (tokens, part_tokens)]
    counts = [real_count(batch), real_count(batch, "part_tokens")]
    count = None if None in counts else sum(counts)
    text, part_text = model.embed_text(torch.cat(padded), count).split(size)
    image, part_image = model.embed_image(torch.cat([batch["image"], batch["part_image"]])).split(size)
    return PartStep(
        batch=batch,
        image=image,
        text=text,
        part_image=part_image,
        part_text=part_text,
        has_part=batch["has_part"],
        has_text=batch["has_part"] & batch["has_part_text"],
    )


@torch.no_grad()
def part_figures(model: MERU, step: PartStep) -> dict[str, Tensor]:
    """Figures of the parts for the logs."""
    figures = {
        "norm/part_image": step.part_image[step.has_part].norm(dim=-1),
        "norm/part_text": step.part_text[step.has_text].norm(dim=-1),
        "share_with_part": step.has_part.float().mean(),
        "share_with_part_text": step.has_text.float().mean(),
    }
    cones = part_cone_shares(model, step) if model.space.has_cones else {}
    return {**cones, **figures}


def part_cone_shares(model: MERU, step: PartStep) -> dict[str, Tensor]:
    """Figures of the four relations of `relation_losses`; see `MERU.cone_shares`."""
    across, within = apertures(model)
    has_part, has_text = step.has_part, step.has_text
    worded_text, worded_image = step.part_text[has_text], step.part_image[has_text]
    text_image, _ = model.cone_shares(step.text, step.image, across)
    part_text_part_image, dead_text = model.cone_shares(worded_text, worded_image, across)
    part_image_image, dead_image = model.cone_shares(step.part_image[has_part], step.image[has_part], within)
    part_text_text, _ = model.cone_shares(worded_text, step.text[has_text], within)
    return {
        "share_in_cone": text_image,
        "share_in_cone/part_text_part_image": part_text_part_image,
        "share_in_cone/part_image_image": part_image_image,
        "share_in_cone/part_text_text": part_text_text,
        "clamped/half_aperture_part_text": dead_text,
        "clamped/half_aperture_part_image": dead_image,
    }


def apertures(model: MERU) -> tuple[float, float]:
    """The aperture factors η across modalities and of a part's cone around its whole."""
    settings = model.loss["entailment"]
    return settings["across_aperture"], settings["within_aperture"]


def average_of_terms(values: Tensor, masks: Tensor) -> Tensor:
    """Average K terms, each over its masked rows; a term without any row in all processes is left out.

    Args:
        values: Shape `(K, B)`.
        masks: Rows that enter the mean, bool `(K, B)`.
    """
    present = distributed.total(masks.sum(dim=1)) > 0
    return distributed.masked_mean(values, masks).sum() / present.sum().clamp(min=1)
