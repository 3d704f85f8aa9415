"""A plot of distances from the root, as a histogram for each kind of image or text."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from meru.reports.attention import printable
from meru.reports.style import COLOURS

BINS = 60


def norms_figure(panels: Mapping[str, Mapping[str, Tensor]], *, title: str = "") -> Figure:
    """A plot with a panel for each comparison, and in it a histogram for each row, all on the same axis.

    The median is marked and written beside each histogram. The heights are scaled to the highest bar of each.

    Args:
        panels: Title → label → distances from the root, `(n,)`. The colour of a panel follows the kind in its title or
            in the label.
        title: Written above.
    """
    panels = {name: rows for name, rows in panels.items() if rows}
    sizes = [len(rows) for rows in panels.values()]
    figure = Figure(figsize=(7.5, 1.3 + 0.42 * sum(sizes) + 0.45 * len(sizes)), layout="constrained")
    figure.suptitle(printable(title, width=80), fontsize=13)
    every = np.concatenate([values.double().cpu().numpy() for rows in panels.values() for values in rows.values()])
    low, high = every.min(), every.max()
    # Points whose distances differ only by rounding still need a bar that can be seen.
    margin = max(0.05 * (high - low), 0.02 * abs(high), 1e-6)
    edges = np.linspace(low - margin, high + margin, BINS + 1)
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=sizes)[:, 0]
    for axis, (name, rows) in zip(axes, panels.items(), strict=True):
        for place, (label, values) in enumerate(rows.items()):
            kind = _kind_of(label) or _kind_of(name) or "everything"
            counts, _ = np.histogram(values.double().cpu().numpy(), bins=edges)
            heights = 0.8 * counts / max(1, counts.max())
            axis.stairs(place - heights, edges, baseline=place, fill=True, color=COLOURS[kind], alpha=0.75)
            median = float(values.double().median())
            axis.plot([median, median], [place, place - 0.85], color="black", linewidth=1.4)
            axis.text(
                1.01, place - 0.3, f"{median:.3g}", fontsize=10, va="center", transform=axis.get_yaxis_transform()
            )
        axis.set_yticks([place - 0.3 for place in range(len(rows))], list(rows), fontsize=10)
        axis.tick_params(axis="y", length=0)
        axis.tick_params(axis="x", labelsize=10)
        axis.set_ylim(len(rows) - 0.9, -1.0)
        axis.set_title(printable(name, width=70), fontsize=11, loc="left")
        for side in ("top", "left", "right"):
            axis.spines[side].set_visible(False)
    axes[0].text(1.01, 1.0, "median", fontsize=9, va="bottom", transform=axes[0].transAxes)
    axes[-1].set_xlabel("distance from the root", fontsize=11)
    return figure


def _kind_of(text: str) -> str | None:
    """The kind that a text names, in the singular or plural."""
    stems = {kind: kind.removesuffix("y") for kind in COLOURS}  # family, families
    return next((kind for kind, stem in stems.items() if stem in text), None)
