"""The layers and outlines of a synthetic person; outlines are (N, 2), y downwards."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

# The content of a layer: something that captions can mention, or the body.
REGIONS = ("body", "hair", "glasses", "hat", "upper", "lower", "shoes", "bag")


class Layer(NamedTuple):
    """Outlines of one colour.

    Args:
        region: One of `REGIONS`.
        outlines: (N, 2) each; together they make one shape.
        colour: Its colour; if `patterned`, that of the plain cloth.
        shade: Factor on the colour.
        patterned: Whether it is painted with the texture of the upper clothes.
    """

    region: str
    outlines: list[np.ndarray]
    colour: tuple[int, int, int]
    shade: float = 1.0
    patterned: bool = False


def down(angle: float) -> np.ndarray:
    """The direction at `angle` radians from straight down, towards positive x."""
    return np.array((np.sin(angle), np.cos(angle)))


def arc(x: float, y: float, width: float, height: float, start: float, end: float) -> list[tuple[float, float]]:
    """Part of an ellipse, from `start` to `end` in half turns; 1 to 2 is the upper half."""
    angles = np.pi * np.linspace(start, end, 14)
    return [(x + width * np.cos(angle), y + height * np.sin(angle)) for angle in angles]


def ellipse(x: float, y: float, width: float, height: float) -> np.ndarray:
    """An ellipse; `width` and `height` are measured from the centre, as in all shapes here."""
    return np.array(arc(x, y, width, height, 0, 2))


def box(x: float, y: float, width: float, height: float) -> np.ndarray:
    """A rectangle with cut corners."""
    cut = 0.35 * min(width, height)
    corner = np.array([(width, height - cut), (width - cut, height)])
    corners = [corner, corner[::-1] * (-1, 1), -corner, corner[::-1] * (1, -1)]
    return np.add(np.concatenate(corners), (x, y))


def limb(start, end, start_radius: float, end_radius: float) -> np.ndarray:
    """A tapered stroke with round ends."""
    start, end = np.asarray(start, dtype=float), np.asarray(end, dtype=float)
    towards = np.arctan2(*(end - start)[::-1])
    angles = np.linspace(-np.pi / 2, np.pi / 2, 8)

    def cap(centre, radius, turn):
        return centre + radius * np.stack([np.cos(angles + turn), np.sin(angles + turn)], axis=1)

    return np.concatenate([cap(end, end_radius, towards), cap(start, start_radius, towards + np.pi)])
