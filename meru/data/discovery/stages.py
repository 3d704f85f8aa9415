"""Classes and images that arrive in stages: continual generalized category discovery.

Stage 1 has all labelled images, the first unlabelled images of old classes, and those of a first share of the new
classes. Every later stage brings unlabelled images of the classes seen so far and of the next share of new classes.
The protocol is near that of Ma et al., "Happy: A Debiased Learning Framework for Continual Generalized Category
Discovery", NeurIPS 2024: new classes in random order, no label after the first stage.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from meru.data.discovery.splits import DiscoveryData, DiscoverySplit
from meru.data.sampling import derived_seed, steps_per_epoch
from meru.errors import UserError, require

EARLIER_IMAGES = ("all", "sample", "none")


@dataclass(frozen=True)
class Stages:
    """What is there in each stage; stages are counted from 0.

    Attributes:
        num_old: Number of old classes, all of which are there from the start.
        class_stage: The stage in which each class arrives, old ones in 0, int64 `(C,)`.
        image_stage: The stage in which each training image arrives, int64 `(n,)`.
        images: For each stage, the training images that it trains on, in order, int64: those that arrive in it and what
            remains of earlier ones.
    """

    num_old: int
    class_stage: Tensor
    image_stage: Tensor
    images: tuple[Tensor, ...]

    def __len__(self) -> int:
        return len(self.images)

    def open_classes(self, stage: int, num_classes: int) -> int:
        """The classes of a classifier of `num_classes` that take part in a stage: the old ones and a share of the rest.

        With the number of classes in the data, as many as have arrived. Which new class a row becomes is not fixed.
        """
        return self.num_old + (num_classes - self.num_old) * (stage + 1) // len(self)

    def measured(self, split: DiscoverySplit, stage: int) -> Tensor:
        """The images of a split without labelled ones to measure a stage on: of the classes that have arrived, `(m,)`.

        Args:
            split: Test images.
            stage: From 0.
        """
        return (~split.labelled & (self.class_stage[split.labels] <= stage)).nonzero().flatten()

    def unlabelled(self, split: DiscoverySplit, stage: int) -> Tensor:
        """The unlabelled training images that have arrived by a stage, `(m,)`."""
        return (~split.labelled & (self.image_stage <= stage)).nonzero().flatten()

    def chosen(self, images: Tensor) -> Tensor:
        """Places of training images, `(m,)`, as a mask of all, bool `(n,)`."""
        return torch.zeros(len(self.image_stage), dtype=torch.bool).index_fill(0, images, True)

    def passes_before(self, stage: int, *, batches: int, full_batch: int) -> int:
        """Passes over their images that earlier stages have begun.

        Args:
            stage: From 0.
            batches: Batches of each stage.
            full_batch: Images of all processes in a batch.
        """
        lengths = (steps_per_epoch(len(images), batch_size=full_batch) for images in self.images[:stage])
        return sum(-(-batches // each) for each in lengths)


def stages_of(
    data: DiscoveryData, *, stages: int, first_share: float, earlier_images: str, kept_share: float, seed: int
) -> Stages:
    """Draw what arrives when.

    Args:
        data: All images of the run.
        stages: Number of stages, at least 2.
        first_share: Share of a class's unlabelled images that arrive together with the class; the others are divided
            evenly among the later stages. Classes of the last stage arrive with all their images.
        earlier_images: `all`, `sample` or `none` of the images of earlier stages remain for training.
        kept_share: For `sample`, the share of each stage's images, the same ones in all later stages.
        seed: Of the order of new classes, the division of images, and the sample.

    Raises:
        UserError: if a stage has no new class or no image of one, or images are of unknown classes.
    """
    require(earlier_images, EARLIER_IMAGES, key="discovery.earlier_images")
    given, new = f"discovery.stages={stages}", len(data.class_names) - data.num_old
    if data.has_unknown:
        raise UserError(f"{given}: some training images are of unknown classes, which cannot arrive in turn; use 1")
    if new < stages:
        raise UserError(
            f"{given}: every stage brings new classes, and the data have {new} of them: set it to {max(new, 1)} or less"
        )
    class_stage = _stage_of_classes(new, stages, num_old=data.num_old, seed=seed)
    image_stage = _stage_of_images(data.train, class_stage, stages=stages, first_share=first_share, seed=seed)
    for stage in range(stages):
        arrive = data.train.labels[image_stage == stage]
        if not (class_stage[arrive] == stage)[arrive >= data.num_old].any():
            raise UserError(f"{given}: stage {stage + 1} has no training image of its new classes; set it lower")
    kept = torch.ones(len(image_stage), dtype=torch.bool)
    if earlier_images != "all":
        kept = _sample(image_stage, stages, share=kept_share if earlier_images == "sample" else 0.0, seed=seed)
    trained = (((image_stage == stage) | (kept & (image_stage < stage))) for stage in range(stages))
    return Stages(data.num_old, class_stage, image_stage, tuple(each.nonzero().flatten() for each in trained))


def _stage_of_classes(new: int, stages: int, *, num_old: int, seed: int) -> Tensor:
    """Old classes in stage 0, new ones in random order, as evenly as possible with the larger shares last."""
    arrives = torch.zeros(num_old + new, dtype=torch.int64)
    order = torch.randperm(new, generator=_generator(seed, "order of classes"))
    for stage in range(stages):
        arrives[num_old + order[new * stage // stages : new * (stage + 1) // stages]] = stage
    return arrives


def _stage_of_images(
    split: DiscoverySplit, class_stage: Tensor, *, stages: int, first_share: float, seed: int
) -> Tensor:
    """Labelled images in stage 0; unlabelled ones with their class or later."""
    arrives = torch.zeros(len(split), dtype=torch.int64)
    generator = _generator(seed, "stages of images")
    for number, first in enumerate(class_stage.tolist()):
        images = (~split.labelled & (split.labels == number)).nonzero().flatten()
        images = images[torch.randperm(len(images), generator=generator)]
        later = stages - 1 - first
        at_once = round(first_share * len(images)) if later else len(images)
        arrives[images] = first
        if later:
            rest = images[max(at_once, min(1, len(images))) :]  # a class arrives with an image at least
            arrives[rest] = first + 1 + torch.arange(len(rest)) * later // max(1, len(rest))
    return arrives


def _sample(image_stage: Tensor, stages: int, *, share: float, seed: int) -> Tensor:
    """A share of the images of each stage, bool `(n,)`, at least one image unless the share is 0."""
    kept = torch.zeros(len(image_stage), dtype=torch.bool)
    for stage in range(stages if share else 0):
        images = (image_stage == stage).nonzero().flatten()
        order = torch.randperm(len(images), generator=_generator(seed, "kept images", stage))
        kept[images[order[: max(1, round(share * len(images)))]]] = True
    return kept


def _generator(*parts: int | str) -> torch.Generator:
    return torch.Generator().manual_seed(derived_seed(*parts))


def check_batches(stages: Stages, check: Callable[[int], object]) -> None:
    """Check that the images of every stage fill a batch, before anything is trained.

    Args:
        stages: The stages.
        check: Raises a `UserError` if so many images are too few.
    """
    for stage, images in enumerate(stages.images, start=1):
        try:
            check(len(images))
        except UserError as error:
            raise UserError(f"discovery.stages={len(stages)}, stage {stage}: {error}") from None
