"""GAHR: text-based person search (IEEE TIFS 2025, doi 10.1109/TIFS.2025.3574970), built on TBPS-CLIP (AAAI 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from meru.encoders.image import ImageEncoder
from meru.encoders.text import TextEncoder
from meru.models import Term
from meru.models.meru import MERU
from meru.models.word_patch_interaction import WORD_TERMS, hold_interaction


class GAHR(MERU):
    """GAHR: images of persons and sentences on the hyperboloid, with semantic margins and word–patch attention.

    - HRL, hyperbolic representation: both are lifted as in MERU, and the similarity is the negative distance.
      `space=sphere` uses the cosine instead; this is the baseline without HRL.
    - SMS, semantic margin softmax, is the term `semantic_margin`: contrast by identity, with larger margins for
      negatives that look less alike.
    - BAI, bidirectional attention interaction, is the module `local` with the terms `word_contrast` and
      `patch_agreement`. It is used in training only, so a search costs as much as with CLIP.
    - R-ITC and C-ITC of TBPS-CLIP are `reverse_contrastive` and `cyclic`; they are in the released code, but not in the
      paper.

    Args:
        image, text, merge, top, activation, word_window, class_token: See `WordPatchInteraction`.
        local_logit_scale: Initial inverse temperature of `word_contrast`, learned.
        **meru: Arguments of `MERU`.
    """

    own_terms: ClassVar[Mapping[str, Term]] = MERU.own_terms | WORD_TERMS
    log_scalars: ClassVar[Mapping[str, str]] = MERU.log_scalars | {"local_logit_scale": "local_logit_scale"}

    def __init__(
        self,
        *,
        image: ImageEncoder,
        text: TextEncoder,
        merge: int = 1,
        top: int = 4,
        activation: str = "sigmoid",
        word_window: int | None = None,
        class_token: bool = False,
        local_logit_scale: float = 10.0,
        **meru,
    ):
        super().__init__(image=image, text=text, **meru)
        hold_interaction(
            self, image, text, local_logit_scale,
            merge=merge, top=top, activation=activation, word_window=word_window, class_token=class_token,
        )  # fmt: skip
