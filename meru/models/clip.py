"""CLIP: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from meru import distributed
from meru.encoders.image import ImageEncoder, encode_image, fix_frozen_statistics, patch_offset
from meru.encoders.text import TextEncoder
from meru.errors import UserError, require
from meru.geometry import poincare
from meru.geometry.all_pairs import exact_product
from meru.losses.contrastive import contrastive_loss, contrastive_targets
from meru.losses.hypgcd import category_loss, local_hierarchy_loss
from meru.losses.semantic_margin import MARGIN_SOURCES, semantic_margin_loss, semantic_margins, soft_targets
from meru.models import Output

POSITIVES = ("pair", "image", "class")


class CLIP(nn.Module):
    """Images and captions on the unit sphere, compared by cosine.

    Args:
        image: Image tower.
        text: Text tower.
        embedding_dimension: Dimension D of the shared space.
        loss: `contrastive.weight`, and `contrastive.positives`: which captions of a batch are right for an image —
            its own (`pair`), all of the same photograph (`image`) or of the same class (`class`). Likewise
            `semantic_margin.weight`, `.margin` λ, `.margin_source` (`intra` or `cross`), `.soft_label` α and
            `.soft_label_epochs`, over which α grows from 0; `category` and `hierarchy`, HypGCD's losses, with what
            `meru.losses.hypgcd` takes.
        logit_scale: Initial inverse temperature; None: that of the towers' weights where both bring the same, as CLIP's
            do, and 1/0.07 otherwise.
        maximum_logit_scale: Its upper bound.

    Raises:
        UserError: if the dimension differs from that of pretrained projections, for unknown `positives`, or
            `soft_label_epochs` that are not positive.
    """

    # Parameters that are logarithms → the name of what they are the logarithm of, in logs and tables.
    log_scalars: ClassVar[Mapping[str, str]] = {"logit_scale": "logit_scale"}
    initial_radius: float | None = None  # the unit sphere leaves no choice

    def __init__(
        self,
        *,
        image: ImageEncoder,
        text: TextEncoder,
        loss: Mapping[str, Mapping],
        embedding_dimension: int = 512,
        logit_scale: float | None = None,
        maximum_logit_scale: float = 100.0,
    ):
        super().__init__()
        self.loss = loss
        require(loss["contrastive"]["positives"], POSITIVES, key="loss.contrastive.positives")
        if self.weight("semantic_margin"):
            require(loss["semantic_margin"]["margin_source"], MARGIN_SOURCES, key="loss.semantic_margin.margin_source")
            if (epochs := loss["semantic_margin"].get("soft_label_epochs", 1.0)) <= 0:
                raise UserError(f"loss.semantic_margin.soft_label_epochs={epochs}: it must be above 0")
        self.visual = image.network
        self.textual = text.network
        self.visual_proj = _projection(image.width, embedding_dimension, image.projection)
        self.textual_proj = _projection(text.network.width, embedding_dimension, text.projection)
        if logit_scale is None:
            logit_scale = image.logit_scale if image.logit_scale and image.logit_scale == text.logit_scale else 1 / 0.07
        self.logit_scale = nn.Parameter(torch.tensor(math.log(min(logit_scale, maximum_logit_scale))))
        self.maximum_logit_scale = maximum_logit_scale
        self.patch_offset = patch_offset(image.network, image.image_size)
        self.register_buffer("pixel_mean", torch.tensor(image.pixel_mean).view(3, 1, 1))
        self.register_buffer("pixel_std", torch.tensor(image.pixel_std).view(3, 1, 1))

    # ---------------------------------------------------------------------------------------------- embedding
    def embed_image(self, images: Tensor) -> Tensor:
        """Unit vectors `(B, D)` of RGB images `(B, 3, S, S)`: uint8, or floating point in [0, 1]."""
        return F.normalize(self.image_features(images), dim=-1)

    def embed_text(self, tokens: Tensor) -> Tensor:
        """Unit vectors `(B, D)` of token ids `(B, L)`, padded with 0."""
        return F.normalize(self.text_features(tokens), dim=-1)

    def embed_patches(self, images: Tensor) -> Tensor:
        """Every patch of the images as a point of the shared space, `(B, N, D)`, row by row from the top left."""
        return F.normalize(self.image_and_patch_features(images)[1], dim=-1)

    def embed_words(self, tokens: Tensor) -> Tensor:
        """Every token of the captions as a point of the shared space, `(B, L, D)`; arbitrary at padding."""
        return F.normalize(self.text_and_word_features(tokens)[1], dim=-1)

    @property
    def has_word_attention(self) -> bool:
        """Whether training teaches words which patches to look at; here they are only compared."""
        return False

    def word_attention(self, images: Tensor, tokens: Tensor, image_of: Tensor) -> Tensor:
        """How much each word of a caption has to do with each patch of its image; only the order is meant.

        Args:
            images: As for `embed_image`, `(B, 3, S, S)`.
            tokens: Captions as for `embed_text`, `(C, L)`.
            image_of: Place of each caption's image in `images`, shape `(C,)`.

        Returns:
            Shape `(C, L, N)`; here the similarity of the word and the patch.
        """
        patches, words = self.embed_patches(images), self.embed_words(tokens)
        pairs = zip(words, image_of.tolist(), strict=True)
        return torch.stack([self.similarity(of_caption, patches[image]) for of_caption, image in pairs])

    def similarity(self, queries: Tensor, gallery: Tensor) -> Tensor:
        """Cosine of every query with every gallery item, `(Q, D)`, `(N, D)` → `(Q, N)`, float32."""
        return exact_product(queries, gallery)

    def average(self, embeddings: Tensor) -> Tensor:
        """One embedding for several of the same thing, say of one class: `(…, P, D)` → `(…, D)`."""
        return F.normalize(embeddings.mean(dim=-2), dim=-1)

    def radius(self, embeddings: Tensor) -> Tensor:
        """How far embeddings `(…, D)` lie from the origin, `(…)`: on the unit sphere all at 1."""
        return embeddings.norm(dim=-1)

    def image_features(self, images: Tensor) -> Tensor:
        """Projected features `(B, D)`, float32, before they are placed in the shared space."""
        pooled, _ = encode_image(self.visual, self.normalise(images))
        return self.visual_proj(pooled).float()

    def text_features(self, tokens: Tensor, embeddings: Tensor | None = None) -> Tensor:
        """Projected features `(B, D)`, float32, before they are placed in the shared space.

        `embeddings`, here and in `text_and_word_features`, is the text tower's `token_embed(tokens)` if at hand.
        """
        return self.textual_proj(self.textual(tokens, embeddings)).float()

    def image_and_patch_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """`image_features` `(B, D)`, and the same of every patch `(B, N, D)`, class tokens left out."""
        pooled, patches = encode_image(self.visual, self.normalise(images))
        return self.visual_proj(pooled).float(), self.visual_proj(patches).float()

    def text_and_word_features(self, tokens: Tensor, embeddings: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """`text_features` `(B, D)`, and the same of every token `(B, L, D)`, 0 at padding."""
        pooled, words = self.textual.forward_tokens(tokens, embeddings)
        return self.textual_proj(pooled).float(), self.textual_proj(words).float()

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 or [0, 1] RGB → what the image tower expects."""
        if images.dtype == torch.uint8:
            images = images.float() / 255
        return (images - self.pixel_mean) / self.pixel_std

    # ---------------------------------------------------------------------------------------------- training
    def train(self, mode: bool = True) -> CLIP:
        """As in `nn.Module`; frozen batch norms stay in evaluation mode."""
        super().train(mode)
        fix_frozen_statistics(self.visual)
        return self

    def forward(self, batch: Mapping[str, Tensor]) -> Output:
        """The loss of a batch with `image`, `tokens`, `image_index` and `class_index`.

        `epoch`, a scalar, says how far training is, in epochs; without it, no weight is still growing.
        """
        image, text = self.embed_image(batch["image"]), self.embed_text(batch["tokens"])
        return self.combine(self.terms(image, text, batch), self.logs(image, text))

    def terms(self, image: Tensor, text: Tensor, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Every loss term whose weight is not 0, unweighted, from embeddings `(B, D)`."""
        terms = {
            "contrastive": self.contrastive,
            "semantic_margin": self.semantic_margin,
            "category": self.category,
            "hierarchy": self.hierarchy,
        }
        return {name: term(image, text, batch) for name, term in terms.items() if self.weight(name)}

    def contrastive(self, image: Tensor, text: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """Contrastive loss against the images and texts of all processes."""
        scale = self.logit_scale.exp()
        image_scores, text_scores = self.cross_similarities(image, text)
        return contrastive_loss(scale * image_scores, scale * text_scores, self.positive_targets(batch))

    def semantic_margin(self, image: Tensor, text: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """Contrastive loss with soft targets and a margin for each negative: see `meru.losses.semantic_margin`."""
        settings = self.loss["semantic_margin"]
        scale, first = self.logit_scale.exp(), distributed.rank() * len(image)
        targets = self.positive_targets(batch)
        share = settings["soft_label"]
        if "epoch" in batch:  # as in TBPS-CLIP, the model's own belief counts for little at first
            share = share * (batch["epoch"] / settings.get("soft_label_epochs", 1.0)).clamp(max=1)
        losses = []
        for points, scores in zip((image, text), self.cross_similarities(image, text), strict=True):
            if settings["margin_source"] == "intra" and settings["margin"]:
                with torch.no_grad():
                    margins = semantic_margins(self.similarity(points, distributed.gather(points)), first)
            else:
                margins = semantic_margins(scores, first)
            mixed = soft_targets(scale * scores, targets, share)
            losses.append(semantic_margin_loss(scores, margins, mixed, scale, settings["margin"]).mean())
        return 0.5 * sum(losses)

    def category(self, image: Tensor, text: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """HypGCD's category loss on the images and captions of all processes, by their class."""
        settings = {name: value for name, value in self.loss["category"].items() if name != "weight"}
        return category_loss(*self.everything_in_ball(image, text, batch), **settings)

    def hierarchy(self, image: Tensor, text: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """HypGCD's local hierarchy loss on the images and captions of all processes."""
        settings = {name: value for name, value in self.loss["hierarchy"].items() if name != "weight"}
        return local_hierarchy_loss(*self.everything_in_ball(image, text, batch), **settings)

    def everything_in_ball(
        self, image: Tensor, text: Tensor, batch: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor | float]:
        """Images and captions of all processes as points `(2 · B · world, D)`, their classes, and the curvature."""
        points, curvature = self.in_ball(torch.cat([distributed.gather(image), distributed.gather(text)]))
        return points, distributed.gather(batch["class_index"]).repeat(2), curvature

    def in_ball(self, embeddings: Tensor) -> tuple[Tensor, Tensor | float]:
        """Embeddings `(…, D)` as points of a Poincaré ball, and its curvature; unit vectors all at distance 2."""
        return poincare.exp_map0(embeddings), 1.0

    def cross_similarities(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """This process's images against all processes' texts, and texts against images, `(B, B · world)` each."""
        image_scores = self.similarity(image, distributed.gather(text))
        if distributed.world_size() == 1:
            return image_scores, image_scores.t()
        return image_scores, self.similarity(text, distributed.gather(image))

    def positive_targets(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Which texts of all processes are right for each image, `(B, B · world)`: see `contrastive_targets`."""
        labels = self.positive_labels(batch)
        return contrastive_targets(labels, distributed.gather(labels))

    def positive_labels(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Labels `(B,)`: equal for an image and the captions that count as right for it."""
        positives = self.loss["contrastive"]["positives"]
        if positives == "pair":
            size = len(batch["image"])
            return torch.arange(size, device=batch["image"].device) + distributed.rank() * size
        return batch[f"{positives}_index"]

    def weight(self, term: str) -> float:
        """The configured weight of a loss term; 0 means that it is not computed.

        So does a term that a configuration does not name: runs of older versions load.
        """
        return self.loss[term]["weight"] if term in self.loss else 0.0

    def combine(self, terms: dict[str, Tensor], logs: dict[str, Tensor]) -> Output:
        """The weighted sum of the terms, and everything worth logging."""
        if not terms:
            raise UserError("every loss.….weight is 0, so there is nothing to learn: give one of them a weight")
        loss = sum(self.weight(name) * value for name, value in terms.items())
        return Output(loss=loss, logs={**{f"loss/{k}": v.detach() for k, v in terms.items()}, **logs})

    @torch.no_grad()
    def logs(self, image: Tensor, text: Tensor) -> dict[str, Tensor]:
        """Figures beside the loss: see `Output.logs`."""
        return {
            "logit_scale": self.logit_scale.exp(),
            "clamped/logit_scale": (self.logit_scale >= self._maximum).float(),
        }

    @torch.no_grad()
    def constrain_(self) -> None:
        """Bring learnable scalars back into their bounds; called after every optimizer step."""
        self.logit_scale.clamp_(max=self._maximum)

    @property
    def _maximum(self) -> float:
        return math.log(self.maximum_logit_scale)


def _projection(width: int, dimension: int, pretrained: Tensor | None) -> nn.Linear:
    if pretrained is not None and len(pretrained) != dimension:
        raise UserError(f"model.embedding_dimension={dimension}: the pretrained towers have {len(pretrained)}")
    projection = nn.Linear(width, dimension, bias=False)
    with torch.no_grad():
        if pretrained is None:
            nn.init.normal_(projection.weight, std=width**-0.5)
        else:
            projection.weight.copy_(pretrained)
    return projection
