"""Corruptions by what is between an object and the camera: fog, rain, snow, something that hides it."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from meru.data.corruptions.light import LUMINANCE
from meru.data.corruptions.optics import (
    as_pixels,
    disc_blurred,
    displayed,
    length_of,
    line_blurred,
    linear_light,
    smooth_field,
)

FOG = (0.25, 0.5, 0.8, 1.2, 1.7)  # extinction over the mean distance, by severity
AIRLIGHT = torch.tensor([0.55, 0.58, 0.61])[:, None, None]  # of an overcast day, in linear light
# By severity: streaks per pixel of a picture of 160 × 160, their length as a share of its side, and their strength.
RAIN = ((0.004, 0.06, 0.5), (0.008, 0.08, 0.6), (0.014, 0.10, 0.7), (0.022, 0.13, 0.8), (0.034, 0.16, 0.9))
# By severity: flakes per pixel of a picture of 160 × 160, and how much of the picture is bleached.
SNOW = ((0.003, 0.15), (0.006, 0.25), (0.011, 0.35), (0.018, 0.45), (0.027, 0.55))
FLAKES = (0.004, 0.009, 0.016)  # radii as shares of the side, far to near
USUAL_SIDE = 160  # pixels; in larger pictures, drops and flakes are larger, not more
OCCLUSION = (0.1, 0.2, 0.3, 0.4, 0.5)  # share of the area, by severity


def fog(image: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """I·t + A·(1 − t) in linear light, where t = exp(−β·d); d grows towards the top and varies as fog does."""
    height, width = image.shape[1:]
    up = torch.linspace(1, 0, height)[:, None]
    distance = 0.5 + 0.4 * up + 0.6 * smooth_field(height, width, generator)
    passed = torch.exp(-FOG[severity - 1] * distance)
    return displayed(linear_light(image) * passed + AIRLIGHT * (1 - passed))


def rain(image: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Bright streaks of one direction, a little mist and less light; higher severities add drops."""
    density, length, strength = RAIN[severity - 1]
    angle = math.pi / 2 + 0.6 * (float(torch.rand(1, generator=generator)) - 0.5)
    drops = _scattered(image, density, generator)
    side = length_of(image)
    streaks = line_blurred(drops, length * side, angle) * max(1.0, length * side) / 1.6
    opacity = strength * streaks.clamp(0, 1) * 0.75
    mist = 0.05 * severity
    dimmed = image * (1 - 0.04 * severity) * (1 - mist) + 150 * mist
    return as_pixels(dimmed * (1 - opacity) + 225 * opacity)


def snow(image: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Flakes of three sizes, drifting, before a bleached picture; higher severities add flakes."""
    density, bleached = SNOW[severity - 1]
    side = length_of(image)
    angle = math.pi / 2 + 1.2 * (float(torch.rand(1, generator=generator)) - 0.5)
    grey = (LUMINANCE * image).sum(dim=0, keepdim=True)
    picture = image * (1 - bleached) + bleached * torch.maximum(image.float(), 1.1 * grey + 70)
    for size in FLAKES:
        radius = max(0.5, size * side)
        seeds = _scattered(image, density * FLAKES[0] / size, generator)
        flakes = disc_blurred(seeds, radius) * math.pi * (radius + 0.5) ** 2
        flakes = line_blurred(flakes.clamp(0, 1), max(1.0, 1.5 * radius), angle)
        opacity = 0.9 * flakes.clamp(0, 1)
        picture = picture * (1 - opacity) + 250 * opacity
    return as_pixels(picture)


def occlusion(image: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """A grey box of the image's shape over part of it, at random; larger boxes contain smaller ones."""
    sides = torch.tensor(image.shape[1:])
    box = (sides * math.sqrt(OCCLUSION[severity - 1])).round()
    top, left = (torch.rand(2, generator=generator) * (sides - box)).round().int().tolist()
    height, width = box.int().tolist()
    image = image.clone()
    image[:, top : top + height, left : left + width] = 128
    return image


def _scattered(image: Tensor, density: float, generator: torch.Generator) -> Tensor:
    """Random places, 1 and elsewhere 0, `(1, H, W)`; those of a lower density are among those of a higher one."""
    height, width = image.shape[1:]
    grain = max(1.0, length_of(image) / USUAL_SIDE)
    coarse = (max(1, round(height / grain)), max(1, round(width / grain)))
    places = (torch.rand(1, 1, *coarse, generator=generator) < density).float()
    return F.interpolate(places, (height, width), mode="nearest")[0]
