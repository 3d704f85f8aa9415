"""Transforms from a decoded image to a model's uint8 input; `meru.data.images` reads the file.

Augmentation uses torchvision's tensor operations, about twice as fast as PIL's. Models divide by 255 and normalise on
their own device.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from meru.encoders.sizes import ImageSize, sides
from meru.errors import UserError

BICUBIC = v2.InterpolationMode.BICUBIC
RATIO = (3 / 4, 4 / 3)  # smallest and largest ratio of width to height of a crop, torchvision's


class ProportionalCrop(nn.Module):
    """A random crop with about the proportions of the whole image, resized to a rectangle.

    So crops are distorted as whole images are in evaluation.

    Args:
        size: Height and width of the result.
        scale, ratio, interpolation: As for torchvision's `RandomResizedCrop`; `ratio` is relative to the image's own.
    """

    def __init__(
        self,
        size: tuple[int, int],
        *,
        scale: tuple[float, float],
        ratio: tuple[float, float] = RATIO,
        interpolation: v2.InterpolationMode = BICUBIC,
    ):
        super().__init__()
        self.size, self.scale, self.ratio, self.interpolation = size, scale, ratio, interpolation

    def forward(self, image: Tensor) -> Tensor:
        """uint8 `(3, height, width)` → uint8 `(3, H, W)`."""
        height, width = image.shape[-2:]
        ratio = tuple(each * width / height for each in self.ratio)
        return v2.RandomResizedCrop(self.size, scale=self.scale, ratio=ratio, interpolation=self.interpolation)(image)


def random_crop(
    image_size: ImageSize,
    *,
    scale: tuple[float, float],
    ratio: tuple[float, float] = RATIO,
    interpolation: v2.InterpolationMode = BICUBIC,
) -> nn.Module:
    """A random crop, resized to a square, or in proportion to the image if the result is a rectangle."""
    crop = v2.RandomResizedCrop if isinstance(image_size, int) else ProportionalCrop
    return crop(image_size, scale=tuple(scale), ratio=tuple(ratio), interpolation=interpolation)


def training_transform(
    image_size: ImageSize,
    *,
    scale: tuple[float, float] = (0.5, 1.0),
    ratio: tuple[float, float] = RATIO,
    flip: bool = True,
) -> nn.Module:
    """A random crop, resized to a square or a rectangle and mirrored with probability 1/2.

    Args:
        image_size: Side of the result, or its height and width.
        scale: Smallest and largest share of the image's area that a crop covers.
        ratio: Smallest and largest ratio of width to height of a crop; for a rectangle, relative to the image's own.
        flip: Whether to mirror; turn it off if captions distinguish left and right.

    Returns:
        A picklable map from uint8 `(3, height, width)` to uint8 `(3, H, W)`, with randomness from torch's default
        generator.
    """
    crop = random_crop(image_size, scale=scale, ratio=ratio)
    return v2.Compose([crop, v2.RandomHorizontalFlip()] if flip else [crop])


class EvaluationTransform(nn.Module):
    """Resizes the short side to `image_size` and keeps the centre; with `squash`, resizes both sides without cutting.

    Maps uint8 `(3, height, width)` to uint8 `(3, H, W)`, and can be pickled. With `crop_share` below 1, the image is
    resized so that the side of the central crop is that share of the short side. A rectangle, height and width, always
    squashes, as in person search (Jiang & Ye, "IRRA", CVPR 2023).
    """

    def __init__(self, image_size: ImageSize, *, squash: bool = False, crop_share: float = 1.0):
        super().__init__()
        self.image_size, self.squash = image_size, squash or not isinstance(image_size, int)
        self.side = _enlarged(image_size, crop_share)
        self.resize = v2.Resize(sides(self.side) if self.squash else self.side, interpolation=BICUBIC)
        self.crop = v2.CenterCrop(image_size)

    def forward(self, image: Tensor) -> Tensor:
        """uint8 `(3, height, width)` → uint8 `(3, H, W)`."""
        return self.crop(self.resize(image))

    def places(self, points: Tensor, *, height: int, width: int) -> Tensor:
        """The positions of an image's points in the result.

        Args:
            points: `(k, 2)`, pixels from left and top of an image of `height` × `width` pixels.

        Returns:
            `(k, 2)`, in shares of the result's width and height; outside [0, 1) if a point was cut off.
        """
        before, after = torch.tensor([width, height]), torch.tensor(sides(self.image_size)[::-1])
        resized = torch.tensor(sides(self.side)[::-1]) if self.squash else self.side * before // before.min()
        return (points * (resized / before) - ((resized - after) / 2).round()) / after


def _enlarged(image_size: ImageSize, crop_share: float) -> ImageSize:
    """The size before a central crop that has that share of every side."""
    if isinstance(image_size, int):
        return int(image_size / crop_share)
    return tuple(int(side / crop_share) for side in image_size)


class Transforms(NamedTuple):
    """Transforms of a decoded image before the model: maps from uint8 `(3, height, width)` to uint8 `(3, H, W)`.

    Attributes:
        training: With random augmentation from torch's default generator.
        evaluation: Deterministic.
    """

    training: nn.Module
    evaluation: nn.Module


def discovery_transforms(image_size: ImageSize, *, crop_share: float = 0.875, flip: bool = True) -> Transforms:
    """SimGCD's transforms: resize, then a slightly smaller crop, random in training and central in evaluation.

    The release also has torchvision's `ColorJitter()`, which changes nothing with its default arguments.

    Args:
        image_size: Side of the results, or their height and width, to which images are then squashed.
        crop_share: The results' side as a share of the short side that images are resized to, in (0, 1].
        flip: Whether half of the training images are mirrored.
    """
    if not 0 < crop_share <= 1:
        raise UserError(f"crop_share={crop_share}: it must be above 0 and at most 1")
    resize = v2.Resize(_enlarged(image_size, crop_share), interpolation=BICUBIC)
    training = [resize, v2.RandomCrop(image_size), *([v2.RandomHorizontalFlip()] if flip else [])]
    return Transforms(v2.Compose(training), EvaluationTransform(image_size, crop_share=crop_share))
