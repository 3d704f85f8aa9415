"""HypGCD: generalized category discovery in the Poincaré ball (IEEE TNNLS 2025, doi 10.1109/TNNLS.2025.3597074)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from meru.errors import UserError, require
from meru.geometry import poincare
from meru.losses.hypgcd import ANCESTORS, category_loss, local_hierarchy_loss
from meru.models.simgcd import SimGCD


class HypGCD(SimGCD):
    """SimGCD whose projected features, in the ball, also gather around classes (HCL) and join into a tree (LHL).

    Args:
        curvature: c > 0 of the ball, fixed.
        clip: Length to which features are shortened before they are mapped into the ball.
        loss: Besides SimGCD's: `category` (`weight` α, `temperature`, `smoothing`, `riemannian`) and `hierarchy`
            (`weight` β, `neighbours`, `triplets`, `margin`, `ancestors`, `temperature`, `exclude_members`, `proxies`,
            their number).
        released: What the released code does: HCL over each view by itself, on predicted classes only, with the centres
            of absent classes at the origin; LHL on features that were never mapped into the ball.
            `meru.tasks.discovery_batches` then also finds the neighbours that make up a batch as released.
        **simgcd: Arguments of `SimGCD`.

    Raises:
        UserError: for unknown ancestors, or the released code with plain gradients, which it does not have.
    """

    expected_clamps = frozenset({"clip"})  # a shortened feature still has the gradient of its direction

    def __init__(self, *, curvature: float = 0.1, clip: float = 2.3, released: bool = False, **simgcd):
        super().__init__(**simgcd)
        if curvature <= 0:
            raise ValueError(f"curvature must be positive, got {curvature}")
        self.curvature, self.clip, self.released = curvature, clip, released
        ancestors = self.loss["hierarchy"]["ancestors"]
        require(ancestors, ANCESTORS, key="loss.hierarchy.ancestors")
        if released and not self.loss["category"].get("riemannian", True):
            raise UserError(
                "loss.category.riemannian=false: the released code has the factor; leave it, or model.released, out"
            )
        self.proxies = None
        if ancestors == "proxies" and self.weight("hierarchy"):
            dimension = simgcd.get("projection_dimension", 256)
            scattered = torch.randn(self.loss["hierarchy"]["proxies"], dimension) * 0.9 * clip / dimension**0.5
            self.proxies = nn.Parameter(scattered)  # tangent vectors, so that any optimizer may move them

    def lift(self, features: Tensor) -> Tensor:
        """Projected features `(…, D)` as points of the ball, `(…, D)`, float32."""
        clipped = poincare.clip_features(features, self.clip)
        return poincare.project(poincare.exp_map0(clipped, self.curvature), self.curvature)

    def embed_ball(self, images: Tensor) -> Tensor:
        """Points of the ball `(B, D)` of images as for `features`."""
        return self.lift(self.projection(self.features(images)).float())

    def terms(
        self, projected: Tensor, logits: Tensor, labels: Tensor, labelled: Tensor, epoch: Tensor
    ) -> dict[str, Tensor]:
        """SimGCD's terms and the two of the ball; arguments as there."""
        terms = super().terms(projected, logits, labels, labelled, epoch)
        predicted = logits.argmax(dim=1)
        classes = predicted if self.released else torch.where(labelled, labels, predicted)
        if self.weight("category"):
            terms["category"] = self.category(projected, classes)
        if self.weight("hierarchy"):
            terms["hierarchy"] = self.hierarchy(projected, classes)
        return terms

    def category(self, projected: Tensor, classes: Tensor) -> Tensor:
        """HCL of the features `(2B, D)` of all first, then all second views, and their classes `(2B,)`."""
        points, settings = self.lift(projected), self.loss["category"]
        options = {
            "temperature": settings["temperature"],
            "smoothing": settings["smoothing"],
            "riemannian": self.released or settings.get("riemannian", False),  # not in configurations of older runs
        }
        if not self.released:
            return category_loss(points, classes, self.curvature, **options)
        views = zip(points.chunk(2), classes.chunk(2), strict=True)
        losses = [category_loss(*view, self.curvature, all_classes=self.num_classes, **options) for view in views]
        return sum(losses) / 2

    def hierarchy(self, projected: Tensor, classes: Tensor) -> Tensor:
        """LHL, arguments as for `category`; with proxies that of the proxies among themselves is added, as in HIER."""
        names = ("neighbours", "triplets", "margin", "temperature")
        settings = {name: self.loss["hierarchy"][name] for name in names}
        proxies = None if self.proxies is None else self.lift(self.proxies)
        loss = local_hierarchy_loss(
            projected if self.released else self.lift(projected),
            classes,
            self.curvature,
            ancestors=self.loss["hierarchy"]["ancestors"],
            exclude_members=self.loss["hierarchy"]["exclude_members"],
            proxies=proxies,
            released=self.released,
            **settings,
        )
        if proxies is not None:
            each_its_own = torch.arange(len(proxies), device=proxies.device)
            loss = loss + local_hierarchy_loss(proxies, each_its_own, self.curvature, **settings)
        return loss

    @torch.no_grad()
    def logs(self, projected: Tensor, logits: Tensor, labels: Tensor, labelled: Tensor) -> dict[str, Tensor]:
        """SimGCD's figures, how far out the points lie and how many features were shortened."""
        return {
            **super().logs(projected, logits, labels, labelled),
            "radius": poincare.distance_to_origin(self.lift(projected), self.curvature),
            "clamped/clip": (projected.norm(dim=-1) > self.clip).float().mean(),
        }
