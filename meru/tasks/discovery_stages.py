"""The stages of a category discovery run, as its configuration asks for them."""

from __future__ import annotations

from functools import partial

from omegaconf import DictConfig

from meru import distributed
from meru.data.discovery.splits import DiscoveryData
from meru.data.discovery.stages import Stages, check_batches, stages_of
from meru.data.sampling import BatchPlan
from meru.errors import UserError


def number_of_stages(config: DictConfig) -> int:
    """Number of stages; 1 in runs of earlier versions, and if everything is there from the start."""
    return config.discovery.get("stages") or 1


def arriving_stages(config: DictConfig, data: DiscoveryData) -> Stages | None:
    """What arrives when, drawn with the run's seed; None if everything is there from the start.

    Raises:
        UserError: as `stages_of`.
    """
    if number_of_stages(config) == 1:
        return None
    names = ("stages", "first_share", "earlier_images", "kept_share")
    return stages_of(data, seed=config.seed, **{name: config.discovery[name] for name in names})


def check_stages(stages: Stages, config: DictConfig) -> None:
    """Check the number of classes, and that every stage can be trained.

    Args:
        stages: Those of the run.
        config: Its configuration; `discovery.num_classes` is as it was asked for.

    Raises:
        UserError: if classes are to be estimated, or too few to open one in every stage, or a stage has too few images.
    """
    given, wanted = f"discovery.stages={len(stages)}", config.discovery.num_classes
    if wanted == "estimate":
        raise UserError(f"{given}: discovery.num_classes=estimate would use images that arrive later; give a number")
    if wanted is not None and wanted - stages.num_old < len(stages):
        raise UserError(
            f"{given} with discovery.num_classes={wanted}: every stage opens a new class, so give at least "
            f"{stages.num_old + len(stages)}"
        )
    if config.discovery.sampler == "neighbours":
        count, least = config.discovery.neighbours, min(map(len, stages.images))
        if count > least:
            raise UserError(f"discovery.neighbours={count}: a stage has {least} training images; choose fewer")
    check_batches(stages, partial(_plan, config))


def _plan(config: DictConfig, images: int) -> BatchPlan:
    options = {"world_size": distributed.world_size(), "accumulate": config.trainer.accumulate}
    return BatchPlan.of(config.data, images=images, **options)
