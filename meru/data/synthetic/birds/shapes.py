"""Shapes and shades for drawing birds: polygons `(N, 2)` and colours from 0 to 255."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

Colour = tuple[int, int, int]


def ellipse(centre, radii, *, corners: int = 24) -> np.ndarray:
    return np.asarray(centre) + _circle(corners) * radii


def spot(centre, radius: float) -> np.ndarray:
    return ellipse(centre, (radius, radius), corners=10)


def smooth(polygon, *, rounds: int = 3) -> np.ndarray:
    """Chaikin's corner cutting."""
    points = np.asarray(polygon, dtype=float)
    for _ in range(rounds):
        following = np.roll(points, -1, axis=0)
        points = np.stack([0.75 * points + 0.25 * following, 0.25 * points + 0.75 * following], axis=1)
        points = points.reshape(-1, 2)
    return points


def stroke(points: np.ndarray, width: float) -> np.ndarray:
    """The polygon of a line of the given width through `points`."""
    steps = np.diff(points, axis=0)
    direction = np.concatenate([steps[:1], steps[1:] + steps[:-1], steps[-1:]])
    side = direction[:, ::-1] * (-width / 2, width / 2) / np.hypot(*direction.T)[:, None]
    return np.concatenate([points + side, (points - side)[::-1]])


def turned(points, angle: float) -> np.ndarray:
    """`points` (N, 2) turned about the origin by `angle` radians, from x towards y."""
    cosine, sine = np.cos(angle), np.sin(angle)
    return points @ np.array([[cosine, sine], [-sine, cosine]])


def rgb(values) -> Colour:
    return tuple(min(max(round(float(value)), 0), 255) for value in values)


def darker(colour: Colour, factor: float) -> Colour:
    return rgb(np.multiply(colour, factor))


@lru_cache
def _circle(corners: int) -> np.ndarray:
    angles = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


@lru_cache(maxsize=256)
def spline(along: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Weights (N, 6), and their slopes, of the Catmull–Rom curve through six points at positions 0 to 5."""
    position = np.array(along)
    start = np.clip(np.floor(position), 0, 4).astype(int)
    u = (position - start)[:, None]
    cubic = np.array([[0, -1, 2, -1], [2, 0, -5, 3], [0, 1, 4, -3], [0, 0, -1, 1]]).T / 2
    basis = u ** np.arange(4) @ cubic
    slope = u ** np.arange(3) * (1, 2, 3) @ cubic[1:]
    weights, slopes = np.zeros((2, len(position), 6))
    for k in range(4):
        control = np.arange(len(position)), np.clip(start - 1 + k, 0, 5)
        np.add.at(weights, control, basis[:, k])
        np.add.at(slopes, control, slope[:, k])
    return weights, slopes
