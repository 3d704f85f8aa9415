"""What a kind of training offers to a run.

`meru.runs` has one skeleton for training, one for the end of a run and one for evaluation. They call the methods of a
task and know neither captions nor classes to discover.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from matplotlib.figure import Figure
from omegaconf import DictConfig
from torch import Tensor, nn

from meru import distributed
from meru.assemble import Pretrained
from meru.data.loading import reading_options
from meru.data.sampling import BatchPlan
from meru.data.workers import worker_options

Figures = dict[str, float | None]


class Findings(NamedTuple):
    """What an evaluation found.

    Attributes:
        figures: Figures by name, as `meru.reports.tables` explains them; empty where no image decodes.
        details: What pictures are drawn of, beside the model; None where that is nothing.
    """

    figures: Figures
    details: Any = None


class Suite(NamedTuple):
    """An evaluation that takes the place of the usual figures: `scripts/evaluate.py suite=<name>`.

    Attributes:
        evaluate: `(model, batches, *, captions, tokenizer, device, class_kind, captions_per_image)` → figures.
            `batches(change)` gives the images of the split in order, each passed through `change` first, uint8
            `(3, H, W)` → uint8 `(3, H', W')`; None: as they are. For the rest see `evaluate_robustness`.
        table: Figures and a title as text.
        picture: Figures and a title as a picture.
    """

    evaluate: Callable[..., Figures]
    table: Callable[[Figures, str], str]
    picture: Callable[[Figures, str], Figure]


class Task(ABC):
    """One kind of training, with the data of one run. A run calls the methods in the order in which they stand here.

    Attributes:
        validates: Whether a validation split may choose the weights; else the last ones count.
        suites: Evaluations by the name that `suite=` takes.
        config: The run's configuration.
        device: This process's.
        data: Has `train`, the training images, and `paths()`, the image files of each split.
        epoch_state: What `batches` found at the start of an epoch and needs to its end; kept in checkpoints.
    """

    validates: ClassVar[bool] = False
    suites: ClassVar[Mapping[str, Suite]] = {}

    def __init__(self, config: DictConfig, *, device: torch.device):
        self.config = config
        self.device = device
        self.data = self.load_data()
        self.epoch_state: dict[str, Tensor | int] = {}

    @abstractmethod
    def load_data(self) -> Any:
        """The splits that the configuration's section `data` describes.

        Raises:
            UserError: if the data are not there, or not as they must be.
        """

    # ---------------------------------------------------------------- training

    def complete_config(self) -> DictConfig:
        """The configuration with what follows from the data, say the number of classes; kept as `config`."""
        return self.config

    @abstractmethod
    def describe(self) -> str:
        """How many images of what there are, for the log."""

    def prepare(self, pretrained: Pretrained, *, begun: bool) -> None:  # noqa: B027, a task may need nothing
        """Do what comes before the first step; `begun` says that the weights come with a checkpoint."""

    @abstractmethod
    def batches(self, pretrained: Pretrained, plan: BatchPlan, start: int) -> Iterable[dict[str, Tensor]]:
        """The batches of this process from number `start` to the end of the run.

        Called when the weights of a resumed run are in the model.
        """

    def validation(self, pretrained: Pretrained) -> Callable[[nn.Module], Figures] | None:
        """Computes the figures of another model, say its average, on validation images; None where there are none."""
        return None

    def loader_options(self, plan: BatchPlan, start: int) -> dict[str, Any]:
        """What every loader of training batches is told."""
        return {
            "seed": self.config.seed,
            "batch_size": plan.batch_size,
            "total_steps": self.config.trainer.epochs * plan.batches_per_epoch,
            "start_step": start,
            "rank": distributed.rank(),
            "world_size": plan.world_size,
            **self.reading(),
        }

    def reading(self) -> dict[str, Any]:
        """How images are read, and by how many processes."""
        return {**worker_options(self.config.data), **reading_options(self.config.data)}

    # ---------------------------------------------------------------- figures

    @classmethod  # noqa: B027, a task may refuse nothing
    def check_question(cls, asked: DictConfig, *, name: str) -> None:
        """Refuse what a run of this kind cannot be asked, before anything is read.

        Args:
            asked: As `configs/evaluate.yaml` describes it.
            name: Of the run.
        """

    @abstractmethod
    def require_images(self, split: str | None) -> None:
        """Raise a `UserError` unless the split that was asked for has images to evaluate on; None: the usual ones."""

    @abstractmethod
    def name_of(self, split: str | None) -> str:
        """What a table's title calls the images of a split; None: those that a run is evaluated on at its end."""

    @abstractmethod
    def evaluate(self, pretrained: Pretrained, *, split: str | None = None) -> Findings:
        """All figures of a model on a split; None: on what a run is evaluated on at its end."""

    def evaluate_suite(
        self, suite: Suite, pretrained: Pretrained, *, split: str | None, captions_per_image: int | None
    ) -> Figures:
        """The figures of one of `suites` on a split."""
        raise NotImplementedError  # without suites it is never called

    @abstractmethod
    def table(self, figures: Figures, title: str, *, model: nn.Module) -> str:
        """The figures that the model is made for, on at most 24 lines; all of them are in the JSON file."""

    @abstractmethod
    def draw(self, findings: Findings, folder: Path, pretrained: Pretrained, *, logger: Any, step: int) -> None:
        """Save the pictures of a finished run in its folder; one that fails is left out with a warning."""
