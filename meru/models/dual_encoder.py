"""The base of all image–text models: two towers, a space, and a table of loss terms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from meru import distributed
from meru.encoders.frozen import FrozenPart
from meru.encoders.image import ImageEncoder, encode_image, fix_frozen_statistics, patch_offset
from meru.encoders.text import TextEncoder
from meru.errors import UserError
from meru.geometry.spaces import Space
from meru.layers.pieces import in_pieces
from meru.losses.contrastive import LEAST_EXPONENT, contrastive_targets, row_contrast, sigmoid_row_contrast
from meru.losses.tiled import TILED_FROM
from meru.models import Output, Term, combined, values_of, weight_of
from meru.models.terms import PAIR_TERMS, Step, check_settings, real_count

if TYPE_CHECKING:
    from meru.models.word_patch_interaction import WordPatchInteraction


class DualEncoder(nn.Module):
    """Embeds images and captions as points of one space.

    A subclass defines `space`. It may override how features are mapped into the space (`lift_image`, `lift_text`), what
    a step contains besides images and captions (`encode`), and the terms beyond those of all models (`own_terms`).

    Args:
        image: Image tower.
        text: Text tower.
        loss: Term → its settings: `weight`, and the term's own; see `meru.models.terms`.
        embedding_dimension: Dimension D of the shared space.
        logit_scale: Initial inverse temperature; None: that of the towers' pretrained weights if both have the same, as
            with CLIP, and 1/0.07 otherwise.
        maximum_logit_scale: Its upper bound.

    Raises:
        UserError: if the dimension differs from that of pretrained projections, and for invalid settings of terms.
    """

    space: Space
    # Name in the configuration → term; added to `PAIR_TERMS`, or replacing one of them.
    own_terms: ClassVar[Mapping[str, Term]] = {}
    # Parameters stored as logarithms → the name of the quantity itself, in logs and tables.
    log_scalars: ClassVar[Mapping[str, str]] = {"logit_scale": "logit_scale"}
    # Initial distance from the origin of the points of a pretrained model; None: not set.
    initial_radius: float | None = None
    reads_caption_queries: bool = False  # whether batches need the entries of `meru.data.caption_queries`
    patch_level: int | None = None  # the feature map that patches come from, see `encode_image`
    reports_figures: bool = True  # whether `forward` computes the figures that only logs need
    micro_batch_size: int | None = None  # samples that a tower computes at a time, see `meru.layers.pieces`
    squares_distance: bool = False  # whether `similarity` is −d² instead of the space's own
    tiled_from: float = TILED_FROM  # pairs from which on losses are computed by tiles, see `large_batches`

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
        check_settings(loss)
        self.loss = loss
        self.local: WordPatchInteraction | None = None  # optional interaction of words and patches
        self.visual = image.network
        self.textual = text.network
        self.visual_proj = _projection(image.width, embedding_dimension, image.projection)
        self.textual_proj = _projection(text.network.width, embedding_dimension, text.projection)
        if logit_scale is None:
            logit_scale = image.logit_scale if image.logit_scale and image.logit_scale == text.logit_scale else 1 / 0.07
        self.logit_scale = nn.Parameter(torch.tensor(math.log(min(logit_scale, maximum_logit_scale))))
        self.maximum_logit_scale = maximum_logit_scale
        self.image_size = image.image_size
        judges_pairs = loss["contrastive"].get("kind") == "sigmoid" and self.weight("contrastive")
        bias = torch.tensor(float(loss["contrastive"]["bias"])) if judges_pairs else None
        self.register_parameter("logit_bias", None if bias is None else nn.Parameter(bias))
        self.patch_offset = patch_offset(image.network, image.image_size)
        self.register_buffer("pixel_mean", torch.tensor(image.pixel_mean).view(3, 1, 1))
        self.register_buffer("pixel_std", torch.tensor(image.pixel_std).view(3, 1, 1))

    # ---------------------------------------------------------------------------------------------- embedding
    def embed_image(self, images: Tensor) -> Tensor:
        """Points `(B, D)`, float32, of RGB images `(B, 3, S, S)`: uint8, or floating point in [0, 1].

        Here and wherever a method takes images, rows `(B, F)` of `frozen_output` for them may be given instead.
        """
        return self.lift_image(self.image_features(images))

    def embed_text(self, tokens: Tensor, count: int | None = None) -> Tensor:
        """Points `(B, D)`, float32, of token ids `(B, L)`, padded with 0, of which `count` are real, if known."""
        return self.lift_text(self.text_features(tokens, count=count))

    def embed_patches(self, images: Tensor) -> Tensor:
        """Points `(B, N, D)` of every patch of the images, row by row from the top left."""
        return self.lift_image(self.image_and_patch_features(images)[1])

    def embed_words(self, tokens: Tensor) -> Tensor:
        """Points `(B, L, D)` of every token of the captions; arbitrary at padding."""
        return self.lift_text(self.text_and_word_features(tokens)[1])

    @property
    def has_word_attention(self) -> bool:
        """Whether the loss trains attention from words to patches."""
        return self.local is not None and self.local.attends

    def word_attention(self, images: Tensor, tokens: Tensor, image_of: Tensor) -> Tensor:
        """Relevance of each patch of an image to each word of its caption; only the order of the values has a meaning.

        Args:
            images: As for `embed_image`, `(B, 3, S, S)`.
            tokens: Captions as for `embed_text`, `(C, L)`.
            image_of: Index of each caption's image in `images`, shape `(C,)`.

        Returns:
            Shape `(C, L, N)`: attention before its activation if the model trains attention, similarities otherwise.
        """
        if self.has_word_attention:
            return self.local.word_attention(self, images, tokens, image_of)
        patches, words = self.embed_patches(images), self.embed_words(tokens)
        pairs = zip(words, image_of.tolist(), strict=True)
        return torch.stack([self.similarity(of_caption, patches[image]) for of_caption, image in pairs])

    def similarity(self, queries: Tensor, gallery: Tensor) -> Tensor:
        """Similarity of every query to every gallery item, `(Q, D)`, `(N, D)` → `(Q, N)`, float32."""
        scores = self.space.similarity(queries, gallery)
        return -scores.square() if self.squares_distance else scores

    @property
    def compares_by_space(self) -> bool:
        """Whether `similarity` is that of the space, or its square, which `meru.models.large_batches` relies on."""
        return type(self).similarity is DualEncoder.similarity

    def average(self, embeddings: Tensor) -> Tensor:
        """Average several embeddings, for instance of one class: `(…, P, D)` → `(…, D)`."""
        return self.space.average(embeddings)

    def radius(self, embeddings: Tensor) -> Tensor:
        """Distance of embeddings `(…, D)` from the origin, `(…)`; more general concepts lie nearer to it."""
        return self.space.radius(embeddings)

    def lift_image(self, features: Tensor) -> Tensor:
        """Map features of images or patches `(…, D)` to points of the space."""
        return self.space.lift(features)

    def lift_text(self, features: Tensor) -> Tensor:
        """Map features of captions or words `(…, D)` to points of the space."""
        return self.space.lift(features)

    # ---------------------------------------------------------------------------------------------- features
    def image_features(self, images: Tensor) -> Tensor:
        """Projected features `(B, D)`, float32, before they are mapped into the space."""
        return self.visual_proj(self._encoded(images)[0]).float()

    def text_features(self, tokens: Tensor, embeddings: Tensor | None = None, *, count: int | None = None) -> Tensor:
        """Projected features `(B, D)`, float32, before they are mapped into the space.

        Here and in `text_and_word_features`, `embeddings` is the text tower's `token_embed(tokens)` if available, and
        `count` the number of real tokens if known: see `PackedLayout`.
        """

        def tower(tokens: Tensor, embeddings: Tensor | None) -> tuple[Tensor]:
            return (self.textual(tokens, embeddings, count if tokens.shape[0] == batch else None),)

        batch = tokens.shape[0]
        (pooled,) = in_pieces(tower, tokens, embeddings, size=self.micro_batch_size)
        return self.textual_proj(pooled).float()

    def image_and_patch_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """`image_features` `(B, D)`, and the features of every patch `(B, N, D)`, without class tokens."""
        pooled, patches = self._encoded(images, patch_level=self.patch_level)
        patches = self.project_patches(patches)
        return self.visual_proj(pooled).float(), patches.float()

    def project_patches(self, patches: Tensor) -> Tensor:
        """Project patches from the image tower `(B, N, W)` to features `(B, N, D)`."""
        return self.visual_proj(patches) if self.local is None else self.local.project(patches, self.visual_proj)

    def text_and_word_features(
        self, tokens: Tensor, embeddings: Tensor | None = None, *, count: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """`text_features` `(B, D)`, and the features of every token `(B, L, D)`, 0 at padding."""

        def tower(tokens: Tensor, embeddings: Tensor | None) -> tuple[Tensor, Tensor]:
            return self.textual.forward_tokens(tokens, embeddings, count if tokens.shape[0] == batch else None)

        batch = tokens.shape[0]
        pooled, words = in_pieces(tower, tokens, embeddings, size=self.micro_batch_size)
        return self.textual_proj(pooled).float(), self.textual_proj(words).float()

    def _encoded(self, images: Tensor, *, patch_level: int | None = None) -> tuple[Tensor, Tensor]:
        """Pooled and patch features of the tower, see `encode_image`, from images or rows of `frozen_output`."""
        if images.dim() == 2:
            return in_pieces(self.frozen_part.rest, images, size=self.micro_batch_size)

        def tower(images: Tensor) -> tuple[Tensor, Tensor]:
            return encode_image(self.visual, self.normalise(images), patch_level=patch_level)

        return in_pieces(tower, images, size=self.micro_batch_size)

    def frozen_output(self, images: Tensor) -> Tensor:
        """Rows `(B, F)`, float16, of the tower's frozen part for images as in `embed_image`."""
        return self.frozen_part(self.normalise(images))

    @cached_property
    def frozen_part(self) -> FrozenPart:
        """The frozen part of the image tower.

        Raises:
            UserError: if the tower has none, or cannot be split.
        """
        return FrozenPart(self.visual, image_size=self.image_size, patch_level=self.patch_level)

    def normalise(self, images: Tensor) -> Tensor:
        """Convert uint8 or [0, 1] RGB to the image tower's input range."""
        if images.dtype == torch.uint8:
            images = images.float() / 255
        return (images - self.pixel_mean) / self.pixel_std

    # ---------------------------------------------------------------------------------------------- training
    def train(self, mode: bool = True) -> DualEncoder:
        """Set the mode as in `nn.Module`; frozen batch norms stay in evaluation mode."""
        super().train(mode)
        fix_frozen_statistics(self.visual)
        return self

    def forward(self, batch: Mapping[str, Tensor]) -> Output:
        """Compute the loss of a batch with `image`, `tokens`, `image_index`, `class_index` and the inputs of `encode`.

        `epoch` is a scalar, the training progress in epochs; without it, growing weights have their final values.
        """
        step = self.encode(batch)
        values = values_of(self.terms, self, step)
        return combined(self.loss, values, {**self.logs(step), **step.figures} if self.reports_figures else {})

    def encode(self, batch: Mapping[str, Tensor]) -> Step:
        """Embed a batch by the towers and map it into the space.

        Captions come first: their many small kernels are started while a GPU still computes the step before, and the
        backward pass begins with images, which keep it busy meanwhile.
        """
        if self.local is not None:
            return self.local.encode(self, batch)
        text = self.embed_text(batch["tokens"], real_count(batch))
        return Step(batch=batch, image=self.embed_image(batch["image"]), text=text)

    @property
    def terms(self) -> dict[str, Term]:
        """All terms that the model supports: name in the configuration → function of the model and a step."""
        return {**PAIR_TERMS, **self.own_terms}

    def weight(self, term: str) -> float:
        """The configured weight of a term: see `meru.models.weight_of`."""
        return weight_of(self.loss, term)

    def robust_exponent(self, term: str, batch: Mapping[str, Tensor]) -> Tensor | float:
        """q of `meru.losses.contrastive.row_contrast` for a term; 0: its plain form.

        It grows from 0 in the first `robust_epochs`, without which the model would learn from no pair: before it has
        learned anything, all of them look wrong.
        """
        exponent = self.loss[term].get("robust_exponent", 0.0)
        if exponent and "epoch" in batch and (epochs := self.loss[term].get("robust_epochs")):
            return (exponent * batch["epoch"] / epochs).clamp(LEAST_EXPONENT, exponent)
        return exponent

    def contrast(self, scores: Tensor, targets: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """Contrastive loss of every row, of the kind `loss.contrastive.kind`.

        Args:
            scores: Similarities `(B1, B2)`.
            targets: Their `contrastive_targets`; the sigmoid loss only uses which are above 0.
            batch: Its `epoch` counts for `robust_exponent`.
        """
        logits = self.logit_scale.exp() * scores
        if self.logit_bias is None:
            return row_contrast(logits, targets, self.robust_exponent("contrastive", batch))
        return sigmoid_row_contrast(logits + self.logit_bias, targets > 0)

    def cross_similarities(self, step: Step) -> tuple[Tensor, Tensor]:
        """Similarities of this process's images to all processes' texts, and vice versa, `(B, B · world)` each."""
        image_scores = self.similarity(step.image, distributed.gather(step.text))
        if distributed.world_size() == 1:
            return image_scores, image_scores.t()
        return image_scores, self.similarity(step.text, distributed.gather(step.image))

    def positive_targets(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Positive texts of all processes for each image, `(B, B · world)`; see `contrastive_targets`."""
        labels = self.positive_labels(batch)
        return contrastive_targets(labels, distributed.gather(labels))

    def positive_labels(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Labels `(B,)`, equal for an image and its positive captions."""
        positives = self.loss["contrastive"]["positives"]
        if positives == "pair":
            size = len(batch["image"])
            return torch.arange(size, device=batch["image"].device) + distributed.rank() * size
        return batch[f"{positives}_index"]

    @torch.no_grad()
    def logs(self, step: Step) -> dict[str, Tensor]:
        """Figures besides the loss; see `Output.logs`."""
        return {
            **{name: scale.exp() for name, scale in self.logit_scales().items()},
            "clamped/logit_scale": (self.logit_scale >= self._maximum).float(),
            **({} if self.logit_bias is None else {"logit_bias": self.logit_bias.clone()}),
        }

    @torch.no_grad()
    def constrain_(self) -> None:
        """Clamp learnable scalars to their bounds; called after every optimizer step."""
        for scale in self.logit_scales().values():
            scale.clamp_(max=self._maximum)

    def logit_scales(self) -> dict[str, nn.Parameter]:
        """Inverse temperatures, as logarithms, by name."""
        own = self.named_parameters(recurse=False)
        return {name: parameter for name, parameter in own if name.endswith("logit_scale")}

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
