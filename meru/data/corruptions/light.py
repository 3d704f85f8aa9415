"""Corruptions by the light and the camera's sensor: night, and another camera's colours."""

from __future__ import annotations

import torch
from torch import Tensor

from meru.data.corruptions.optics import as_pixels, displayed, linear_light

# By severity: photons that a white pixel receives, the share of linear light that the camera makes of them, and how
# much of the colour is the lamps'.
NIGHT = ((300, 0.35, 0.3), (120, 0.25, 0.45), (60, 0.18, 0.6), (30, 0.14, 0.7), (15, 0.11, 0.8))
READ_NOISE = 2.5  # electrons, standard deviation
LAMPS = torch.tensor([[1.0, 0.72, 0.38], [0.55, 0.75, 1.0]])  # street lamps, and moonlight
LUMINANCE = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
# By severity: the logarithm of the ratio of red to blue, of the exponent, and of the saturation.
COLOURS = ((0.2, 0.1, 0.15), (0.4, 0.2, 0.3), (0.6, 0.3, 0.45), (0.8, 0.4, 0.65), (1.0, 0.5, 0.85))


def night(image: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Low light: few photons, counted (Poisson), read with noise (Gaussian), under coloured lamps."""
    photons, brightness, cast = NIGHT[severity - 1]
    warm = torch.rand(1, generator=generator)
    lamp = (warm * LAMPS[0] + (1 - warm) * LAMPS[1])[:, None, None]
    light = linear_light(image) * (1 - cast + cast * lamp)
    electrons = torch.poisson(photons * light, generator=generator)
    electrons += READ_NOISE * torch.randn(image.shape, generator=generator)
    return displayed(brightness * electrons / photons)


def camera_colour(image: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Another white balance, exponent and saturation, each towards a random side."""
    balance, exponent, saturation = (
        size if coin else -size
        for size, coin in zip(COLOURS[severity - 1], torch.rand(3, generator=generator) < 0.5, strict=True)
    )
    gains = (balance * torch.tensor([0.5, 0.0, -0.5])).exp()[:, None, None]
    light = linear_light(image) * gains / gains.max()
    values = 255 * light ** (torch.tensor(exponent).exp() / 2.2)
    grey = (LUMINANCE * values).sum(dim=0, keepdim=True)
    return as_pixels(grey + torch.tensor(saturation).exp() * (values - grey))
