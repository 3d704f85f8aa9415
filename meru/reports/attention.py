"""Plots of a model's attention, from plain matrices."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.axis import Axis
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.text import Text
from torch import Tensor
from torch.nn import functional as F

from meru.encoders.sizes import grid_of
from meru.files import make_folder_of, write_atomically
from meru.reports.fonts import drawable, families_for

COLUMNS = 6
COLOUR_MAP = "PuOr_r"  # purple: less, orange: more; told apart with any kind of colour vision
STOP_WORDS = {
    *("a", "an", "the", "this", "that", "these", "those", "it", "its", "it's", "his", "her", "their", "he", "she"),
    *("they", "i", "we", "you", "and", "or", "but", "nor", "as", "than", "so", "while", "if", "of", "on", "in", "at"),
    *("to", "from", "for", "by", "with", "without", "over", "under", "above", "below", "around", "near", "along"),
    *("between", "through", "into", "onto", "is", "are", "was", "were", "be", "been", "being", "has", "have", "had"),
    *("having", "do", "does", "did", "which", "who", "whom", "whose", "what", "where", "when", "there", "here"),
    *("also", "very", "mostly", "some", "all", "both", "each", "的", "了", "和", "是", "在", "有", "着", "与"),
}


def attention_figure(
    image: Tensor, words: Sequence[str], weights: Tensor, *, title: str = "", note: str = ""
) -> Figure:
    """A plot of the image and, for every word, where it attends more or less than the words of its caption on average.

    All words share one scale, so their colours can be compared. Function words, which say nothing of an image, are left
    out, unless there are no others.

    Args:
        image: uint8 RGB, shape `(3, H, W)`.
        words: K words.
        weights: Attention to the patches, a grid in the image's proportions row by row, shape `(K, N)`.
        title: Written above, such as the caption.
        note: Written below.
    """
    grid = grid_of(weights.shape[-1], tuple(image.shape[1:]))
    relative = (weights - weights.mean(dim=0)).double().cpu()
    shown = [place for place, word in enumerate(words) if is_content(word)] or list(range(len(words)))
    reach = max(1e-12, float(relative[shown].abs().max()))
    # Nearest: attention has the resolution of patches, and smoothing would suggest a finer one.
    maps = F.interpolate(relative[shown].unflatten(1, (1, *grid)), size=image.shape[1:], mode="nearest")[:, 0]
    pixels = image.permute(1, 2, 0).cpu().numpy()
    grey = 0.5 * pixels.mean(axis=2) + 100  # pale, so that only attention has colours
    columns = min(COLUMNS, len(shown) + 1)
    rows = math.ceil((len(shown) + 1) / columns)
    figure = Figure(figsize=(1.7 * columns, 2 * rows + 0.9), layout="constrained")
    if title:
        figure.suptitle(printable(title, width=30 * columns), fontsize=11, parse_math=False)
    if note:
        figure.supxlabel(note, fontsize=9)
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axis in axes:
        axis.set_axis_off()
    axes[0].imshow(pixels)
    for axis, place, of_word in zip(axes[1:], shown, maps, strict=False):
        axis.imshow(grey, cmap="gray", vmin=0, vmax=255)
        # Transparent where the word attends as its caption does.
        axis.imshow(
            of_word.numpy(), cmap=COLOUR_MAP, alpha=(0.85 * of_word.abs() / reach).numpy(), vmin=-reach, vmax=reach
        )
        axis.set_title(printable(words[place], width=20), fontsize=12, parse_math=False)
    if shown:
        scale = ScalarMappable(Normalize(-reach, reach), COLOUR_MAP)  # the maps' own would be transparent
        bar = figure.colorbar(scale, ax=list(axes), location="bottom", shrink=0.6, aspect=40, pad=0.02)
        bar.set_ticks(
            [-reach, 0, reach], labels=["less than\nthe caption", "same", "more than\nthe caption"], fontsize=10
        )
    return figure


def is_content(word: str) -> bool:
    """Whether a word is more than punctuation and not one of `STOP_WORDS`; words in other scripts always are."""
    stripped = word.strip(" .,;:!?'\"()").lower()
    return bool(stripped) and stripped not in STOP_WORDS


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
