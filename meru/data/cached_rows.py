"""Rows of numbers for views of images, computed once and kept in a file that several runs share.

The views come from a fixed seed, so that runs of all seeds and methods share a file; each run draws which view it uses.
A file is written under a temporary name and renamed; its description, written last, makes it valid.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from math import prod
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from meru.data.images import cut, full_size
from meru.data.loading import Batch, ImageDataset
from meru.data.records import Images
from meru.data.sampling import derived_seed
from meru.data.workers import TIMEOUT, OrderedLoader, loader_options
from meru.errors import UserError
from meru.files import os_error_message, user_path, write_atomically, write_text

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

log = logging.getLogger("meru")

VERSION = 1
SEED = 0  # of the views; a run's own seed only chooses among them
BLOCK = 2**20  # bytes read at a time for the checksum
Window = tuple[int, int, int, int]  # left, top, width and height, pixels


def cache_folder(setting: str | None) -> Path:
    """The folder of `data.cache`; without one, `meru` in the user's cache folder."""
    if setting:
        return user_path(setting)
    return user_path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "meru"


class ViewsOfImages(ImageDataset):
    """V views of every image, a pure function of its position and of the view's number.

    Args:
        images, transform, reading: As for `ImageDataset`.
        views: V.
        window: The part of an image that a view shows, a function of position, view, height and width; None: all of it.
    """

    def __init__(
        self,
        images: Images,
        *,
        transform: nn.Module,
        views: int,
        window: Callable[[int, int, int, int], Window] | None = None,
        **reading,
    ):
        super().__init__(images, {}, transform=transform, **reading)
        self.views, self.window = views, window

    def __getitem__(self, index: int) -> Batch:
        try:
            image = self.decode(index)
        except UserError as error:
            raise UserError(
                f"{error}; data.cached_views needs every image: restore it, or set data.cached_views=0", exit_code=1
            ) from None
        views = torch.stack([self._view(image, index, view) for view in range(self.views)])
        return {"image": views, **self.facts(index, skipped=False)}

    def _view(self, image: Tensor, index: int, view: int) -> Tensor:
        if self.window is not None:
            full = full_size(image, self.images[index], maximum_pixels=self.maximum_pixels)
            image = cut(image, self.window(index, view, *full), full=full)
        with torch.random.fork_rng(devices=[]):
            kind = "view" if self.window is None else "part"
            torch.default_generator.manual_seed(derived_seed(SEED, kind, index, view))
            return self.transform(image)


def image_facts(images: Images) -> str:
    """A hash that changes with any of the images: path, size and time of change of files, or the pixels."""
    if isinstance(images, Tensor):
        return hashlib.sha256(images.contiguous().numpy().data).hexdigest()
    return digest_of([_file_facts(path) for path in images])


def _file_facts(path: Path) -> tuple[str, int, int]:
    try:
        facts = path.stat()
    except OSError:  # reading the image says what is wrong
        return str(path), 0, 0
    return str(path), facts.st_size, facts.st_mtime_ns


def transform_facts(transform: nn.Module) -> str:
    """All settings of a transform, those of its parts included."""
    return repr(
        [
            (name, type(module).__name__, sorted((key, repr(value)) for key, value in vars(module).items()
                                                 if not key.startswith("_") and key != "training"))
            for name, module in transform.named_modules()
        ]
    )  # fmt: skip


def digest_of(facts: object) -> str:
    """A hash of a value by its `repr`."""
    return hashlib.sha256(repr(facts).encode("utf-8", "surrogateescape")).hexdigest()


def stored_rows(
    folder: Path, facts: object, *, shape: tuple[int, int, int], compute: Callable[[], Iterable[Tensor]], what: str
) -> Tensor:
    """The rows `(n, V, F)`, float16, in memory shared with other processes; computed if no valid file holds them.

    A process that needs rows which another one is computing waits for them.

    Args:
        folder: Folder of all such files.
        facts: All that the rows depend on; equal values have the same `repr`.
        shape: `(n, V, F)`.
        compute: Gives the rows in order, `(b, V, F)` each.
        what: Describes the rows for the log.

    Raises:
        UserError: if the folder cannot be used, or the disk is full.
    """
    path = folder / f"{digest_of((VERSION, facts, shape))[:32]}.bin"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"data.cache={folder}: {os_error_message(error)}", exit_code=1) from None
    with _locked(path.with_suffix(".lock"), what):
        if not _is_valid(path, shape):
            _write(path, shape, compute, what)
        elif log.isEnabledFor(logging.INFO):
            log.info("found %s, %.0f MiB, in %s", what, path.stat().st_size / 2**20, path)
    rows = torch.from_file(str(path), shared=False, size=prod(shape), dtype=torch.float16)
    return rows.view(shape)


def _write(path: Path, shape: tuple[int, int, int], compute: Callable[[], Iterable[Tensor]], what: str) -> None:
    began = time.perf_counter()

    def write(file) -> None:
        for rows in compute():
            if not rows.isfinite().all():
                raise UserError(
                    "data.cached_views: features of the frozen blocks exceed half precision; set it to 0", exit_code=1
                )
            file.write(rows.contiguous().numpy().data)

    advice = "make room, name another folder by data.cache=<folder>, or set data.cached_views=0"
    with contextlib.suppress(OSError):
        for old in (path.with_suffix(".json"), *path.parent.glob(f".{path.name}.*.tmp")):  # of a killed process
            old.unlink(missing_ok=True)
    write_atomically(path, write, advice=advice)
    description = {"version": VERSION, "what": what, "shape": shape, "dtype": "float16", "checksum": _checksum(path)}
    write_text(path.with_suffix(".json"), json.dumps(description), advice=advice)
    seconds = time.perf_counter() - began
    log.info("cached %s, %.0f MiB, in %.0f s: %s", what, path.stat().st_size / 2**20, seconds, path)


def _is_valid(path: Path, shape: tuple[int, int, int]) -> bool:
    description = path.with_suffix(".json")
    if not description.exists():
        return False  # never finished
    try:
        told = json.loads(description.read_text("utf-8"))
        valid = path.stat().st_size == 2 * prod(shape) and told["checksum"] == _checksum(path)
    except (OSError, ValueError, KeyError, TypeError):
        valid = False
    if not valid:
        log.warning("%s is damaged and is computed again", path)
    return valid


def _checksum(path: Path) -> int:
    """The checksum of a whole file, at about a gigabyte a second."""
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            checksum = zlib.crc32(block, checksum)
    return checksum


@contextlib.contextmanager
def _locked(path: Path, what: str) -> Iterator[None]:
    """Hold a lock, which ends with the process; wait while another process holds it. Some systems have no locks."""
    try:
        file = path.open("a")
    except OSError as error:
        raise UserError(f"data.cache={path.parent}: {os_error_message(error)}", exit_code=1) from None
    with file:
        waited = False
        while fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not waited:
                    log.info("waiting for another run that computes %s", what)
                waited = True
                time.sleep(0.5)
            except OSError:  # no locks on this file system
                break
        yield


def view_order(seed: int, block: int, *, images: int, views: int) -> Tensor:
    """A random order of the views of every image, int64 `(images, views)`, a pure function of the arguments."""
    generator = torch.Generator().manual_seed(derived_seed(seed, "order of views", block))
    return torch.rand(images, views, generator=generator).argsort(dim=1)


class ViewChoice:
    """Draws the cached views of images: a pure function of (seed, epoch, index).

    Args:
        seed: The run's seed.
        images: Number of images.
        views: V, cached views of each.
    """

    def __init__(self, seed: int, *, images: int, views: int):
        self.seed, self.images, self.views = seed, images, views
        self._orders: dict[int, Tensor] = {}

    def one(self, epoch: int, index: Tensor) -> Tensor:
        """A view of each image `(B,)`; in V epochs, an image's views all occur once."""
        block, place = divmod(epoch, self.views)
        return self._order(block)[index, place]

    def two(self, epoch: int, index: Tensor, repeat: Tensor) -> Tensor:
        """Two different views of each image `(B, 2)`, other ones for earlier occurrences in the epoch, `(B,)`."""
        places = (2 * repeat[:, None] + torch.arange(2)) % self.views
        return self._order(epoch)[index[:, None], places]

    def _order(self, block: int) -> Tensor:
        if block not in self._orders:
            self._orders = {block: view_order(self.seed, block, images=self.images, views=self.views)}
        return self._orders[block]


class CachedImages(Dataset):
    """Images in order by their cached rows; a list of positions gives a batch.

    Args:
        rows: Rows `(n, 1, F)`.
        known: Values for each image, tensors `(n,)` by name.
    """

    def __init__(self, rows: Tensor, known: dict[str, Tensor]):
        self.rows, self.known = rows, known

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, positions: list[int]) -> Batch:
        index = torch.tensor(positions)
        known = {name: values[index] for name, values in self.known.items()}
        return {"image": self.rows[index, 0], **known, "image_index": index, "skipped": torch.tensor(0)}


def cached_loader(rows: Tensor, known: dict[str, Tensor], *, batch_size: int) -> OrderedLoader:
    """Batches of `CachedImages` in order, read in this process."""
    data = CachedImages(rows, known)
    return OrderedLoader(data, batch_size=batch_size, collate_fn=as_it_is, **loader_options(0, TIMEOUT))


def as_it_is(batch: Batch) -> Batch:
    """A batch that its data set has made already."""
    return batch
