"""MERU (Desai et al., ICML 2023) with the cells of a grid as parts: each image lies in the cones of its cells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NoReturn

import torch
from torch import Tensor
from torch.nn import functional as F

from meru.errors import UserError
from meru.models import Term
from meru.models.meru import MERU
from meru.models.terms import Step, images_in_cones_of_parts, real_count


@dataclass(kw_only=True)
class GridStep(Step):
    """A step with `parts`, the cells of each image as points `(B, grid², D)`; None if no term needs them."""

    parts: Tensor | None = None


def part_entailment(model: MERU, step: GridStep) -> Tensor:
    """Angles by which images lie outside the cones of their cells."""
    return images_in_cones_of_parts(model, step, step.parts, kind="part_image")


class MERUGrid(MERU):
    """MERU with images in the cones of their enlarged grid cells; the cells have no words.

    The parameters and their names are MERU's.

    Args:
        grid: Number of cells per row and per column.
        loss: Besides MERU's: `part_entailment`, with `weight` and `apex_floor`, and `entailment.within_aperture`, η of
            a cell's cone around its image.
        **meru: Arguments of `MERU`.
    """

    own_terms: ClassVar[Mapping[str, Term]] = MERU.own_terms | {"part_entailment": part_entailment}

    def __init__(self, *, grid: int = 2, **meru):
        super().__init__(**meru)
        self.grid = grid

    @property
    def frozen_part(self) -> NoReturn:
        """Refused: cells are cut from the images, which cached rows do not have."""
        raise UserError("data.cached_views: model=meru_grid cuts every image into cells before the tower; set it to 0")

    def encode(self, batch: Mapping[str, Tensor]) -> GridStep:
        """Embed a batch with MERU's keys."""
        images = batch["image"]
        if not self.weight("part_entailment"):
            text = self.embed_text(batch["tokens"], real_count(batch))
            return GridStep(batch=batch, image=self.embed_image(images), text=text)
        size, grid = len(images), self.grid
        height, width = (side // grid for side in images.shape[-2:])
        cells = images[..., : height * grid, : width * grid].unflatten(3, (grid, width)).unflatten(2, (grid, height))
        cells = cells.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)  # (B · grid², 3, height, width)
        enlarged = F.interpolate(cells.float(), size=images.shape[-2:], mode="bilinear", antialias=True)
        if images.dtype == torch.uint8:
            enlarged = enlarged.round().clamp(0, 255).to(torch.uint8)
        text = self.embed_text(batch["tokens"], real_count(batch))
        # Wholes and parts in one pass, so that they share batch norm statistics.
        image, parts = self.embed_image(torch.cat([images, enlarged])).split([size, len(cells)])
        step = GridStep(batch=batch, image=image, text=text)
        step.parts = parts.unflatten(0, (size, -1))
        step.figures["norm/part_image"] = parts.detach().norm(dim=-1).flatten()
        return step
