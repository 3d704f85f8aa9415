"""HypGCD (IEEE TNNLS 2025, doi 10.1109/TNNLS.2025.3597074) as its authors released it, apparent errors included."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from meru.errors import UserError
from meru.losses.hypgcd_released import released_category_loss, released_hierarchy_loss
from meru.models import Term
from meru.models.hypgcd import HypGCD, hierarchy_of_proxies
from meru.models.simgcd import ViewStep


def category(model: HypGCDReleased, step: ViewStep) -> Tensor:
    """HCL of each view separately, on predicted classes only, with centres of absent classes at the origin."""
    settings, classes = model.loss["category"], step.logits.argmax(dim=1)
    losses = [
        released_category_loss(
            points,
            of_view,
            model.curvature,
            num_classes=step.logits.shape[1],
            temperature=settings["temperature"],
            smoothing=settings["smoothing"],
        )
        for points, of_view in zip(model.lift(step.projected).chunk(2), classes.chunk(2), strict=True)
    ]
    return sum(losses) / 2


def hierarchy(model: HypGCDReleased, step: ViewStep) -> Tensor:
    """LHL on features that were never mapped into the ball, on predicted classes only."""
    proxies = None if model.proxies is None else model.lift_proxies()
    loss = released_hierarchy_loss(
        step.projected,
        step.logits.argmax(dim=1),
        model.curvature,
        ancestors=model.loss["hierarchy"]["ancestors"],
        exclude_members=model.loss["hierarchy"]["exclude_members"],
        proxies=proxies,
        **model.hierarchy_settings,
    )
    return loss if proxies is None else loss + hierarchy_of_proxies(model, proxies)


class HypGCDReleased(HypGCD):
    """HypGCD with the two losses of the released code and, with `discovery.sampler=neighbours`, its batches.

    Args:
        **hypgcd: Arguments of `HypGCD`.

    Raises:
        UserError: for plain gradients, and for HCL that starts late or needs confidence: the released code has neither.
    """

    terms: ClassVar[Mapping[str, Term]] = HypGCD.terms | {"category": category, "hierarchy": hierarchy}
    released_batches: ClassVar[bool] = True

    def __init__(self, **hypgcd):
        super().__init__(**hypgcd)
        if not self.loss["category"].get("riemannian", True):
            raise UserError(
                "loss.category.riemannian=false: the released code always scales gradients; use true, or model=hypgcd"
            )
        for key in ("start_epoch", "confidence"):
            if value := self.loss["category"].get(key, 0):
                raise UserError(f"loss.category.{key}={value}: the released code has none; use 0, or model=hypgcd")
