"""Loss terms available to every image–text model; those with a weight above 0 are computed.

To add a term, write a function here and an entry in `PAIR_TERMS`. A model adds or replaces entries through `own_terms`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from meru import distributed
from meru.errors import UserError, require
from meru.geometry.all_pairs import exact_product
from meru.losses.contrastive import CONTRASTS, POSITIVES, contrastive_loss
from meru.losses.entailment import KINDS
from meru.losses.hypgcd import category_loss, local_hierarchy_loss
from meru.losses.interaction import SCOPES
from meru.losses.semantic_margin import (
    MARGIN_SOURCES,
    cyclic_loss,
    reverse_contrastive_loss,
    semantic_margin_loss,
    semantic_margins,
    soft_targets,
)
from meru.models import Term, weight_of
from meru.models.large_batches import both_losses, goes_by_tiles, row_losses

if TYPE_CHECKING:
    from meru.models.dual_encoder import DualEncoder
    from meru.models.meru import MERU

CONE_TERMS = ("entailment", "part_entailment", "caption_hierarchy")  # terms that need a space with cones


@dataclass(kw_only=True)
class Step:
    """A batch and its embeddings, for the terms.

    Attributes:
        batch: The batch from the loader: `image`, `tokens`, `image_index`, `class_index`, and `epoch` if known.
        image, text: Points `(B, D)`.
        figures: Detached figures for the logs, from `encode` or a term.
    """

    batch: Mapping[str, Tensor]
    image: Tensor
    text: Tensor
    figures: dict[str, Tensor] = field(default_factory=dict)


def real_count(batch: Mapping[str, Any], name: str = "tokens") -> int | None:
    """Number of real tokens in the token ids of a batch, if whoever made the batch counted them."""
    return batch.get(f"{name}_count")


def check_settings(loss: Mapping[str, Mapping]) -> None:
    """Check the settings of the terms.

    Raises:
        UserError: for an invalid setting; the message names the key.
    """
    require(loss["contrastive"]["positives"], POSITIVES, key="loss.contrastive.positives")
    require(loss["contrastive"].get("kind", "softmax"), CONTRASTS, key="loss.contrastive.kind")
    if loss["contrastive"].get("kind") == "sigmoid" and (exponent := loss["contrastive"].get("robust_exponent")):
        raise UserError(
            f"loss.contrastive.robust_exponent={exponent:g}: kind=sigmoid judges every pair by itself and has no such "
            "form; set it to 0, or kind=softmax"
        )
    entailment = loss.get("entailment", {})
    require(entailment.get("kind", "cone"), KINDS, key="loss.entailment.kind")
    if entailment.get("kind") == "argent" and (floor := entailment.get("apex_floor")):
        raise UserError(f"loss.entailment.apex_floor={floor}: kind=argent has no cones; set it to 0, or kind=cone")
    if weight_of(loss, "semantic_margin"):
        require(loss["semantic_margin"]["margin_source"], MARGIN_SOURCES, key="loss.semantic_margin.margin_source")
        if (epochs := loss["semantic_margin"].get("soft_label_epochs", 1.0)) <= 0:
            raise UserError(f"loss.semantic_margin.soft_label_epochs={epochs}: it must be above 0")
    if weight_of(loss, "hierarchy"):  # only models that discover classes have proxies
        require(loss["hierarchy"].get("ancestors", "batch"), ("batch", "midpoint"), key="loss.hierarchy.ancestors")
    if weight_of(loss, "word_contrast"):
        require(loss["word_contrast"]["scope"], SCOPES, key="loss.word_contrast.scope")


def contrastive(model: DualEncoder, step: Step) -> Tensor:
    """Contrastive loss against the images and texts of all processes."""
    if model.logit_bias is not None:  # a pair is judged once, among those of its image
        return row_losses(model, step.image, step.text, step.batch).mean()
    if goes_by_tiles(model, len(step.image)):
        return 0.5 * sum(each.mean() for each in both_losses(model, step.image, step.text, step.batch))
    scale = model.logit_scale.exp()
    image_scores, text_scores = model.cross_similarities(step)
    logits, targets = (scale * image_scores, scale * text_scores), model.positive_targets(step.batch)
    return contrastive_loss(*logits, targets, model.robust_exponent("contrastive", step.batch))


def semantic_margin(model: DualEncoder, step: Step) -> Tensor:
    """SMS of GAHR: contrast with soft targets and a margin per negative; see `meru.losses.semantic_margin`."""
    settings = model.loss["semantic_margin"]
    share = settings["soft_label"]
    if "epoch" in step.batch:  # as in TBPS-CLIP, the model's own predictions get a growing weight
        share = share * (step.batch["epoch"] / settings.get("soft_label_epochs", 1.0)).clamp(max=1)
    # Tiles compute the matrices of margins twice, which a smaller batch need not pay for.
    if goes_by_tiles(model, len(step.image) // 4, term="semantic_margin"):
        within = settings["margin_source"] == "intra"
        extras = {"margin": settings["margin"], "share": share, "within": within}
        return 0.5 * sum(each.mean() for each in both_losses(model, step.image, step.text, step.batch, **extras))
    scale, first = model.logit_scale.exp(), distributed.rank() * len(step.image)
    targets = model.positive_targets(step.batch)
    losses, exponent = [], model.robust_exponent("semantic_margin", step.batch)
    for points, scores in zip((step.image, step.text), model.cross_similarities(step), strict=True):
        if settings["margin_source"] == "intra" and settings["margin"]:
            with torch.no_grad():
                margins = semantic_margins(model.similarity(points, distributed.gather(points)), first)
        else:
            margins = semantic_margins(scores, first)
        mixed = soft_targets(scale * scores, targets, share)
        losses.append(semantic_margin_loss(scores, margins, mixed, scale, settings["margin"], exponent).mean())
    return 0.5 * sum(losses)


def reverse_contrastive(model: DualEncoder, step: Step) -> Tensor:
    """R-ITC of TBPS-CLIP in both directions."""
    targets, smoothing = model.positive_targets(step.batch), model.loss["reverse_contrastive"]["smoothing"]
    logits = [model.logit_scale.exp() * scores for scores in model.cross_similarities(step)]
    return 0.5 * sum(reverse_contrastive_loss(each, targets, smoothing).mean() for each in logits)


def cyclic(model: DualEncoder, step: Step) -> Tensor:
    """C-ITC of TBPS-CLIP on the inner products of points with those of all processes.

    As in GAHR's released code, the space's inner product is used within a modality, and x·y of the components across
    modalities: v_i·t_j − t_i·v_j. The released code's factor, the logit scale, cancels in the loss and its gradient.
    """
    settings, space = model.loss["cyclic"], model.space
    images, texts = distributed.gather(step.image), distributed.gather(step.text)
    loss = step.image.new_zeros(())
    if settings["within"]:
        loss = settings["within"] * cyclic_loss(space.inner(step.image, images), space.inner(step.text, texts))
    if settings["across"]:
        products = [exact_product(x, y) for x, y in ((step.image, texts), (step.text, images))]
        loss = loss + settings["across"] * cyclic_loss(*products)
    return loss


def category(model: DualEncoder, step: Step) -> Tensor:
    """HypGCD's category loss on the images and captions of all processes, by their class."""
    settings = {name: value for name, value in model.loss["category"].items() if name != "weight"}
    return category_loss(*everything_in_ball(model, step), **settings)


def hierarchy(model: DualEncoder, step: Step) -> Tensor:
    """HypGCD's local hierarchy loss on the images and captions of all processes."""
    settings = {name: value for name, value in model.loss["hierarchy"].items() if name != "weight"}
    return local_hierarchy_loss(*everything_in_ball(model, step), **settings)


def everything_in_ball(model: DualEncoder, step: Step) -> tuple[Tensor, Tensor, Tensor | float]:
    """Images and captions of all processes as points `(2 · B · world, D)`, their classes, and the curvature."""
    everyone = torch.cat([distributed.gather(step.image), distributed.gather(step.text)])
    points, curvature = model.space.in_ball(everyone)
    return points, distributed.gather(step.batch["class_index"]).repeat(2), curvature


# Name in the configuration → term.
PAIR_TERMS: dict[str, Term] = {
    "contrastive": contrastive,
    "semantic_margin": semantic_margin,
    "category": category,
    "hierarchy": hierarchy,
    "reverse_contrastive": reverse_contrastive,
    "cyclic": cyclic,
}


def images_in_cones_of_parts(model: MERU, step: Step, parts: Tensor, *, kind: str) -> Tensor:
    """Angles by which images lie outside the cones of their parts, for models whose parts have no words.

    Args:
        model: Has `loss.part_entailment`, and `loss.entailment.within_aperture`, η of a part's cone around its whole.
        step: Its `figures` are extended.
        parts: Points `(B, P, D)`.
        kind: `patch` or `part_image`: the parts' name in the figures.
    """
    within, image = model.loss["entailment"]["within_aperture"], step.image[:, None]
    in_cone, dead = model.cone_shares(parts, image, within)
    step.figures |= {f"share_in_cone/{kind}_image": in_cone, f"clamped/half_aperture_{kind}": dead}
    return model.excess(parts, image, within, model.apex_floor("part_entailment")).mean()
