"""Sizes of a tower's input and of its grid of patches, and position embeddings resampled to another grid."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence

from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from meru.errors import UserError

log = logging.getLogger("meru")

ImageSize = int | tuple[int, int]  # the side of a square, or height and width, pixels


def image_size_of(setting: int | Sequence[int]) -> ImageSize:
    """The size that `encoder.image.image_size` names; two equal sides are a square.

    Raises:
        UserError: unless it is a whole number above 0, or two of them.
    """
    given = [setting] if isinstance(setting, int) else list(setting)
    if len(given) > 2 or not given or any(type(side) is not int or side < 1 for side in given):
        raise UserError(f"encoder.image.image_size={setting}: give the side of a square, or [height,width], in pixels")
    return given[0] if given[0] == given[-1] else tuple(given)


def sides(size: ImageSize) -> tuple[int, int]:
    """Height and width."""
    return (size, size) if isinstance(size, int) else tuple(size)


def grid_of(patches: int, size: ImageSize) -> tuple[int, int]:
    """Rows and columns of a tower's patches: of the grids of that many, the one nearest to the image's proportions."""
    height, width = sides(size)
    columns = (each for each in range(1, patches + 1) if patches % each == 0)
    nearest = min(columns, key=lambda each: abs(math.log(patches * width / (each**2 * height))))
    return patches // nearest, nearest


def require_whole_patches(size: ImageSize, patch_size: tuple[int, int]) -> None:
    """Raise an error unless a vision transformer's patches cover an image without a rest."""
    if any(side % patch for side, patch in zip(sides(size), patch_size, strict=True)):
        patch = patch_size[0] if patch_size[0] == patch_size[1] else list(patch_size)
        fitting = [max(1, round(side / of)) * of for side, of in zip(sides(size), patch_size, strict=True)]
        near = f"[{fitting[0]},{fitting[1]}]" if isinstance(size, tuple) else fitting[0]
        shown = size if isinstance(size, int) else f"[{size[0]},{size[1]}]"
        raise UserError(
            f"encoder.image.image_size={shown}: the patches of this tower are {patch} pixels wide; give multiples of "
            f"{patch}, such as {near}"
        )


def with_resampled_positions(
    module: nn.Module, weights: Mapping[str, Tensor], *, what: str, trained_for: ImageSize | None = None
) -> dict[str, Tensor]:
    """The weights, with position embeddings of vision transformers resampled to the grids of a module.

    timm's and open_clip's resampling: bicubic with antialiasing, class and register tokens unchanged. Positions are
    left as they are if they fit already, or if they are not those of a square and `trained_for` is not given.

    Args:
        module: A tower of timm or open_clip, or a module that holds one.
        weights: By the names of the module.
        what: The config key that named the weights, for the log.
        trained_for: Size of the images that the weights are for; None: a square.
    """
    weights = dict(weights)
    for place, tower in module.named_modules():
        name, grid = _positions_of(tower)
        name = f"{place}.{name}" if place else name
        if grid is None or name not in weights:
            continue
        ours, theirs = module.get_parameter(name), weights[name]
        if theirs.dim() != ours.dim() or theirs.shape[-1] != ours.shape[-1]:
            continue  # another architecture
        prefix = ours.shape[-2] - math.prod(grid)
        before = _trained_grid(theirs.shape[-2] - prefix, trained_for, patch=_patch_size(tower))
        if before is None or before == grid:
            continue
        rows = theirs.float().view(1, *theirs.shape[-2:])
        weights[name] = resample_abs_pos_embed(rows, grid, before, prefix).view(*theirs.shape[:-2], -1, ours.shape[-1])
        log.info("%s: %s resampled from %d × %d to %d × %d patches", what, name, *before, *grid)
    return weights


def _positions_of(tower: nn.Module) -> tuple[str, tuple[int, int] | None]:
    """The name of a tower's learned positions, and its grid; None for other modules."""
    if isinstance(getattr(tower, "positional_embedding", None), nn.Parameter) and hasattr(tower, "grid_size"):
        return "positional_embedding", tuple(tower.grid_size)  # open_clip
    grid = getattr(getattr(tower, "patch_embed", None), "grid_size", None)
    if isinstance(getattr(tower, "pos_embed", None), nn.Parameter) and tower.pos_embed.dim() == 3 and grid is not None:
        return "pos_embed", tuple(grid)  # timm
    return "", None


def _patch_size(tower: nn.Module) -> tuple[int, int]:
    return tuple(tower.patch_size if hasattr(tower, "grid_size") else tower.patch_embed.patch_size)


def _trained_grid(patches: int, size: ImageSize | None, *, patch: tuple[int, int]) -> tuple[int, int] | None:
    """The grid of a number of patches of an image of that size; without one, of a square. None if it is neither."""
    if size is not None:
        rows, columns = (side // of for side, of in zip(sides(size), patch, strict=True))
        return (rows, columns) if rows * columns == patches else None
    side = math.isqrt(max(patches, 0))
    return (side, side) if side and side**2 == patches else None
