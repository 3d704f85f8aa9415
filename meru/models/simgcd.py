"""SimGCD: Wen et al., "Parametric Classification for Generalized Category Discovery: A Baseline Study", ICCV 2023."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from itertools import pairwise
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from meru import distributed
from meru.encoders.frozen import FrozenPart
from meru.encoders.image import ImageEncoder, encode_image, fix_frozen_statistics
from meru.errors import UserError
from meru.geometry.all_pairs import exact_product
from meru.layers.pieces import in_pieces
from meru.losses.simgcd import (
    generalized_cross_entropy,
    mean_entropy,
    self_distillation_loss,
    supervised_contrastive_loss,
    teacher_temperature,
    view_contrastive_loss,
)
from meru.models import Output, Term, combined, values_of, weight_of


class ViewStep(NamedTuple):
    """Two views of every image of all processes, for the terms: all first views, then all second views.

    Attributes:
        projected: Features for the contrastive terms, `(2B, D)`, float32.
        logits: Class logits, `(2B, K)`; in a stage, of the classes that take part.
        labels: `(2B,)`; valid where `labelled`.
        labelled: bool `(2B,)`.
        epoch: Training progress in epochs, a scalar.
    """

    projected: Tensor
    logits: Tensor
    labels: Tensor
    labelled: Tensor
    epoch: Tensor


def supervised_contrastive(model: SimGCD, step: ViewStep) -> Tensor:
    """Contrastive loss of the labelled views, by their labels."""
    temperature = model.loss["supervised_contrastive"]["temperature"]
    return supervised_contrastive_loss(step.projected[step.labelled], step.labels[step.labelled], temperature)


def supervised_classification(model: SimGCD, step: ViewStep) -> Tensor:
    """Cross-entropy of the labelled views, generalised by `robust`; 0 without any."""
    known = step.logits[step.labelled] / model.temperature
    if not len(known):
        return step.logits.sum() * 0.0
    robust = model.loss["supervised_classification"].get("robust", 0.0)  # missing in configurations of older runs
    return generalized_cross_entropy(known, step.labels[step.labelled], robust)


def view_contrastive(model: SimGCD, step: ViewStep) -> Tensor:
    """Contrastive loss of the two views of each image."""
    return view_contrastive_loss(*step.projected.chunk(2), model.loss["view_contrastive"]["temperature"])


def self_distillation(model: SimGCD, step: ViewStep) -> Tensor:
    """Cross-entropy of each view's prediction with the other's, minus the entropy of the mean prediction."""
    settings = model.loss["self_distillation"]
    schedule = {name: settings[name] for name in ("start", "end", "epochs")}
    teacher = teacher_temperature(step.epoch, **schedule)
    distillation = self_distillation_loss(*step.logits.chunk(2), model.temperature, teacher)
    return distillation - settings["entropy"] * mean_entropy(step.logits, model.temperature)


class SimGCD(nn.Module):
    """A classifier of known and unknown classes, trained on two views of every image and labels of some images.

    Args:
        image: Image tower; the recipe trains only its last block.
        num_classes: K, known and unknown classes together.
        loss: Weights and other settings of the terms: `supervised_contrastive` (`temperature`),
            `supervised_classification` (`robust`, q of the generalised cross-entropy), `view_contrastive`
            (`temperature`), `self_distillation` (`entropy`, ε of the mean prediction's entropy, and the teacher's
            `start`, `end` and `epochs`).
        projection_width: Hidden width of the projection head; None: no head, projected features are the tower's.
        projection_dimension: D of the projected features, for the contrastive terms; W without a head.
        temperature: Of the classifier.

    Raises:
        UserError: for fewer than two classes.
    """

    # Name in the configuration → term, a function of the model and a `ViewStep`.
    terms: ClassVar[Mapping[str, Term]] = {
        "supervised_contrastive": supervised_contrastive,
        "supervised_classification": supervised_classification,
        "view_contrastive": view_contrastive,
        "self_distillation": self_distillation,
    }
    # Whether batches of neighbours are made as in HypGCD's released code.
    released_batches: ClassVar[bool] = False
    reports_figures: bool = True  # whether `forward` computes the figures that only logs need
    micro_batch_size: int | None = None  # images that the tower computes at a time, see `meru.layers.pieces`

    def __init__(
        self,
        *,
        image: ImageEncoder,
        num_classes: int,
        loss: Mapping[str, Mapping],
        projection_width: int | None = 2048,
        projection_dimension: int = 256,
        temperature: float = 0.1,
    ):
        super().__init__()
        if num_classes < 2:
            raise UserError(f"discovery.num_classes={num_classes}: there must be at least two classes to tell apart")
        self.loss, self.temperature, self.num_classes = loss, temperature, num_classes
        self.visual, self.image_size = image.network, image.image_size
        widths = (image.width, projection_width, projection_width, projection_dimension)
        self.projection = nn.Identity() if projection_width is None else _projection_head(widths)
        # nn.Linear's initialisation, as released: only directions matter, but shorter rows turn faster.
        self.classifier = nn.Linear(image.width, num_classes, bias=False)
        self.register_buffer("pixel_mean", torch.tensor(image.pixel_mean).view(3, 1, 1))
        self.register_buffer("pixel_std", torch.tensor(image.pixel_std).view(3, 1, 1))

    # ---------------------------------------------------------------------------------------------- inference
    def features(self, images: Tensor) -> Tensor:
        """The tower's features `(B, W)`, float32, of RGB images `(B, 3, S, S)`, uint8 or in [0, 1].

        Here and wherever a method takes images, rows `(B, F)` of `frozen_output` for them may be given instead.
        """
        if images.dim() == 2:
            return in_pieces(self.frozen_part.rest, images, size=self.micro_batch_size)[0].float()

        def tower(images: Tensor) -> tuple[Tensor]:
            return encode_image(self.visual, self.normalised(images))[:1]

        (pooled,) = in_pieces(tower, images, size=self.micro_batch_size)
        return pooled.float()

    def frozen_output(self, images: Tensor) -> Tensor:
        """Rows `(B, F)`, float16, of the tower's frozen part for images as in `features`."""
        return self.frozen_part(self.normalised(images))

    @cached_property
    def frozen_part(self) -> FrozenPart:
        """The frozen part of the image tower.

        Raises:
            UserError: if the tower has none, or cannot be split.
        """
        return FrozenPart(self.visual, image_size=self.image_size)

    def normalised(self, images: Tensor) -> Tensor:
        """Normalise images as in `features` for the tower."""
        if images.dtype == torch.uint8:
            images = images.float() / 255
        return (images - self.pixel_mean) / self.pixel_std

    def class_logits(self, features: Tensor) -> Tensor:
        """Cosines of features `(B, W)` with the class weights, `(B, K)`."""
        # In bfloat16, cosines divided by the teacher's temperature of 0.04 would be off by a tenth.
        with torch.autocast(features.device.type, enabled=False):
            classes = F.normalize(self.classifier.weight, dim=-1)
            return exact_product(F.normalize(features.float(), dim=-1), classes)

    def predict(self, images: Tensor) -> Tensor:
        """Class logits `(B, K)` of images as in `features`; known classes come first."""
        return self.class_logits(self.features(images))

    def embed_image(self, images: Tensor) -> Tensor:
        """Normalised projections `(B, D)` of the images, as in the contrastive terms."""
        return F.normalize(self.projection(self.features(images)), dim=-1)

    # ---------------------------------------------------------------------------------------------- training
    def train(self, mode: bool = True) -> SimGCD:
        """Set the mode as in `nn.Module`; frozen batch norms stay in evaluation mode."""
        super().train(mode)
        fix_frozen_statistics(self.visual)
        return self

    def forward(self, batch: Mapping[str, Tensor]) -> Output:
        """Compute the loss of a batch; with several processes, of all their samples together, the same in each.

        Args:
            batch: `image`, two views `(B, 2, 3, S, S)`, or rows of `frozen_output` for them `(B, 2, F)`; `label`,
                int64 `(B,)`, valid where `labelled`, bool `(B,)`; `epoch`, a scalar, the training progress in epochs;
                and if classes arrive in stages, `classes`, an int: only so many, the first ones, take part.
        """
        features = self.features(batch["image"].transpose(0, 1).flatten(0, 1))  # first views, then second ones
        # The losses compare samples with each other, so every process computes them on the samples of all.
        projected, logits = (
            gather_views(each) for each in (self.projection(features).float(), self.class_logits(features))
        )
        if "classes" in batch:
            logits = logits[:, : batch["classes"]]
        labelled, labels = (distributed.gather(batch[name]).repeat(2) for name in ("labelled", "label"))
        step = ViewStep(projected, logits, labels, labelled, batch["epoch"])
        figures = self.logs(step) if self.reports_figures else {}
        return combined(self.loss, values_of(self.terms, self, step), figures)

    def weight(self, term: str) -> float:
        """The configured weight of a term: see `meru.models.weight_of`."""
        return weight_of(self.loss, term)

    @torch.no_grad()
    def logs(self, step: ViewStep) -> dict[str, Tensor]:
        """Figures besides the loss; see `Output.logs`."""
        right = (step.logits.argmax(dim=1) == step.labels) & step.labelled
        return {
            "labelled/accuracy": right.sum() / step.labelled.sum().clamp(min=1),
            "mean_entropy": mean_entropy(step.logits, self.temperature),
            "norm/projected": step.projected.norm(dim=-1),
        }

    def constrain_(self) -> None:
        """Do nothing: no parameter has bounds."""


def gather_views(views: Tensor) -> Tensor:
    """Gather views `(2B, …)` from all processes in the same order, first views before second ones, with gradient."""
    return distributed.gather(views.unflatten(0, (2, -1)).transpose(0, 1)).transpose(0, 1).flatten(0, 1)


def _projection_head(widths: tuple[int, ...]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layer = nn.Linear(before, after)
        nn.init.trunc_normal_(layer.weight, std=0.02)
        nn.init.zeros_(layer.bias)
        layers += [layer, nn.GELU()]
    return nn.Sequential(*layers[:-1])
