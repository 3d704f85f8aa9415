"""Images of an index: read safely, and made small for the page, with a bounded memory of those made before."""

from __future__ import annotations

import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from torch import Tensor

from meru.errors import UserError
from meru.page.answers import Refused
from meru.page.decoding import jpeg
from meru.page.reading import printable

if TYPE_CHECKING:
    from meru.data.heads import HeadList

EMPTY: Mapping[str, Path] = MappingProxyType({})
SIZES = (128, 256, 640)
MAXIMUM_BYTES = 256 * 2**20  # of a file in the folder of images


class Thumbnail(NamedTuple):
    """A small JPEG file, or None if the browser has it already, and a tag that changes with the file and the size."""

    content: bytes | None
    tag: str


class Thumbnails:
    """Small images of indexes; those last used are kept, up to a number of bytes.

    Args:
        most: Bytes that are kept.
        hide_heads: `blur` or `cover` the heads that `heads.csv` in the folder of images lists, or the upper sixth of
            images that are tall enough to show a person; None: images as they are.
        folders: The folder of images of each index, by its identifier.

    Raises:
        UserError: if a `heads.csv` is no list of heads.
    """

    def __init__(self, most: int = 64 * 2**20, *, hide_heads: str | None = None, folders: Mapping[str, Path] = EMPTY):
        self._most, self._bytes, self._how = most, 0, hide_heads
        self._heads: dict[str, HeadList] = {}
        if hide_heads:
            from meru.data.heads import HeadList  # imports PyTorch

            for identifier, folder in folders.items():
                listed = folder / "heads.csv"
                self._heads[identifier] = HeadList(listed if listed.is_file() else None)
        self._kept = OrderedDict[tuple, bytes]()
        self._turn = threading.Lock()

    def get(self, identifier: str, index: Any, place: int, *, size: int, known: str = "") -> Thumbnail:
        """The small image of a place of an index.

        Args:
            identifier: Of the index.
            index: The index.
            place: Number of the image.
            size: Longest side, one of `SIZES`.
            known: Header `If-None-Match` of the request.

        Raises:
            Refused: 404 if there is no such image any more, or it does not decode.
        """
        with opened(index, place) as file:
            found = os.fstat(file.fileno())
            tag = f'"{found.st_mtime_ns:x}-{found.st_size:x}-{size}"'
            if tag in known:
                return Thumbnail(None, tag)
            key = (identifier, place, tag)
            with self._turn:
                if key in self._kept:
                    self._kept.move_to_end(key)
                    return Thumbnail(self._kept[key], tag)
            content = _small(self._shown(_decoded(file.read(), index, place), identifier, index, place), size)
        self._keep(key, content)
        return Thumbnail(content, tag)

    def _shown(self, image: Tensor, identifier: str, index: Any, place: int) -> Tensor:
        if self._how is None:
            return image
        try:
            return self._heads[identifier].hide(image, Path(index.path(place)), self._how)
        except UserError as error:
            raise Refused(404, f"{called(index, place)} is not shown, because its head is not known: {error}") from None

    def _keep(self, key: tuple, content: bytes) -> None:
        with self._turn:
            self._bytes += len(content) - len(self._kept.pop(key, b""))
            self._kept[key] = content
            while self._bytes > self._most:
                self._bytes -= len(self._kept.popitem(last=False)[1])


def image_of(index: Any, place: int) -> Tensor:
    """An image of an index, uint8 `(3, H, W)`.

    Raises:
        Refused: 404 if there is no such image any more, or it does not decode.
    """
    with opened(index, place) as file:
        return _decoded(file.read(), index, place)


def opened(index: Any, place: int) -> BinaryIO:
    """The file of an image, open for reading: an ordinary file inside the folder of images, whatever it is by now.

    Raises:
        Refused: 404 if there is no such file.
    """
    if not 0 <= place < len(index):
        raise Refused(404, f"image {place} is not in the index: its images are 0 to {len(index) - 1}")
    try:
        folder, path = Path(index.facts.images).resolve(), Path(index.path(place)).resolve(strict=True)
        if not path.is_relative_to(folder):
            raise Refused(404, f"{called(index, place)} now leads out of the folder of images")
        # A pipe would be opened for ever without O_NONBLOCK; a link put in place since is not followed.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        descriptor = os.open(path, flags)
    except (OSError, RuntimeError, UserError):  # RuntimeError: links in a circle, before Python 3.13
        raise Refused(404, f"{called(index, place)} is gone, or has changed since it was indexed") from None
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_size > MAXIMUM_BYTES:
        os.close(descriptor)
        raise Refused(404, f"{called(index, place)} is no ordinary file any more")
    return os.fdopen(descriptor, "rb")


def called(index: Any, place: int) -> str:
    """How messages name an image: by its number and its name inside the folder."""
    return f"image {place} ({printable(index.names[place])})"


def _decoded(content: bytes, index: Any, place: int) -> Tensor:
    from meru.data.images import decode_content

    try:
        return decode_content(bytearray(content), f"image {place}")
    except UserError:
        raise Refused(404, f"{called(index, place)} does not decode as an image any more") from None


def _small(image: Tensor, size: int) -> bytes:
    from PIL import Image

    return jpeg(Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()), size)
