"""UNCHA: uncertainty-guided compositional alignment of wholes and their parts on the hyperboloid (CVPR 2026)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from meru import distributed
from meru.errors import UserError
from meru.losses.contrastive import contrastive_targets, row_contrast
from meru.losses.uncha import calibrated_residual, confidence, uncertainty
from meru.models import Term
from meru.models.hycoclip import (
    RELATION_WEIGHTS,
    PartStep,
    encode_with_part,
    part_figures,
    part_norm,
    relation_losses,
)
from meru.models.meru import MERU
from meru.models.terms import Step, contrastive

NEVER = -1e9  # logit of a column that is neither positive nor negative


def three_contrasts(model: UNCHA, step: PartStep) -> Tensor:
    """The sum of the contrasts of wholes, of parts, and of parts with wholes, each with its own scale."""
    contrasts = {
        "whole": contrastive(model, step),
        "part": part_contrast(model, step),
        "part_whole": part_whole_contrast(model, step),
    }
    step.figures |= {f"contrast/{name}": value.detach() for name, value in contrasts.items()}
    return sum(contrasts.values())


def part_contrast(model: UNCHA, step: PartStep) -> Tensor:
    """Contrast of part images and part texts of all processes, in both directions.

    The positive is the part's own text. Those of other images with the same label are neither positive nor negative:
    they may name the same part or another one.
    """
    size = len(step.image)
    own = torch.arange(size, device=step.image.device) + distributed.rank() * size
    targets = contrastive_targets(own, distributed.gather(own))
    labels = model.positive_labels(step.batch)
    alike = (labels[:, None] == distributed.gather(labels)) & (targets == 0)
    left_out = alike | (distributed.gather(step.has_text.long()) == 0)
    parts = Step(batch=step.batch, image=step.part_image, text=step.part_text)
    scale = model.part_logit_scale.exp()
    logits = [(scale * scores).masked_fill(left_out, NEVER) for scores in model.cross_similarities(parts)]
    exponent = model.robust_exponent("contrastive", step.batch)
    return _mean_of_both([row_contrast(each, targets, exponent) for each in logits], [step.has_text, step.has_text])


def part_whole_contrast(model: UNCHA, step: PartStep) -> Tensor:
    """Contrast of part images with captions, and of part texts with images; uncertain parts have flatter logits."""
    scale, targets = model.part_whole_logit_scale.exp(), model.positive_targets(step.batch)
    rows = []
    for part, whole in ((step.part_image, step.text), (step.part_text, step.image)):
        scores = model.similarity(part, distributed.gather(whole))
        logits = scale * confidence(part)[:, None] * scores
        rows.append(row_contrast(logits, targets, model.robust_exponent("contrastive", step.batch)))
    return _mean_of_both(rows, [step.has_part, step.has_text])


def _mean_of_both(rows: list[Tensor], masks: list[Tensor]) -> Tensor:
    return 0.5 * distributed.masked_mean(torch.stack(rows), torch.stack(masks)).sum()


def calibrated_entailment(model: UNCHA, step: PartStep) -> Tensor:
    """The four relations of parts and wholes, of which the two within a modality also teach the part's uncertainty.

        ½ mean r(text, image) + ½ mean r(part text, part image)
        + ¼ mean r(part image, image) + ¼ mean r(part text, text)
        + α Σ over the last two of mean(½ sg(r)/exp(u) + ½ u),   u of the part
    """
    losses, masks = relation_losses(model, step)
    loss = (losses.new_tensor(RELATION_WEIGHTS) * distributed.masked_mean(losses, masks)).sum()
    uncertain = uncertainty(torch.stack([step.part_image, step.part_text]))
    calibration = distributed.masked_mean(calibrated_residual(losses[2:], uncertain), masks[2:])
    return loss + model.loss["entailment"]["calibration"] * calibration.sum()


class UNCHA(MERU):
    """MERU on the batches of HyCoCLIP, with parts as certain as they are far from the origin.

    The entailment of a pair is r = max(0, θ − ηω) + 0.1 θ, the excess over the cone's aperture and a slope that also
    acts inside the cone. It differs on purpose from the released code in these points:

    - An image has one part, which may lack words; the released code has several, all with words. A part that lacks
      words is contrasted with captions and lies before its image, and does nothing else.
    - Positives are those of `loss.contrastive.positives`; with `pair` they are the released ones.
    - The columns of the contrast of parts with wholes are all wholes, not those of images that have a part.
    - The calibration leaves out the entropy of softmax(u) over the batch, which depends on the size of the batch and
      adds nearly a constant to every row.
    - Angles, distances and norms have bounded gradients at the origin and where points coincide.

    Args:
        part_logit_scale, part_whole_logit_scale: Initial inverse temperatures of the contrast of part images and part
            texts, and of that of parts with wholes, learned.
        loss: Besides HyCoCLIP's: `entailment.slope`, 0.1 above, and `entailment.calibration`, α.
        **meru: Arguments of `MERU`.

    Raises:
        UserError: for another kind of contrast or entailment.
    """

    own_terms: ClassVar[Mapping[str, Term]] = MERU.own_terms | {
        "contrastive": three_contrasts,
        "entailment": calibrated_entailment,
        "norm": part_norm,
    }
    log_scalars: ClassVar[Mapping[str, str]] = MERU.log_scalars | {
        "part_logit_scale": "part_logit_scale",
        "part_whole_logit_scale": "part_whole_logit_scale",
    }

    def __init__(self, *, part_logit_scale: float = 20.0, part_whole_logit_scale: float = 1 / 0.06, **meru):
        super().__init__(**meru)
        if self.loss["contrastive"].get("kind", "softmax") != "softmax":
            raise UserError("loss.contrastive.kind=sigmoid: UNCHA has three contrasts by softmax; set kind=softmax")
        if self.loss["entailment"].get("kind", "cone") != "cone":
            raise UserError("loss.entailment.kind=argent: UNCHA calibrates cones; set kind=cone, or model=hycoclip")
        for name, scale in (("part", part_logit_scale), ("part_whole", part_whole_logit_scale)):
            start = math.log(min(scale, self.maximum_logit_scale))
            self.register_parameter(f"{name}_logit_scale", nn.Parameter(torch.tensor(start)))

    def encode(self, batch: Mapping[str, Tensor]) -> PartStep:
        """Embed a batch with MERU's keys and those of the parts."""
        return encode_with_part(self, batch)

    def entailment_loss(
        self, general: Tensor, specific: Tensor, aperture_scale: float = 1.0, *, within_modality: bool = False
    ) -> Tensor:
        """r of every pair."""
        excess = self.excess(general, specific, aperture_scale, self.apex_floor("entailment"))
        return excess + self.loss["entailment"]["slope"] * self.space.exterior_angle(general, specific)

    @torch.no_grad()
    def logs(self, step: PartStep) -> dict[str, Tensor]:
        """HyCoCLIP's figures, and the mean uncertainty of wholes and parts."""
        return {
            **super().logs(step),
            **part_figures(self, step),
            "uncertainty/image": uncertainty(step.image).mean(),
            "uncertainty/text": uncertainty(step.text).mean(),
            "uncertainty/part_image": _mean_uncertainty(step.part_image, step.has_part),
            "uncertainty/part_text": _mean_uncertainty(step.part_text, step.has_text),
        }


def _mean_uncertainty(points: Tensor, mask: Tensor) -> Tensor:
    """The mean over the points that the mask has; 0 if it has none."""
    return torch.where(mask, uncertainty(points), 0).sum() / mask.sum().clamp(min=1)
