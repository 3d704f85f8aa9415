"""MERU: Desai et al., "Hyperbolic Image-Text Representations", ICML 2023."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from meru import distributed
from meru.errors import UserError
from meru.geometry import lorentz
from meru.losses.entailment import entailment_excess, inside_dead_radius
from meru.models.clip import CLIP


class MERU(CLIP):
    """CLIP on the hyperboloid: lifted features, distance for cosine, and texts whose cones hold their images.

    Args:
        loss: Besides CLIP's: `entailment.weight`, `entailment.minimum_radius`, K of the cones, and
            `entailment.apex_floor`, see `entailment_excess`.
        curvature: Initial c; the space has curvature −c. c stays within a factor of 10 of it.
        learn_curvature: Whether c is trained.
        norm_exponent: p in [0, 1]. Features of norm n·√D enter the tangent space with norm n^p·√D: 1 is MERU, 0 puts
            all at one distance from the origin. A distance sees differences of norm that a cosine does not; in towers
            from scratch they drown at first what tells images apart.
        initial_radius: Distance from the origin at which `start_at_radius` puts typical points; None: the alphas start
            at 1/√D, as in the paper.
        **clip: Arguments of `CLIP`.

    Raises:
        UserError: for an exponent or a radius out of range.
    """

    log_scalars: ClassVar[Mapping[str, str]] = CLIP.log_scalars | {
        "curv": "curvature",
        "visual_alpha": "alpha/image",
        "textual_alpha": "alpha/text",
    }

    def __init__(
        self,
        *,
        curvature: float = 1.0,
        learn_curvature: bool = True,
        norm_exponent: float = 1.0,
        initial_radius: float | None = None,
        **clip,
    ):
        super().__init__(**clip)
        if curvature <= 0:
            raise ValueError(f"curvature must be positive, got {curvature}")
        if not 0 <= norm_exponent <= 1:
            raise UserError(f"model.norm_exponent={norm_exponent}: it must be from 0, all norms alike, to 1")
        for term in ("entailment", "part_entailment"):
            floor = self.apex_floor(term) if term in self.loss else 0.0
            if floor and floor <= 1:
                raise UserError(f"loss.{term}.apex_floor={floor}: it must be above 1, in units of 2K, or 0 for none")
        if initial_radius is not None and initial_radius <= 0:
            raise UserError(f"model.initial_radius={initial_radius}: it must be positive, or null")
        self.norm_exponent, self.initial_radius = norm_exponent, initial_radius
        self.curv = nn.Parameter(torch.tensor(math.log(curvature)), requires_grad=learn_curvature)
        self.curvature_bounds = (math.log(curvature / 10), math.log(curvature * 10))
        # Features of D independent unit-variance channels start with norm 1 in the tangent space.
        alpha = -0.5 * math.log(self.visual_proj.out_features)
        self.visual_alpha = nn.Parameter(torch.tensor(alpha))
        self.textual_alpha = nn.Parameter(torch.tensor(alpha))

    @property
    def curvature(self) -> Tensor:
        """c > 0, a scalar with gradient."""
        return self.curv.exp()

    def embed_image(self, images: Tensor) -> Tensor:
        """Points (space components) `(B, D)`, float32, of RGB images `(B, 3, S, S)`: uint8, or in [0, 1]."""
        return self.lift(self.image_features(images), self.visual_alpha)

    def embed_text(self, tokens: Tensor) -> Tensor:
        """Points (space components) `(B, D)`, float32, of token ids `(B, L)`, padded with 0."""
        return self.lift(self.text_features(tokens), self.textual_alpha)

    def embed_patches(self, images: Tensor) -> Tensor:
        """Every patch of the images as a point, lifted as the image itself is, `(B, N, D)`, float32."""
        return self.lift(self.image_and_patch_features(images)[1], self.visual_alpha)

    def embed_words(self, tokens: Tensor) -> Tensor:
        """Every token of the captions as a point, lifted as the caption itself is, `(B, L, D)`, float32."""
        return self.lift(self.text_and_word_features(tokens)[1], self.textual_alpha)

    def lift(self, features: Tensor, alpha: Tensor) -> Tensor:
        """Scale features and map them from the tangent space at the origin onto the hyperboloid."""
        with torch.autocast(features.device.type, enabled=False):
            return lorentz.exp_map0(self._bend_norms(features.float()) * alpha.exp(), self.curvature)

    def _bend_norms(self, features: Tensor) -> Tensor:
        """Features `(…, D)` with their norms as the `norm_exponent` wants them."""
        if self.norm_exponent == 1:
            return features
        norm = features.norm(dim=-1, keepdim=True) / features.shape[-1] ** 0.5
        return features * norm.clamp_min(1e-3) ** (self.norm_exponent - 1)

    @torch.no_grad()
    def start_at_radius(self, images: Iterable[Tensor], tokens: Iterable[Tensor]) -> tuple[float, float]:
        """Set the alphas so that these images and captions lie at `initial_radius` on average.

        Towers that were trained on cosines, such as CLIP's, have features of any length: at the paper's alphas their
        points may lie where the space is all but flat. An alpha is at most 0, so features that are shorter than the
        radius are not lengthened.

        Args:
            images: Batches as for `embed_image`.
            tokens: Batches as for `embed_text`.

        Returns:
            The mean norms of projected images and captions, the main process's in every process.
        """
        was_training = self.training
        self.eval()
        image = torch.cat([self._bend_norms(self.image_features(batch)).norm(dim=-1) for batch in images])
        text = torch.cat([self._bend_norms(self.text_features(batch)).norm(dim=-1) for batch in tokens])
        self.train(was_training)
        norms = distributed.broadcast((image.mean().item(), text.mean().item()))
        for alpha, norm in zip((self.visual_alpha, self.textual_alpha), norms, strict=True):
            alpha.fill_(min(0.0, math.log(self.initial_radius / norm)))
        return norms

    def similarity(self, queries: Tensor, gallery: Tensor) -> Tensor:
        """Negative geodesic distance, `(Q, D)`, `(N, D)` → `(Q, N)`, float32."""
        return -lorentz.pairwise_distance(queries, gallery, self.curvature)

    def radius(self, embeddings: Tensor) -> Tensor:
        """Geodesic distance of points `(…, D)` from the origin, `(…)`: what is more general lies nearer."""
        return lorentz.distance_to_origin(embeddings, self.curvature)

    def in_ball(self, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """The same points `(…, D)` in the Poincaré ball, and its curvature."""
        return lorentz.to_poincare(embeddings, self.curvature), self.curvature

    def average(self, embeddings: Tensor) -> Tensor:
        """Mean in the tangent space at the origin, lifted again: `(…, P, D)` → `(…, D)`."""
        mean = lorentz.log_map0(embeddings, self.curvature).mean(dim=-2)
        return lorentz.exp_map0(mean, self.curvature)

    def terms(self, image: Tensor, text: Tensor, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """CLIP's terms and the entailment of each image by its own caption."""
        terms = super().terms(image, text, batch)
        if self.weight("entailment"):
            terms["entailment"] = self.excess(text, image, apex_floor=self.apex_floor("entailment")).mean()
        return terms

    def excess(self, general: Tensor, specific: Tensor, aperture_scale: float = 1.0, apex_floor: float = 0.0) -> Tensor:
        """Angles by which points lie outside the cones of more general ones, row by row, radians."""
        radius = self.loss["entailment"]["minimum_radius"]
        return entailment_excess(
            general,
            specific,
            self.curvature,
            minimum_radius=radius,
            aperture_scale=aperture_scale,
            apex_floor=apex_floor,
        )

    def apex_floor(self, term: str) -> float:
        """Configured floor of the apexes' radius in a term, in units of 2K; 0, none, in runs that do not name it."""
        return self.loss[term].get("apex_floor", 0.0)

    @torch.no_grad()
    def cone_shares(self, general: Tensor, specific: Tensor, aperture_scale: float = 1.0) -> tuple[Tensor, Tensor]:
        """Share of points inside the cones of more general ones, and of apexes within the dead radius.

        Both are of the published cones, whatever the floor, and 0 where there is no pair: see `inside_dead_radius`.
        """
        inside = self.excess(general, specific, aperture_scale) == 0
        dead = inside_dead_radius(general, self.curvature, self.loss["entailment"]["minimum_radius"])
        return _share(inside), _share(dead)

    @torch.no_grad()
    def logs(self, image: Tensor, text: Tensor) -> dict[str, Tensor]:
        """CLIP's figures, and how the hyperboloid is used: users of MERU ask for them first."""
        curvature = self.curvature
        low, high = self.curvature_bounds
        in_cone, dead = self.cone_shares(text, image)
        return {
            **super().logs(image, text),
            "curvature": curvature,
            "alpha/image": self.visual_alpha.exp(),
            "alpha/text": self.textual_alpha.exp(),
            "norm/image": image.norm(dim=-1),
            "norm/text": text.norm(dim=-1),
            "share_in_cone": in_cone,
            "clamped/curvature": ((self.curv <= low) | (self.curv >= high)).float(),
            "clamped/lift_image": lorentz.clamped_share(image, curvature),
            "clamped/lift_text": lorentz.clamped_share(text, curvature),
            "clamped/half_aperture": dead,
        }

    @torch.no_grad()
    def constrain_(self) -> None:
        """CLIP's bounds; curvature within a factor of 10 of its start; scales at most 1."""
        super().constrain_()
        self.curv.clamp_(*self.curvature_bounds)
        self.visual_alpha.clamp_(max=0.0)
        self.textual_alpha.clamp_(max=0.0)


def _share(condition: Tensor) -> Tensor:
    return condition.float().sum() / max(1, condition.numel())
