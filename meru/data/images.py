"""Reads image files of every kind that Pillow supports, upright, up to a maximum size.

Ordinary JPEG and WebP files are decoded by torchvision, about twice as fast as by Pillow, which reads the headers and
all other files: PNG, too, since a damaged one ends torchvision's decoder, and the process, with a segmentation fault.
"""

from __future__ import annotations

import errno
import functools
import io
import os
import re
import stat
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import ExifTags, Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

from meru.data.image_faults import what_is_wrong
from meru.errors import UserError
from meru.files import os_error_message

MAXIMUM_PIXELS = 100_000_000
OR_SKIP = ", or set data.on_error=skip to go on without it"  # the end of every message of `read_image`
_BYTES_PER_PIXEL, _BYTES_BESIDE = 8, 2**26  # upper bound of a file: 16 bits × 4 channels, and metadata
_BY_TORCHVISION = ("JPEG", "MPO", "WEBP")
_HAS_EXIF = {"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"}  # Pillow's names for it
# Errors of the machine, not of the image: it must not be skipped because of them.
_OF_THE_MACHINE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.EAGAIN)
_REDUCTIONS = (2, 4, 8)  # of libjpeg
_LARGEST_REDUCTION = _REDUCTIONS[-1]
_NOT_READ = ("EPS",)  # Pillow would run Ghostscript, which executes code in the file

# Maps that turn a stored image (…, H, W) upright, by the EXIF tag "Orientation".
_UPRIGHT = {
    2: lambda image: image.flip(-1),
    3: lambda image: image.flip(-1, -2),
    4: lambda image: image.flip(-2),
    5: lambda image: image.mT,
    6: lambda image: image.mT.flip(-1),
    7: lambda image: image.mT.flip(-1, -2),
    8: lambda image: image.mT.flip(-2),
}
_SIDES_SWAPPED = (5, 6, 7, 8)

# Sizes are checked against `maximum_pixels` in this module; Pillow's own limit is raised to it as a second check.
# Pillow's other warnings, about damaged EXIF and the like, do not help in training.
warnings.filterwarnings("ignore", module=r"PIL\.")


class Decoded(NamedTuple):
    """A decoded image.

    Attributes:
        image: uint8 RGB `(3, H, W)`, perhaps reduced.
        full: Height and width of the full image.
    """

    image: Tensor
    full: tuple[int, int]


Spare = Callable[[int, int], float]  # height and width → how many times smaller the image may be


def read_image(path: str | Path, *, maximum_pixels: int = MAXIMUM_PIXELS) -> Tensor:
    """Decode an image file; if it holds several images, the first.

    The result is what viewers show: an EXIF orientation is applied. Transparency is dropped; grey, palette and
    CMYK images become RGB; of 16-bit values the upper 8 bits are kept; floating-point values are read as 0 … 1 if none
    is above 1, else as 0 … 255.

    Args:
        path: The file; its extension does not matter.
        maximum_pixels: Largest number of pixels, according to the file's header, that is decoded. A JPEG file with
            up to 64 times as many is decoded at a half, a quarter or an eighth of its sides, unless it is progressive.

    Returns:
        uint8, shape `(3, height, width)`.

    Raises:
        UserError: if the file is missing, not an image, damaged or too large; the message names it and says what it is.
        OSError: if the machine has no file handles or memory left, or its disk fails; the image may be intact.
    """
    return read(path, maximum_pixels=maximum_pixels).image


def read(path: str | Path, *, maximum_pixels: int = MAXIMUM_PIXELS, spare: Spare | None = None) -> Decoded:
    """As `read_image`, with the full size.

    Args:
        path, maximum_pixels: As for `read_image`.
        spare: Lets a JPEG file be decoded at a half, a quarter or an eighth of its sides, the smallest that is no more
            times smaller than this function of its height and width says.
    """
    return decode(_content(path, maximum_pixels), path, maximum_pixels=maximum_pixels, spare=spare)


def decode(
    content: bytearray, path: str | Path, *, maximum_pixels: int = MAXIMUM_PIXELS, spare: Spare | None = None
) -> Decoded:
    """Decode the content of an image file as `read` does; `path` names it in messages."""
    size = _plain_jpeg_size(content)
    if size and size[0] * size[1] <= maximum_pixels and (spare is None or spare(*size) < _REDUCTIONS[0]):
        try:
            return _in_full(_decode(content))
        except RuntimeError:
            pass  # Pillow may support the kind, or give a better message
    with _opened(path, content, maximum_pixels) as image:
        try:
            turn = _orientation(image)
            width, height = image.size
            full = (width, height) if turn in _SIDES_SWAPPED else (height, width)
            if factor := _reduction(image, full, maximum_pixels, spare):
                image.draft("RGB", (width // factor, height // factor))
            elif image.format in _BY_TORCHVISION:
                try:
                    return _in_full(_upright(_decode(content), turn))
                except RuntimeError:
                    pass
            image.load()
            decoded = _upright(_rgb(image), _orientation(image))
            return Decoded(decoded, full) if factor else _in_full(decoded)
        except Exception as error:  # readers raise any kind of error for damaged files
            raise _unreadable(path, what_is_wrong(content, error)) from None


def decode_content(content: bytearray, path: str | Path, *, maximum_pixels: int = MAXIMUM_PIXELS) -> Tensor:
    """Decode the content of an image file as `read_image` does; `path` names it in messages."""
    return decode(content, path, maximum_pixels=maximum_pixels).image


def from_pillow(image: Image.Image) -> Tensor:
    """An image of Pillow as uint8 RGB `(3, H, W)`, upright; of an animation, the frame at which it stands."""
    try:
        image.load()
    except Exception as error:  # readers raise any kind of error for damaged files
        raise _unreadable(getattr(image, "filename", ""), what_is_wrong(bytearray(b"?"), error)) from None
    return _upright(_rgb(image), _orientation(image))


def image_size(
    path: str | Path, *, content: bytearray | None = None, maximum_pixels: int = MAXIMUM_PIXELS
) -> tuple[int, int]:
    """Height and width of an image as viewers show it, from the file's header.

    With `content`, that of the file, nothing is read, and `path` only names it in messages.

    Raises:
        UserError: as `read_image`, for errors that the header shows.
    """
    if content is None:
        _check_kind_of_file(path)
    with _opened(path, content, maximum_pixels) as image:
        if image.format == "PNG" and _has_late_exif(image, content := content or _content(path, maximum_pixels)):
            try:
                image.load()
            except Exception as error:  # readers raise any kind of error for damaged files
                raise _unreadable(path, what_is_wrong(content, error)) from None
        width, height = image.size
        if image.format == "TIFF":  # here Pillow may have swapped them already
            width, height = image.tag_v2[256], image.tag_v2[257]
        return (width, height) if _orientation(image) in _SIDES_SWAPPED else (height, width)


def check_maximum_pixels(maximum_pixels: object) -> int:
    """The value of `data.maximum_pixels`, checked.

    Raises:
        UserError: if it is not a whole number above 0.
    """
    if type(maximum_pixels) is not int or maximum_pixels < 1:
        raise UserError(f"data.maximum_pixels={maximum_pixels}: give a whole number above 0")
    return maximum_pixels


def _check_kind_of_file(path: str | Path) -> int:
    """The size in bytes of an ordinary file; others are refused, since reading a pipe or device might never end."""
    try:
        found = os.stat(path)
    except OSError as error:
        if error.errno in _OF_THE_MACHINE:
            raise
        if os.path.islink(path):
            raise _unreadable(path, f"is a symbolic link to {os.readlink(path)}, which does not exist") from None
        raise _unreadable(path, f"cannot be read: {os_error_message(error).removeprefix(f'{path}: ')}") from None
    except ValueError as error:  # a NUL in the name
        raise _unreadable(path, f"cannot be read: {error}") from None
    if not stat.S_ISREG(found.st_mode):
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
        raise _unreadable(path, f"is {kinds.get(stat.S_IFMT(found.st_mode), 'a device')}, not a file")
    return found.st_size


def _content(path: str | Path, maximum_pixels: int) -> bytearray:
    size = _check_kind_of_file(path)
    if size > _BYTES_PER_PIXEL * maximum_pixels + _BYTES_BESIDE:
        raise _unreadable(
            path, f"has {size / 2**20:,.0f} MiB, more than data.maximum_pixels={maximum_pixels} pixels can take"
        )
    try:
        with open(path, "rb") as file:
            return bytearray(file.read())
    except OSError as error:
        if error.errno in _OF_THE_MACHINE:
            raise
        raise _unreadable(path, f"cannot be read: {os_error_message(error).removeprefix(f'{path}: ')}") from None


def _plain_jpeg_size(content: bytearray) -> tuple[int, int] | None:
    """Height and width in the header of a JPEG file without EXIF or XMP; None for other files.

    Pillow would need a tenth of the decoding time for it.
    """
    if content[:3] != b"\xff\xd8\xff":
        return None
    at = 2
    while at + 9 <= len(content) and content[at] == 0xFF:
        marker = content[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # the frame
            return struct.unpack_from(">HH", content, at + 5)
        if marker in (0xE1, 0xFF) or not 0xC0 <= marker <= 0xFE or 0xD0 <= marker <= 0xDA:
            return None
        at += 2 + int.from_bytes(content[at + 2 : at + 4], "big")
    return None


def _decode(content: bytearray) -> Tensor:
    """Decode with torchvision; raises RuntimeError if it cannot."""
    image = decode_image(torch.frombuffer(content, dtype=torch.uint8), mode=ImageReadMode.RGB)
    return v2.functional.to_dtype(image, torch.uint8, scale=True)


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in Image.ID if name not in _NOT_READ)


def _opened(path: str | Path, content: bytearray | None, maximum_pixels: int) -> Image.Image:
    """Open the image, from the file or its content, read its header, and check its size."""
    if Image.MAX_IMAGE_PIXELS is not None:
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, _LARGEST_REDUCTION**2 * maximum_pixels)
    try:
        image = Image.open(path if content is None else io.BytesIO(content), formats=_formats())
    except Image.DecompressionBombError as error:
        count = re.search(r"\d+", str(error))
        found = f"{count.group()} pixels, above" if count else "more pixels than"
        raise _unreadable(path, _too_large(found, maximum_pixels)) from None
    except Exception as error:  # readers raise any kind of error for damaged files
        content = _content(path, maximum_pixels) if content is None else content
        raise _unreadable(path, what_is_wrong(content, error)) from None
    width, height = image.size
    stored = os.path.getsize(path) if content is None else len(content)
    if height * width > maximum_pixels and not _can_be_reduced(image, stored, maximum_pixels):
        raise _unreadable(path, _too_large(f"{width} × {height} pixels, above", maximum_pixels))
    return image


def _can_be_reduced(image: Image.Image, stored: int, maximum_pixels: int) -> bool:
    """Whether the image can be decoded at a half, a quarter or an eighth of its size, without the memory for all of it.

    A progressive JPEG cannot: its decoder keeps all coefficients. A file with fewer bytes (`stored`) than even a
    picture of one colour needs has a false header.
    """
    pixels = image.width * image.height
    if image.format not in ("JPEG", "MPO") or image.info.get("progressive"):
        return False
    return pixels <= _LARGEST_REDUCTION**2 * maximum_pixels and stored >= pixels / 256


def _reduction(image: Image.Image, full: tuple[int, int], maximum_pixels: int, spare: Spare | None) -> int | None:
    """By how much the sides of an image are reduced; None: not at all."""
    if image.width * image.height > maximum_pixels:
        fits = (each for each in _REDUCTIONS if -(-image.width // each) * -(-image.height // each) <= maximum_pixels)
        least = next(fits, _LARGEST_REDUCTION)
    else:
        least = None
    if spare is None or image.format not in ("JPEG", "MPO"):
        return least
    allowed = [each for each in _REDUCTIONS if each <= spare(*full)]
    return max([*allowed, least or 0]) or None


def _in_full(image: Tensor) -> Decoded:
    return Decoded(image, tuple(image.shape[1:]))


def _too_large(found: str, maximum_pixels: int) -> str:
    return f"has {found} data.maximum_pixels={maximum_pixels}: raise that, or make the image smaller"


def _has_late_exif(image: Image.Image, content: bytearray) -> bool:
    """Whether a PNG has its EXIF after the image data, which Pillow reads only after decoding."""
    if image.format != "PNG" or "exif" in image.info:
        return False
    at = 8
    while at + 8 <= len(content):
        if content[at + 4 : at + 8] == b"eXIf":
            return True
        at += 12 + int.from_bytes(content[at : at + 4], "big")
    return False


def _orientation(image: Image.Image) -> int:
    if image.format != "TIFF" and not image.info.keys() & _HAS_EXIF:
        return 1
    try:
        # Pillow's PNG reader overrides `getexif` with a method that decodes the image.
        value = Image.Image.getexif(image).get(ExifTags.Base.Orientation)
    except Exception:  # damaged EXIF
        return 1
    return value if value in _UPRIGHT else 1


def _upright(image: Tensor, orientation: int) -> Tensor:
    return _UPRIGHT[orientation](image) if orientation in _UPRIGHT else image


def _rgb(image: Image.Image) -> Tensor:
    """Pillow's image as uint8 `(3, H, W)`."""
    if image.mode.startswith("I") or image.mode == "F":
        grey = np.nan_to_num(np.asarray(image))
        if image.mode == "F":
            grey = (grey * 255 if grey.max(initial=0) <= 1 else grey).clip(0, 255).round()
        else:
            grey = grey.clip(0, 2**16 - 1) >> 8
        return torch.from_numpy(grey.astype(np.uint8)).expand(3, -1, -1).contiguous()
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # Pillow warns about palettes with transparency
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def _unreadable(path: str | Path, what: str) -> UserError:
    advice = "" if ": " in what else ": replace it"
    return UserError(f"image {path} {what}{advice}{OR_SKIP}", exit_code=1)
