"""The table and the picture of `meru.evaluation.robustness`: a row a family, a column a severity."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from meru.reports.attention import printable

Figures = Mapping[str, float | None]
TELLING = 2  # times chance
NO_FAMILIES = ("clean", "caption", "mean")


def format_robustness(figures: Figures, title: str) -> str:
    """A plain-text table of at most 22 lines: R@1 in percent, mean radius and rank correlation by family.

    What is kept of a clean R@1 below twice its chance level is left out: near chance, all is kept whatever happens.
    """
    recall = _recall(figures)
    chance = figures[f"clean/{recall.replace('/recall@1', '/chance_recall@1')}"]
    families, severities = families_of(figures), severities_of(figures)
    labels = [_label(family) for family in families]
    width = max(map(len, ["first 25% of words", *labels])) + 1
    telling = figures[f"clean/{recall}"] >= TELLING * chance

    def kept(family: str) -> float | None:
        return figures[f"{family}/relative" if family else "relative"] if telling else None

    lines = [
        f"{title}: text → image R@1, percent (chance {100 * chance:.1f}), and mean distance from the origin",
        f"{'severity':<{width}}" + "".join(f"{each:>6}" for each in severities) + _heads(severities),
    ]
    gap = " " * (6 * len(severities))
    clean = f"{100 * figures[f'clean/{recall}']:>7.1f}{100:>6.0f}{figures['clean/radius']:>13.4f}"
    lines.append(f"{'clean':<{width}}{gap}{clean}")
    for family, label in zip(families, labels, strict=True):
        cells = "".join(f"{100 * figures[f'{family}/{each}/{recall}']:>6.1f}" for each in severities)
        strongest = figures[f"{family}/{severities[-1]}/radius"]
        end = f"{strongest:>13.4f}{_signed(figures[f'{family}/rank_correlation']):>9}"
        summary = f"{100 * figures[f'{family}/mean/{recall}']:>7.1f}{_percent(kept(family)):>6}"
        lines.append(f"{label:<{width}}{cells}{summary}{end}")
    if families:
        summary = f"{100 * figures[f'mean/{recall}']:>7.1f}{_percent(kept('')):>6}"
        lines.append(f"{'mean':<{width}}{gap}{summary}")
    for row in caption_rows(figures):
        share = float(row.rpartition("/")[2])
        cells = f"{100 * figures[f'{row}/{recall}']:>7.1f}{'':6}{figures[f'{row}/radius']:>13.4f}"
        correlation = _signed(figures["caption/rank_correlation"]) if share == 1 else ""
        lines.append(f"{f'first {share:.0%} of words':<{width}}{gap}{cells}{correlation:>9}".rstrip())
    lines.append("ρ: rank correlation of distance with severity or number of words, within an image or caption; more")
    lines.append("general is nearer to the origin where it is negative for images and positive for captions")
    return "\n".join(lines)


def _heads(severities: list[int]) -> str:
    radius = f"radius at {severities[-1]}" if severities else "radius"
    return f"{'mean':>7}{'kept%':>6}{radius:>13}{'ρ':>9}"


def robustness_figure(figures: Figures, title: str = "") -> Figure:
    """R@1 and change of the radius, a row a family and a column a severity, beside those of shortened captions."""
    recall = _recall(figures)
    families, severities = families_of(figures), severities_of(figures)
    figure = Figure(figsize=(13, 1.8 + 0.36 * max(len(families), 5)), layout="constrained")
    if title:
        figure.suptitle(printable(title, width=130), fontsize=11, parse_math=False)
    grids = figure.subplots(1, 4, width_ratios=(3, 3, 1.6, 1.6))
    degrees = ["clean", *(str(each) for each in severities)]
    shares = [[100 * figures[f"{row}/{recall}"] for row in _rows(family, severities)] for family in families]
    _grid(grids[0], shares, families, degrees, colours="viridis", form="{:.1f}", limits=(0, None))
    grids[0].set_title("text → image R@1, percent", fontsize=10)
    clean = figures["clean/radius"] or 1.0
    radii = [[100 * (figures[f"{row}/radius"] / clean - 1) for row in _rows(family, severities)] for family in families]
    # At least ±1 percent, so that rounding has no colour.
    largest = max([1.0, *(abs(value) for row in radii for value in row)])
    _grid(grids[1], radii, families, degrees, colours="RdBu_r", form="{:+.1f}", limits=(-largest, largest))
    grids[1].set_title("distance from the origin, percent of change", fontsize=10)
    grids[1].set_yticks([])
    rows = caption_rows(figures)
    words = [f"{100 * float(row.rpartition('/')[2]):.0f}" for row in rows]
    grids[2].plot(words, [100 * figures[f"{row}/{recall}"] for row in rows], marker="o")
    grids[2].set_title("R@1, percent, by\nshare of a caption's words", fontsize=10)
    grids[3].plot(words, [figures[f"{row}/radius"] for row in rows], marker="o", color="tab:orange")
    grids[3].set_title("distance of captions\nby share of their words", fontsize=10)
    grids[2].set_ylim(0, None)
    if figures["caption/rank_correlation"] is None:
        grids[3].set_ylim(0, 1.1)  # shows a constant, not its rounding errors
    return figure


def _rows(family: str, severities: list[int]) -> list[str]:
    return ["clean", *(f"{family}/{each}" for each in severities)]


def _grid(
    axis: Axes,
    values: list[list[float]],
    families: list[str],
    degrees: list[str],
    *,
    colours: str,
    form: str,
    limits: tuple[float, float | None],
) -> None:
    """Draw values as coloured cells with their numbers."""
    if not values:
        axis.set_axis_off()
        return
    shown = axis.imshow(values, cmap=colours, vmin=limits[0], vmax=limits[1], aspect="auto")
    for row, of_row in enumerate(values):
        for column, value in enumerate(of_row):
            red, green, blue, _ = shown.cmap(shown.norm(value))
            dark = 0.3 * red + 0.6 * green + 0.1 * blue < 0.5
            text = form.format(value)
            axis.text(column, row, text, ha="center", va="center", fontsize=8, color="white" if dark else "black")
    axis.set_xticks(range(len(degrees)), degrees)
    axis.set_yticks(range(len(families)), [_label(family) for family in families])
    axis.set_xlabel("severity")


def families_of(figures: Figures) -> list[str]:
    """The families of corruptions that figures have, in their order."""
    names = [name.partition("/")[0] for name in figures if name.endswith("/rank_correlation")]
    return [name for name in names if name not in NO_FAMILIES]


def severities_of(figures: Figures) -> list[int]:
    """The severities that figures have, ascending."""
    rows = {f"{family}/" for family in families_of(figures)[:1]}
    names = [name.split("/")[1] for name in figures if name.startswith(tuple(rows)) and name.endswith("/radius")]
    return sorted(int(name) for name in names if name != "mean")


def caption_rows(figures: Figures) -> list[str]:
    """The beginnings of the names of the shortened captions' figures, shortest first."""
    names = [name for name in figures if name.startswith("caption/") and name.endswith("/radius")]
    return [name.removesuffix("/radius") for name in names]


def _recall(figures: Figures) -> str:
    """The name of the R@1 after `clean/`."""
    names = (name for name in figures if name.startswith("clean/") and name.endswith("/recall@1"))
    return next(names).removeprefix("clean/")


def _label(family: str) -> str:
    return family.replace("_", " ")


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f}"


def _signed(correlation: float | None) -> str:
    return "–" if correlation is None else f"{correlation:+.2f}"
