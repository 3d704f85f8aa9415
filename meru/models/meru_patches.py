"""MERU with patches: words meet the patches of their image, and parts lie inside wholes.

MERU (Desai et al., ICML 2023) with the bidirectional attention of GAHR (IEEE TIFS 2025), the parts of HyCoCLIP (Pal et
al., ICLR 2025) and the late interaction of FILIP (Yao et al., ICLR 2022).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from meru import distributed
from meru.encoders.image import ImageEncoder, encode_image, patch_offset
from meru.encoders.text import TextEncoder
from meru.errors import UserError, require
from meru.layers.bidirectional_attention import BidirectionalAttention, Interaction, Predictor, WordWindow, real_tokens
from meru.losses.contrastive import contrastive_loss, contrastive_targets
from meru.losses.interaction import SCOPES, late_interaction, patch_agreement, word_contrast, word_grounding
from meru.models import Output
from meru.models.hycoclip import HyCoCLIP

MODES = ("tokens", "crops", "grid")
ATTENDING = ("word_contrast", "word_grounding", "patch_agreement")  # the terms that train the attention
LIFTING = ("part_entailment", "late_interaction")  # those with patches on the hyperboloid


class MERUPatches(HyCoCLIP):
    """MERU that also looks at parts of its images; whole images and captions are embedded as by MERU.

    `mode` says what a part is:

    - `tokens`: a patch of the image tower's feature map. Words and patches attend to each other. With
      `part_entailment`, the patches that words look at most are more general than their image: their cones hold it.
    - `crops`: a crop of the image with words of its own, which the data bring: everything as in `HyCoCLIP`.
    - `grid`: each cell of a grid over the image, enlarged; without words, only with the image in its cone.

    Args:
        image: Image tower; its `patch_level` says which feature map the patches are from.
        text: Text tower.
        mode: `tokens`, `crops` or `grid`.
        merge: So many patches of the feature map in a row and in a column are averaged to one.
        top: Patches of an image that enter `part_entailment`.
        grid: Cells in a row and in a column.
        activation: Of the attention, see `BidirectionalAttention`.
        word_window: Tokens that a word's features in the attention have read, see `WordWindow`; None: the text tower's
            features, as in GAHR, which have read the whole caption so far.
        class_token: Whether the image tower's class token takes part in the attention, and so in `word_contrast` and
            `patch_agreement`, beside the patches. No other term and no picture of attention sees it.
        local_logit_scale: Initial inverse temperature of `word_contrast` and `word_grounding`, learned.
        loss: Besides HyCoCLIP's, for `tokens`: weights of `word_contrast` (with `scope` and `exclude_class`),
            `word_grounding` (with `exclude_class`), `patch_agreement`, `part_entailment` (for `grid`, too; with an
            `apex_floor` of its own) and `late_interaction`.
        **meru: Arguments of `MERU`.

    Raises:
        UserError: for an unknown mode or scope, or a class token that the image tower lacks.
    """

    log_scalars: ClassVar[Mapping[str, str]] = HyCoCLIP.log_scalars | {"local_logit_scale": "local_logit_scale"}

    def __init__(
        self,
        *,
        image: ImageEncoder,
        text: TextEncoder,
        mode: str = "tokens",
        merge: int = 1,
        top: int = 4,
        grid: int = 2,
        activation: str = "sigmoid",
        word_window: int | None = 4,
        class_token: bool = False,
        local_logit_scale: float = 10.0,
        **meru,
    ):
        super().__init__(image=image, text=text, **meru)
        scope = self.loss["word_contrast"]["scope"]
        require(mode, MODES, key="patches.mode")
        require(scope, SCOPES, key="loss.word_contrast.scope")
        self.mode, self.merge, self.top, self.grid = mode, merge, top, grid
        self.attends = False
        self.class_token = class_token
        self.local = nn.ModuleDict()  # all that MERU has not; one name for `optim.multipliers`
        if mode == "tokens":
            self._make_interaction(image, text, activation, word_window, local_logit_scale)

    def _make_interaction(
        self, image: ImageEncoder, text: TextEncoder, activation: str, word_window: int | None, scale: float
    ) -> None:
        """Only what the loss trains: DDP waits for the gradient of every parameter that may have one."""
        self.attends = any(self.weight(term) for term in ATTENDING)
        uses_patches = self.attends or any(self.weight(term) for term in LIFTING)
        self.patch_level = image.patch_level if uses_patches else None
        offset = patch_offset(image.network, image.image_size, patch_level=self.patch_level)
        self.patch_offset = offset / self.merge
        dimension = self.visual_proj.out_features
        if self.patch_level is not None:
            self.local["patch_proj"] = nn.Linear(image.patch_width, dimension, bias=False)
        if self.weight("patch_agreement"):
            self.local["predictor"] = Predictor(dimension=dimension)
        if self.weight("word_contrast") or self.weight("word_grounding"):
            self.local_logit_scale = nn.Parameter(torch.tensor(scale).log())
        if not self.attends:
            return
        if self.class_token and not image.class_token:
            raise UserError(
                "patches.class_token=true (in GAHR bai.class_token): this image tower has no class token; "
                "set it to false"
            )
        attention = BidirectionalAttention(dimension=dimension, activation=activation)
        self.local["interaction"] = attention
        if word_window:
            window = WordWindow(width=text.network.width, dimension=dimension, size=word_window)
            self.local["word_window"] = window
        untrained = []
        if not self.weight("patch_agreement"):
            untrained += [attention.patch_query, attention.word_key, attention.word_value]
        if not self.weight("word_contrast"):
            untrained += [attention.patch_value]
            if not self.weight("word_grounding"):
                untrained += [attention.word_query, attention.patch_key]
        for layer in untrained:
            layer.requires_grad_(False)

    # ---------------------------------------------------------------------------------------------- embedding
    def image_and_patch_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """As in `CLIP`; the patches from the feature map `patch_level`, with a projection of their own, and merged."""
        if self.mode != "tokens":
            return super().image_and_patch_features(images)
        pooled, patches = encode_image(self.visual, self.normalise(images), patch_level=self.patch_level)
        if self.merge > 1:
            side = round(patches.shape[1] ** 0.5)
            grid = patches.mT.unflatten(2, (side, side))
            patches = F.avg_pool2d(grid, self.merge).flatten(2).mT
        own = "patch_proj" in self.local
        patches = (self.local["patch_proj"] if own else self.visual_proj)(patches)
        return self.visual_proj(pooled).float(), patches.float()

    @property
    def has_word_attention(self) -> bool:
        """Whether the loss trains the attention of words to patches."""
        return self.mode == "tokens" and self.attends

    def word_attention(self, images: Tensor, tokens: Tensor, image_of: Tensor) -> Tensor:
        """As in `CLIP`; with the attention of words to patches, if it is trained, before its activation."""
        if not self.has_word_attention:
            return super().word_attention(images, tokens, image_of)
        _, patches = self.image_and_patch_features(images)
        return self.own_attention(self.attending_words(tokens), patches[image_of])

    def own_attention(self, words: Tensor, patches: Tensor) -> Tensor:
        """How much words `(B, M, D)` attend to the patches `(B, N, D)` of their own image, `(B, M, N)`.

        The cosines that `word_grounding` trains, if it does, else what the attention sums up by.
        """
        attention = self.local["interaction"]
        scale = 1.0 if self.weight("word_grounding") else None
        return attention.word_logits(words, attention.patch_key(patches), scale)

    def attending_words(self, tokens: Tensor) -> Tensor:
        """The words as they enter the attention, `(B, L, D)`."""
        if "word_window" in self.local:
            return self.local["word_window"](self.textual.token_embed(tokens)).float()
        return self.text_and_word_features(tokens)[1]

    # ---------------------------------------------------------------------------------------------- training
    def forward(self, batch: Mapping[str, Tensor]) -> Output:
        """The loss of a batch with MERU's keys, in mode `crops` with HyCoCLIP's."""
        if self.mode == "crops":
            return super().forward(batch)
        return self._forward_tokens(batch) if self.mode == "tokens" else self._forward_grid(batch)

    def _forward_tokens(self, batch: Mapping[str, Tensor]) -> Output:
        tokens, real = batch["tokens"], real_tokens(batch["tokens"])
        features, patches = self.image_and_patch_features(batch["image"])
        embeddings = self.textual.token_embed(tokens)
        lifts_words = self.weight("late_interaction") or (self.weight("part_entailment") and not self.attends)
        if lifts_words or (self.attends and "word_window" not in self.local):
            text, words = self.text_and_word_features(tokens, embeddings)
        else:  # the text tower's last block then works for the end-of-text tokens alone
            text, words = self.text_features(tokens, embeddings), None
        image, text = self.lift(features, self.visual_alpha), self.lift(text, self.textual_alpha)
        terms = self.terms(image, text, batch)
        logs = self.logs(image, text)
        attention = None
        if self.attends:
            windowed = "word_window" in self.local
            attending = self.local["word_window"](embeddings).float() if windowed else words
            # Where a tower has a class token, its features are those of the whole image.
            class_token = features[:, None] if self.class_token else None
            terms |= self.attention_terms(patches, attending, real, batch, class_token)
            if self.weight("part_entailment"):
                attention = self.own_attention(attending.detach(), patches.detach()).detach()
        if any(self.weight(term) for term in LIFTING):
            points = self.lift(patches, self.visual_alpha)
            logs["norm/patch"] = points.detach().norm(dim=-1).flatten()
            if self.weight("late_interaction"):
                terms["late_interaction"] = self.late_contrast(words[real], points, real, batch)
            if self.weight("part_entailment"):
                if attention is None:
                    lifted = self.lift(words, self.textual_alpha).detach()
                    pairs = zip(lifted, points.detach(), strict=True)
                    attention = torch.stack([self.similarity(*pair) for pair in pairs])
                parts = self.most_attended(points, attention, real)
                terms["part_entailment"], figures = self.entailment_by_parts(parts, image, "patch")
                logs |= figures
        if hasattr(self, "local_logit_scale"):
            logs["local_logit_scale"] = self.local_logit_scale.detach().exp()
        return self.combine(terms, logs)

    def attention_terms(
        self,
        patches: Tensor,
        words: Tensor,
        real: Tensor,
        batch: Mapping[str, Tensor],
        class_token: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The terms that train the attention.

        Args:
            patches: Features `(B, N, D)`.
            words: Features `(B, M, D)`.
            real: False at padding, bool `(B, M)`.
            batch: For the labels.
            class_token: Features `(B, 1, D)` that join the patches, but in `word_grounding`; None: patches alone.
        """
        terms = {}
        looking = patches if class_token is None else torch.cat([class_token, patches], dim=1)
        if self.weight("word_contrast") or self.weight("patch_agreement"):
            seen: Interaction = self.local["interaction"](looking, words, real)
        if self.weight("word_contrast"):
            settings = self.loss["word_contrast"]
            features, contexts, counted, labels = words, seen.word_context, real, batch["class_index"]
            if settings["scope"] == "batch":
                sequences = (features.float(), contexts.float(), counted)
                features, contexts, counted = (distributed.gather_sequences(each) for each in sequences)
                labels = distributed.gather(labels)
            losses = word_contrast(
                features,
                contexts,
                counted,
                self.local_logit_scale.exp(),
                scope=settings["scope"],
                labels=labels if settings["exclude_class"] else None,
            )
            terms["word_contrast"] = distributed.masked_mean(losses.flatten(), counted.flatten())
        if self.weight("word_grounding"):
            terms["word_grounding"] = self.grounding(patches, words, real, batch)
        if self.weight("patch_agreement"):
            predicted = self.local["predictor"](looking), self.local["predictor"](seen.patch_context)
            terms["patch_agreement"] = patch_agreement(looking, seen.patch_context, *predicted).mean()
        return terms

    def grounding(self, patches: Tensor, words: Tensor, real: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """`word_grounding` among the images of all processes; arguments as in `attention_terms`."""
        attention = self.local["interaction"]
        keys = distributed.gather(attention.patch_key(patches).float())
        logits = attention.word_logits(words[real], keys.flatten(0, 1), self.local_logit_scale.exp())
        caption, _ = real.nonzero(as_tuple=True)
        own = caption + distributed.rank() * len(patches)
        allowed = None
        if self.loss["word_grounding"]["exclude_class"]:
            labels = distributed.gather(batch["class_index"])
            allowed = labels[own][:, None] != labels
            allowed[torch.arange(len(own), device=own.device), own] = True
        losses = word_grounding(logits.unflatten(1, keys.shape[:2]), own, allowed)
        return distributed.masked_mean(losses, torch.ones_like(losses, dtype=torch.bool))

    def late_contrast(self, words: Tensor, points: Tensor, real: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """Contrastive loss on s·mean_m max_n −d(t_m, p_n), with the images and captions of all processes.

        Args:
            words: Features of the real words, `(T, D)`.
            points: Patches on the hyperboloid, `(B, N, D)`.
            real: bool `(B, M)`.
            batch: For the labels.
        """
        everyone = distributed.gather(points)
        similarity = self.similarity(self.lift(words, self.textual_alpha), everyone.flatten(0, 1))
        rows = self.logit_scale.exp() * late_interaction(similarity.unflatten(1, everyone.shape[:2]), real)
        first = distributed.rank() * len(points)
        columns = distributed.gather(rows)[:, first : first + len(points)].T
        labels = self.positive_labels(batch)
        return contrastive_loss(columns, rows, contrastive_targets(labels, distributed.gather(labels)))

    def most_attended(self, points: Tensor, attention: Tensor, real: Tensor) -> Tensor:
        """The `top` patches of each image that their words look at most, `(B, top, D)`.

        Args:
            points: Patches on the hyperboloid, `(B, N, D)`.
            attention: Of the words to the patches, `(B, M, N)`, in any unit.
            real: bool `(B, M)`.
        """
        spread = attention.softmax(dim=-1).masked_fill(~real[..., None], 0).sum(dim=1)
        chosen = spread.topk(min(self.top, spread.shape[1]), dim=1).indices
        return points.gather(1, chosen[..., None].expand(-1, -1, points.shape[-1]))

    def entailment_by_parts(self, parts: Tensor, image: Tensor, kind: str) -> tuple[Tensor, dict[str, Tensor]]:
        """How far images lie outside the cones of their parts, and figures beside it.

        Args:
            parts: Points `(B, P, D)`.
            image: Points `(B, D)`.
            kind: `patch` or `part_image`: the parts' name in the figures.
        """
        within, image = self.loss["entailment"]["within_aperture"], image[:, None]
        excess = self.excess(parts, image, within, self.apex_floor("part_entailment"))
        in_cone, dead = self.cone_shares(parts, image, within)
        return excess.mean(), {f"share_in_cone/{kind}_image": in_cone, f"clamped/half_aperture_{kind}": dead}

    def _forward_grid(self, batch: Mapping[str, Tensor]) -> Output:
        images = batch["image"]
        size, grid, side = len(images), self.grid, images.shape[-1] // self.grid
        cells = images[..., : side * grid, : side * grid].unflatten(3, (grid, side)).unflatten(2, (grid, side))
        cells = cells.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)  # (B · grid², 3, side, side)
        if self.weight("part_entailment"):
            enlarged = F.interpolate(cells.float(), size=images.shape[-2:], mode="bilinear", antialias=True)
            if images.dtype == torch.uint8:
                enlarged = enlarged.round().clamp(0, 255).to(torch.uint8)
            image, parts = self.embed_image(torch.cat([images, enlarged])).split([size, len(cells)])
        else:
            image = self.embed_image(images)
        text = self.embed_text(batch["tokens"])
        terms, logs = self.terms(image, text, batch), self.logs(image, text)
        if self.weight("part_entailment"):
            parts = parts.unflatten(0, (size, -1))
            logs["norm/part_image"] = parts.detach().norm(dim=-1).flatten()
            terms["part_entailment"], figures = self.entailment_by_parts(parts, image, "part_image")
            logs |= figures
        return self.combine(terms, logs)

    @torch.no_grad()
    def constrain_(self) -> None:
        """MERU's bounds, and that of the logit scale for the local one."""
        super().constrain_()
        if hasattr(self, "local_logit_scale"):
            self.local_logit_scale.clamp_(max=self._maximum)
