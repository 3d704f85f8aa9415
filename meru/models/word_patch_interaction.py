"""Interaction of caption words with image patches: the module `local` of a model, and the terms that train it.

Contains the bidirectional attention of GAHR (IEEE TIFS 2025, doi 10.1109/TIFS.2025.3574970), the late interaction of
FILIP (Yao et al., ICLR 2022), and the most attended patches as parts in the sense of HyCoCLIP (Pal et al., ICLR 2025).
The caption hierarchy is in `meru.models.caption_hierarchy`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from meru import distributed
from meru.encoders.image import ImageEncoder, patch_offset
from meru.encoders.sizes import grid_of
from meru.encoders.text import TextEncoder
from meru.errors import UserError
from meru.layers.bidirectional_attention import BidirectionalAttention, Interaction, Predictor, WordWindow, real_tokens
from meru.losses import interaction
from meru.losses.contrastive import contrastive_loss, contrastive_targets
from meru.models import Term
from meru.models.caption_hierarchy import caption_hierarchy, query_pooling
from meru.models.terms import Step, images_in_cones_of_parts, real_count

if TYPE_CHECKING:
    from meru.models.dual_encoder import DualEncoder
    from meru.models.meru import MERU

ATTENDING = ("word_contrast", "word_grounding", "patch_agreement")  # the terms that train the attention
LIFTING = ("part_entailment", "late_interaction")  # the terms that need patches as points of the space


@dataclass(kw_only=True)
class PatchStep(Step):
    """A step of a model with the module `local`.

    Attributes:
        patches: Features `(B, N, D)`.
        real: False at padding, bool `(B, M)`.
        words: Features from the text tower `(B, M, D)`; None if no term needs them.
        attending: The attention's input for words, `(B, M, D)`; None without attention.
        looking: The attention's input for patches, `(B, N, D)`; the class token comes first if it is used.
        seen: The attention's output for patches and words; None if no term needs it.
        points: Patches in the space, `(B, N, D)`; None if no term needs them.
    """

    patches: Tensor
    real: Tensor
    words: Tensor | None = None
    attending: Tensor | None = None
    looking: Tensor | None = None
    seen: Interaction | None = None
    points: Tensor | None = None


class WordPatchInteraction(nn.Module):
    """Additions to the two towers: projections of patches, attention between patches and words, a predictor.

    Contains only modules that the loss trains, because DDP waits for the gradients of all trainable parameters.

    Args:
        image: Image tower; its `patch_level` selects the feature map that patches come from.
        text: Text tower.
        dimension: D of the features.
        weight: Returns the configured weight of a term by its name in `WORD_TERMS`.
        merge: `merge` × `merge` patches of the feature map are averaged to one.
        top: Number of most attended patches of an image that enter `part_entailment`.
        activation: Activation of the attention, see `BidirectionalAttention`.
        word_window: Number of tokens that a word's features depend on in the attention, see `WordWindow`; None: use the
            text tower's features, as in GAHR, which depend on the whole caption up to the word.
        class_token: Whether the image tower's class token takes part in the attention, and so in `word_contrast` and
            `patch_agreement`, beside the patches. Other terms and attention maps do not use it.

    Raises:
        UserError: for an unknown activation, or a class token that the image tower lacks.
    """

    def __init__(
        self,
        image: ImageEncoder,
        text: TextEncoder,
        *,
        dimension: int,
        weight: Callable[[str], float],
        merge: int,
        top: int,
        activation: str,
        word_window: int | None,
        class_token: bool,
    ):
        super().__init__()
        trained = {term for term in (*ATTENDING, *LIFTING, "caption_hierarchy") if weight(term)}
        self.merge, self.top, self.class_token = merge, top, class_token
        self.attends = not trained.isdisjoint(ATTENDING)
        self.grounds = "word_grounding" in trained
        self.has_scale = not trained.isdisjoint(("word_contrast", "word_grounding"))
        self.reads_text_tower = "late_interaction" in trained or ("part_entailment" in trained and not self.attends)
        self.image_size = image.image_size
        self.patch_level = image.patch_level if trained else None
        self.patch_offset = patch_offset(image.network, image.image_size, patch_level=self.patch_level) / merge
        self.patch_proj = self.predictor = self.interaction = self.word_window = self.query_pooling = None
        if self.patch_level is not None:
            self.patch_proj = nn.Linear(image.patch_width, dimension, bias=False)
        if "patch_agreement" in trained:
            self.predictor = Predictor(dimension=dimension)
        if not self.attends:
            return
        if class_token and not image.class_token:
            raise UserError("model.class_token=true: this image tower has no class token; set it to false")
        self.interaction = BidirectionalAttention(dimension=dimension, activation=activation)
        if word_window:
            self.word_window = WordWindow(width=text.network.width, dimension=dimension, size=word_window)
        else:
            self.reads_text_tower = True
        for layer in _untrained(self.interaction, trained):
            layer.requires_grad_(False)

    def project(self, patches: Tensor, of_images: nn.Linear) -> Tensor:
        """Merge and project patches, `(B, N, W)` → `(B, N / merge², D)`; those of the last map by `of_images`."""
        if self.merge > 1:
            rows, columns = grid_of(patches.shape[1], self.image_size)
            if self.merge > min(rows, columns):
                raise UserError(
                    f"model.merge={self.merge}: the image tower gives {rows} × {columns} patches; give at most "
                    f"{min(rows, columns)}"
                )
            grid = patches.mT.unflatten(2, (rows, columns))
            patches = F.avg_pool2d(grid, self.merge).flatten(2).mT
        return (of_images if self.patch_proj is None else self.patch_proj)(patches)

    def attention(self, words: Tensor, patches: Tensor) -> Tensor:
        """Attention of words `(B, M, D)` to the patches `(B, N, D)` of their own image, `(B, M, N)`.

        Returns the cosines that `word_grounding` trains if it has a weight, else the logits before the activation.
        """
        scale = 1.0 if self.grounds else None
        return self.interaction.word_logits(words, self.interaction.patch_key(patches), scale)

    # ---------------------------------------------------------------------------------------------- of a model
    def attending_words(self, model: DualEncoder, tokens: Tensor) -> Tensor:
        """The attention's input `(B, L, D)` for the words of token ids `(B, L)`."""
        if self.word_window is not None:
            return self.word_window(model.textual.token_embed(tokens)).float()
        return model.text_and_word_features(tokens)[1]

    def word_attention(self, model: DualEncoder, images: Tensor, tokens: Tensor, image_of: Tensor) -> Tensor:
        """Implement `DualEncoder.word_attention`."""
        _, patches = model.image_and_patch_features(images)
        return self.attention(self.attending_words(model, tokens), patches[image_of])

    def encode(self, model: DualEncoder, batch: Mapping[str, Tensor]) -> PatchStep:
        """Embed a batch by the towers of a model and this module."""
        tokens, real = batch["tokens"], real_tokens(batch["tokens"])
        embeddings, count = model.textual.token_embed(tokens), real_count(batch)
        if self.reads_text_tower:
            text, words = model.text_and_word_features(tokens, embeddings, count=count)
        else:  # then the text tower's last block only computes the end-of-text tokens
            text, words = model.text_features(tokens, embeddings, count=count), None
        features, patches = model.image_and_patch_features(batch["image"])
        image, text = model.lift_image(features), model.lift_text(text)
        step = PatchStep(batch=batch, image=image, text=text, patches=patches, real=real, words=words)
        if self.attends:
            step.attending = words if self.word_window is None else self.word_window(embeddings).float()
            # If a tower has a class token, the token's features are those of the whole image.
            step.looking = torch.cat([features[:, None], patches], dim=1) if self.class_token else patches
            if model.weight("word_contrast") or model.weight("patch_agreement"):
                step.seen = self.interaction(step.looking, step.attending, real)
        if any(model.weight(term) for term in LIFTING):
            step.points = model.lift_image(patches)
            step.figures["norm/patch"] = step.points.detach().norm(dim=-1).flatten()
        return step


def _untrained(attention: BidirectionalAttention, trained: set[str]) -> list[nn.Module]:
    """Layers of the attention that none of the terms trains."""
    layers = []
    if "patch_agreement" not in trained:
        layers += [attention.patch_query, attention.word_key, attention.word_value]
    if "word_contrast" not in trained:
        layers += [attention.patch_value]
        if "word_grounding" not in trained:
            layers += [attention.word_query, attention.patch_key]
    return layers


def hold_interaction(
    model: DualEncoder, image: ImageEncoder, text: TextEncoder, local_logit_scale: float, **settings
) -> None:
    """Give a model its module `local`, and `local_logit_scale`, a learned inverse temperature, if a term needs one.

    Sets `reads_caption_queries` if the batches of the model need the queries of captions.

    `settings` are the other arguments of `WordPatchInteraction`.
    """
    dimension = model.visual_proj.out_features
    model.local = WordPatchInteraction(image, text, dimension=dimension, weight=model.weight, **settings)
    model.patch_level, model.patch_offset = model.local.patch_level, model.local.patch_offset
    if model.local.has_scale:
        model.local_logit_scale = nn.Parameter(torch.tensor(local_logit_scale).log())
    model.reads_caption_queries = model.weight("caption_hierarchy") > 0
    if model.reads_caption_queries:
        model.local.query_pooling = query_pooling(model.loss["caption_hierarchy"], dimension=dimension)


# ------------------------------------------------------------------------------------------------- terms


def word_contrast(model: DualEncoder, step: PatchStep) -> Tensor:
    """BAI: contrast of each word with the context it gathers from patches, against words of its caption or batch."""
    settings = model.loss["word_contrast"]
    words, contexts, counted, labels = step.attending, step.seen.word_context, step.real, step.batch["class_index"]
    if settings["scope"] == "batch":
        sequences = (words.float(), contexts.float(), counted)
        words, contexts, counted = (distributed.gather_sequences(each) for each in sequences)
        labels = distributed.gather(labels)
    losses = interaction.word_contrast(
        words,
        contexts,
        counted,
        model.local_logit_scale.exp(),
        scope=settings["scope"],
        labels=labels if settings["exclude_class"] else None,
    )
    return distributed.masked_mean(losses.flatten(), counted.flatten())


def word_grounding(model: DualEncoder, step: PatchStep) -> Tensor:
    """Cross-entropy that rewards each word for attending to its own image among the images of all processes."""
    attention, real, batch_size = model.local.interaction, step.real, len(step.patches)
    keys = distributed.gather(attention.patch_key(step.patches).float())
    logits = attention.word_logits(step.attending[real], keys.flatten(0, 1), model.local_logit_scale.exp())
    caption, _ = real.nonzero(as_tuple=True)
    own = caption + distributed.rank() * batch_size
    allowed = None
    if model.loss["word_grounding"]["exclude_class"]:
        labels = distributed.gather(step.batch["class_index"])
        allowed = labels[own][:, None] != labels
        allowed[torch.arange(len(own), device=own.device), own] = True
    losses = interaction.word_grounding(logits.unflatten(1, keys.shape[:2]), own, allowed)
    return distributed.masked_mean(losses, torch.ones_like(losses, dtype=torch.bool))


def patch_agreement(model: DualEncoder, step: PatchStep) -> Tensor:
    """BAI: patches and the contexts they gather from words predict each other."""
    patches, contexts, predictor = step.looking, step.seen.patch_context, model.local.predictor
    return interaction.patch_agreement(patches, contexts, predictor(patches), predictor(contexts)).mean()


def late_interaction(model: DualEncoder, step: PatchStep) -> Tensor:
    """Contrastive loss on s·mean_m max_n S(t_m, p_n), with the images and captions of all processes.

    S is the space's similarity of words and patches.
    """
    everyone = distributed.gather(step.points)
    similarity = model.similarity(model.lift_text(step.words[step.real]), everyone.flatten(0, 1))
    similarity = similarity.unflatten(1, everyone.shape[:2])
    rows = model.logit_scale.exp() * interaction.late_interaction(similarity, step.real)
    first = distributed.rank() * len(step.points)
    columns = distributed.gather(rows)[:, first : first + len(step.points)].T
    labels = model.positive_labels(step.batch)
    return contrastive_loss(columns, rows, contrastive_targets(labels, distributed.gather(labels)))


def part_entailment(model: MERU, step: PatchStep) -> Tensor:
    """Angles by which images lie outside the cones of the patches that their words attend to most."""
    if model.local.attends:
        attention = model.local.attention(step.attending.detach(), step.patches.detach()).detach()
    else:
        words = model.lift_text(step.words).detach()
        pairs = zip(words, step.points.detach(), strict=True)
        attention = torch.stack([model.similarity(*pair) for pair in pairs])
    parts = most_attended(step.points, attention, step.real, top=model.local.top)
    return images_in_cones_of_parts(model, step, parts, kind="patch")


def most_attended(points: Tensor, attention: Tensor, real: Tensor, *, top: int) -> Tensor:
    """The `top` patches of each image that its words attend to most, `(B, top, D)`.

    Args:
        points: Patches, `(B, N, D)`.
        attention: Attention logits of words to patches, `(B, M, N)`.
        real: False at padding, bool `(B, M)`.
        top: Number of patches; all of them if an image has fewer.
    """
    spread = attention.softmax(dim=-1).masked_fill(~real[..., None], 0).sum(dim=1)
    chosen = spread.topk(min(top, spread.shape[1]), dim=1).indices
    return points.gather(1, chosen[..., None].expand(-1, -1, points.shape[-1]))


WORD_TERMS: dict[str, Term] = {
    "word_contrast": word_contrast,
    "word_grounding": word_grounding,
    "patch_agreement": patch_agreement,
    "late_interaction": late_interaction,
    "part_entailment": part_entailment,
    "caption_hierarchy": caption_hierarchy,
}
