"""Curves of what runs log in training, each a small SVG."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from meru.reports.curves import Curve, draw_band
from meru.reports.stylesheet import COLOURS

SIZE = (3.6, 2.3)  # inches
DASHES = ("-", "--", ":")
MOST_POINTS = 400
FLAT = 1e-4  # relative range of values that is rounding


def curves_svg(lines: Mapping[str, Sequence[Curve]], *, share: bool, chance: float | None = None) -> str:
    """Curves over the steps as SVG with a transparent background, all text as text.

    Args:
        lines: Group of runs → the curve of each of its runs, finite points `(step, value)`; a group has one colour, its
            mean is a line and its spread a band, as in `meru.reports.curves`.
        share: Whether the values are shares, shown in percent.
        chance: The chance level, a dotted line.
    """
    scale = 100 if share else 1
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "meru", "font.family": "sans-serif"}):
        figure = Figure(figsize=SIZE, layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.subplots()
        axes.patch.set_alpha(0)
        for number, curves in enumerate(lines.values()):
            style = {"color": colour(number), "linestyle": DASHES[number // len(COLOURS) % len(DASHES)]}
            for together in comparable([[(x, scale * y) for x, y in curve] for curve in curves if curve]):
                draw_band(axes, together, **style)
        if chance is not None:
            axes.axhline(scale * chance, color="#8a8a8a", linestyle=":", linewidth=1)
        _widen_if_flat(axes)
        axes.ticklabel_format(useOffset=False)
        axes.tick_params(labelsize=8, width=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_linewidth(0.6)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


def _widen_if_flat(axes: Axes) -> None:
    """Show values that differ by rounding only as a flat line."""
    low, high = axes.get_ylim()
    middle = (low + high) / 2
    if high - low < FLAT * abs(middle):
        axes.set_ylim(middle - 0.1 * abs(middle), middle + 0.1 * abs(middle))


def colour(number: int) -> str:
    """The colour of a group of runs."""
    return COLOURS[number % len(COLOURS)]


def comparable(curves: Sequence[Curve]) -> list[list[Curve]]:
    """Curves at the steps that all have, thinned alike, as one list; each on its own if they share no step."""
    shared = set.intersection(*({x for x, _ in curve} for curve in curves)) if curves else set()
    if not shared:
        return [[thinned(curve)] for curve in curves]
    return [[thinned([point for point in curve if point[0] in shared]) for curve in curves]]


def thinned(curve: Curve) -> list[tuple[float, float]]:
    """At most `MOST_POINTS` points of a curve: of longer ones the means of as many stretches."""
    size = math.ceil(len(curve) / MOST_POINTS)
    stretches = [curve[start : start + size] for start in range(0, len(curve), size)] if size > 1 else []
    if not stretches:
        return list(curve)
    return [tuple(sum(values) / len(values) for values in zip(*each, strict=True)) for each in stretches]
