"""Transforms from a decoded image to a model's uint8 input; `meru.data.images` reads the file.

They resize uint8 tensors, several times as fast as Pillow. Models divide by 255 and normalise on their own device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from meru.data.views import RATIO, RandomCropView, ResizedCropView
from meru.encoders.sizes import ImageSize, sides
from meru.errors import UserError


def training_transform(
    image_size: ImageSize,
    *,
    scale: tuple[float, float] = (0.5, 1.0),
    ratio: tuple[float, float] = RATIO,
    flip: bool = True,
) -> RandomCropView:
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
    return RandomCropView(image_size, scale=scale, ratio=ratio, flip=flip)


class EvaluationTransform(ResizedCropView):
    """Resizes the short side to `image_size` and keeps the centre; with `squash`, resizes both sides without cutting.

    Maps uint8 `(3, height, width)` to uint8 `(3, H, W)`, and can be pickled. With `crop_share` below 1, the image is
    resized so that the side of the central crop is that share of the short side. A rectangle, height and width, always
    squashes, as in person search (Jiang & Ye, "IRRA", CVPR 2023).
    """

    def __init__(self, image_size: ImageSize, *, squash: bool = False, crop_share: float = 1.0):
        side = _enlarged(image_size, crop_share)
        both = squash or not isinstance(image_size, int)
        super().__init__(image_size, resize_to=sides(side) if both else side)
        self.side, self.squash = side, both

    def facts(self) -> str:
        """All settings, in the words of the modules that this class once had: older indexes and caches stay valid."""
        size = list(self.resize_to) if self.squash else [self.resize_to]
        kept = f"('crop', 'CenterCrop', [('size', '{sides(self.image_size)}')])"
        own = f"('image_size', '{self.image_size}'), ('side', '{self.side}'), ('squash', '{self.squash}')"
        way = "('antialias', 'True'), ('interpolation', \"<InterpolationMode.BICUBIC: 'bicubic'>\")"
        resize = f"('resize', 'Resize', [{way}, ('max_size', 'None'), ('size', '{size}')])"
        return f"[('', 'EvaluationTransform', [{own}]), {resize}, {kept}]"

    def places(self, points: Tensor, *, height: int, width: int) -> Tensor:
        """The positions of an image's points in the result.

        Args:
            points: `(k, 2)`, pixels from left and top of an image of `height` × `width` pixels.

        Returns:
            `(k, 2)`, in shares of the result's width and height; outside [0, 1) if a point was cut off.
        """
        before, after = torch.tensor([width, height]), torch.tensor(sides(self.image_size)[::-1])
        resized = torch.tensor(self._resized(height, width)[::-1])
        return (points * (resized / before) - ((resized - after) / 2).round()) / after


class ChangedFirst(nn.Module):
    """A change of an image, such as a corruption, before a transform for evaluation.

    Args:
        change: uint8 `(3, H, W)` → uint8 `(3, H', W')`; to be cached, it has `facts()`, a text of all its settings.
        transform: What follows.
    """

    def __init__(self, change: Callable[[Tensor], Tensor], transform: EvaluationTransform):
        super().__init__()
        self.change, self.transform = change, transform

    def forward(self, image: Tensor) -> Tensor:
        """uint8 `(3, height, width)` → uint8 `(3, H, W)`."""
        return self.transform(self.change(image))

    def facts(self) -> str:
        """All settings of both."""
        return f"{self.change.facts()}, then {self.transform.facts()}"


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
    resize_to = _enlarged(image_size, crop_share)
    return Transforms(
        ResizedCropView(image_size, resize_to=resize_to, random=True, flip=flip),
        EvaluationTransform(image_size, crop_share=crop_share),
    )
