"""Rows of numbers for views of images, computed once and kept in a file that several runs share.

The views come from a fixed seed, so that runs of all seeds and methods share a file; each run draws which view it uses.
`meru.data.cache_files` writes the files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from math import prod
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from meru.data.cache_files import stored_file
from meru.data.loading import Batch, ImageDataset
from meru.data.records import Images
from meru.data.sampling import derived_seed
from meru.data.transforms import ChangedFirst, EvaluationTransform
from meru.data.views import Size, Window, cut
from meru.data.workers import TIMEOUT, OrderedLoader, loader_options
from meru.errors import UserError

VERSION = 1
SEED = 0  # of the views; a run's own seed only chooses among them


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
            decoded = self.decode(index)
        except UserError as error:
            raise UserError(
                f"{error}; data.cached_views needs every image: restore it, or set data.cached_views=0", exit_code=1
            ) from None
        views = torch.stack([self._view(*decoded, index, view) for view in range(self.views)])
        return {"image": views, **self.facts(index, skipped=False)}

    def _view(self, image: Tensor, full: Size, index: int, view: int) -> Tensor:
        if self.window is not None:
            image = cut(image, self.window(index, view, *full), full=full)
        with torch.random.fork_rng(devices=[]):
            kind = "view" if self.window is None else "part"
            torch.default_generator.manual_seed(derived_seed(SEED, kind, index, view))
            return self.transform(image)


def transform_facts(transform: nn.Module) -> str:
    """All settings of a transform, those of its parts included."""
    if isinstance(transform, (EvaluationTransform, ChangedFirst)):
        return transform.facts()
    return repr(
        [
            (name, type(module).__name__, sorted((key, repr(value)) for key, value in vars(module).items()
                                                 if not key.startswith("_") and key != "training"))
            for name, module in transform.named_modules()
        ]
    )  # fmt: skip


def stored_rows(
    folder: Path, facts: object, *, shape: tuple[int, int, int], compute: Callable[[], Iterable[Tensor]], what: str
) -> Tensor:
    """The rows `(n, V, F)`, float16, in memory shared with other processes; computed if no valid file holds them.

    Args:
        folder: Folder of all such files.
        facts: All that the rows depend on; equal values have the same `repr`.
        shape: `(n, V, F)`.
        compute: Gives the rows in order, `(b, V, F)` each.
        what: Describes the rows for the log.

    Raises:
        UserError: if the folder cannot be used, or the disk is full.
    """

    def blocks() -> Iterator[Tensor]:
        for rows in compute():
            if not rows.isfinite().all():
                raise UserError(
                    "data.cached_views: features of the frozen blocks exceed half precision; set it to 0", exit_code=1
                )
            yield rows

    path = stored_file(folder, (VERSION, facts, shape), blocks=blocks, what=what, without="data.cached_views=0")
    rows = torch.from_file(str(path), shared=False, size=prod(shape), dtype=torch.float16)
    return rows.view(shape)


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
