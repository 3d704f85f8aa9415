"""Transforms from a decoded image to a model's uint8 input; `meru.data.images` reads the file.

Augmentation uses torchvision's tensor operations, about twice as fast as PIL's. Models divide by 255 and normalise on
their own device.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from meru.errors import UserError

BICUBIC = v2.InterpolationMode.BICUBIC


def training_transform(
    image_size: int,
    *,
    scale: tuple[float, float] = (0.5, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    flip: bool = True,
) -> nn.Module:
    """A random crop, resized to a square and mirrored with probability 1/2.

    Args:
        image_size: Side S of the result.
        scale: Smallest and largest share of the image's area that a crop covers.
        ratio: Smallest and largest ratio of width to height of a crop.
        flip: Whether to mirror; turn it off if captions distinguish left and right.

    Returns:
        A picklable map from uint8 `(3, H, W)` to uint8 `(3, S, S)`, with randomness from torch's default generator.
    """
    crop = v2.RandomResizedCrop(image_size, scale=tuple(scale), ratio=tuple(ratio), interpolation=BICUBIC)
    return v2.Compose([crop, v2.RandomHorizontalFlip()] if flip else [crop])


class EvaluationTransform(nn.Module):
    """Resizes the short side to `image_size` and keeps the centre; with `squash`, resizes both sides without cutting.

    Maps uint8 `(3, H, W)` to uint8 `(3, S, S)`, and can be pickled. With `crop_share` below 1, the image is
    resized so that the side of the central S × S crop is that share of the short side.
    """

    def __init__(self, image_size: int, *, squash: bool = False, crop_share: float = 1.0):
        super().__init__()
        self.image_size, self.squash = image_size, squash
        self.side = int(image_size / crop_share)
        size = (self.side, self.side) if squash else self.side
        self.resize = v2.Resize(size, interpolation=BICUBIC)
        self.crop = v2.CenterCrop(image_size)

    def forward(self, image: Tensor) -> Tensor:
        """uint8 `(3, H, W)` → uint8 `(3, S, S)`."""
        return self.crop(self.resize(image))

    def places(self, points: Tensor, *, height: int, width: int) -> Tensor:
        """The positions of an image's points in the result.

        Args:
            points: `(k, 2)`, pixels from left and top of an image of `height` × `width` pixels.

        Returns:
            `(k, 2)`, in shares of the result's width and height; outside [0, 1) if a point was cut off.
        """
        sides = torch.tensor([width, height])
        resized = torch.full((2,), self.side) if self.squash else self.side * sides // sides.min()
        return (points * (resized / sides) - ((resized - self.image_size) / 2).round()) / self.image_size


class Transforms(NamedTuple):
    """Transforms of a decoded image before the model: maps from uint8 `(3, H, W)` to uint8 `(3, S, S)`.

    Attributes:
        training: With random augmentation from torch's default generator.
        evaluation: Deterministic.
    """

    training: nn.Module
    evaluation: nn.Module


def discovery_transforms(image_size: int, *, crop_share: float = 0.875, flip: bool = True) -> Transforms:
    """SimGCD's transforms: resize, then a slightly smaller crop, random in training and central in evaluation.

    The release also has torchvision's `ColorJitter()`, which changes nothing with its default arguments.

    Args:
        image_size: Side S of the results.
        crop_share: S as a share of the short side that images are resized to, in (0, 1].
        flip: Whether half of the training images are mirrored.
    """
    if not 0 < crop_share <= 1:
        raise UserError(f"crop_share={crop_share}: it must be above 0 and at most 1")
    resize = v2.Resize(int(image_size / crop_share), interpolation=BICUBIC)
    training = [resize, v2.RandomCrop(image_size), *([v2.RandomHorizontalFlip()] if flip else [])]
    return Transforms(v2.Compose(training), EvaluationTransform(image_size, crop_share=crop_share))
