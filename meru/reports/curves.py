"""Learning curves of several runs: a panel for each figure, a band for the seeds of one configuration."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from meru.reports.attention import printable
from meru.reports.style import OTHERS

Curve = Sequence[tuple[float, float]]  # epoch and value
BAND = 3  # fewest runs for a standard deviation
STYLES = ("-", "--", "-.", ":")


def curves_figure(
    panels: Mapping[str, Mapping[str, Sequence[Curve]]], *, percent: Collection[str] = (), title: str = ""
) -> Figure:
    """A plot of learning curves.

    Args:
        panels: Name of a figure → name of a configuration → the curve of each of its runs. With three runs or more, the
            line is their mean and the band one standard deviation to each side; with two, the band spans both. Runs
            that have no epoch in common are a line each.
        percent: Names of figures that are shares.
        title: Written above.
    """
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.1 * columns + (2.4 if columns == 1 else 0), 2.9 * rows + 0.9), layout="constrained")
    if title:
        figure.suptitle(printable(title, width=50 * columns), fontsize=13)
    axes = figure.subplots(rows, columns, sharex=True, squeeze=False).flatten()
    names = list(dict.fromkeys(name for runs in panels.values() for name in runs))
    seeds = {name: max(len(runs.get(name, ())) for runs in panels.values()) for name in names}
    lines = {}
    for axis, (figure_name, runs) in zip(axes, panels.items(), strict=False):
        for name, curves in runs.items():
            number = names.index(name)
            colour, style = OTHERS[number % len(OTHERS)], STYLES[number // len(OTHERS) % len(STYLES)]
            label = name if seeds[name] == 1 else f"{name} ({seeds[name]} seeds)"
            alike = set.intersection(*({x for x, _ in curve} for curve in curves))
            for together in [curves] if alike else [[curve] for curve in curves]:
                lines[label] = draw_band(axis, together, color=colour, linestyle=style)
        _dress(axis, figure_name, percent=figure_name in percent)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    if len(panels) < len(axes):  # the panel above the empty one is the lowest of its column
        axes[len(panels) - columns].tick_params(labelbottom=True)
    labels = [printable(label, width=60) for label in lines]
    fitting = max(1, 45 * columns // max(map(len, labels)))  # beside each other
    legend = {"loc": "outside lower center", "ncols": min(3, len(lines), fitting), "fontsize": 10, "frameon": False}
    figure.legend(list(lines.values()), labels, **legend)
    return figure


def draw_band(axis: Axes, curves: Sequence[Curve], **style) -> Line2D:
    """Draw the mean of several curves at the places that all have, and their band; returns the line.

    Args:
        axis: Where to draw.
        curves: At least one. With `BAND` or more, the band is one standard deviation to each side; with two, it spans
            both.
        style: Of the line, with its `color`.
    """
    points = [dict(curve) for curve in curves]
    shared = sorted(set(points[0]).intersection(*points[1:]))
    values = np.array([[curve[x] for x in shared] for curve in points])
    marker = "o" if len(shared) <= 12 else None
    (line,) = axis.plot(shared, values.mean(axis=0), linewidth=1.8, marker=marker, markersize=4, **style)
    if len(curves) > 1:
        low, high = values.min(axis=0), values.max(axis=0)
        if len(curves) >= BAND:
            mean, deviation = values.mean(axis=0), values.std(axis=0, ddof=1)
            low, high = mean - deviation, mean + deviation
        axis.fill_between(shared, low, high, color=style["color"], alpha=0.2, linewidth=0)
    return line


def _dress(axis: Axes, name: str, *, percent: bool) -> None:
    axis.set_title(printable(name, width=40), fontsize=11)
    axis.tick_params(labelsize=10)
    axis.xaxis.set_major_locator(MaxNLocator(5))
    axis.set_xlabel("epoch", fontsize=10)
    axis.grid(alpha=0.25)
    if percent:
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g} %"))
        axis.set_ylim(bottom=max(0.0, axis.get_ylim()[0]))
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
