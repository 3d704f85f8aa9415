"""How much a figure depends on each of several keys: curves over their values, and a table of what to touch first."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from meru.metrics.statistics import mean_and_deviation, paired_difference
from meru.reports.attention import printable
from meru.reports.curves import draw_band
from meru.reports.over_seeds import Runs, cell, chance_row, difference_cell
from meru.reports.style import GREY, OTHERS
from meru.reports.tables import is_share, markdown_table

Curves = Mapping[str, Mapping[str, Runs]]
"""Title of a curve → value of its key → the runs with it."""


def sensitivity_markdown(curves: Curves, columns: Mapping[str, str], reference: Runs) -> str:
    """A table with a row for each curve, the one that moves the first column most at the top.

    Args:
        curves: Without values that no finished run has; the usual value has `reference` itself.
        columns: Title → name of a figure; only the first is used.
        reference: The runs that the curves start from.
    """
    title, figure = next(iter(columns.items()))
    share, usual = is_share(figure), reference.known(figure)
    rows = []
    for name, of_value in curves.items():
        known = {value: runs.known(figure) for value, runs in of_value.items() if runs.known(figure)}
        if not known:
            continue
        if usual and not any(runs is reference for runs in of_value.values()):
            known["usual"] = usual  # a curve that leaves it out, such as that of fixed curvatures
        means = {value: mean_and_deviation(list(each.values()))[0] for value, each in known.items()}
        ends = [min(means, key=lambda value: means[value]), max(means, key=lambda value: means[value])]
        shown = [f"{value}: {cell(list(known[value].values()), share=share)}" for value in ends]
        compared = [
            difference_cell(paired_difference(usual, known[value]), seeds=len(usual), share=share)
            if of_value.get(value, reference) is not reference
            else "as usual"
            for value in ends
        ]
        span = means[ends[1]] - means[ends[0]]
        rows.append((span, [name, ", ".join(known), shown[0], compared[0], shown[1], compared[1]]))
    rows.sort(key=lambda row: -row[0])
    cells = [[*each, f"{100 * span:.1f}" if share else f"{span:.2f}"] for span, each in rows]
    header = ["key", "values", "lowest", "to the usual value", "highest", "to the usual value", "span"]
    return (
        f"What to touch first, by {title} (as usual: {cell(list(usual.values()), share=share)}); one key at a time, "
        "differences to the usual value with their 95 % interval. The span is the highest mean minus the lowest.\n\n"
        f"{markdown_table(header, cells)}"
    )


def sensitivity_figure(curves: Curves, columns: Mapping[str, str], *, usual: Mapping[str, str | None]) -> Figure:
    """A panel for each curve: the shares among the columns over the values of its key, with a band for the seeds.

    Args:
        curves: As for `sensitivity_markdown`.
        columns: Title → name of a figure.
        usual: Title of a curve → the value that the other curves have; None if it is not among its values.
    """
    shares = {title: figure for title, figure in columns.items() if is_share(figure)} or dict(columns)
    across = min(3, len(curves))
    down = -(-len(curves) // across)
    figure = Figure(figsize=(3.6 * across, 2.7 * down + 0.8), layout="constrained")
    axes = figure.subplots(down, across, sharey=True, squeeze=False).flatten()
    lines = {}
    for axis, (name, of_value) in zip(axes, curves.items(), strict=False):
        for number, (title, key) in enumerate(shares.items()):
            lines[title] = _draw(axis, list(of_value.values()), key, colour=OTHERS[number % len(OTHERS)])
        chances = [level for level in chance_row(shares, of_value) if level is not None]
        for level in chances:
            axis.axhline(level, color=GREY, linestyle=":", linewidth=1)
        values = list(of_value)
        if usual.get(name) in values:
            axis.axvline(values.index(usual[name]), color=GREY, linewidth=6, alpha=0.25, zorder=0)
        axis.set_title(printable(name, width=36), fontsize=11)
        axis.set_xticks(range(len(values)), [printable(value, width=12) for value in values], fontsize=10)
        axis.grid(alpha=0.25)
        if all(is_share(key) for key in shares.values()):
            axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g} %"))
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    if all(is_share(key) for key in shares.values()):
        axes[0].set_ylim(bottom=0)  # shared by all panels; any earlier it would keep the height of the first ones
    for axis in axes[len(curves) :]:
        axis.set_axis_off()
    found = {title: line for title, line in lines.items() if line is not None}
    figure.legend(
        list(found.values()), list(found), loc="outside lower center", ncols=min(4, len(found)), frameon=False
    )
    return figure


def _draw(axis: Axes, of_values: list[Runs], figure: str, *, colour: str):
    """The line of a figure over the values, at the places 0, 1, …; None if no seed has it everywhere.

    A value that has the figure with no seed, because all its runs diverged, is left out.
    """
    known = {place: found for place, runs in enumerate(of_values) if (found := runs.known(figure))}
    if not known:
        return None
    seeds = sorted(set.intersection(*map(set, known.values())))
    if not seeds:
        return None
    curves = [[(float(place), each[seed]) for place, each in known.items()] for seed in seeds]
    return draw_band(axis, curves, color=colour)
