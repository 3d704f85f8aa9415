"""A plot of the nearest images and captions of some queries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from meru.reports.attention import printable
from meru.reports.style import COLOURS, show_image, wrapped

NOTE = "Numbers: places when images and captions are ranked together. ✓: the class of the query."


class Near(NamedTuple):
    """A neighbour: an image, or a caption.

    Attributes:
        rank: Its place among images and captions together, from 1.
        image: uint8 RGB `(3, H, W)`, or None for a caption.
        text: The caption, or the class of the image.
        same: Whether its class is the query's; None if there is none.
    """

    rank: int
    image: Tensor | None
    text: str
    same: bool | None


class Query(NamedTuple):
    """A query, an image uint8 RGB `(3, H, W)` or a text, and its neighbours of both kinds, the nearest first."""

    image: Tensor | None
    text: str
    images: Sequence[Near]
    captions: Sequence[Near]


def neighbours_figure(queries: Sequence[Query], *, title: str = "") -> Figure:
    """A plot with a row for each query: its nearest images, and below them its nearest captions.

    The number beside each is its place when images and captions are ranked together. A tick marks the query's class.

    Args:
        queries: At least one.
        title: Written above.
    """
    columns = max(len(query.images) for query in queries)
    figure = Figure(figsize=(1.55 * (columns + 1), 2.75 * len(queries) + 0.8), layout="constrained")
    figure.suptitle(printable(title, width=16 * (columns + 1)), fontsize=13)
    grid = figure.add_gridspec(2 * len(queries), columns + 1, height_ratios=[1, 0.85] * len(queries))
    for row, query in enumerate(queries):
        _draw_query(figure.add_subplot(grid[2 * row : 2 * row + 2, 0]), query)
        for place, near in enumerate(query.images, start=1):
            axis = figure.add_subplot(grid[2 * row, place])
            show_image(axis, near.image, edge=COLOURS["image"])
            axis.set_title(_head(near), fontsize=10, color=COLOURS["image"], weight="bold")
            axis.set_xlabel(wrapped(near.text, width=18, lines=2), fontsize=9)
        texts = figure.add_subplot(grid[2 * row + 1, 1:])
        _draw_captions(texts, query.captions, width=17 * columns)
    figure.supxlabel(NOTE, fontsize=9)
    return figure


def _draw_query(axis: Axes, query: Query) -> None:
    if query.image is not None:
        show_image(axis, query.image, edge="black")
        axis.set_title("query", fontsize=10, weight="bold")
        axis.set_xlabel(wrapped(query.text, width=20, lines=2), fontsize=9)
        return
    axis.set_axis_off()
    axis.text(
        0.5, 0.6, wrapped(query.text, width=17, lines=8), fontsize=11, ha="center", va="center",
        bbox={"boxstyle": "round,pad=0.4", "facecolor": "white", "edgecolor": "black", "linewidth": 2},
    )  # fmt: skip


def _draw_captions(axis: Axes, captions: Sequence[Near], *, width: int) -> None:
    axis.set_axis_off()
    for place, near in enumerate(captions):
        y = 1 - (place + 0.5) / max(1, len(captions))
        axis.text(
            0.0, y, _head(near), fontsize=10, color=COLOURS["caption"], weight="bold", va="center",
            transform=axis.transAxes,
        )  # fmt: skip
        words = wrapped(near.text, width=width - 6, lines=2 if len(captions) <= 3 else 1)
        axis.text(0.075, y, words, fontsize=9, va="center", transform=axis.transAxes)


def _head(near: Near) -> str:
    return f"{near.rank}." + (" ✓" if near.same else "")
