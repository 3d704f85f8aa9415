"""Batches of images with captions for training, and of images alone for evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from meru.data.augmentation import CaptionAugmentation
from meru.data.cached_rows import SEED, ViewChoice, as_it_is, cached_loader
from meru.data.images import MAXIMUM_PIXELS, decode_content, image_size, read_image
from meru.data.loading import Batch, ImageDataset, collate, ordered_loader, stacked
from meru.data.parts import CropParts, Part
from meru.data.pixels import CachedPixels
from meru.data.records import Crop, ImageRecord
from meru.data.sampling import RunBatches, derived_seed
from meru.data.views import Size, Window, cut
from meru.data.workers import TIMEOUT, Loader, loader_options

Tokenize = Callable[[str], Tensor]  # caption → int64 (L,), start-of-text … end-of-text


class TrainingPairs(ImageDataset):
    """Augmented images, each with a randomly chosen caption; the key is `(epoch, index)`.

    Args:
        records: The training split.
        transform: uint8 `(3, H, W)` → uint8 `(3, S, S)`, drawing from torch's default generator.
        tokenize: Caption → int64 `(L,)`.
        seed: Seed of the choice of captions and of the augmentation.
        parts: Draws one part of each image at random; None: images and captions only.
        queries: Caption → further entries of its sample, see `meru.data.caption_queries.query_entries`; None: none.
        augment_text: Changes captions; None: captions stay as they are.
        pixels: The images of the records, decoded before; None: they are read.
        reading: `on_error`, `maximum_pixels`, `decode` and `augment_on`, as for `ImageDataset`. With `skip`, an image
            that cannot be decoded is replaced by the next one that can, so that batches keep their size.
    """

    def __init__(
        self,
        records: Sequence[ImageRecord],
        *,
        transform: nn.Module,
        tokenize: Tokenize,
        seed: int,
        parts: CropParts | None = None,
        queries: Callable[[str], Batch] | None = None,
        augment_text: CaptionAugmentation | None = None,
        pixels: CachedPixels | None = None,
        **reading,
    ):
        paths, known = _images_and_classes(records)
        super().__init__(paths if pixels is None else pixels, known, transform=transform, **reading)
        if parts:
            self.spare = None  # parts are smaller than any view
        self.records = records
        self.tokenize = tokenize
        self.seed = seed
        self.parts = parts
        self.queries = queries
        self.augment_text = augment_text

    def __getitem__(self, key: tuple[int, int]) -> Batch:
        epoch, index = key
        chosen, skipped, decoded = self.decode_from(index)
        sample = self.drawn(self.records[chosen], *decoded, epoch=epoch, index=index)
        return {**sample, **self.facts(chosen, skipped=skipped)}

    def drawn(self, record: ImageRecord, image: Tensor, full: Size, *, epoch: int, index: int) -> Batch:
        """A random view of an image and a caption of its record: a function of epoch and index.

        Args:
            image: uint8 `(3, H, W)`, perhaps reduced.
            full: Height and width of the full image.
        """
        with torch.random.fork_rng(devices=[]):
            # torch.manual_seed would reset the generator of the GPU too when there are no workers.
            torch.default_generator.manual_seed(derived_seed(self.seed, "sample", epoch, index))
            caption = _drawn_caption(record, self.augment_text)
            sample = {**self.seen(image, full), "tokens": self.tokenize(caption)}
            if self.parts:
                part = self.parts(record, height=full[0], width=full[1], caption=caption)
                if isinstance(part, Crop):
                    image = self._decoded(part, record)
                elif part is not None:
                    image = cut(image, part.window, full=full)
                sample |= self._part_of(image, part)
            if self.queries:
                sample |= self.queries(caption)
        return sample

    def _decoded(self, crop: Crop, record: ImageRecord) -> Tensor:
        """A crop that is an image of its own, uint8 `(3, h, w)`."""
        if isinstance(crop.image, Path):
            return read_image(crop.image, maximum_pixels=self.maximum_pixels)
        place = f"{record.path}, {crop.name}"
        return decode_content(bytearray(crop.image), place, maximum_pixels=self.maximum_pixels)

    def _part_of(self, image: Tensor, part: Part | Crop | None) -> Batch:
        """The entries in a sample for `HyCoCLIP`: the part's, or the whole image's, marked as not to be used."""
        return {
            **self.seen(image, tuple(image.shape[1:]), name="part_image"),
            "part_tokens": self.tokenize(part.phrase if part is not None else ""),
            "has_part": torch.tensor(part is not None),
            "has_part_text": torch.tensor(part is not None and part.phrase != ""),
        }


class WordsOfViews:
    """The caption of every cached view, the part it shows and the part's phrase: a function of position and view.

    Args:
        records: The training split.
        parts: Draws the part.
        augment_text: Changes captions; None: captions stay as they are.
    """

    def __init__(self, records: Sequence[ImageRecord], parts: CropParts, augment_text: CaptionAugmentation | None):
        self.records, self.parts, self.augment_text = records, parts, augment_text

    def __call__(self, index: int, view: int, height: int, width: int) -> tuple[str, Part | None]:
        """Caption and part of an image of `height` × `width` pixels."""
        record = self.records[index]
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(derived_seed(SEED, "words", index, view))
            caption = _drawn_caption(record, self.augment_text)
            return caption, self.parts(record, height=height, width=width, caption=caption)

    def window(self, index: int, view: int, height: int, width: int) -> Window:
        """The window of the part; the whole image if there is none."""
        _, part = self(index, view, height, width)
        return (0, 0, width, height) if part is None else part.window

    def facts(self) -> tuple:
        """All that the windows depend on."""
        words = self.parts.words
        return (
            [record[1:] for record in map(_values, self.records)],
            (words.whole, sorted(words.part_of.items()), self.parts.crops, self.parts.window),
            None if self.augment_text is None else sorted(vars(self.augment_text).items()),
        )


def _values(record: ImageRecord) -> tuple:
    """What a record holds; without weights, what it held before there were any, which names files in the cache."""
    *values, weights = vars(record).values()
    return (*values, weights) if weights else tuple(values)


def _drawn_caption(record: ImageRecord, augment_text: CaptionAugmentation | None) -> str:
    """A caption of the record, chosen and changed with torch's default generator."""
    if record.caption_weights:
        number = int(torch.multinomial(torch.tensor(record.caption_weights, dtype=torch.float64), 1))
    else:
        number = int(torch.randint(len(record.captions), ()))
    return augment_text(record, number) if augment_text else record.captions[number]


class CachedPairs(Dataset):
    """As `TrainingPairs`, on cached views instead of images, which are not read; a list of keys gives a batch.

    Captions are those of `TrainingPairs`, except with parts: then caption, part and phrase belong to the view.

    Args:
        records, tokenize, seed, augment_text: As for `TrainingPairs`; the seed also chooses the views.
        views: Rows of the tower's frozen part for V views of every image, `(n, V, F)`.
        parts: Such rows for a part in each view, and the words; None: images and captions only.
        queries: As for `TrainingPairs`; not used with parts.
        maximum_pixels: As for `ImageDataset`.
    """

    def __init__(
        self,
        records: Sequence[ImageRecord],
        *,
        views: Tensor,
        tokenize: Tokenize,
        seed: int,
        parts: tuple[Tensor, WordsOfViews] | None = None,
        queries: Callable[[str], Batch] | None = None,
        augment_text: CaptionAugmentation | None = None,
        maximum_pixels: int = MAXIMUM_PIXELS,
    ):
        self.records, self.views, self.tokenize, self.seed = records, views, tokenize, seed
        self.parts, self.queries, self.augment_text = parts, queries, augment_text
        self.maximum_pixels = maximum_pixels
        self._drawn: dict[tuple[int, int], tuple[str, Part | None]] = {}
        self.choice = ViewChoice(seed, images=len(records), views=views.shape[1])
        self.class_index = _images_and_classes(records)[1]["class_index"]

    def __len__(self) -> int:
        return len(self.records)

    def __getitems__(self, keys: list[tuple[int, int]]) -> Batch:
        index = torch.tensor([index for _, index in keys])
        view = torch.cat([self.choice.one(epoch, index[row : row + 1]) for row, (epoch, _) in enumerate(keys)])
        batch = {"image": self.views[index, view]}
        if self.parts is None:
            captions = [self._caption(*key) for key in keys]
            batch["tokens"] = self._padded(captions)
            if self.queries:
                batch |= stacked([self.queries(caption) for caption in captions])
        else:
            batch |= self._with_parts(index, view)
        return {
            **batch,
            "class_index": self.class_index[index],
            "image_index": index,
            "skipped": torch.tensor(0),
        }

    def _caption(self, epoch: int, index: int) -> str:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(derived_seed(self.seed, "sample", epoch, index))
            return _drawn_caption(self.records[index], self.augment_text)

    def _with_parts(self, index: Tensor, view: Tensor) -> Batch:
        rows, words = self.parts
        keys = list(zip(index.tolist(), view.tolist(), strict=True))
        for key in set(keys) - self._drawn.keys():
            size = image_size(self.records[key[0]].path, maximum_pixels=self.maximum_pixels)
            self._drawn[key] = words(*key, *size)
        drawn = [self._drawn[key] for key in keys]
        phrases = ["" if part is None else part.phrase for _, part in drawn]
        return {
            "tokens": self._padded([caption for caption, _ in drawn]),
            "part_image": rows[index, view],
            "part_tokens": self._padded(phrases),
            "has_part": torch.tensor([part is not None for _, part in drawn]),
            "has_part_text": torch.tensor([phrase != "" for phrase in phrases]),
        }

    def _padded(self, texts: list[str]) -> Tensor:
        return pad_sequence([self.tokenize(text) for text in texts], batch_first=True)


def training_loader(
    records: Sequence[ImageRecord],
    *,
    batch_size: int,
    seed: int,
    total_steps: int,
    start_step: int = 0,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 2,
    timeout: float = TIMEOUT,
    views: Tensor | None = None,
    view_parts: tuple[Tensor, WordsOfViews] | None = None,
    **samples,
) -> DataLoader:
    """Batches of this process from `start_step` to `total_steps`, through all epochs.

    Steps count batches; `steps_per_epoch` gives the number per epoch. With accumulation, several batches make one
    optimizer step.

    Args:
        records, seed, samples: As for `TrainingPairs`.
        batch_size, total_steps, start_step, rank, world_size: As for `RunBatches`.
        workers, timeout: As for `loader_options`.
        views, view_parts: `views` and `parts` of `CachedPairs`, to train on these instead of the images.

    Returns:
        Batches: `image` uint8 `(B, 3, S, S)`, or cached rows `(B, F)`, or what `taken` takes; `tokens` int64
        `(B, L)`, padded with 0 to the longest caption; `class_index` and `image_index` int64 `(B,)`; `skipped` int64
        `()`, the number of images replaced. With parts also `part_image` and `part_tokens`, of the same types, and
        `has_part` and `has_part_text`, bool `(B,)`. With queries also those of `query_entries`, stacked.
    """
    data, together = TrainingPairs(records, seed=seed, **samples), collate
    if views is not None:
        names = ("tokenize", "queries", "augment_text", "maximum_pixels")
        kept = {name: samples[name] for name in names if name in samples}
        data, together = CachedPairs(records, views=views, parts=view_parts, seed=seed, **kept), as_it_is
        workers = 0  # sending rows between processes would be slower
    batches = RunBatches(
        length=len(records),
        batch_size=batch_size,
        seed=seed,
        rank=rank,
        world_size=world_size,
        start_step=start_step,
        total_steps=total_steps,
    )
    return Loader(data, batch_sampler=batches, collate_fn=together, **loader_options(workers, timeout))


def evaluation_loader(
    records: Sequence[ImageRecord], *, rows: Tensor | None = None, batch_size: int, **options
) -> DataLoader:
    """Every record's image once and in order, without captions.

    Args:
        records: The records of one split.
        rows: Cached rows of the images `(n, 1, F)`, to give these instead of the images.
        batch_size, options: As for `meru.data.loading.ordered_loader`.

    Returns:
        Batches: `image` uint8 `(B, 3, S, S)`, or rows `(B, F)`; `class_index` and `image_index` int64 `(B,)`,
        the latter the position in `records`; `skipped` int64 `()`. Skipped images are not included.
    """
    images, known = _images_and_classes(records)
    if rows is not None:
        return cached_loader(rows, known, batch_size=batch_size)
    return ordered_loader(images, known, batch_size=batch_size, **options)


def _images_and_classes(records: Sequence[ImageRecord]) -> tuple[list, dict[str, Tensor]]:
    classes = torch.tensor([record.class_index for record in records], dtype=torch.int64)
    return [record.path for record in records], {"class_index": classes}
