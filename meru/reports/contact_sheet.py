"""Pictures of rankings: the images found for one query, and rank lists of several queries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from meru.reports.attention import printable

COLUMNS = 5
LONGEST_LIST = 10  # images of a query
# Blue and orange, which everyone can tell apart; the marks ✓ and ✗ say the same.
COLOURS = {True: "#0072B2", False: "#D55E00"}
MARKS = {True: "✓ ", False: "✗ ", None: ""}


class Shown(NamedTuple):
    """An image of a ranking.

    Attributes:
        picture: uint8 RGB `(3, H, W)` of any size; None if it cannot be read any more.
        name, score: Written above it.
        match: Whether it has the label of the query, such as the person's identity; None: not known, no mark.
    """

    picture: Tensor | None
    name: str
    score: str
    match: bool | None = None


def contact_sheet(found: Sequence[Shown], *, title: str, query: Tensor | None = None) -> Figure:
    """The images found for one query in rows of five, each with its name and score.

    Args:
        found: Best first, at least one.
        title: The query.
        query: The image that was searched for, drawn first; None for a sentence.
    """
    count = len(found) + (query is not None)
    columns = min(COLUMNS, count)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(max(2.4 * columns, 4.8), 2.7 * rows + 0.4), layout="constrained")
    figure.suptitle(printable(title, width=26 * max(columns, 2)), fontsize=12, parse_math=False)
    axes = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    for axis in axes:
        axis.set_axis_off()
    if query is not None:
        _draw(axes.pop(0), Shown(query, "query", ""))
    for axis, shown in zip(axes, found, strict=False):
        _draw(axis, shown)
    return figure


def rank_list(queries: Sequence[str], found: Sequence[Sequence[Shown]]) -> Figure:
    """A row of images for every query, best first, at most ten: the rank list of person search.

    Args:
        queries: Written above their rows.
        found: The images of each.
    """
    columns = min(LONGEST_LIST, max(len(of_query) for of_query in found))
    figure = Figure(figsize=(max(1.5 * columns, 6), 2.3 * len(queries)), layout="constrained")
    parts = figure.subfigures(len(queries), 1, squeeze=False)[:, 0]
    for part, query, of_query in zip(parts, queries, found, strict=True):
        part.suptitle(printable(query, width=14 * columns), fontsize=10, x=0.01, ha="left", parse_math=False)
        axes = part.subplots(1, columns, squeeze=False)[0]
        for axis in axes:
            axis.set_axis_off()
        for axis, shown in zip(axes, of_query, strict=False):
            _draw(axis, shown, width=20)
    return figure


def _draw(axis: Axes, shown: Shown, *, width: int = 34) -> None:
    """Draw an image with its name and score, framed by whether it matches."""
    if shown.picture is None:
        axis.text(0.5, 0.5, "not readable", ha="center", va="center", fontsize=8, transform=axis.transAxes)
    else:
        axis.imshow(shown.picture.permute(1, 2, 0).cpu().numpy())
    lines = [printable(shown.name, width=width), f"{MARKS[shown.match]}{shown.score}".strip()]
    axis.set_title("\n".join(line for line in lines if line), fontsize=8, parse_math=False)
    if shown.match is not None:
        axis.set_axis_on()
        axis.set_xticks([])
        axis.set_yticks([])
        for spine in axis.spines.values():
            spine.set(color=COLOURS[shown.match], linewidth=3)
