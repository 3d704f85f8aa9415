"""Images as people have them (files, Pillow's images, tensors) → the uint8 tensors that transforms take."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from meru.data.images import OR_SKIP, from_pillow, read_image
from meru.errors import UserError
from meru.files import user_path

Picture = Image.Image | Tensor | str | Path
_ALLOWED = "give a path, an image of Pillow, or a uint8 tensor (3, H, W)"


def image_tensor(image: Picture) -> Tensor:
    """An image as uint8 RGB `(3, H, W)`, upright.

    Args:
        image: A path, an image of Pillow, or a uint8 tensor `(3, H, W)` or `(1, H, W)`.

    Raises:
        UserError: for anything else, and for files that are missing or cannot be decoded.
    """
    if isinstance(image, Image.Image):
        return from_pillow(image)
    if isinstance(image, Tensor):
        if image.dtype != torch.uint8 or image.dim() != 3 or image.shape[0] not in (1, 3):
            raise UserError(f"an image is a tensor {tuple(image.shape)} of {image.dtype}: {_ALLOWED}")
        return image.expand(3, -1, -1)
    if not isinstance(image, (str, os.PathLike)):
        raise UserError(f"an image is of type {type(image).__name__}: {_ALLOWED}")
    try:
        return read_image(user_path(image))
    except UserError as error:
        raise UserError(str(error).removesuffix(OR_SKIP), exit_code=error.exit_code) from None


@dataclass(frozen=True)
class Preparation:
    """Maps one image to a model's input; can be pickled, so that a loader's workers can use it.

    Attributes:
        transform: uint8 `(3, H, W)` → uint8 `(3, S, S)`.
    """

    transform: nn.Module

    def __call__(self, image: Picture) -> Tensor:
        """Image as in `image_tensor` → uint8 `(3, S, S)`."""
        return self.transform(image_tensor(image))

    def batch(self, images: Picture | Sequence[Picture]) -> Tensor:
        """Model inputs `(B, 3, S, S)` of several images, or of one.

        Args:
            images: Images as in `image_tensor`, which are prepared; or inputs that already are, a tensor
                `(B, 3, S, S)` or `(3, S, S)` of uint8 or of floats in [0, 1], which is returned as it is.

        Raises:
            UserError: for tensors of another shape or range, no image at all, and as `image_tensor`.
        """
        if isinstance(images, Tensor):
            return self._checked(images)
        if isinstance(images, (str, os.PathLike, Image.Image)):
            images = [images]
        if not isinstance(images, Sequence) or not images:
            raise UserError(f"no images: {_ALLOWED}, or a list of them")
        return torch.stack([self(image) for image in images])

    def _checked(self, images: Tensor) -> Tensor:
        images = images[None] if images.dim() == 3 else images
        # The transform knows its result's size best: it may be a square or not.
        wanted = tuple(self.transform(torch.zeros(3, 8, 8, dtype=torch.uint8)).shape)
        if images.dim() != 4 or tuple(images.shape[1:]) != wanted:
            size = ", ".join(map(str, wanted))
            raise UserError(f"images of shape {tuple(images.shape)}: the model takes (B, {size}); see `transform`")
        if images.dtype != torch.uint8:
            if not images.is_floating_point():
                raise UserError(f"images of {images.dtype}: give uint8, or floats in [0, 1]")
            if images.numel() and not (images.amin() >= 0 and images.amax() <= 1):
                raise UserError(
                    "images with values outside [0, 1]: give uint8, or floats in [0, 1]; the model normalises them"
                )
        return images
