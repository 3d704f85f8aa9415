"""MERU: Desai et al., "Hyperbolic Image-Text Representations", ICML 2023."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from meru import distributed
from meru.errors import UserError, require
from meru.geometry.spaces import SPACES, Space
from meru.losses.entailment import entailment_angle, entailment_excess, inside_dead_radius, norm_regulariser
from meru.models import Term
from meru.models.dual_encoder import DualEncoder
from meru.models.terms import CONE_TERMS, Step

SCORES = ("distance", "squared_distance")


def entailment(model: MERU, step: Step) -> Tensor:
    """Angles by which images lie outside the cones of their own captions, or off the rays through them."""
    return model.entailment_loss(step.text, step.image).mean()


def norm(model: MERU, step: Step) -> Tensor:
    """ARGENT's regulariser of the norms of images and captions."""
    return norm_regulariser(torch.stack([step.image, step.text])).mean()


class MERU(DualEncoder):
    """CLIP on the hyperboloid: lifted features, distances in place of cosines, and images in the cones of their texts.

    Args:
        loss: Besides the terms of all models: `entailment.weight`, `entailment.minimum_radius`, K of the cones, and
            `entailment.apex_floor`, see `entailment_excess`; `entailment.kind`, `cone` or `argent`, see
            `entailment_angle`; `norm.weight`, see `norm_regulariser`.
        space: `hyperboloid` as in the paper, or another of `meru.geometry.spaces.SPACES`: `euclidean` (EuCLIP) without
            curvature, `sphere` without cones and feature scales. Parameters that a space does not use exist untrained,
            so that weights of one space can initialise another.
        curvature: Initial c; the space has curvature −c. c stays within a factor of 10 of this value.
        learn_curvature: Whether c is trained.
        norm_exponent: p in [0, 1]. Features of norm n·√D enter the tangent space with norm n^p·√D: 1 is MERU, 0 places
            all points at the same distance from the origin. Unlike cosines, distances depend on the norms; with towers
            trained from scratch, these differences at first dominate the ones that distinguish images.
        initial_radius: Average distance from the origin that `start_at_radius` sets; None: the alphas start at 1/√D, as
            in the paper.
        score: `distance`, or `squared_distance`, the similarity of EuCLIP, which ranks alike.
        **dual_encoder: Arguments of `DualEncoder`.

    Raises:
        UserError: for an unknown space, a term or score that the space does not support, or an exponent or radius out
            of range.
    """

    own_terms: ClassVar[Mapping[str, Term]] = {"entailment": entailment, "norm": norm}
    log_scalars: ClassVar[Mapping[str, str]] = DualEncoder.log_scalars | {
        "curv": "curvature",
        "visual_alpha": "alpha/image",
        "textual_alpha": "alpha/text",
    }

    def __init__(
        self,
        *,
        space: str = "hyperboloid",
        curvature: float = 1.0,
        learn_curvature: bool = True,
        norm_exponent: float = 1.0,
        initial_radius: float | None = None,
        score: str = "distance",
        **dual_encoder,
    ):
        super().__init__(**dual_encoder)
        require(space, tuple(SPACES), key="model.space")
        require(score, SCORES, key="model.score")
        self.kind_of_space = SPACES[space]
        self.squares_distance = score == "squared_distance"
        if curvature <= 0:
            raise ValueError(f"curvature must be positive, got {curvature}")
        if not 0 <= norm_exponent <= 1:
            raise UserError(f"model.norm_exponent={norm_exponent}: it must be between 0 (equal norms) and 1 (MERU)")
        if initial_radius is not None and initial_radius <= 0:
            raise UserError(f"model.initial_radius={initial_radius}: it must be positive, or null")
        self._check_cones(space)
        self.norm_exponent = norm_exponent
        self.initial_radius = initial_radius if self.kind_of_space.has_cones else None
        self.curv = nn.Parameter(torch.tensor(math.log(curvature)))
        self.curvature_bounds = (math.log(curvature / 10), math.log(curvature * 10))
        # Features of D independent channels of unit variance then have norm 1 in the tangent space.
        alpha = -0.5 * math.log(self.visual_proj.out_features)
        self.visual_alpha = nn.Parameter(torch.tensor(alpha))
        self.textual_alpha = nn.Parameter(torch.tensor(alpha))
        self.curv.requires_grad_(learn_curvature and self.kind_of_space.curved)
        for scale in (self.visual_alpha, self.textual_alpha):
            scale.requires_grad_(self.kind_of_space.has_cones)

    def _check_cones(self, space: str) -> None:
        if not self.kind_of_space.has_cones:
            if self.weight("norm"):
                raise UserError(f"model.space={space}: all points have norm 1; set loss.norm.weight=0")
            if self.squares_distance:
                raise UserError(f"model.space={space} is compared by cosines: set model.score=distance")
        for term in (term for term in CONE_TERMS if term in self.loss):
            if self.weight(term) and not self.kind_of_space.has_cones:
                raise UserError(
                    f"model.space={space} has no cones: set loss.{term}.weight=0, or model.space=hyperboloid"
                )
            if 0 != (floor := self.apex_floor(term)) <= 1:
                raise UserError(f"loss.{term}.apex_floor={floor}: it must be above 1 (units of 2K), or 0 for no floor")

    # ---------------------------------------------------------------------------------------------- the space
    @property
    def space(self) -> Space:
        """The space with the current curvature."""
        return self.kind_of_space(self.curvature) if self.kind_of_space.curved else self.kind_of_space()

    @property
    def curvature(self) -> Tensor:
        """c > 0, a scalar with gradient."""
        return self.curv.exp()

    def lift_image(self, features: Tensor) -> Tensor:
        """Map features of images or patches `(…, D)` to points of the space, float32."""
        return self.lift(features, self.visual_alpha)

    def lift_text(self, features: Tensor) -> Tensor:
        """Map features of captions or words `(…, D)` to points of the space, float32."""
        return self.lift(features, self.textual_alpha)

    def lift(self, features: Tensor, alpha: Tensor) -> Tensor:
        """Scale features and map them into the space; on the hyperboloid by the exponential map at the origin."""
        with torch.autocast(features.device.type, enabled=False):
            return self.space.lift(self._bend_norms(features.float()), alpha.exp())

    def _bend_norms(self, features: Tensor) -> Tensor:
        """Features `(…, D)` with their norms changed by `norm_exponent`."""
        if self.norm_exponent == 1:
            return features
        norm = features.norm(dim=-1, keepdim=True) / features.shape[-1] ** 0.5
        return features * norm.clamp_min(1e-3) ** (self.norm_exponent - 1)

    @torch.no_grad()
    def start_at_radius(self, images: Iterable[Tensor], tokens: Iterable[Tensor]) -> tuple[float, float]:
        """Set the alphas so that these images and captions lie at `initial_radius` on average.

        Towers trained with cosines, such as CLIP's, have features of arbitrary norm. With the paper's alphas, their
        points may lie near the origin, where the space is almost flat. An alpha is a logarithm of at most 0, so
        features shorter than the radius are not lengthened.

        Args:
            images: Batches as for `embed_image`.
            tokens: Batches as for `embed_text`.

        Returns:
            The mean norms of projected images and captions; every process gets the main process's values.
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

    # ---------------------------------------------------------------------------------------------- cones
    def excess(self, general: Tensor, specific: Tensor, aperture_scale: float = 1.0, apex_floor: float = 0.0) -> Tensor:
        """Angles in radians by which points lie outside the cones of more general ones, row by row."""
        return entailment_excess(
            general,
            specific,
            self.space,
            minimum_radius=self.loss["entailment"]["minimum_radius"],
            aperture_scale=aperture_scale,
            apex_floor=apex_floor,
        )

    def entailment_loss(
        self, general: Tensor, specific: Tensor, aperture_scale: float = 1.0, *, within_modality: bool = False
    ) -> Tensor:
        """The term `entailment` row by row, of the kind `loss.entailment.kind`; the apertures are those of cones."""
        if self.loss["entailment"].get("kind") == "argent":
            return entailment_angle(general, specific, self.space, within_modality=within_modality)
        return self.excess(general, specific, aperture_scale, self.apex_floor("entailment"))

    def apex_floor(self, term: str) -> float:
        """Configured floor of the apexes' radius in a term, in units of 2K; 0 (no floor) if the run lacks the key."""
        return self.loss[term].get("apex_floor", 0.0)

    @torch.no_grad()
    def cone_shares(self, general: Tensor, specific: Tensor, aperture_scale: float = 1.0) -> tuple[Tensor, Tensor]:
        """Shares of points inside the cones of more general ones and of apexes within the dead radius.

        Both refer to the published cones without a floor, and are 0 without pairs; see `inside_dead_radius`.
        """
        inside = self.excess(general, specific, aperture_scale) == 0
        dead = inside_dead_radius(general, self.space, self.loss["entailment"]["minimum_radius"])
        return _share(inside), _share(dead)

    # ---------------------------------------------------------------------------------------------- training
    @torch.no_grad()
    def logs(self, step: Step) -> dict[str, Tensor]:
        """The figures of all models, and statistics of how the points use the space."""
        figures, space = super().logs(step), self.space
        if space.has_cones:
            in_cone, dead = self.cone_shares(step.text, step.image)
            figures |= {
                "alpha/image": self.visual_alpha.exp(),
                "alpha/text": self.textual_alpha.exp(),
                "norm/image": step.image.norm(dim=-1),
                "norm/text": step.text.norm(dim=-1),
                "radius/image": space.radius(step.image).mean(),
                "radius/text": space.radius(step.text).mean(),
                "share_in_cone": in_cone,
                "clamped/half_aperture": dead,
            }
            if self.loss["entailment"].get("kind") == "argent":
                figures["angle"] = space.exterior_angle(step.text, step.image).mean()
        if space.curved:
            low, high = self.curvature_bounds
            figures |= {
                "curvature": self.curvature,
                "clamped/curvature": ((self.curv <= low) | (self.curv >= high)).float(),
                "clamped/lift_image": space.at_limit(step.image),
                "clamped/lift_text": space.at_limit(step.text),
            }
        return figures

    @torch.no_grad()
    def constrain_(self) -> None:
        """Clamp as in all models, curvature to within a factor of 10 of its initial value, and scales to at most 1."""
        super().constrain_()
        self.curv.clamp_(*self.curvature_bounds)
        self.visual_alpha.clamp_(max=0.0)
        self.textual_alpha.clamp_(max=0.0)


def _share(condition: Tensor) -> Tensor:
    return condition.float().sum() / max(1, condition.numel())
