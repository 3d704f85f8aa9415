"""HypCD: Liu et al., "Hyperbolic Category Discovery", CVPR 2025, arXiv 2504.06120; its variant Hyp-SimGCD."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from meru.geometry import poincare
from meru.layers.mobius_linear import MobiusLinear
from meru.losses.hypcd import distance_share, supervised_distance_loss, view_distance_loss
from meru.losses.simgcd import supervised_contrastive_loss, view_contrastive_loss
from meru.models import Term
from meru.models.hypgcd import logs_of_ball
from meru.models.simgcd import SimGCD, ViewStep


def supervised_contrastive(model: HypCD, step: ViewStep) -> Tensor:
    """Contrastive loss of the labelled views, by their labels: by angle, and more and more by distance."""
    temperature, labels = model.loss["supervised_contrastive"]["temperature"], step.labels[step.labelled]
    projected = step.projected[step.labelled]
    by_angle = supervised_contrastive_loss(projected, labels, temperature * model.angle_temperature_scale)
    by_distance = supervised_distance_loss(model.lift(projected), labels, model.curvature, temperature)
    return model.mixed(by_angle, by_distance, step.epoch)


def view_contrastive(model: HypCD, step: ViewStep) -> Tensor:
    """Contrastive loss of the two views of each image: by angle, and more and more by distance."""
    temperature = model.loss["view_contrastive"]["temperature"]
    views = step.projected.chunk(2)
    by_angle = view_contrastive_loss(*views, temperature * model.angle_temperature_scale)
    by_distance = view_distance_loss(*map(model.lift, views), model.curvature, temperature)
    return model.mixed(by_angle, by_distance, step.epoch)


class HypCD(SimGCD):
    """SimGCD whose contrastive terms compare distances in the ball, and whose classifier is a linear layer of the ball.

    The contrastive terms are (1 − α_d)·L_angle + α_d·L_distance, with α_d of `distance_share`. As released, both see
    the tower's features, without a head.

    Args:
        curvature: c > 0 of the ball, fixed.
        clip: Maximum norm of features before they are mapped into the ball; longer ones are clipped to it.
        feature_scale: Factor on features before they are clipped.
        distance_share: α_d at the end of its growth.
        distance_epochs: Epochs of that growth.
        angle_temperature_scale: Factor on the temperatures of the contrastive terms by angle.
        projection_width: As in `SimGCD`, which has a head by default.
        **simgcd: Other arguments of `SimGCD`.
    """

    terms: ClassVar[Mapping[str, Term]] = SimGCD.terms | {
        "supervised_contrastive": supervised_contrastive,
        "view_contrastive": view_contrastive,
    }
    expected_clamps: ClassVar[frozenset[str]] = frozenset({"clip"})  # only the length loses its gradient

    def __init__(
        self,
        *,
        curvature: float = 0.1,
        clip: float = 2.3,
        feature_scale: float = 1.0,
        distance_share: float = 1.0,
        distance_epochs: int = 200,
        angle_temperature_scale: float = 0.3,
        projection_width: int | None = None,
        **simgcd,
    ):
        super().__init__(projection_width=projection_width, **simgcd)
        self.curvature, self.clip, self.feature_scale = curvature, clip, feature_scale
        self.distance_share, self.distance_epochs = distance_share, distance_epochs
        self.angle_temperature_scale = angle_temperature_scale
        self.classifier = MobiusLinear(simgcd["image"].width, self.num_classes, curvature=curvature)

    def lift(self, features: Tensor) -> Tensor:
        """Map features `(…, D)` to points of the ball, `(…, D)`, float32."""
        return poincare.lift_features(features, self.curvature, maximum=self.clip, scale=self.feature_scale)

    def embed_ball(self, images: Tensor) -> Tensor:
        """Points of the ball `(B, D)` for images as in `features`."""
        return self.lift(self.projection(self.features(images)).float())

    def class_logits(self, features: Tensor) -> Tensor:
        """Coordinates of the classifier's points for features `(B, W)`, `(B, K)`, of norm below 1/√c."""
        return self.classifier(self.lift(features))

    def mixed(self, by_angle: Tensor, by_distance: Tensor, epoch: Tensor) -> Tensor:
        """(1 − α_d)·`by_angle` + α_d·`by_distance` at that progress of training."""
        share = distance_share(epoch, maximum=self.distance_share, epochs=self.distance_epochs)
        return (1 - share) * by_angle + share * by_distance

    @torch.no_grad()
    def logs(self, step: ViewStep) -> dict[str, Tensor]:
        """SimGCD's figures, and those of `meru.models.hypgcd.logs_of_ball`."""
        return {**super().logs(step), **logs_of_ball(self, step.projected)}
