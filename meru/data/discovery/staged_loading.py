"""Batches of a category discovery run whose images arrive in stages."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor

from meru.data.discovery.loading import discovery_training_loader
from meru.data.discovery.splits import DiscoverySplit
from meru.data.discovery.stages import Stages
from meru.data.sampling import derived_seed
from meru.data.workers import EpochwiseLoader


def staged_training_loader(
    split: DiscoverySplit,
    stages: Stages,
    *,
    num_classes: int,
    stage_steps: int,
    start_step: int,
    total_steps: int,
    batch_size: int,
    seed: int,
    world_size: int = 1,
    neighbours: Callable[[int, Tensor], Tensor] | None = None,
    **options,
) -> EpochwiseLoader:
    """Batches of this process from `start_step` to `total_steps`, through all stages.

    A stage makes passes over its own images, and its loader is made when the last batch of the stage before has been
    used.

    Args:
        split: All training images.
        stages: Which of them each stage has.
        num_classes: Number of classes in the classifier.
        stage_steps: Batches of each stage.
        start_step, total_steps, batch_size, seed, world_size, options: As for `discovery_training_loader`, counted over
            the whole run.
        neighbours: For the sampler of that name: takes the number of passes that the run has begun before, and the
            images of the stage, int64 `(m,)`; returns places in the latter, int64 `(m, k)`.

    Returns:
        Batches as those of `discovery_training_loader`, with `classes`, the number of classes that take part.
    """

    def of_stage(start: int, until: int) -> Iterator[dict[str, Tensor | int]]:
        stage = start // stage_steps
        begun, images = stage * stage_steps, stages.images[stage]
        passes = stages.passes_before(stage, batches=stage_steps, full_batch=batch_size * world_size)
        loader = discovery_training_loader(
            split,
            images=images,
            first_epoch=passes,
            start_step=start - begun,
            total_steps=until - begun,
            batch_size=batch_size,
            seed=derived_seed(seed, "stage", stage),
            world_size=world_size,
            neighbours=neighbours and (lambda epoch: neighbours(passes + epoch, images)),
            **options,
        )
        classes = stages.open_classes(stage, num_classes)
        for batch in loader:
            yield {**batch, "classes": classes}

    return EpochwiseLoader(of_stage, start_step=start_step, total_steps=total_steps, epoch=stage_steps)
