"""Pictures of what a model does: plain matrices in, a figure out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten

from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from meru.files import make_folder_of, write_atomically

COLUMNS = 6


def attention_figure(image: Tensor, words: Sequence[str], weights: Tensor, *, title: str = "") -> Figure:
    """The image, and over it for every word where the word looks, each on its own scale from least to most.

    Args:
        image: uint8 RGB, shape `(3, S, S)`.
        words: K of them.
        weights: Attention to the patches, a square grid row by row, shape `(K, N)`.
        title: Written above, say the caption.
    """
    side = round(weights.shape[-1] ** 0.5)
    low, high = weights.amin(dim=1, keepdim=True), weights.amax(dim=1, keepdim=True)
    maps = ((weights - low) / (high - low).clamp_min(1e-12)).float().cpu().unflatten(1, (1, side, side))
    # Nearest: a patch is all there is to see, and smoothing would invent a finer place.
    maps = F.interpolate(maps, size=image.shape[1:], mode="nearest")[:, 0]
    pixels = image.permute(1, 2, 0).cpu().numpy()
    columns = min(COLUMNS, len(words) + 1)
    rows = math.ceil((len(words) + 1) / columns)
    figure = Figure(figsize=(2 * columns, 2.3 * rows + 0.4), layout="constrained")
    if title:
        figure.suptitle(shorten(title, 30 * columns, placeholder=" …"), fontsize=10)
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axis in axes:
        axis.set_axis_off()
    axes[0].imshow(pixels)
    for axis, word, of_word in zip(axes[1:], words, maps, strict=False):
        axis.imshow(pixels)
        axis.imshow(of_word.numpy(), cmap="inferno", alpha=0.55, vmin=0, vmax=1)
        axis.set_title(word, fontsize=9)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, all or nothing.

    Raises:
        UserError: if the folder cannot be written.
    """
    make_folder_of(path)
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=120))
