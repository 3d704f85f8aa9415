"""HypGCD: generalized category discovery in the Poincaré ball (IEEE TNNLS 2025, doi 10.1109/TNNLS.2025.3597074)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from meru.errors import require
from meru.geometry import poincare
from meru.losses.hypgcd import ANCESTORS, category_loss, local_hierarchy_loss
from meru.models import Term
from meru.models.simgcd import SimGCD, ViewStep


def category(model: HypGCD, step: ViewStep) -> Tensor:
    """HCL of both views, on labels and, for unlabelled images, predicted classes; 0 before `start_epoch`."""
    settings = model.loss["category"]
    # The last three settings are missing in configurations of older runs.
    projected, classes = step.projected, classes_of(step)
    if confidence := settings.get("confidence", 0.0):
        certain = step.labelled | (class_probability(model, step) > confidence)
        projected, classes = projected[certain], classes[certain]
    loss = category_loss(
        model.lift(projected),
        classes,
        model.curvature,
        temperature=settings["temperature"],
        smoothing=settings["smoothing"],
        riemannian=settings.get("riemannian", False),
    )
    start = settings.get("start_epoch", 0)
    return loss * (step.epoch >= start) if start else loss


def class_probability(model: HypGCD, step: ViewStep) -> Tensor:
    """Probability of each view's predicted class at the classifier's temperature, `(2B,)`, without gradient."""
    return (step.logits.detach().float() / model.temperature).softmax(dim=1).amax(dim=1)


def hierarchy(model: HypGCD, step: ViewStep) -> Tensor:
    """LHL of both views, with classes as in `category`; with proxies also LHL among the proxies, as in HIER."""
    proxies = None if model.proxies is None else model.lift_proxies()
    loss = local_hierarchy_loss(
        model.lift(step.projected),
        classes_of(step),
        model.curvature,
        ancestors=model.loss["hierarchy"]["ancestors"],
        exclude_members=model.loss["hierarchy"]["exclude_members"],
        proxies=proxies,
        **model.hierarchy_settings,
    )
    return loss if proxies is None else loss + hierarchy_of_proxies(model, proxies)


def hierarchy_of_proxies(model: HypGCD, proxies: Tensor) -> Tensor:
    """LHL among the proxies, points `(P, D)`, each of which is its own class."""
    each_its_own = torch.arange(len(proxies), device=proxies.device)
    return local_hierarchy_loss(proxies, each_its_own, model.curvature, **model.hierarchy_settings)


def classes_of(step: ViewStep) -> Tensor:
    """Labels and, for unlabelled images, predicted classes, `(2B,)`."""
    return torch.where(step.labelled, step.labels, step.logits.argmax(dim=1))


class HypGCD(SimGCD):
    """SimGCD with projected features in the ball that also form class clusters (HCL) and a tree (LHL).

    Args:
        curvature: c > 0 of the ball, fixed.
        clip: Maximum norm of features before they are mapped into the ball; longer ones are clipped to it.
        feature_scale: Factor on projected features before they are clipped.
        loss: Besides SimGCD's: `category` (`weight` α, `temperature`, `smoothing`, `riemannian`, `start_epoch`,
            `confidence`) and `hierarchy` (`weight` β, `neighbours`, `triplets`, `margin`, `ancestors`, `temperature`,
            `exclude_members`, `proxies`, the number of proxies).
        **simgcd: Arguments of `SimGCD`.

    Raises:
        UserError: for unknown ancestors.
    """

    terms: ClassVar[Mapping[str, Term]] = SimGCD.terms | {"category": category, "hierarchy": hierarchy}
    expected_clamps: ClassVar[frozenset[str]] = frozenset({"clip"})  # only the length loses its gradient

    def __init__(self, *, curvature: float = 0.1, clip: float = 2.3, feature_scale: float = 1.0, **simgcd):
        super().__init__(**simgcd)
        if curvature <= 0:
            raise ValueError(f"curvature must be positive, got {curvature}")
        self.curvature, self.clip, self.feature_scale = curvature, clip, feature_scale
        ancestors = self.loss["hierarchy"]["ancestors"]
        require(ancestors, ANCESTORS, key="loss.hierarchy.ancestors")
        self.proxies = None
        if ancestors == "proxies" and self.weight("hierarchy"):
            headless = simgcd.get("projection_width", 2048) is None
            dimension = simgcd["image"].width if headless else simgcd.get("projection_dimension", 256)
            scattered = torch.randn(self.loss["hierarchy"]["proxies"], dimension) * 0.9 * clip / dimension**0.5
            self.proxies = nn.Parameter(scattered)  # tangent vectors, so that any optimizer can update them

    def lift(self, features: Tensor) -> Tensor:
        """Map projected features `(…, D)` to points of the ball, `(…, D)`, float32."""
        return poincare.lift_features(features, self.curvature, maximum=self.clip, scale=self.feature_scale)

    def lift_proxies(self) -> Tensor:
        """The proxies in the ball, `(P, D)`, which are clipped but not scaled."""
        return poincare.lift_features(self.proxies, self.curvature, maximum=self.clip)

    def embed_ball(self, images: Tensor) -> Tensor:
        """Points of the ball `(B, D)` for images as in `features`."""
        return self.lift(self.projection(self.features(images)).float())

    @property
    def hierarchy_settings(self) -> dict[str, float]:
        """Arguments common to all forms of LHL."""
        return {name: self.loss["hierarchy"][name] for name in ("neighbours", "triplets", "margin", "temperature")}

    @torch.no_grad()
    def logs(self, step: ViewStep) -> dict[str, Tensor]:
        """SimGCD's figures, and those of `logs_of_ball`."""
        return {**super().logs(step), **logs_of_ball(self, step.projected)}


def logs_of_ball(model: SimGCD, projected: Tensor) -> dict[str, Tensor]:
    """Radii of the points of projected features `(2B, D)`, and the share that is clipped; `model.lift` maps them."""
    radius = poincare.distance_to_origin(model.lift(projected), model.curvature)
    return {
        "radius": radius,
        "radius/mean": radius.mean(),
        "radius/quantile_5": radius.quantile(0.05),
        "radius/quantile_95": radius.quantile(0.95),
        "clamped/clip": (model.feature_scale * projected.norm(dim=-1) > model.clip).float().mean(),
    }
