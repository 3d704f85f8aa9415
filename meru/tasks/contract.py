"""The interface between a kind of training and `meru.runs`.

`meru.runs` contains general code for training, for the end of a run and for evaluation. It calls the methods of a task
and does not depend on captions or on classes to discover.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from meru import distributed, sharing
from meru.assemble import Pretrained
from meru.data.cache_files import cache_folder
from meru.data.cached_views import CachedViews
from meru.data.loading import reading_options, training_options
from meru.data.pixels import CachedPixels, cached_pixels
from meru.data.records import Images
from meru.data.sampling import BatchPlan
from meru.data.transforms import Transforms
from meru.data.workers import worker_options

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Figures = dict[str, float | None]


class Findings(NamedTuple):
    """The results of an evaluation.

    Attributes:
        figures: Figures by name, explained in `meru.reports.tables`; empty if no image decodes.
        details: Data for plots that are not figures; None if there are none.
    """

    figures: Figures
    details: Any = None


class Task(ABC):
    """One kind of training, with the data of one run. A run calls the methods in the order in which they are defined.

    Attributes:
        validates: Whether a validation split may select the weights; otherwise the last weights are used.
        config: The run's configuration.
        device: Device of this process.
        data: Has `train`, the training images, and `paths()`, the image files of each split.
        epoch_state: State that `batches` computes at the start of an epoch and uses until its end, and the figures of
            the stages that have ended; kept in checkpoints.
        cache: Cached output of the frozen part of the image tower; None if not used. Only training uses it: the weights
            of a finished run need not be those that the cache was made with.
    """

    validates: ClassVar[bool] = False

    def __init__(self, config: DictConfig, *, device: torch.device):
        self.config = config
        self.device = device
        self.data = self.load_data()
        self.epoch_state: dict[str, Tensor | float] = {}
        self.cache: CachedViews | None = None
        self._pixels: CachedPixels | None = None

    @abstractmethod
    def load_data(self) -> Any:
        """Load the splits that the configuration's section `data` describes.

        Raises:
            UserError: if the data are missing or malformed.
        """

    # ---------------------------------------------------------------- training

    def complete_config(self) -> DictConfig:
        """Complete the configuration from the data, for instance by the number of classes; stored as `config`."""
        return self.config

    @abstractmethod
    def describe(self) -> str:
        """Describe the data and its size in one line for the log."""

    @property
    def stages(self) -> int:
        """Stages of the run, each of `trainer.epochs` epochs with schedules of its own."""
        return 1

    def images_per_epoch(self) -> int:
        """Training images of all processes in an epoch.

        Raises:
            UserError: if they cannot be divided between the processes.
        """
        return len(self.data.train)

    def prepare(self, pretrained: Pretrained, *, begun: bool) -> None:  # noqa: B027, a task may need nothing
        """Prepare the model for the first step; `begun` says that the weights come from a checkpoint."""

    @abstractmethod
    def batches(self, pretrained: Pretrained, plan: BatchPlan, start: int) -> Iterable[dict[str, Tensor]]:
        """Load the batches of this process from number `start` to the end of the run.

        Called after the weights of a resumed run have been loaded.
        """

    def at_stage_end(self, pretrained: Pretrained, model: nn.Module, stage: int) -> Figures:
        """Compute the figures of a model at the end of a stage, counted from 0; as `evaluate`, in all processes."""
        return {}

    def validation(self, pretrained: Pretrained) -> Callable[[nn.Module], Figures] | None:
        """A function that evaluates a model, for instance an average, on the validation split; None without a split."""
        return None

    def loader_options(self, plan: BatchPlan, start: int) -> dict[str, Any]:
        """Arguments of every loader of training batches."""
        return {
            "seed": self.config.seed,
            "batch_size": plan.batch_size,
            "total_steps": self.stages * self.config.trainer.epochs * plan.batches_per_epoch,
            "start_step": start,
            "rank": distributed.rank(),
            "world_size": plan.world_size,
            **self.reading(),
            **training_options(self.config.data),
        }

    def reading(self) -> dict[str, Any]:
        """Arguments of loaders for reading images, including the number of processes."""
        return {**worker_options(self.config.data), **reading_options(self.config.data)}

    def cached_pixels(self, images: Images) -> CachedPixels | None:
        """The training images, decoded and reduced, found or computed; None unless `data.image_cache` asks for it."""
        side, section = self.config.data.get("image_cache"), self.config.data  # missing in older runs
        if side is None or isinstance(images, Tensor):  # these are decoded already
            return None
        if self._pixels is None:
            self._pixels = cached_pixels(
                images,
                side=side,
                folder=cache_folder(section.get("cache")),
                reading={**reading_options(section), "decode": section.get("decode", "exact")},
                workers=worker_options(section),
            )
        return self._pixels

    # ---------------------------------------------------------------- cached views

    def use_cached_views(self, pretrained: Pretrained) -> None:
        """Use cached views from now on, if the configuration asks for them; the frozen weights must be loaded."""
        if self.cache is None:
            self.cache = CachedViews.of(self.config.data, pretrained.model, device=self.device)

    def cached_training_views(self, images: Images, transforms: Transforms) -> Tensor | None:
        """Cached rows of the views of the training images, `(n, V, F)`; None without a cache."""
        if self.cache is None:
            return None
        rows = self.cache.rows(images, transforms.training, views=self.cache.views, what="training images")
        distributed.wait_for_all()  # machines without a folder in common compute the rows each for itself
        return rows

    def cached_images(self, images: Images, transform: nn.Module) -> Tensor | None:
        """Cached rows of images as evaluation sees them, `(n, 1, F)`; None without a cache."""
        if self.cache is None:
            return None
        rows = self.cache.rows(images, transform, what="images for evaluation")
        if sharing.share()[1] > 1:
            distributed.wait_for_all()
        return rows

    # ---------------------------------------------------------------- figures

    @classmethod  # noqa: B027, a task may refuse nothing
    def check_question(cls, asked: DictConfig, *, name: str) -> None:
        """Refuse options that do not apply to a run of this kind, before anything is read.

        Args:
            asked: A configuration of `configs/evaluate.yaml`.
            name: Name of the run.
        """

    @abstractmethod
    def require_images(self, split: str | None) -> None:
        """Raise a `UserError` unless the requested split has images to evaluate on; None: the default images."""

    @abstractmethod
    def name_of(self, split: str | None) -> str:
        """Name of a split's images in a table's title; None: the images of the evaluation at the end of a run."""

    @abstractmethod
    def evaluate(self, pretrained: Pretrained, *, split: str | None = None) -> Findings:
        """Compute all figures of a model on a split; None: on the images of the evaluation at the end of a run."""

    @abstractmethod
    def table(self, figures: Figures, title: str, *, model: nn.Module) -> str:
        """Format the model's main figures on at most 24 lines; the JSON file contains all of them."""

    def plots(self, names: Sequence[str], pretrained: Pretrained, *, finished: bool) -> dict[str, Figure]:
        """Draw plots of `evaluation.figures` from a sample of the data; those that do not apply are left out.

        The model's mode and the random states are as before.

        Args:
            names: Names of plots.
            pretrained: The model.
            finished: Whether the run is at its end; before, the test split is not used.
        """
        return {}

    @abstractmethod
    def draw(self, findings: Findings, folder: Path, pretrained: Pretrained, *, logger: Any, step: int) -> None:
        """Save the plots of a finished run in its folder; one that fails is left out with a warning."""
