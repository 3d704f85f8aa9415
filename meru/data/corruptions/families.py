"""All corruptions by name and severity, each a pure function of an image.

Corruptions act on the decoded image, before a model's transform. Their lengths are shares of the image's side, so that
an image of any size is damaged alike; the parameters of each severity were chosen by eye, so that 5 is hard but
recognisable.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms import v2

from meru.data.corruptions.air import fog, occlusion, rain, snow
from meru.data.corruptions.lens import defocus_blur, jpeg, motion_blur, resolution, viewpoint
from meru.data.corruptions.light import camera_colour, night

Corrupt = Callable[[Tensor, int, torch.Generator], Tensor]
VERSION = 1  # to be raised when a corruption changes, so that cached results are computed again
SEVERITIES = (1, 2, 3, 4, 5)
LARGEST = 512**2  # pixels: larger images are reduced first, which bounds the time

FAMILIES: dict[str, Corrupt] = {
    "night": night,
    "fog": fog,
    "rain": rain,
    "snow": snow,
    "motion_blur": motion_blur,
    "defocus_blur": defocus_blur,
    "jpeg": jpeg,
    "resolution": resolution,
    "occlusion": occlusion,
    "camera_colour": camera_colour,
    "viewpoint": viewpoint,
}


@dataclass(frozen=True)
class Corruption:
    """One corruption at one severity, seeded by the image itself.

    Neither the image's index, nor the batch, nor the process matters. All severities of a family share their random
    numbers: the drops of light rain are among those of heavy rain.

    Args:
        family: A name in `FAMILIES`.
        severity: From 1, slight, to 5, hard but recognisable.

    Raises:
        ValueError: for another family or severity.
    """

    family: str
    severity: int

    def __post_init__(self):
        if self.family not in FAMILIES or self.severity not in SEVERITIES:
            raise ValueError(f"{self.family}, severity {self.severity}: there is no such corruption")

    def __str__(self) -> str:
        """As progress lines and messages name it."""
        return f"{self.family.replace('_', ' ')}, severity {self.severity}"

    def __call__(self, image: Tensor) -> Tensor:
        """uint8 `(3, H, W)` → the same shape; images of more than `LARGEST` pixels become smaller."""
        image = _bounded(image)
        return FAMILIES[self.family](image, self.severity, _generator(image, self.family))

    def facts(self) -> str:
        """All that the result depends on besides the image."""
        return f"corruption {VERSION}: {self.family}, severity {self.severity}"


def _bounded(image: Tensor) -> Tensor:
    height, width = image.shape[1:]
    if height * width <= LARGEST:
        return image
    share = math.sqrt(LARGEST / (height * width))
    sides = [max(1, math.floor(side * share)) for side in (height, width)]
    return v2.functional.resize(image, sides, interpolation=v2.InterpolationMode.BICUBIC)


def _generator(image: Tensor, family: str) -> torch.Generator:
    seed = zlib.crc32(image.contiguous().numpy().tobytes(), zlib.crc32(family.encode()))
    return torch.Generator().manual_seed(seed)
