"""Table and plots of the geometry of trained models, and of the gradients of their loss terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from meru.reports.attention import printable

Figures = Mapping[str, float | None]
LONGEST_NAME = 28  # of a run in the table


@dataclass(frozen=True)
class Row:
    """A row of the table, or one for each kind.

    Attributes:
        name: Name of a figure; `*` stands for any kind or term. Quantiles are named without their percent.
        meaning: One line for the reader.
        percent: Whether to print a share in percent.
    """

    name: str
    meaning: str
    percent: bool = False


ROWS = (
    Row("radius/*", "distance from the origin: median (5–95 %)"),
    Row("norm/*", "length of features before they are scaled and enter the space: median (5–95 %)"),
    Row("feature_scale", "factor on features before they are clipped"),
    Row("clip", "longest length that enters the ball"),
    Row("share_at_clip", "scaled features longer than the clip, so that all of them get one radius", percent=True),
    Row("curvature", "c; the space has curvature −c"),
    Row("curved_radius/*", "√c · radius: below about 0.5, the space is almost flat there"),
    Row("bending", "how much longer distances are than in flat space, on average", percent=True),
    Row("share_at_limit/*", "points at the largest radius of the space; they can move no farther out", percent=True),
    Row("angle/*", "angle at the origin between caption and image, degrees: median (5–95 %)"),
    Row("exterior_angle/*", "angle at the caption between the ray outwards and the image, degrees"),
    Row("half_aperture", "half aperture of the captions' cones, degrees"),
    Row("share_in_cone/*", "images inside the published cone of a caption, without apex_floor", percent=True),
    Row("share_in_dead_radius/*", "texts so near the origin that their cone has its largest aperture", percent=True),
    Row("share_of_ties/*", "scores of a query that equal another one, so that their order is chance", percent=True),
    Row("effective_rank/*", "dimensions that the features fill"),
    Row("dimension*", "dimensions that they have"),
    Row("modality_gap", "distance of the mean directions of images and captions, 0 … 2"),
    Row("alignment", "mean squared distance of directions that belong together, 0 … 4; lower is closer"),
    Row("uniformity/*", "evenness of directions; 0: all equal, about −4: spread at random"),
    Row("distance/*", "mean distance of two images of one class, or of different classes"),
    Row("share_of_new_in_old", "unlabelled images of new classes that are predicted as an old one", percent=True),
    Row("share_of_old_in_new", "unlabelled images of old classes that are predicted as a new one", percent=True),
    Row("gradient_norm/*/all", "length of that term's gradient, mean of the recorded steps"),
    Row("cosine_to_total/*", "direction of that gradient: 1 as the whole loss, −1 against it"),
)


def geometry_table(runs: Mapping[str, Figures], title: str) -> str:
    """A plain-text table with a column per run; the meaning stands beside the first of several rows of its kind.

    Args:
        runs: Figures of each run by its name; a run without a figure gets a dash.
        title: First line.
    """
    heads = [printable(name, width=LONGEST_NAME) for name in runs]
    lines = []
    for row in ROWS:
        for number, name in enumerate(_names(runs.values(), row)):
            cells = [_cell(figures, name, row) for figures in runs.values()]
            lines.append((name.removesuffix("/all"), cells, "" if number else row.meaning))
    label = max([len(name) for name, _, _ in lines], default=0)
    widths = [max([len(head), *(len(cells[place]) for _, cells, _ in lines)]) for place, head in enumerate(heads)]

    def joined(cells: Sequence[str]) -> str:
        return "  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))

    header = [f"{'':{label}}  {joined(heads)}"] if any(heads) else []
    body = [f"{name:{label}}  {joined(cells)}  {meaning}".rstrip() for name, cells, meaning in lines]
    return "\n".join([title, *header, *body])


def _names(runs: Sequence[Figures], row: Row) -> list[str]:
    """The figures of a row in any of the runs, quantiles without their percent."""
    names = dict.fromkeys(name.removesuffix("/50") for figures in runs for name in figures)
    return [name for name in names if fnmatchcase(name, row.name) and not name.endswith(("/5", "/95"))]


def _cell(figures: Figures, name: str, row: Row) -> str:
    if f"{name}/50" in figures:
        quantiles = [figures.get(f"{name}/{percent}") for percent in (5, 50, 95)]
        low, middle, high = map(_number, quantiles)
        return "–" if quantiles == [None] * 3 else f"{middle} ({low}–{high})"
    value = figures.get(name)
    return f"{100 * value:.1f} %" if row.percent and value is not None else _number(value)


def _number(value: float | None) -> str:
    """A number in few digits; a dash for None."""
    if value is None:
        return "–"
    return f"{value:.4f}" if abs(value) < 0.1 and abs(value) >= 5e-4 else f"{value:.3g}"


def format_geometry(figures: Figures, title: str) -> str:
    """The table of `geometry_table` for one model."""
    return geometry_table({"": figures}, title)


def geometry_figure(figures: Figures, title: str = "") -> Figure:
    """The plot of `radii_figure` for one model."""
    return radii_figure({"": figures}, title)


def radii_figure(runs: Mapping[str, Figures], title: str = "") -> Figure:
    """A plot of radii by kind, and of the lengths of features if they are known: 5 to 95 percent, and the median.

    Args:
        runs: Figures of each run by its name.
        title: Written above.
    """
    what = {"radius": "distance from the origin", "norm": "length of features"}
    kinds = {
        family: list(
            dict.fromkeys(
                name.split("/")[1]
                for figures in runs.values()
                for name in figures
                if name.startswith(f"{family}/") and name.endswith("/50")
            )
        )
        for family in what
    }
    shown = [family for family in what if kinds[family]] or ["radius"]
    lines = sum(len(kinds[family]) for family in shown) * len(runs)
    figure = Figure(figsize=(7, 1.2 + 0.9 * len(shown) + 0.3 * lines), layout="constrained")
    if title:
        figure.suptitle(printable(title, width=90), fontsize=10, parse_math=False)
    for axis, family in zip(figure.subplots(len(shown), squeeze=False).flatten(), shown, strict=True):
        _draw_spreads(axis, family, kinds[family], runs)
        axis.set_xlabel(what[family], fontsize=8)
    return figure


def _draw_spreads(axis: Axes, family: str, kinds: Sequence[str], runs: Mapping[str, Figures]) -> None:
    """Draw one bar for each kind and run."""
    labels = []
    for kind in kinds:
        for number, (run, figures) in enumerate(runs.items()):
            low, middle, high = (figures.get(f"{family}/{kind}/{percent}") for percent in (5, 50, 95))
            if None in (low, middle, high):
                continue
            place, colour = len(labels), f"C{number % 10}"
            axis.plot([low, high], [place, place], color=colour, linewidth=6, alpha=0.4, solid_capstyle="butt")
            axis.plot([middle], [place], color=colour, marker="o")
            labels.append(f"{kind} {printable(run, width=LONGEST_NAME)}".strip())
            if family == "norm" and figures.get("clip"):
                clipped_from = figures["clip"] / (figures.get("feature_scale") or 1.0)
                axis.axvline(clipped_from, color=colour, linestyle=":", linewidth=1)
    axis.set_yticks(range(len(labels)), labels, fontsize=8, parse_math=False)
    axis.set_xlim(left=0)
    axis.margins(y=0.3)
    axis.invert_yaxis()


def gradients_figure(lines: Sequence[Figures], title: str = "") -> Figure:
    """A plot of each term's gradient over training: its length by group of parameters, and its cosine with the total.

    Args:
        lines: From `read_gradients`, at least one.
        title: Written above.
    """
    # The first step may lack a term whose gradient was not finite.
    every = dict.fromkeys(name for line in lines for name in line)
    names = [name.split("/") for name in every if name.startswith("gradient_norm/")]
    terms = list(dict.fromkeys(term for _, term, _ in names))
    groups = list(dict.fromkeys(group for _, _, group in names))
    panels = [(f"gradient norm, {group}", f"gradient_norm/{{}}/{group}") for group in groups]
    panels.append(("cosine with the whole gradient", "cosine_to_total/{}"))
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(3.6 * columns, 2.6 * rows + 0.6), layout="constrained")
    if title:
        figure.suptitle(printable(title, width=45 * columns), fontsize=10, parse_math=False)
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    steps = [line["step"] for line in lines]
    for axis, (name, pattern) in zip(axes, panels, strict=False):
        logarithmic = pattern.startswith("gradient_norm")
        for term in terms:
            values = [line.get(pattern.format(term)) for line in lines]
            # A logarithmic axis has no place for 0.
            drawn = [None if value is None or (logarithmic and value == 0) else value for value in values]
            kept = [(step, value) for step, value in zip(steps, drawn, strict=True) if value is not None]
            axis.plot(*zip(*kept, strict=True) if kept else ([], []), marker=".", linewidth=1, label=term)
        if logarithmic:
            axis.set_yscale("log")
            # The usual labels are mathematics, which `save_figure` does not interpret.
            axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.yaxis.set_minor_formatter(NullFormatter())
        else:
            axis.set_ylim(-1.05, 1.05)
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axis.set_title(name, fontsize=8)
        axis.tick_params(labelsize=7)
        axis.set_xlabel("step", fontsize=7)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=7, frameon=False)
    return figure
