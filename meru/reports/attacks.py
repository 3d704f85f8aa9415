"""Attacks as a table and as a plot: retrieval and distance from the origin by strength."""

from __future__ import annotations

import re
from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from meru.reports.attention import printable
from meru.reports.bars import draw_bars
from meru.reports.tables import format_rows

Figures = Mapping[str, float | None]
LABELS = {
    "clean": "clean",
    "pgd": "PGD",
    "apgd_ce": "APGD-CE",
    "apgd_dlr": "APGD-DLR",
    "apgd": "worse of APGD-CE and APGD-DLR",
    "caption/deletion": "captions, a fifth deleted",
    "caption/order": "captions, another order",
    "caption/synonyms": "captions, synonyms",
}
ON_IMAGES = ("pgd", "apgd_ce", "apgd_dlr", "apgd")
WORST = "_worst"
ROW = re.compile(r"clean|caption/\w+|\w+/\d+(?=/)")


def attack_rows(figures: Figures) -> dict[str, str]:
    """Label → first part of the names of all rows, in order."""
    rows = dict.fromkeys(found[0] for name in figures if (found := ROW.match(name)))
    return {_label(row): row for row in rows}


def strengths_of(figures: Figures, attack: str) -> list[int]:
    """The strengths of an attack, in order."""
    found = {name.split("/")[1] for name in figures if name.startswith(f"{attack}/")}
    return sorted(int(strength) for strength in found)


def _label(row: str) -> str:
    if row.startswith("caption/"):
        return LABELS[row.removesuffix(WORST)] + (", least similar of 4 draws" if row.endswith(WORST) else "")
    attack, _, strength = row.partition("/")
    return f"{LABELS[attack]}, ε = {strength}" if strength else LABELS[attack]


def format_attacks(figures: Figures, title: str) -> str:
    """R@1 in both directions, and the AUROC of the distance from the origin, of every attack."""
    kind = _kind(figures)
    columns = {
        "t → i": f"text_to_image/{kind}/recall@1",
        "i → t": f"image_to_text/{kind}/recall@1",
        "above": "auroc_above",
        "below": "auroc_below",
    }
    table = format_rows(figures, title, rows=attack_rows(figures), columns=columns)
    return (
        f"{table}\nt → i, i → t: R@1 from captions to images and back ({kind}); above, below: AUROC of a larger, "
        f"a smaller distance from the origin\n{figures['images']:.0f} images, {figures['captions']:.0f} captions; "
        f"ε in units of 1 / 255; {figures['steps']:.0f} steps"
    )


def attacks_figure(figures: Figures, title: str = "") -> Figure:
    """A plot of R@1 and AUROC by strength, and of R@1 by changed captions."""
    kind = _kind(figures)
    figure = Figure(figsize=(14, 3.6), layout="constrained")
    figure.suptitle(printable(title, width=120), fontsize=10, parse_math=False)
    forth, back, sign, words = figure.subplots(1, 4, width_ratios=(1, 1, 1, 1.6))
    draw_strengths(forth, figures, f"text_to_image/{kind}/recall@1", title="text → image R@1, percent")
    draw_strengths(back, figures, f"image_to_text/{kind}/recall@1", title="image → text R@1, percent")
    draw_signs(sign, figures)
    rows = {"clean": "clean"}
    for row in attack_rows(figures).values():
        if row.startswith("caption/"):
            name = row.removeprefix("caption/")
            rows[name.replace(WORST, ", worst")] = row
    directions = {"text → image": f"text_to_image/{kind}/recall@1", "image → text": f"image_to_text/{kind}/recall@1"}
    draw_bars(words, figures, rows=rows, columns=directions)
    words.tick_params(axis="x", labelsize=7)
    words.margins(y=0.25)  # room for the legend
    words.set_title("changed captions, R@1", fontsize=9)
    return figure


def draw_strengths(axes: Axes, figures: Figures, metric: str, *, title: str) -> None:
    """A line per attack of a share by strength, from the clean images on, with its chance level dotted."""
    for attack in ON_IMAGES:
        strengths = strengths_of(figures, attack)
        shares = [figures[f"clean/{metric}"], *(figures[f"{attack}/{each}/{metric}"] for each in strengths)]
        axes.plot([0, *strengths], [100 * (share or 0.0) for share in shares], marker="o", label=LABELS[attack])
    before, _, last = metric.rpartition("/")
    if (chance := figures.get(f"clean/{before}/chance_{last}")) is not None:
        axes.axhline(100 * chance, color="grey", linestyle=":")
    _by_strength(axes, [0, *strengths_of(figures, ON_IMAGES[0])], title)
    axes.set_ylim(bottom=0)


def draw_signs(axes: Axes, figures: Figures) -> None:
    """A line per attack of the AUROC of a smaller distance by strength; 0.5 is chance."""
    known = False
    for attack in ON_IMAGES:
        strengths = strengths_of(figures, attack)
        shares = [figures.get(f"{attack}/{each}/auroc_below") for each in strengths]
        if None not in shares:
            known = True
            axes.plot(strengths, shares, marker="o", label=LABELS[attack])
    if not known:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "no distance from the origin:\nall are equal", ha="center", va="center", fontsize=9)
        return
    axes.axhline(0.5, color="grey", linestyle=":")
    axes.set_ylim(0, 1)
    _by_strength(axes, strengths, "AUROC, nearer to the origin = attacked")


def _by_strength(axes: Axes, strengths: list[int], title: str) -> None:
    axes.set_xticks(strengths)
    axes.set_xlabel("ε, in units of 1 / 255 (dotted: chance)", fontsize=8)
    axes.set_title(title, fontsize=9)
    axes.legend(fontsize=7)


def _kind(figures: Figures) -> str:
    """`class`, `identity` or `image`, from the names of the figures."""
    return next(name.split("/")[2] for name in figures if name.startswith("clean/text_to_image/"))
