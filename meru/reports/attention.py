"""Plots of a model's attention, from plain matrices."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.text import Text
from torch import Tensor
from torch.nn import functional as F

from meru.encoders.sizes import grid_of
from meru.files import make_folder_of, write_atomically
from meru.reports.fonts import drawable, families_for

COLUMNS = 6


def attention_figure(image: Tensor, words: Sequence[str], weights: Tensor, *, title: str = "") -> Figure:
    """A plot of the image and, for every word, its attention over the image, each scaled from minimum to maximum.

    Args:
        image: uint8 RGB, shape `(3, H, W)`.
        words: K words.
        weights: Attention to the patches, a grid in the image's proportions row by row, shape `(K, N)`.
        title: Written above, such as the caption.
    """
    grid = grid_of(weights.shape[-1], tuple(image.shape[1:]))
    low, high = weights.amin(dim=1, keepdim=True), weights.amax(dim=1, keepdim=True)
    maps = ((weights - low) / (high - low).clamp_min(1e-12)).float().cpu().unflatten(1, (1, *grid))
    # Nearest: attention has the resolution of patches, and smoothing would suggest a finer one.
    maps = F.interpolate(maps, size=image.shape[1:], mode="nearest")[:, 0]
    pixels = image.permute(1, 2, 0).cpu().numpy()
    columns = min(COLUMNS, len(words) + 1)
    rows = math.ceil((len(words) + 1) / columns)
    figure = Figure(figsize=(2 * columns, 2.3 * rows + 0.4), layout="constrained")
    if title:
        figure.suptitle(printable(title, width=30 * columns), fontsize=10, parse_math=False)
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axis in axes:
        axis.set_axis_off()
    axes[0].imshow(pixels)
    for axis, word, of_word in zip(axes[1:], words, maps, strict=False):
        axis.imshow(pixels)
        axis.imshow(of_word.numpy(), cmap="inferno", alpha=0.55, vmin=0, vmax=1)
        axis.set_title(printable(word, width=20), fontsize=9, parse_math=False)
    return figure


def printable(text: str, *, width: int) -> str:
    """The text on one line, cut to a width in letters (Chinese characters count as two), without control characters."""
    shown, used = "", 0
    for character in " ".join(text.split()):
        used += 2 if unicodedata.east_asian_width(character) in "WF" else 1
        if used > width:
            return shown.rstrip() + " …"
        shown += character if character.isprintable() else "�"
    return shown


def save_figure(figure: Figure, path: Path) -> None:
    """Write a plot as PNG, or as SVG if the name ends so, atomically; `$` in its texts is not mathematics.

    A character that no installed font has is replaced: see `meru.reports.fonts.drawable`.

    Raises:
        UserError: if the folder cannot be written.
    """
    make_folder_of(path)
    for axis in figure.findobj(Axis):
        labels = [label.get_text() for label in axis.get_ticklabels()]
        if (shown := [drawable(label) for label in labels]) != labels:  # an axis sets its labels when it is drawn
            axis.set_ticks(axis.get_majorticklocs(), labels=shown)
    texts = figure.findobj(Text)
    for text in texts:
        text.set_parse_math(False)
        text.set_text(drawable(text.get_text()))
    families = families_for(text.get_text() for text in texts)
    for text in texts:
        text.set_fontfamily(families)
    if path.suffix.lower() == ".svg":
        # Texts as outlines, because the reader's machine may lack the fonts; the same figure gives the same bytes.
        with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": "meru"}):
            write_atomically(path, lambda file: figure.savefig(file, format="svg", metadata={"Date": None}))
        return
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=120))
