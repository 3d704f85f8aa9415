"""The interface between the suites and `scripts/evaluate.py suite=<name>`.

A suite says what data it needs. It is given a `Subject`, a model with the data of that kind, and gives figures, a table
and a picture. The suites are listed in `meru.evaluation.suites`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from meru import distributed, sharing
from meru.assemble import Pretrained
from meru.data.cache_files import cache_folder, can_hold
from meru.data.cached_rows import cached_loader
from meru.data.cached_views import CachedViews
from meru.data.discovery.described import DescribedDiscovery
from meru.data.discovery.splits import DiscoveryData
from meru.data.labelled import LabelledData, LabelledImages, LabelSets
from meru.data.loading import ordered_loader, read_or_skip, reading_options
from meru.data.records import ImageRecord, Images, ImageTextData
from meru.data.transforms import ChangedFirst
from meru.data.workers import worker_options
from meru.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger("meru")

SPLITS = ("test", "validation", "train")


class Need(NamedTuple):
    """A kind of data.

    Attributes:
        key: The key of the section `data` whose function loads it.
        kind: What the function gives.
        what: Its name in messages.
    """

    key: str
    kind: type
    what: str


CAPTIONS = Need("load", ImageTextData, "images with captions")
HEADS = Need("load", ImageTextData, "images with captions")  # as they are, whatever data.hidden_heads says
LABELS = Need("load_labelled", LabelledData, "labelled images")
LABEL_SETS = Need("load_label_sets", LabelSets, "images with several labels")
DISCOVERY = Need("load_discovery", DiscoveryData, "images of old and new classes")
DESCRIBED = Need("load_discovery", DescribedDiscovery, "images of old and new classes with captions")


@dataclass(frozen=True)
class Subject:
    """What a suite evaluates.

    Attributes:
        pretrained: The model, its tokenizer and its transforms.
        data: Of the kind that the suite needs.
        section: The configuration's section `data`.
        settings: Keys of `configs/evaluate.yaml`: `split`, `batch_size` and the suite's of `suite_settings.SETTINGS`.
        device: The model's device.
    """

    pretrained: Pretrained
    data: Any
    section: Mapping
    settings: Mapping
    device: torch.device

    @property
    def model(self) -> nn.Module:
        """The model, in evaluation mode."""
        return self.pretrained.model

    @property
    def tokenize(self) -> Callable[[list[str]], Tensor]:
        """Captions → int64 `(B, L)`, padded with 0."""
        return self.pretrained.tokenizer.batch

    @property
    def split(self) -> str:
        """The split that was asked for; `test` unless one was named."""
        return self.settings.get("split") or "test"

    def records(self) -> Sequence[ImageRecord]:
        """The images of the split, from data with captions.

        Raises:
            UserError: if it has no image that decodes.
        """
        records = getattr(self.data, self.split)
        self._require(records, {split: getattr(self.data, split) for split in SPLITS})
        self._require_decoding([record.path for record in records])
        return records

    def labelled(self, split: str | None = None) -> LabelledImages:
        """The labelled images of a split; None: of the one that was asked for.

        Raises:
            UserError: if it has no image that decodes.
        """
        splits = {"test": self.data.test, "train": self.data.train}
        images = splits.get(split or self.split, ())
        self._require(images, splits, split)
        self._require_decoding(images.images)
        return images

    def label_sets(self) -> LabelSets:
        """The images with several labels, which are one split.

        Raises:
            UserError: if another split was asked for, or no image decodes.
        """
        if self.split != "test":
            raise UserError(f"split={self.split}: these data are read for the test only; leave split out")
        self._require_decoding(self.data.images)
        return self.data

    def batches(
        self,
        images: Images,
        known: Mapping[str, Tensor],
        change: Callable[[Tensor], Tensor] | None = None,
        *,
        rows: bool = False,
    ) -> Iterable[dict[str, Tensor]]:
        """Load images once and in order, with the model's transform for evaluation.

        Args:
            images: As for `meru.data.loading.ImageDataset`.
            known: Values of each image that its batch holds, tensors `(n,)` by name.
            change: Is applied to each image before the transform, uint8 `(3, H, W)` → uint8 `(3, H', W')`; None: no
                change.
            rows: Whether the batches of a run with `data.cached_views` may hold rows of `frozen_output` as `image`,
                kept in `data.cache` for all runs with this frozen part. They are rounded to half precision.
        """
        transform = self.pretrained.transforms.evaluation
        transform = ChangedFirst(change, transform) if change else transform
        if rows and (cached := self._rows(images, transform)) is not None:
            return cached_loader(cached, dict(known), batch_size=self.settings["batch_size"])
        return ordered_loader(
            images,
            known,
            transform=transform,
            batch_size=self.settings["batch_size"],
            **worker_options(self.section),
            **reading_options(self.section),
        )

    def batches_of(
        self,
        records: Sequence[ImageRecord],
        change: Callable[[Tensor], Tensor] | None = None,
        *,
        rows: bool = False,
    ) -> Iterable[dict[str, Tensor]]:
        """`batches` of records, with their `class_index`."""
        classes = torch.tensor([record.class_index for record in records], dtype=torch.int64)
        return self.batches([record.path for record in records], {"class_index": classes}, change, rows=rows)

    @cached_property
    def _cache(self) -> CachedViews | None:
        """The cached rows of the model's frozen part; None if its data do not ask for them, or images may be skipped.

        A cache must have a row for every image. A model from another machine may name a folder that this one lacks.
        """
        if not self.section.get("cached_views") or reading_options(self.section)["on_error"] == "skip":
            return None
        folder = cache_folder(self.section.get("cache"))
        if not can_hold(folder):
            log.info("data.cache=%s cannot be written, so every image is read", folder)
            return None
        return CachedViews.of(self.section, self.model, device=self.device)

    def _rows(self, images: Images, transform: nn.Module) -> Tensor | None:
        """Rows `(n, 1, F)`, found or computed; None where they cannot be used."""
        changed = isinstance(transform, ChangedFirst) and not hasattr(transform.change, "facts")
        if self._cache is None or changed:
            return None
        rows = self._cache.rows(images, transform, what="images for evaluation")
        if sharing.share()[1] > 1:
            distributed.wait_for_all()
        return rows

    def _require(self, images: Sequence, splits: Mapping[str, Sequence], split: str | None = None) -> None:
        if not len(images):
            others = [name for name, each in splits.items() if len(each)]
            split = split or self.split
            raise UserError(f"split={split}: the data have no {split} images; choose {' or '.join(others)}")

    def _require_decoding(self, images: Images) -> None:
        reading = reading_options(self.section)
        if reading["on_error"] != "skip":
            return
        if all(not isinstance(each, Tensor) and read_or_skip(each, **reading) is None for each in images):
            raise UserError(f"none of the {len(images)} images decodes (first: {images[0]}): restore them")


class Answer(NamedTuple):
    """What a suite may give in place of figures alone.

    Attributes:
        figures: By name.
        files: Ending of a file's name → its text, or a figure to draw; written beside the figures.
    """

    figures: dict[str, float | None]
    files: dict[str, str | Figure]


class Suite(NamedTuple):
    """An evaluation that replaces the usual figures: `scripts/evaluate.py suite=<name>`.

    Attributes:
        evaluate: A `Subject` → figures by name, or an `Answer`.
        table: Formats figures and a title as text.
        picture: Plots figures with a title.
        needs: The data.
        images: What it evaluates on if no split is named, for the title.
        reads_text: Whether the model must have a text tower; a run of category discovery has none.
    """

    evaluate: Callable[[Subject], dict[str, float | None] | Answer]
    table: Callable[[Mapping[str, float | None], str], str]
    picture: Callable[[Mapping[str, float | None], str], Figure]
    needs: Need = CAPTIONS
    reads_text: bool = True
    images: str = "test split"


def on_captions(
    evaluate: Callable[..., dict[str, float | None]], *settings: str
) -> Callable[[Subject], dict[str, float | None]]:
    """The function of a suite that needs images with captions and nothing else of its subject.

    Args:
        evaluate: `(model, batches, *, captions, tokenizer, device, class_kind, captions_per_image)` → figures.
            `batches(change)` loads the images of the split as `Subject.batches`, `captions` are those of each record
            by its `image_index`. For the other arguments see `meru.evaluation.robustness.evaluate_robustness`.
        settings: Further keys of configs/evaluate.yaml that it takes as arguments.
    """

    def evaluate_subject(subject: Subject) -> dict[str, float | None]:
        records = subject.records()

        def batches(change: Callable[[Tensor], Tensor] | None) -> Iterable[dict[str, Tensor]]:
            log.info("images, %s", change or "unchanged")
            return subject.batches_of(records, change, rows=True)

        return evaluate(
            subject.model,
            batches,
            captions=[record.captions for record in records],
            tokenizer=subject.tokenize,
            device=subject.device,
            class_kind=subject.data.class_kind,
            captions_per_image=subject.settings["captions_per_image"],
            **{name: subject.settings[name] for name in settings},
        )

    return evaluate_subject
