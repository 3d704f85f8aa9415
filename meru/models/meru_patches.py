"""MERU with patches: attention between words and patches, and images in the cones of their parts.

MERU (Desai et al., ICML 2023) with the bidirectional attention of GAHR (IEEE TIFS 2025), the parts of HyCoCLIP (Pal et
al., ICLR 2025), the late interaction of FILIP (Yao et al., ICLR 2022) and the caption hierarchy of Hyper3-CLIP (ECCV
2026 workshops).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from meru.encoders.image import ImageEncoder
from meru.encoders.text import TextEncoder
from meru.models import Term
from meru.models.meru import MERU
from meru.models.word_patch_interaction import WORD_TERMS, hold_interaction


class MERUPatches(MERU):
    """MERU that also trains on patches; whole images and captions are embedded as in MERU.

    Words and patches attend to each other. With `part_entailment`, the patches that words attend to most are more
    general than their image, which lies in their cones.

    Args:
        image, text, merge, top, activation, word_window, class_token: See `WordPatchInteraction`.
        local_logit_scale: Initial inverse temperature of `word_contrast` and `word_grounding`, learned.
        loss: Besides MERU's: weights of `word_contrast` (with `scope` and `exclude_class`), `word_grounding` (with
            `exclude_class`), `patch_agreement`, `part_entailment` (with an `apex_floor` of its own) and
            `late_interaction`; `entailment.within_aperture`, η of a part's cone around its image; `caption_hierarchy`,
            with `pooling`, `order` and `parents`, for batches that also have the queries of captions.
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
        word_window: int | None = 4,
        class_token: bool = False,
        local_logit_scale: float = 10.0,
        **meru,
    ):
        super().__init__(image=image, text=text, **meru)
        hold_interaction(
            self, image, text, local_logit_scale,
            merge=merge, top=top, activation=activation, word_window=word_window, class_token=class_token,
        )  # fmt: skip
