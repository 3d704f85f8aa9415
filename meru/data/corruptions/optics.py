"""What several corruptions share: linear light, smooth random fields, and sums of moved copies.

All of it is elementwise arithmetic in a fixed order, so that a corrupted image has the same bits in every process.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

GAMMA = 2.2  # of displays; the exact curve of sRGB would change nothing visible
_LINEAR = (torch.arange(256) / 255) ** GAMMA


def linear_light(image: Tensor) -> Tensor:
    """Light that reached the camera, from 0 to 1, for uint8 values, of the same shape."""
    return _LINEAR[image.long()]


def displayed(light: Tensor) -> Tensor:
    """The uint8 values of linear light, which is cut to 0 … 1."""
    return as_pixels(255 * light.clamp(0, 1) ** (1 / GAMMA))


def as_pixels(values: Tensor) -> Tensor:
    """Values rounded to uint8 0 … 255."""
    return values.round().clamp(0, 255).to(torch.uint8)


def length_of(image: Tensor) -> float:
    """The side of a square with the image's area, pixels: lengths of corruptions are shares of it."""
    return math.sqrt(image.shape[-2] * image.shape[-1])


def smooth_field(height: int, width: int, generator: torch.Generator) -> Tensor:
    """A cloudy random field `(H, W)` between 0 and 1: noise at four scales, the coarser the stronger."""
    field = torch.zeros(height, width)
    for level in range(4):
        cells = 2 ** (level + 1) + 1
        noise = torch.rand(1, 1, cells, cells, generator=generator)
        field += F.interpolate(noise, (height, width), mode="bicubic", align_corners=True)[0, 0] / 2**level
    low, high = field.min(), field.max()
    return (field - low) / (high - low).clamp(min=1e-6)


def line_blurred(image: Tensor, length: float, angle: float) -> Tensor:
    """The mean of an image along a line through every pixel; edges are repeated outwards.

    Args:
        image: float `(C, H, W)`.
        length: Of the line, pixels.
        angle: Of the line to the horizontal, radians.
    """
    taps = max(1, math.ceil(length))
    reach = math.ceil(length / 2) + 1
    height, width = image.shape[1:]
    wide = F.pad(image[None], (reach,) * 4, mode="replicate")[0]
    total = torch.zeros_like(image)
    for tap in range(taps):
        along = ((tap + 0.5) / taps - 0.5) * length
        down, right = reach + along * math.sin(angle), reach + along * math.cos(angle)
        top, left = math.floor(down), math.floor(right)
        low, far = down - top, right - left  # between four pixels
        for row, vertical in ((top, 1 - low), (top + 1, low)):
            for column, horizontal in ((left, 1 - far), (left + 1, far)):
                if weight := vertical * horizontal:
                    total.add_(wide[:, row : row + height, column : column + width], alpha=weight)
    return total / taps


def disc_blurred(image: Tensor, radius: float) -> Tensor:
    """The mean of an image over a disc around every pixel, with a soft rim; edges are repeated outwards.

    Args:
        image: float `(C, H, W)`.
        radius: Of the disc, pixels.
    """
    reach = math.ceil(radius) + 1
    height, width = image.shape[1:]
    wide = F.pad(image[None], (reach,) * 4, mode="replicate")[0]
    sums = F.pad(wide.double().cumsum(-1), (1, 0))  # a row of the disc is a difference of two of these
    total, area = torch.zeros(image.shape, dtype=torch.float64), 0.0
    for row in range(-math.ceil(radius), math.ceil(radius) + 1):
        half = math.sqrt(max((radius + 0.5) ** 2 - row**2, 0)) - 0.5
        if half < 0:
            continue
        whole, rest = math.floor(half), half - math.floor(half)
        rows = slice(reach + row, reach + row + height)
        for extent, weight in ((whole, 1 - rest), (whole + 1, rest)):
            first, last = reach - extent, reach + extent + 1
            if weight:
                total.add_(sums[:, rows, last : last + width] - sums[:, rows, first : first + width], alpha=weight)
                area += weight * (2 * extent + 1)
    return (total / area).float()
