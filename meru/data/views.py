"""Views of images: which pixels a model sees, drawn apart from the resampling, which may happen elsewhere or later.

A view is drawn for the full size of an image. It can then be taken from the decoded image, from a reduced copy of it,
or, by `meru.data.device_views`, on a GPU.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import v2

from meru.encoders.sizes import ImageSize, sides

BICUBIC = v2.InterpolationMode.BICUBIC
RATIO = (3 / 4, 4 / 3)  # smallest and largest ratio of width to height of a crop, torchvision's
Window = tuple[int, int, int, int]  # left, top, width and height, pixels
Size = tuple[int, int]  # height and width, pixels


class View(NamedTuple):
    """A window of an image, resized, of which a part is kept.

    Attributes:
        window: In pixels of the full image.
        resized: Size to which the window is resized.
        corner: Top and left of the part that is kept.
        mirrored: Whether the result is mirrored.
    """

    window: Window
    resized: Size
    corner: tuple[int, int] = (0, 0)
    mirrored: bool = False


class Viewing(nn.Module, ABC):
    """A transform that takes one view of an image, random or not; maps uint8 `(3, height, width)` to `(3, H, W)`.

    Args:
        image_size: Side of the result, or its height and width.
        interpolation: Of the resizing, always with antialiasing.
    """

    def __init__(self, image_size: ImageSize, *, interpolation: v2.InterpolationMode = BICUBIC):
        super().__init__()
        self.image_size, self.interpolation = image_size, interpolation

    @abstractmethod
    def draw(self, height: int, width: int) -> View:
        """The view of an image of that size; random numbers come from torch's default generator."""

    @abstractmethod
    def spare(self, height: int, width: int) -> float:
        """How many times smaller an image of that size may be for the smallest window to need no enlargement."""

    def take(self, image: Tensor, view: View, *, full: Size | None = None) -> Tensor:
        """A view of an image.

        Args:
            image: uint8 `(3, height, width)`, perhaps a reduced copy; then the window is rounded to whole pixels of it.
            view: Drawn for the full size.
            full: The full size; None: that of `image`.
        """
        part = cut(image, view.window, full=full or tuple(image.shape[1:]))
        result = resized(part, view.resized, interpolation=self.interpolation)
        (top, left), (height, width) = view.corner, sides(self.image_size)
        result = result[:, top : top + height, left : left + width]
        return result.flip(-1) if view.mirrored else result

    def forward(self, image: Tensor, full: Size | None = None) -> Tensor:
        """uint8 `(3, height, width)`, perhaps reduced from a `full` size → uint8 `(3, H, W)`."""
        return self.take(image, self.draw(*(full or tuple(image.shape[1:]))), full=full)


class RandomCropView(Viewing):
    """A random crop, resized to a square, or in proportion to the image if the result is a rectangle.

    In proportion, crops are distorted as whole images are in evaluation.

    Args:
        scale: Smallest and largest share of the image's area that a crop covers.
        ratio: Smallest and largest ratio of width to height of a crop; for a rectangle, relative to the image's own.
        flip: Whether half of the results are mirrored.
    """

    def __init__(
        self,
        image_size: ImageSize,
        *,
        scale: tuple[float, float],
        ratio: tuple[float, float] = RATIO,
        interpolation: v2.InterpolationMode = BICUBIC,
        flip: bool = False,
    ):
        super().__init__(image_size, interpolation=interpolation)
        self.scale, self.ratio, self.flip = tuple(scale), tuple(ratio), flip

    def draw(self, height: int, width: int) -> View:
        pixels = torch.empty(1, dtype=torch.uint8).expand(3, height, width)  # only its shape is read
        drawn = v2.RandomResizedCrop.get_params(pixels, scale=self.scale, ratio=self._ratio(height, width))
        top, left, down, across = drawn
        return View((left, top, across, down), sides(self.image_size), mirrored=self.flip and _coin())

    def spare(self, height: int, width: int) -> float:
        narrow, wide = self._ratio(height, width)
        area = self.scale[0] * height * width
        lowest, narrowest = (area / max(wide, 1e-9)) ** 0.5, (area * narrow) ** 0.5
        down, across = sides(self.image_size)
        return min(min(lowest, height) / down, min(narrowest, width) / across)

    def _ratio(self, height: int, width: int) -> tuple[float, float]:
        if isinstance(self.image_size, int):
            return self.ratio
        return self.ratio[0] * width / height, self.ratio[1] * width / height


class ResizedCropView(Viewing):
    """A crop of fixed size from the whole image resized, at random or in the centre, as SimGCD's and for evaluation.

    Args:
        resize_to: Length of the shorter side after resizing; two numbers: height and width, which distorts the image.
        random: Whether the crop's place is random, and with `flip` whether half of the results are mirrored.
    """

    def __init__(self, image_size: ImageSize, *, resize_to: ImageSize, random: bool = False, flip: bool = False):
        super().__init__(image_size)
        self.resize_to, self.random, self.flip = resize_to, random, flip

    def draw(self, height: int, width: int) -> View:
        size = self._resized(height, width)
        rest = [max(0, side - kept) for side, kept in zip(size, sides(self.image_size), strict=True)]
        if self.random:
            corner = tuple(int(torch.randint(0, each + 1, ())) if each else 0 for each in rest)
        else:
            corner = tuple(round(each / 2) for each in rest)
        return View((0, 0, width, height), size, corner, mirrored=self.flip and _coin())

    def spare(self, height: int, width: int) -> float:
        size = self._resized(height, width)
        return min(height / size[0], width / size[1])

    def _resized(self, height: int, width: int) -> Size:
        if not isinstance(self.resize_to, int):
            return tuple(self.resize_to)
        short, long = sorted((height, width))
        longer = int(self.resize_to * long / short)
        return (self.resize_to, longer) if height <= width else (longer, self.resize_to)


def cut(image: Tensor, window: Window, *, full: Size) -> Tensor:
    """The part of an image in a window, given in pixels of its full size.

    Args:
        image: `(3, H, W)`, perhaps reduced.
        window: Left, top, width and height.
        full: Height and width of the full image.

    Returns:
        `(3, h, w)`, at least one pixel.
    """
    height, width = image.shape[1:]
    down, across = height / full[0], width / full[1]
    left, top = min(round(window[0] * across), width - 1), min(round(window[1] * down), height - 1)
    bottom, right = round((window[1] + window[3]) * down), round((window[0] + window[2]) * across)
    return image[:, top : max(bottom, top + 1), left : max(right, left + 1)]


def resized(image: Tensor, size: Size, *, interpolation: v2.InterpolationMode = BICUBIC) -> Tensor:
    """`v2.Resize` with antialiasing, bit by bit.

    Args:
        image: uint8 `(3, height, width)`.
        size: Height and width of the result.
    """
    if tuple(image.shape[1:]) == size:
        return image
    if image.device.type != "cpu" or image.dtype != torch.uint8:
        return v2.functional.resize(image, list(size), interpolation=interpolation, antialias=True)
    # torch is fastest with the colours of a pixel side by side, as decoders give them, and without gaps between rows.
    pixels = image[None].contiguous(memory_format=torch.channels_last)
    return F.interpolate(pixels, size, mode=interpolation.value, align_corners=False, antialias=True)[0]


def _coin() -> bool:
    return bool(torch.rand(1) < 0.5)
