"""CLIP: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021."""

from __future__ import annotations

from typing import ClassVar

from meru.geometry.spaces import Space, Sphere
from meru.models.dual_encoder import DualEncoder


class CLIP(DualEncoder):
    """Images and captions on the unit sphere, compared by cosine."""

    space: ClassVar[Space] = Sphere()
