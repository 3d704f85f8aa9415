"""Views taken on the device: workers decode images and draw views, the GPU resizes and mirrors.

Resizing is two products with sparse matrices of weights, those of Pillow and torch: bicubic, with antialiasing, rounded
to whole levels after each direction. Results differ from those of the CPU by at most one level.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from meru.data.views import Size, View, cut
from meru.encoders.sizes import ImageSize, sides
from meru.geometry.all_pairs import exact_product

VIEW = "_view"  # ends the name of the entry with the views of an entry
CHUNK = 32  # images resized at a time, to bound the memory


def untaken(image: Tensor, views: list[View], image_size: ImageSize, *, full: Size) -> tuple[Tensor, Tensor]:
    """The pixels that views of an image need, and the views in numbers: what `taken` takes.

    Args:
        image: uint8 `(3, height, width)`, perhaps reduced.
        views: V views with one window.
        image_size: Side of a view, or its height and width.
        full: Full size of the image.

    Returns:
        uint8 `(3, h, w)` and int64 `(V, 9)`: height and width of the window and after resizing, top, left,
        mirrored, height and width of the view.

    Raises:
        ValueError: for different windows.
    """
    if len({view.window for view in views}) > 1:
        raise ValueError("views with different windows")
    part = cut(image, views[0].window, full=full)
    numbers = [[*part.shape[1:], *view.resized, *view.corner, view.mirrored, *sides(image_size)] for view in views]
    return part, torch.tensor(numbers)


def padded(images: list[Tensor]) -> Tensor:
    """Images `(3, h, w)` of several sizes in one tensor `(B, 3, H, W)`, zeros at the right and at the bottom."""
    height, width = (max(image.shape[side] for image in images) for side in (1, 2))
    result = torch.zeros(len(images), height, width, 3, dtype=torch.uint8)
    for place, image in zip(result, images, strict=True):
        place[: image.shape[1], : image.shape[2]] = image.permute(1, 2, 0)
    return result.permute(0, 3, 1, 2)


def waiting_views(batch: Mapping[str, Tensor]) -> dict[str, Size]:
    """The images of a batch whose views are not taken yet, by name, and the size of the views.

    A GPU would have to finish all its work first: to be called before the batch is moved.
    """
    numbers = {name.removesuffix(VIEW): value for name, value in batch.items() if name.endswith(VIEW)}
    return {name: tuple(value[0, 0, -2:].tolist()) for name, value in numbers.items()}


def with_views_taken(batch: Mapping[str, Tensor], waiting: Mapping[str, Size]) -> dict[str, Tensor]:
    """The batch, on its device, with views in place of the images that wait for it; see `waiting_views`."""
    rest = {name: value for name, value in batch.items() if name.removesuffix(VIEW) not in waiting}
    return rest | {name: taken(batch[name], batch[f"{name}{VIEW}"], size) for name, size in waiting.items()}


def taken(images: Tensor, views: Tensor, size: Size) -> Tensor:
    """Views of images, on their device.

    Args:
        images: uint8 `(B, 3, H, W)`, padded.
        views: int64 `(B, V, 9)`, see `untaken`.
        size: Height and width of the results.

    Returns:
        uint8 `(B, V, 3, h, w)`; without the second dimension if V is 1.
    """
    pairs = zip(images.split(CHUNK), views.split(CHUNK), strict=True)
    result = torch.cat([_some_taken(*pair, size) for pair in pairs])
    return result.squeeze(1) if views.shape[1] == 1 else result


def _some_taken(images: Tensor, views: Tensor, size: Size) -> Tensor:
    height, width, down, across, top, left, mirrored = views[..., :7].unsqueeze(-1).unbind(2)  # (B, V, 1) each
    rows = _weights(top + torch.arange(size[0], device=images.device), height, down, images.shape[2])
    columns = torch.arange(size[1], device=images.device)
    columns = left + torch.where(mirrored.bool(), size[1] - 1 - columns, columns)
    columns = _weights(columns, width, across, images.shape[3])
    pixels = images.float().unsqueeze(1)  # (B, 1, 3, H, W)
    narrow = _whole(exact_product(pixels, columns.unsqueeze(2)))  # (B, V, 3, H, w)
    return _whole(exact_product(rows.unsqueeze(2), narrow.mT)).to(torch.uint8)


def _weights(places: Tensor, before: Tensor, after: Tensor, length: int) -> Tensor:
    """The weights of pixels in the pixels of a resized row.

    Args:
        places: Which pixels of the resized row, `(B, V, s)`.
        before, after: Number of pixels of the row before and after resizing, `(B, V, 1)`.
        length: L, that of the padded row.

    Returns:
        `(B, V, s, L)`, float32; rows sum to 1.
    """
    scale = (before.double() / after).unsqueeze(-1)
    stretch = scale.clamp(min=1.0)
    centre = scale * (places.double().unsqueeze(-1) + 0.5)
    pixels = torch.arange(length, device=places.device, dtype=torch.float64)
    first, last = (centre - 2 * stretch + 0.5).floor().clamp(min=0), (centre + 2 * stretch + 0.5).floor()
    inside = (pixels >= first) & (pixels < torch.minimum(last, before.unsqueeze(-1).double()))
    distance = ((pixels + 0.5 - centre) / stretch).abs()
    near = (1.5 * distance - 2.5) * distance**2 + 1  # Keys's cubic with a = -1/2
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weights = torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0)) * inside
    return (weights / weights.sum(-1, keepdim=True)).float()


def _whole(values: Tensor) -> Tensor:
    return values.round_().clamp_(0, 255)
