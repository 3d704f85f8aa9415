"""HyCoCLIP: Pal et al., "Compositional Entailment Learning for Hyperbolic Vision-Language Models", ICLR 2025."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from meru import distributed
from meru.losses.contrastive import contrastive_targets, row_contrast
from meru.models import Output
from meru.models.meru import MERU


class HyCoCLIP(MERU):
    """MERU on images, captions, and a part of each: parts are more general than their wholes.

    The parameters are MERU's, under the same names. A batch also has `part_image` `(B, 3, S, S)`, `part_tokens`
    `(B, L)`, and `has_part` and `has_part_text`, bool `(B,)`: where they are False nothing is learned from the part,
    or from its text.

    Args:
        loss: Besides MERU's: `entailment.across_aperture`, η of a text's cone around an image, and
            `entailment.within_aperture`, η of a part's cone around its whole.
        **meru: Arguments of `MERU`.
    """

    def forward(self, batch: Mapping[str, Tensor]) -> Output:
        """The loss of a batch with MERU's keys and those of the parts."""
        size = len(batch["image"])
        # Wholes and parts in one pass: the same batch norm statistics for both, and fuller matrices.
        image, part_image = self.embed_image(torch.cat([batch["image"], batch["part_image"]])).split(size)
        tokens, part_tokens = batch["tokens"], batch["part_tokens"]
        length = max(tokens.shape[1], part_tokens.shape[1])
        padded = [F.pad(each, (0, length - each.shape[1])) for each in (tokens, part_tokens)]
        text, part_text = self.embed_text(torch.cat(padded)).split(size)
        has_part, has_text = batch["has_part"], batch["has_part"] & batch["has_part_text"]
        masks = torch.stack([torch.ones_like(has_part), torch.ones_like(has_part), has_part, has_text])
        terms = {}
        if self.weight("contrastive"):
            terms["contrastive"] = self.part_contrastive(image, text, part_image, part_text, masks, batch)
        if self.weight("entailment"):
            terms["entailment"] = self.part_entailment(image, text, part_image, part_text, has_part, has_text)
        of_wholes = {"semantic_margin": self.semantic_margin, "category": self.category, "hierarchy": self.hierarchy}
        terms |= {name: term(image, text, batch) for name, term in of_wholes.items() if self.weight(name)}
        logs = {
            **self.logs(image, text),
            **self.part_logs(image, text, part_image, part_text, has_part, has_text),
            "norm/part_image": part_image[has_part].norm(dim=-1),
            "norm/part_text": part_text[has_text].norm(dim=-1),
            "share_with_part": has_part.float().mean(),
            "share_with_part_text": has_text.float().mean(),
        }
        return self.combine(terms, {name: value.detach() for name, value in logs.items()})

    def part_contrastive(
        self, image: Tensor, text: Tensor, part_image: Tensor, part_text: Tensor, masks: Tensor, batch: Mapping
    ) -> Tensor:
        """Images and their parts find the caption, captions and their parts' texts the image; never part with part.

            ¼ [CE(image → text) + CE(text → image) + CE(part image → text) + CE(part text → image)]

        Terms that no sample of the batch has are left out, and the average is over those that remain.

        Args:
            image, text, part_image, part_text: Points `(B, D)`.
            masks: Which rows of the four terms count, bool `(4, B)`.
            batch: For the labels.
        """
        scale = self.logit_scale.exp()
        size = len(image)
        towards_text = scale * self.similarity(torch.cat([image, part_image]), distributed.gather(text))
        towards_image = scale * self.similarity(torch.cat([text, part_text]), distributed.gather(image))
        labels = self.positive_labels(batch)
        targets = contrastive_targets(labels, distributed.gather(labels))
        logits = (*towards_text.split(size), *towards_image.split(size))
        image_loss, part_image_loss, text_loss, part_text_loss = (row_contrast(each, targets) for each in logits)
        return average_of_terms(torch.stack([image_loss, text_loss, part_image_loss, part_text_loss]), masks)

    def part_entailment(
        self, image: Tensor, text: Tensor, part_image: Tensor, part_text: Tensor, has_part: Tensor, has_text: Tensor
    ) -> Tensor:
        """Texts hold images, parts hold wholes: twice the average of the terms that remain, ½ of the sum of all four.

        Arguments as in `part_contrastive`; `has_part`, `has_text` are bool `(B,)`.
        """
        across, within = self.apertures
        floor = self.apex_floor("entailment")
        excesses = [
            self.excess(text, image, across, floor),
            self.excess(part_text, part_image, across, floor),
            self.excess(part_image, image, within, floor),
            self.excess(part_text, text, within, floor),
        ]
        masks = torch.stack([torch.ones_like(has_part), has_text, has_part, has_text])
        return 2 * average_of_terms(torch.stack(excesses), masks)

    def part_logs(
        self, image: Tensor, text: Tensor, part_image: Tensor, part_text: Tensor, has_part: Tensor, has_text: Tensor
    ) -> dict[str, Tensor]:
        """Figures of the four relations of `part_entailment`, with its arguments: see `MERU.cone_shares`."""
        across, within = self.apertures
        worded_text, worded_image = part_text[has_text], part_image[has_text]
        text_image, _ = self.cone_shares(text, image, across)
        part_text_part_image, dead_text = self.cone_shares(worded_text, worded_image, across)
        part_image_image, dead_image = self.cone_shares(part_image[has_part], image[has_part], within)
        part_text_text, _ = self.cone_shares(worded_text, text[has_text], within)
        return {
            "share_in_cone": text_image,
            "share_in_cone/part_text_part_image": part_text_part_image,
            "share_in_cone/part_image_image": part_image_image,
            "share_in_cone/part_text_text": part_text_text,
            "clamped/half_aperture_part_text": dead_text,
            "clamped/half_aperture_part_image": dead_image,
        }

    @property
    def apertures(self) -> tuple[float, float]:
        """η across modalities, and of a part's cone around its whole."""
        settings = self.loss["entailment"]
        return settings["across_aperture"], settings["within_aperture"]


def average_of_terms(values: Tensor, masks: Tensor) -> Tensor:
    """Mean over K terms of their means over the rows that count; a term without any, in all processes, is left out.

    Args:
        values: Shape `(K, B)`.
        masks: Which rows count, bool `(K, B)`.
    """
    present = distributed.total(masks.sum(dim=1)) > 0
    return distributed.masked_mean(values, masks).sum() / present.sum().clamp(min=1)
