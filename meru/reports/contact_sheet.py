"""A plot of several images with their names."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.figure import Figure
from torch import Tensor

from meru.reports.attention import printable

COLUMNS = 5


def contact_sheet(images: Sequence[Tensor], names: Sequence[str], *, title: str) -> Figure:
    """A plot of images in rows of five, each with its name.

    Args:
        images: uint8 RGB, each `(3, H, W)` of any size.
        names: One for each image.
        title: Written above, such as the query.
    """
    columns = min(COLUMNS, len(images))
    rows = math.ceil(len(images) / columns)
    figure = Figure(figsize=(2.4 * columns, 2.6 * rows + 0.4), layout="constrained")
    figure.suptitle(printable(title, width=30 * columns), fontsize=11, parse_math=False)
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axis in axes:
        axis.set_axis_off()
    for axis, image, name in zip(axes, images, names, strict=False):
        axis.imshow(image.permute(1, 2, 0).cpu().numpy())
        axis.set_title(printable(name, width=38), fontsize=7, parse_math=False)
    return figure
