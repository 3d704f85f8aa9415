"""The caption hierarchy of Hyper3-CLIP (ECCV 2026 workshops): its pooling of patches by queries, and its term.

Used in training only; images and captions are embedded as without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from meru import distributed
from meru.data.caption_queries import CAPTION, WEIGHTS
from meru.errors import UserError, require
from meru.losses.caption_hierarchy import ORDERS, caption_hierarchy_loss, relations

if TYPE_CHECKING:
    from meru.models.meru import MERU
    from meru.models.word_patch_interaction import PatchStep

HEADS = 8
POOLINGS = ("query", "mean")
PARENTS = ("caption", "shuffled")


class QueryPooling(nn.Module):
    """What a query sees of an image: ṽ = MHA(W h, patches, patches), v = ṽ + MLP(LN ṽ).

    Args:
        dimension: D of queries and patches.

    Raises:
        UserError: if D is not a multiple of the 8 heads.
    """

    def __init__(self, *, dimension: int):
        super().__init__()
        if dimension % HEADS:
            raise UserError(
                f"encoder.embedding_dimension={dimension}: loss.caption_hierarchy.pooling=query needs a multiple of "
                f"{HEADS}, one share for each attention head; or set loss.caption_hierarchy.pooling=mean"
            )
        self.query = nn.Linear(dimension, dimension, bias=False)
        self.attention = nn.MultiheadAttention(dimension, HEADS, batch_first=True)
        self.norm = nn.LayerNorm(dimension)
        self.mlp = nn.Sequential(
            nn.Linear(dimension, 4 * dimension), nn.GELU(), nn.Linear(4 * dimension, dimension)
        )

    def forward(self, queries: Tensor, patches: Tensor) -> Tensor:
        """Queries h `(B, Q, D)`, each of its own image's patches `(B, N, D)` → `(B, Q, D)`."""
        pooled, _ = self.attention(self.query(queries), patches, patches, need_weights=False)
        return pooled + self.mlp(self.norm(pooled))


def query_pooling(settings: Mapping, *, dimension: int) -> QueryPooling | None:
    """The module that the term's settings ask for; None if queries see the mean of all patches.

    Raises:
        UserError: for an invalid setting; the message names the key.
    """
    for key, choices in (("pooling", POOLINGS), ("order", ORDERS), ("parents", PARENTS)):
        require(settings[key], choices, key=f"loss.caption_hierarchy.{key}")
    return QueryPooling(dimension=dimension) if settings["pooling"] == "query" else None


def caption_hierarchy(model: MERU, step: PatchStep) -> Tensor:
    """Mean over the queries of all processes, weighted by their kind, of `caption_hierarchy_loss`; 0 without queries.

    The batch has `query_tokens` `(B, Q, L)`, `query_weight` `(B, Q)` and `query_parent` `(B, Q)`, see
    `meru.data.caption_queries.query_entries`.
    """
    settings, weights = model.loss["caption_hierarchy"], step.batch["query_weight"]
    present = weights > 0
    row, column = present.nonzero(as_tuple=True)
    features = model.text_features(step.batch["query_tokens"][present])
    text = model.lift_text(features)
    seen = model.lift_image(_pooled(model, step.patches, features, present)[present])
    if settings["parents"] == "shuffled":
        parent = _captions_of_others(step)[row]
    else:
        texts = torch.cat([step.text[:, None], step.text.new_zeros(*present.shape, step.text.shape[-1])], dim=1)
        texts = texts.index_put((row, column + 1), text)
        parent = texts[row, step.batch["query_parent"][present] - CAPTION]
    points, order = (text, seen, step.image[row], parent), settings["order"]
    losses = caption_hierarchy_loss(
        *points, model.space, order=order, minimum_radius=model.loss["entailment"]["minimum_radius"]
    )
    step.figures |= _figures(model, step, relations(*points, order=order), text)
    weights = weights[present]
    average = distributed.total(weights.sum()) / distributed.world_size()
    return (weights * losses).sum() / torch.where(average == 0, 1, average)


def _pooled(model: MERU, patches: Tensor, features: Tensor, present: Tensor) -> Tensor:
    """What every query sees of its image, `(B, Q, D)`; arbitrary where there is no query."""
    if model.local.query_pooling is None:
        return patches.mean(dim=1, keepdim=True).expand(-1, present.shape[1], -1)
    queries = features.new_zeros(*present.shape, features.shape[-1]).index_put((present,), features)
    return model.local.query_pooling(queries, patches).float()


def _captions_of_others(step: PatchStep) -> Tensor:
    """For each caption another one, the next of all processes, `(B, D)`; batches are in random order."""
    size = len(step.text)
    return distributed.gather(step.text).roll(-1, dims=0).narrow(0, distributed.rank() * size, size)


@torch.no_grad()
def _figures(model: MERU, step: PatchStep, of_queries: Mapping, text: Tensor) -> dict[str, Tensor]:
    """Figures for the logs: queries per caption, shares inside the cones, and radii of captions and queries."""
    weights = step.batch["query_weight"]
    radii, kinds = model.radius(text), weights[weights > 0]
    figures = {
        "queries_per_caption": (weights > 0).sum(dim=1).float().mean(),
        "radius/caption": model.radius(step.text).mean(),
        "radius/query": radii.sum() / max(1, len(radii)),
    }
    for name, (general, specific, eta) in of_queries.items():
        figures[f"share_in_cone/{name}"], _ = model.cone_shares(general, specific, eta)
    for kind, weight in WEIGHTS.items():
        figures[f"radius/query_{kind}"] = radii[kinds == weight]
    return figures
