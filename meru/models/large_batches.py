"""Contrasts of a model's points with those of all processes; of large batches tile by tile, see `meru.losses.tiled`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from meru import distributed
from meru.geometry.tiled_pairs import can_tile
from meru.losses.tile_sums import Contrast
from meru.losses.tiled import tiled_contrast

if TYPE_CHECKING:
    from meru.models.dual_encoder import DualEncoder


def goes_by_tiles(model: DualEncoder, size: int, *, term: str = "contrastive") -> bool:
    """Whether a model's losses are computed by tiles for so many images per process.

    They are from `model.tiled_from` pairs in a matrix of scores on, 1024 × 1024 by default; a smaller matrix fits as
    it is, and is as fast. Never for a model with a `similarity` of its own, or a space that tiles do not know. A term
    with a robust exponent holds the whole matrix too: its losses need the sums of whole rows before the first tile.
    """
    if model.loss[term].get("robust_exponent"):
        return False
    enough = size * size * distributed.world_size() >= model.tiled_from
    return enough and model.compares_by_space and can_tile(model.space)


def row_losses(model: DualEncoder, x: Tensor, y: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """Contrast of points `x` `(B, D)` with the points `y` `(B, D)` of all processes, `(B,)`; see `contrast` of models.

    Row i of y is a positive of row i of x, and so are others with an equal label.
    """
    everyone = distributed.gather(y)
    if goes_by_tiles(model, len(x)):
        return _tiled(model, x, everyone, batch)[0]
    return model.contrast(model.similarity(x, everyone), model.positive_targets(batch), batch)


def both_losses(
    model: DualEncoder,
    x: Tensor,
    y: Tensor,
    batch: Mapping[str, Tensor],
    *,
    margin: float | None = None,
    share: Tensor | float = 0.0,
    within: bool = False,
) -> tuple[Tensor, Tensor]:
    """Losses by tiles of points `x` with all y, and of points `y` with all x, `(B,)` each.

    A single process has all rows and columns and computes the scores once; several compare their own rows with
    everyone's columns twice.

    Args:
        model: Its scale, labels and kind of contrast count.
        x, y: Points `(B, D)`.
        batch: The batch that they are from.
        margin: λ of `meru.losses.semantic_margin.semantic_margin_loss`; None: the kind of `loss.contrastive` instead.
        share: α of `soft_targets`.
        within: Whether margins are those of similarities within x, and within y.
    """
    settings: dict = {} if margin is None else {"margin": margin, "share": share, "sigmoid": False}
    if distributed.world_size() == 1:
        return _tiled(model, x, y, batch, both=True, within=(x, y) if within else (), **settings)
    everyone = [distributed.gather(each) for each in (x, y)]
    rows = (
        _tiled(model, own, others, batch, within=(alike,) if within else (), **settings)[0]
        for own, others, alike in ((x, everyone[1], everyone[0]), (y, everyone[0], everyone[1]))
    )
    return tuple(rows)


def _tiled(
    model: DualEncoder,
    x: Tensor,
    y: Tensor,
    batch: Mapping[str, Tensor],
    *,
    within: tuple[Tensor, ...] = (),
    sigmoid: bool | None = None,
    **settings,
) -> tuple[Tensor, Tensor]:
    sigmoid = model.logit_bias is not None if sigmoid is None else sigmoid
    labels = None
    if model.loss["contrastive"]["positives"] != "pair":
        own = model.positive_labels(batch)
        labels = own, distributed.gather(own)
    contrast = Contrast(
        space=model.space,
        squared=model.squares_distance,
        labels=labels,
        first=distributed.rank() * len(x),
        sigmoid=sigmoid,
        **settings,
    )
    bias = model.logit_bias if sigmoid else None
    return tiled_contrast(x, y, model.logit_scale.exp(), contrast, bias=bias, within=within)
