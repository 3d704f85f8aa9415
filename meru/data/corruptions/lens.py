"""Corruptions by the camera and its file: blur, another viewpoint, fewer pixels, compression."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2

from meru.data.corruptions.optics import as_pixels, disc_blurred, displayed, length_of, line_blurred, linear_light

MOTION = (0.04, 0.08, 0.13, 0.19, 0.26)  # length of the path as a share of the side, by severity
DEFOCUS = (0.008, 0.016, 0.027, 0.042, 0.06)  # radius of the disc as a share of the side
QUALITY = (20, 12, 8, 5, 3)  # of JPEG
FACTOR = (2, 3, 4, 6, 8)  # by which both sides are divided
# By severity: degrees by which the camera rolls and by which it moves around the object.
VIEWPOINT = ((5, 12), (9, 20), (14, 28), (20, 36), (27, 44))
DISTANCE = 2.2  # of the camera, in sides of the picture


def motion_blur(image: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """The mean light along a straight path of random direction."""
    angle = math.pi * float(torch.rand(1, generator=generator))
    return displayed(line_blurred(linear_light(image), MOTION[severity - 1] * length_of(image), angle))


def defocus_blur(image: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """The mean light over a disc; the random numbers are not needed."""
    return displayed(disc_blurred(linear_light(image), DEFOCUS[severity - 1] * length_of(image)))


def jpeg(image: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Compressed by JPEG at a low quality; the random numbers are not needed."""
    return v2.functional.jpeg(image, QUALITY[severity - 1])


def resolution(image: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Both sides divided and enlarged again; the random numbers are not needed."""
    # Not to 1 × 1, for which PyTorch's antialiasing raises an internal error.
    sides = [max(min(side, 2), round(side / FACTOR[severity - 1])) for side in image.shape[1:]]
    bicubic = v2.InterpolationMode.BICUBIC
    small = v2.functional.resize(image, sides, interpolation=bicubic)
    return v2.functional.resize(small, list(image.shape[1:]), interpolation=bicubic)


def viewpoint(image: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """The picture as a plane, seen by a camera that has rolled and moved around it; mirrored beyond its edges."""
    roll, turn = (math.radians(degrees) for degrees in VIEWPOINT[severity - 1])
    roll = roll if torch.rand(1, generator=generator) < 0.5 else -roll
    way = 2 * math.pi * float(torch.rand(1, generator=generator))
    yaw, pitch = turn * math.cos(way), turn * math.sin(way)
    height, width = image.shape[1:]
    side = length_of(image)
    x, y = ((torch.arange(count) + 0.5 - count / 2) / side for count in (width, height))
    # The point of the plane that a ray (x, y, DISTANCE) of the camera meets.
    across = [math.cos(yaw) * math.cos(roll), math.cos(yaw) * math.sin(roll), -math.sin(yaw)]
    down = [
        math.sin(pitch) * math.sin(yaw) * math.cos(roll) - math.cos(pitch) * math.sin(roll),
        math.sin(pitch) * math.sin(yaw) * math.sin(roll) + math.cos(pitch) * math.cos(roll),
        math.sin(pitch) * math.cos(yaw),
    ]
    nearer = (across[2] / DISTANCE, down[2] / DISTANCE, 1)
    plane = torch.tensor([(across[0], down[0], 0), (across[1], down[1], 0), nearer], dtype=torch.float64)
    u, v, scale = (row[0] * x + row[1] * y[:, None] + row[2] for row in torch.linalg.inv(plane).float())
    places = torch.stack([2 * side / width * u / scale, 2 * side / height * v / scale], dim=-1)
    seen = F.grid_sample(image.float()[None], places[None], padding_mode="reflection", align_corners=False)
    return as_pixels(seen[0])
