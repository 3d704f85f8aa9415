"""GAHR: text-based person search (IEEE TIFS 2025, doi 10.1109/TIFS.2025.3574970), built on TBPS-CLIP (AAAI 2024)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional as F

from meru import distributed
from meru.errors import UserError, require
from meru.geometry import lorentz
from meru.losses.semantic_margin import cyclic_loss, reverse_contrastive_loss
from meru.models.clip import CLIP
from meru.models.meru import MERU
from meru.models.meru_patches import MERUPatches

SPACES = ("lorentz", "cosine")


class GAHR(MERUPatches):
    """Persons and sentences on the hyperboloid: semantic margins between them, attention between words and patches.

    - HRL, hyperbolic representation: both are lifted as in MERU and compared by minus their distance.
    - SMS, semantic margin softmax: contrast by identity, where what looks different is pushed further than look-alikes.
    - BAI, bidirectional attention interaction: `MERUPatches` in mode `tokens` with the paper's two losses, in training
      only; a search costs what CLIP's does.
    - R-ITC and C-ITC of TBPS-CLIP, which the released code has and the paper does not name.

    Args:
        space: `lorentz`; or `cosine`, the same on the unit sphere: the baseline without HRL.
        loss: Besides those of `MERUPatches`: weights of `reverse_contrastive` (with `smoothing` ε) and `cyclic` (with
            `within`, λ1, and `across`, λ2).
        **patches: Arguments of `MERUPatches`.

    Raises:
        UserError: for an unknown space, a `mode` other than `tokens`, or a term that `cosine` has not.
    """

    def __init__(self, *, space: str = "lorentz", **patches):
        super().__init__(**patches)
        require(space, SPACES, key="space")
        require(self.mode, ("tokens",), key="patches.mode")
        self.space = space
        self.geometry = MERU if space == "lorentz" else CLIP  # whose methods compare embeddings
        if space == "cosine":
            for term in ("entailment", "part_entailment"):
                if self.weight(term):
                    raise UserError(f"space=cosine has no cones: set loss.{term}.weight=0, or space=lorentz")
            for unused in (self.curv, self.visual_alpha, self.textual_alpha):
                unused.requires_grad_(False)
            self.initial_radius = None

    # ---------------------------------------------------------------------------------------------- the space
    def lift(self, features: Tensor, alpha: Tensor) -> Tensor:
        """As in `MERU`; in `cosine`, onto the unit sphere."""
        return super().lift(features, alpha) if self.space == "lorentz" else F.normalize(features.float(), dim=-1)

    def similarity(self, queries: Tensor, gallery: Tensor) -> Tensor:
        """Negative geodesic distance or cosine, `(Q, D)`, `(N, D)` → `(Q, N)`, float32."""
        return self.geometry.similarity(self, queries, gallery)

    def in_ball(self, embeddings: Tensor) -> tuple[Tensor, Tensor | float]:
        """As in `MERU` or `CLIP`."""
        return self.geometry.in_ball(self, embeddings)

    def average(self, embeddings: Tensor) -> Tensor:
        """As in `MERU` or `CLIP`: `(…, P, D)` → `(…, D)`."""
        return self.geometry.average(self, embeddings)

    def radius(self, embeddings: Tensor) -> Tensor:
        """As in `MERU` or `CLIP`: `(…, D)` → `(…)`."""
        return self.geometry.radius(self, embeddings)

    def logs(self, image: Tensor, text: Tensor) -> dict[str, Tensor]:
        """As in `MERU` or `CLIP`."""
        return self.geometry.logs(self, image, text)

    # ---------------------------------------------------------------------------------------------- training
    def terms(self, image: Tensor, text: Tensor, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Terms of whole images and captions: those of `MERU`, and TBPS-CLIP's two."""
        terms = super().terms(image, text, batch)
        if self.weight("reverse_contrastive"):
            targets, smoothing = self.positive_targets(batch), self.loss["reverse_contrastive"]["smoothing"]
            logits = [self.logit_scale.exp() * scores for scores in self.cross_similarities(image, text)]
            both = [reverse_contrastive_loss(each, targets, smoothing).mean() for each in logits]
            terms["reverse_contrastive"] = 0.5 * sum(both)
        if self.weight("cyclic"):
            terms["cyclic"] = self.cyclic(image, text)
        return terms

    def cyclic(self, image: Tensor, text: Tensor) -> Tensor:
        """C-ITC on the inner products of points `(B, D)` with those of all processes.

        As in the released code, Lorentz's inner product within a modality, but x·y of the space components across
        them: v_i·t_j − t_i·v_j. The released factor of the logit scale cancels, in the gradient, too.
        """
        settings = self.loss["cyclic"]
        images, texts = distributed.gather(image), distributed.gather(text)
        loss = image.new_zeros(())
        if settings["within"]:
            loss = settings["within"] * cyclic_loss(self.inner(image, images), self.inner(text, texts))
        if settings["across"]:
            products = [CLIP.similarity(self, x, y) for x, y in ((image, texts), (text, images))]
            loss = loss + settings["across"] * cyclic_loss(*products)
        return loss

    def inner(self, x: Tensor, y: Tensor) -> Tensor:
        """Inner product of every x with every y: Lorentz's, or the cosine, `(B1, D)`, `(B2, D)` → `(B1, B2)`."""
        if self.space == "cosine":
            return self.similarity(x, y)
        return lorentz.pairwise_inner(x, y, self.curvature)
