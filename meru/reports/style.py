"""Colours and markers of the kinds of points, the same in all figures."""

from __future__ import annotations

import math

from matplotlib.axes import Axes
from torch import Tensor

from meru.reports.attention import printable

# Okabe & Ito, "Color Universal Design", 2008: told apart with any kind of colour vision. Markers differ as well.
COLOURS = {
    "image": "#0072B2",
    "caption": "#E69F00",
    "class": "#009E73",
    "family": "#CC79A7",
    "everything": "#D55E00",
    "root": "#000000",
}
MARKERS = {"image": "o", "caption": "^", "class": "s", "family": "D", "everything": "P", "root": "X"}
OTHERS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#000000")
GREY = "#777777"


def show_image(axis: Axes, image: Tensor, *, edge: str | None = None) -> None:
    """Draw an image, uint8 RGB `(3, H, W)`, without ticks, with an edge of that colour; None: no edge."""
    axis.imshow(image.permute(1, 2, 0).cpu().numpy())
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_visible(edge is not None)
        spine.set_edgecolor(edge or "none")
        spine.set_linewidth(2)


def wrapped(text: str, *, width: int, lines: int) -> str:
    """The text on at most so many lines of that width in letters; Chinese text, which has no spaces, wraps anywhere."""
    shown: list[str] = []
    rest = " ".join(text.split())
    while rest and len(shown) < lines:
        line = printable(rest, width=width).removesuffix(" …")
        if len(line) < len(rest) and rest[len(line)] != " " and " " in line and line[-1].isascii():
            line = line[: line.rindex(" ")]
        shown.append(line)
        rest = rest[len(line) :].lstrip()
    return "\n".join(shown) + (" …" if rest else "")


def nice_steps(reach: float, *, count: int = 4) -> list[float]:
    """About `count` round numbers up to `reach` > 0, multiples of 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(reach / count))
    step = next(factor * power for factor in (1, 2, 5, 10) if reach / (factor * power) <= count + 0.5)
    return [number * step for number in range(1, math.floor(reach / step + 1e-9) + 1)]
