"""Training images decoded once, reduced, and kept as pixels in files that all runs, processes and workers share.

A file holds a few thousand images, so that a run that is stopped while it decodes them goes on where it was, and a
changed image costs one file. `meru.data.cache_files` writes them.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from meru.data.cache_files import image_facts, stored_file
from meru.data.images import Decoded
from meru.data.loading import Batch, ImageDataset
from meru.data.views import resized
from meru.data.workers import Loader, loader_options
from meru.errors import UserError

log = logging.getLogger("meru")

VERSION = 1
CHUNK = 8192  # images in a file; at 256 pixels it has about 2 GiB
COLUMNS = 5  # of a file's table, int64: where the image begins, height, width, full height, full width
Show = Callable[[int], object]  # told how many images are done


class CachedPixels(Sequence):
    """Images by their number, from files that are mapped into memory at the first use, in every process for itself.

    Args:
        files: Files by `cached_pixels`.
        images: How many there are.
        chunk: How many a file holds.
    """

    def __init__(self, files: Sequence[Path], *, images: int, chunk: int):
        self.files, self.images, self.chunk = list(files), images, chunk
        self._mapped: dict[int, tuple[Tensor, Tensor]] = {}

    def __len__(self) -> int:
        return self.images

    def __getitem__(self, index: int) -> Decoded | None:
        """The image, uint8 `(3, h, w)`, and its full size; None if it could not be decoded and was skipped."""
        number, row = divmod(index, self.chunk)
        if number not in self._mapped:
            self._mapped[number] = self._map(number)
        pixels, table = self._mapped[number]
        begin, height, width, *full = table[row].tolist()
        if not height:
            return None
        image = pixels[begin : begin + 3 * height * width].view(height, width, 3)
        return Decoded(image.permute(2, 0, 1), tuple(full))

    def _map(self, number: int) -> tuple[Tensor, Tensor]:
        """The pixels of a file, uint8 `(N,)`, and its table."""
        path, rows = self.files[number], min(self.chunk, self.images - number * self.chunk)
        size = path.stat().st_size
        content = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)
        return content, content[size - 8 * COLUMNS * rows :].view(torch.int64).view(rows, COLUMNS)

    def __getstate__(self) -> dict:
        return {**vars(self), "_mapped": {}}  # pickled for a worker, the mapped files would be copied


class _Reduced(ImageDataset):
    """Images with a shorter side of at most `side` pixels, as `pixels` `(N,)`, and `size`, theirs and the full one."""

    def __init__(self, images: Sequence[Path], side: int, **reading):
        super().__init__(images, {}, transform=nn.Identity(), **reading)
        self.side = side
        if reading.get("decode") == "scaled":
            self.spare = lambda height, width: min(height, width) / side

    def __getitem__(self, index: int) -> Batch:
        decoded = self.decode(index)
        if decoded is None:
            return {"pixels": torch.empty(0, dtype=torch.uint8), "size": torch.zeros(4, dtype=torch.int64)}
        image, full = decoded
        if self.side < min(image.shape[1:]):
            image = resized(image, tuple(max(self.side, round(self.side * each / min(full))) for each in full))
        size = torch.tensor([*image.shape[1:], *full])
        return {"pixels": image.permute(1, 2, 0).reshape(-1), "size": size}


def cached_pixels(
    images: Sequence[Path],
    *,
    side: int,
    folder: Path,
    reading: Mapping[str, object],
    workers: Mapping[str, float],
    chunk: int = CHUNK,
) -> CachedPixels:
    """Decode images, or find them decoded.

    Args:
        images: The files.
        side: Length of the shorter side, pixels; smaller images keep their size.
        folder: See `meru.data.cache_files.cache_folder`.
        reading: `on_error`, `maximum_pixels` and `decode`, as for `ImageDataset`.
        workers: As for `loader_options`.
        chunk: Images in a file.

    Raises:
        UserError: if an image cannot be decoded and is not skipped, the folder cannot be used, or the disk is full.
    """
    began, what = time.perf_counter(), f"{len(images)} training images of {side} pixels"
    files = []
    every = 0.1 if sys.stderr.isatty() else 20.0
    with tqdm(total=len(images), desc=f"caching {what}", unit="image", mininterval=every, delay=1) as progress:
        for start in range(0, len(images), chunk):
            some = images[start : start + chunk]
            data = _Reduced(some, side, **reading)
            facts = ("pixels", VERSION, side, sorted(reading.items()), image_facts(some))
            file = stored_file(
                folder,
                facts,
                blocks=lambda data=data: _blocks(data, workers, progress.update),
                what=what,
                without="data.image_cache=null",
                quiet=True,
            )
            files.append(file)
            progress.update(start + len(some) - progress.n)
    size, seconds = sum(file.stat().st_size for file in files), time.perf_counter() - began
    log.info("%s, %.0f MiB in %s: ready after %.0f s", what, size / 2**20, folder, seconds)
    return CachedPixels(files, images=len(images), chunk=chunk)


def _blocks(data: _Reduced, workers: Mapping[str, float], show: Show) -> Iterator[Tensor]:
    """The pixels of all images one after another, then the table."""
    rows, place = [], 0
    for batch in Loader(data, batch_size=16, collate_fn=_together, **loader_options(**workers)):
        yield batch["pixels"]
        for size in batch["sizes"].tolist():
            rows.append([place, *size])
            place += 3 * size[0] * size[1]
        show(len(batch["sizes"]))
    yield torch.zeros(-place % 8, dtype=torch.uint8)  # numbers of 8 bytes begin at multiples of 8
    yield torch.tensor(rows, dtype=torch.int64)


def _together(samples: list[Batch] | UserError) -> Batch | UserError:
    if isinstance(samples, UserError):
        return samples
    return {
        "pixels": torch.cat([sample["pixels"] for sample in samples]),
        "sizes": torch.stack([sample["size"] for sample in samples]),
    }
