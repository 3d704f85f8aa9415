"""Corruptions as augmentation of training images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from meru.data.corruptions.families import FAMILIES, VERSION, Corruption
from meru.data.views import Size, Viewing
from meru.errors import UserError

SEVERITIES = (1, 2, 3)  # the two strongest are kept for the test


class CorruptedViews(nn.Module):
    """A view of an image, of which a share is corrupted by a random family at a random severity.

    The view is corrupted, not the image, because it is smaller. Random numbers come from torch's default generator.

    Args:
        view: uint8 `(3, height, width)` → uint8 `(3, H, W)`, perhaps at random.
        families: Names from `meru.data.corruptions.families.FAMILIES`, at least one.
        share: Share of the views that are corrupted, in [0, 1].

    Raises:
        UserError: for an unknown family, none, or another share.
    """

    def __init__(self, view: nn.Module, *, families: Sequence[str], share: float = 0.5):
        super().__init__()
        if unknown := [name for name in families if name not in FAMILIES]:
            raise UserError(f"data.corruptions has no {unknown[0]}: choose from {', '.join(FAMILIES)}")
        if not families:
            raise UserError("data.corruptions=[]: name some, or set it to null")
        if not 0 <= share <= 1:
            raise UserError(f"data.corruption_share={share}: it must be a share, from 0 to 1")
        self.view, self.share, self.version = view, share, VERSION  # the version goes into the names of cached views
        self.corruptions = [Corruption(family, severity) for family in families for severity in SEVERITIES]

    def spare(self, height: int, width: int) -> float:
        """How many times smaller an image of that size may be without being enlarged; 1: not at all."""
        spare = getattr(self.view, "spare", None)
        return spare(height, width) if spare else 1.0

    def forward(self, image: Tensor, full: Size | None = None) -> Tensor:
        """uint8 `(3, height, width)`, perhaps reduced from a `full` size → uint8 `(3, H, W)`."""
        seen = self.view(image, full) if isinstance(self.view, Viewing) else self.view(image)
        if torch.rand(()) >= self.share:
            return seen
        return self.corruptions[int(torch.randint(len(self.corruptions), ()))](seen)
