"""A plot of walks from the specific to the general: the way, and what is met on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import ConnectionPatch, Rectangle
from torch import Tensor

from meru.reports.attention import printable
from meru.reports.style import COLOURS, GREY, show_image, wrapped

CARDS = 5
NAMES = {"everything": "all captions", "root": "root"}


class Met(NamedTuple):
    """A text that is met on a part of the way.

    Attributes:
        kind: `caption`, `class`, `family`, `everything` or `root`.
        text: Its text, or a name.
        first, last: Shares of the way.
        radius: Its distance from the root.
        image: An example, uint8 RGB `(3, H, W)`, or None.
    """

    kind: str
    text: str
    first: float
    last: float
    radius: float
    image: Tensor | None


class Row(NamedTuple):
    """A walk. Its ends are images, uint8 RGB `(3, H, W)`, or texts; `shares` and `radii` are those of its points."""

    start_image: Tensor | None
    start_text: str
    end_image: Tensor | None
    end_text: str
    met: tuple[Met, ...]
    shares: Sequence[float]
    radii: Sequence[float]


def traversal_figure(rows: Sequence[Row], *, title: str = "", note: str = "") -> Figure:
    """A plot of walks, one below another.

    Above, the way as a bar from its start to its end in the colours of the kinds that are met, with distances from the
    root; below, a card for each text that is met. With more than five, those on the shortest parts are left out.

    Args:
        rows: At least one walk.
        title: Written above.
        note: Written below.
    """
    figure = Figure(figsize=(9.6, 2.75 * len(rows) + 0.75), layout="constrained")
    figure.suptitle(printable(title, width=100), fontsize=13)
    for row, part in zip(rows, np.atleast_1d(figure.subfigures(len(rows), 1)), strict=True):
        _draw_row(part, row)
    figure.supxlabel(printable(note, width=140), fontsize=9)
    return figure


def _draw_row(figure: SubFigure, row: Row) -> None:
    cards = _longest(row.met)
    both = row.end_image is not None
    widths = [1.35, *[1.0] * max(len(cards), 3), *([1.35] if both else [])]
    grid = figure.add_gridspec(4, len(widths), height_ratios=[0.2, 0.12, 1.0, 0.75], width_ratios=widths)
    _draw_end(figure.add_subplot(grid[:, 0]), row.start_image, row.start_text)
    if both:
        _draw_end(figure.add_subplot(grid[:, -1]), row.end_image, row.end_text)
    bar = figure.add_subplot(grid[0, 1 : len(widths) - both])
    _draw_bar(bar, row)
    for place, met in enumerate(cards, start=1):
        picture, text = figure.add_subplot(grid[2, place]), figure.add_subplot(grid[3, place])
        _draw_card(picture, text, met)
        line = ConnectionPatch(
            ((met.first + met.last) / 2, 0), (0.5, 1.0), coordsA=bar.transData, coordsB=picture.transAxes,
            color=_colour(met), linewidth=1.5, zorder=0,
        )  # fmt: skip
        figure.add_artist(line)


def _longest(met: Sequence[Met]) -> list[Met]:
    """At most `CARDS`, in their order: the first, the last, and those with the longest parts of the way."""
    inner = sorted(range(1, len(met) - 1), key=lambda place: met[place].first - met[place].last)[: CARDS - 2]
    return [met[place] for place in sorted({0, len(met) - 1, *inner})]


def _draw_end(axis: Axes, image: Tensor | None, text: str) -> None:
    if image is not None:
        show_image(axis, image, edge=COLOURS["image"])
        axis.set_xlabel(wrapped(text, width=22, lines=2), fontsize=10)
        return
    axis.set_axis_off()
    axis.text(
        0.5, 0.5, wrapped(text, width=18, lines=6), fontsize=12, ha="center", va="center",
        bbox={"boxstyle": "round,pad=0.5", "facecolor": "white", "edgecolor": COLOURS["caption"], "linewidth": 2},
    )  # fmt: skip


def _draw_bar(axis: Axes, row: Row) -> None:
    """Draw the way, coloured by what is met, with the distance from the root where that changes."""
    for met in row.met:
        size = met.last - met.first
        axis.add_patch(Rectangle((met.first, 0), size, 1, facecolor=_colour(met), edgecolor="white", linewidth=1.5))
    axis.set_xlim(0, 1)
    axis.set_ylim(0, 1)
    places = _apart([row.met[0].first, *(met.last for met in row.met)])
    radii = np.interp(places, row.shares, row.radii)
    axis.xaxis.tick_top()
    axis.set_xticks(places, [f"{radius:.2f}" for radius in radii], fontsize=10)
    axis.set_yticks([])
    axis.set_title(
        "specific  ←  distance from the root  →  general" if row.end_image is None else "distance from the root",
        fontsize=10, color=GREY,
    )  # fmt: skip
    for spine in axis.spines.values():
        spine.set_visible(False)


def _colour(met: Met) -> str:
    """Grey where only the root is left, which is usually the longest part and the least to see."""
    return "#BBBBBB" if met.kind == "root" else COLOURS[met.kind]


def _apart(places: Sequence[float], *, least: float = 0.08) -> list[float]:
    """The first and the last place, and those between that are far enough from their neighbours to be labelled."""
    kept = [places[0]]
    for place in places[1:-1]:
        if place - kept[-1] >= least and places[-1] - place >= least:
            kept.append(place)
    return [*kept, places[-1]]


def _draw_card(picture: Axes, text: Axes, met: Met) -> None:
    text.set_axis_off()
    if met.image is not None:
        show_image(picture, met.image, edge=COLOURS[met.kind])
    else:
        picture.set_axis_off()
        sign = "✕" if met.kind == "root" else "●"
        picture.text(0.5, 0.5, sign, fontsize=34, color=COLOURS[met.kind], ha="center", va="center")
        picture.set_aspect("equal")
    named = met.kind in NAMES
    head = NAMES.get(met.kind, met.kind)
    text.text(
        0.5, 1.0, f"{head} · {met.radius:.2f}", fontsize=10, weight="bold", color=COLOURS[met.kind], ha="center",
        va="top", transform=text.transAxes,
    )  # fmt: skip
    if not named:
        words = wrapped(met.text, width=20, lines=5)
        text.text(0.5, 0.76, words, fontsize=9, ha="center", va="top", transform=text.transAxes)
