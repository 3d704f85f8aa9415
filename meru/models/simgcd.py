"""SimGCD: Wen et al., "Parametric Classification for Generalized Category Discovery: A Baseline Study", ICCV 2023."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from meru import distributed
from meru.encoders.frozen import FrozenPart
from meru.encoders.image import ImageEncoder, encode_image, fix_frozen_statistics
from meru.errors import UserError
from meru.geometry.all_pairs import exact_product
from meru.losses.simgcd import (
    mean_entropy,
    self_distillation_loss,
    supervised_contrastive_loss,
    teacher_temperature,
    view_contrastive_loss,
)
from meru.models import Output


class SimGCD(nn.Module):
    """A classifier of known and unknown classes, trained on two views of every image and the labels of some.

    Args:
        image: Image tower; the recipe trains only its last block.
        num_classes: K, known and unknown classes together.
        loss: Weights, and what else its terms take: `supervised_contrastive` (`temperature`),
            `supervised_classification`, `view_contrastive` (`temperature`), `self_distillation` (`entropy`, ε of the
            mean prediction's entropy, and the teacher's `start`, `end` and `epochs`).
        projection_width: Hidden width of the projection head.
        projection_dimension: D of the features that are contrasted.
        temperature: Of the classifier.

    Raises:
        UserError: for fewer than two classes.
    """

    def __init__(
        self,
        *,
        image: ImageEncoder,
        num_classes: int,
        loss: Mapping[str, Mapping],
        projection_width: int = 2048,
        projection_dimension: int = 256,
        temperature: float = 0.1,
    ):
        super().__init__()
        if num_classes < 2:
            raise UserError(f"discovery.num_classes={num_classes}: there must be at least two classes to tell apart")
        self.loss, self.temperature, self.num_classes = loss, temperature, num_classes
        self.visual = image.network
        widths = (image.width, projection_width, projection_width, projection_dimension)
        self.projection = _projection_head(widths)
        # nn.Linear's initialisation, as released: only directions count, but shorter rows turn faster.
        self.classifier = nn.Linear(image.width, num_classes, bias=False)
        self.register_buffer("pixel_mean", torch.tensor(image.pixel_mean).view(3, 1, 1))
        self.register_buffer("pixel_std", torch.tensor(image.pixel_std).view(3, 1, 1))

    # ---------------------------------------------------------------------------------------------- inference
    def features(self, images: Tensor) -> Tensor:
        """What the tower sees in RGB images `(B, 3, S, S)`, uint8 or in [0, 1]: `(B, W)`, float32."""
        pooled, _ = encode_image(self.visual, self.normalised(images))
        return pooled.float()

    def frozen_output(self, images: Tensor) -> Tensor:
        """What the frozen part of the tower says of images as for `features`: see `meru.encoders.frozen`."""
        return FrozenPart(self.visual)(self.normalised(images))

    def normalised(self, images: Tensor) -> Tensor:
        """Images as for `features`, as the tower takes them."""
        if images.dtype == torch.uint8:
            images = images.float() / 255
        return (images - self.pixel_mean) / self.pixel_std

    def class_logits(self, features: Tensor) -> Tensor:
        """Cosines of features `(B, W)` with the classes' weights, `(B, K)`."""
        # bfloat16's cosines, divided by the teacher's 0.04, would be off by a tenth.
        with torch.autocast(features.device.type, enabled=False):
            classes = F.normalize(self.classifier.weight, dim=-1)
            return exact_product(F.normalize(features.float(), dim=-1), classes)

    def predict(self, images: Tensor) -> Tensor:
        """Class logits `(B, K)` of images as for `features`; known classes come first."""
        return self.class_logits(self.features(images))

    def embed_image(self, images: Tensor) -> Tensor:
        """Unit vectors `(B, D)` of the space in which images are contrasted."""
        return F.normalize(self.projection(self.features(images)), dim=-1)

    # ---------------------------------------------------------------------------------------------- training
    def train(self, mode: bool = True) -> SimGCD:
        """As in `nn.Module`; frozen batch norms stay in evaluation mode."""
        super().train(mode)
        fix_frozen_statistics(self.visual)
        return self

    def forward(self, batch: Mapping[str, Tensor]) -> Output:
        """The loss of a batch; with several processes that of all their samples together, the same in each.

        Args:
            batch: `image`, two views `(B, 2, 3, S, S)`, or `frozen_output`, that function's results for them; `label`
                int64 `(B,)`, which counts where `labelled`, bool `(B,)`; `epoch`, a scalar, how far training is.
        """
        kept = "frozen_output" in batch
        views = batch["frozen_output" if kept else "image"]
        views = views.transpose(0, 1).flatten(0, 1)  # all first views, then all second ones
        features = FrozenPart(self.visual).rest(views.float()).float() if kept else self.features(views)
        # The losses compare samples with each other, so every process computes them on those of all.
        projected, logits = (
            gather_views(each) for each in (self.projection(features).float(), self.class_logits(features))
        )
        labelled, labels = (distributed.gather(batch[name]).repeat(2) for name in ("labelled", "label"))
        terms = self.terms(projected, logits, labels, labelled, batch["epoch"])
        return self.combine(terms, self.logs(projected, logits, labels, labelled))

    def terms(
        self, projected: Tensor, logits: Tensor, labels: Tensor, labelled: Tensor, epoch: Tensor
    ) -> dict[str, Tensor]:
        """Every term whose weight is not 0, unweighted.

        Args:
            projected: Of all first, then all second views, `(2B, D)`, float32.
            logits: `(2B, K)`.
            labels: `(2B,)`.
            labelled: bool `(2B,)`.
            epoch: Scalar.
        """
        loss, terms = self.loss, {}
        if self.weight("supervised_contrastive"):
            terms["supervised_contrastive"] = supervised_contrastive_loss(
                projected[labelled], labels[labelled], loss["supervised_contrastive"]["temperature"]
            )
        if self.weight("supervised_classification"):
            known = logits[labelled] / self.temperature
            nothing = logits.sum() * 0.0
            terms["supervised_classification"] = F.cross_entropy(known, labels[labelled]) if len(known) else nothing
        if self.weight("view_contrastive"):
            terms["view_contrastive"] = view_contrastive_loss(
                *projected.chunk(2), loss["view_contrastive"]["temperature"]
            )
        if self.weight("self_distillation"):
            settings = loss["self_distillation"]
            teacher = teacher_temperature(
                epoch, start=settings["start"], end=settings["end"], epochs=settings["epochs"]
            )
            distillation = self_distillation_loss(*logits.chunk(2), self.temperature, teacher)
            entropy = mean_entropy(logits, self.temperature)
            terms["self_distillation"] = distillation - settings["entropy"] * entropy
        return terms

    def weight(self, term: str) -> float:
        """The configured weight of a loss term; 0 means that it is not computed."""
        return self.loss[term]["weight"]

    def combine(self, terms: dict[str, Tensor], logs: dict[str, Tensor]) -> Output:
        """The weighted sum of the terms, and everything worth logging."""
        if not terms:
            raise UserError("every loss.….weight is 0, so there is nothing to learn: give one of them a weight")
        loss = sum(self.weight(name) * value for name, value in terms.items())
        return Output(loss=loss, logs={**{f"loss/{k}": v.detach() for k, v in terms.items()}, **logs})

    @torch.no_grad()
    def logs(self, projected: Tensor, logits: Tensor, labels: Tensor, labelled: Tensor) -> dict[str, Tensor]:
        """Figures beside the loss: see `Output.logs`. Arguments as for `terms`."""
        right = (logits.argmax(dim=1) == labels) & labelled
        return {
            "labelled/accuracy": right.sum() / labelled.sum().clamp(min=1),
            "mean_entropy": mean_entropy(logits, self.temperature),
            "norm/projected": projected.norm(dim=-1),
        }

    def constrain_(self) -> None:
        """Nothing to bring back into bounds."""


def gather_views(views: Tensor) -> Tensor:
    """Rows of all first, then all second views, `(2B, …)`, of all processes in the same order, with gradient."""
    return distributed.gather(views.unflatten(0, (2, -1)).transpose(0, 1)).transpose(0, 1).flatten(0, 1)


def _projection_head(widths: tuple[int, ...]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layer = nn.Linear(before, after)
        nn.init.trunc_normal_(layer.weight, std=0.02)
        nn.init.zeros_(layer.bias)
        layers += [layer, nn.GELU()]
    return nn.Sequential(*layers[:-1])
