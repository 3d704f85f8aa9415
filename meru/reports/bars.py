"""Plots of figures as groups of bars, with chance levels."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from meru.reports.attention import printable


def bars_figure(
    metrics: Mapping[str, float | None], title: str = "", *, rows: Mapping[str, str], columns: Mapping[str, str]
) -> Figure:
    """A plot of `draw_bars` with a title; for the arguments see there."""
    figure = Figure(figsize=(2 + 2 * len(rows), 3.2), layout="constrained")
    axes = figure.subplots()
    draw_bars(axes, metrics, rows=rows, columns=columns)
    axes.set_title(printable(title, width=60), fontsize=10, parse_math=False)
    return figure


def draw_bars(
    axes: Axes, metrics: Mapping[str, float | None], *, rows: Mapping[str, str], columns: Mapping[str, str]
) -> None:
    """Draw a group of bars per row and a bar per column, in percent; a black line across a bar is its chance level.

    Args:
        axes: Where to draw.
        metrics: Figures by name, as for `meru.reports.tables.format_rows`.
        rows: Label → first part of the name; rows without figures are left out.
        columns: Label → the rest of the name, `…/<metric>`; its chance level is `…/chance_<metric>`.
    """
    shown = {
        label: row
        for label, row in rows.items()
        if any(metrics.get(f"{row}/{metric}") is not None for metric in columns.values())
    }
    width = 0.8 / len(columns)
    for number, (label, metric) in enumerate(columns.items()):
        places = [place - 0.4 + (number + 0.5) * width for place in range(len(shown))]
        heights = [100 * (metrics.get(f"{row}/{metric}") or 0.0) for row in shown.values()]
        bars = axes.bar(places, heights, width=0.95 * width, label=label)
        axes.bar_label(bars, fmt="%.1f", fontsize=7)
        for place, row in zip(places, shown.values(), strict=True):
            before, _, last = f"{row}/{metric}".rpartition("/")
            if (chance := metrics.get(f"{before}/chance_{last}")) is not None:
                axes.plot([place - width / 2, place + width / 2], [100 * chance] * 2, color="black", linewidth=1)
    axes.set_xticks(range(len(shown)), [label.replace(", ", ",\n") for label in shown], fontsize=8)
    axes.set_ylabel("percent")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8)
