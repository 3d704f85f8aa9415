"""A whole discovery run: its data, the number of classes, training, and the figures on the unlabelled images."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from functools import partial

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, open_dict
from torch import Tensor, nn

from meru import distributed
from meru.assemble import build, without_pretrained_weights
from meru.configuration.overrides import pasteable
from meru.data.discovery.loading import discovery_training_loader, every_view_loader, weighted_view_loader
from meru.data.discovery.splits import DiscoveryData, DiscoverySplit
from meru.data.loading import check_decoding, reading_options
from meru.data.sampling import BatchPlan
from meru.data.transforms import Transforms
from meru.data.workers import worker_options
from meru.errors import UserError
from meru.evaluation.classes import read_features
from meru.files import user_path
from meru.geometry.all_pairs import exact_product
from meru.metrics.clustering import estimate_num_classes
from meru.runs.data import load_discovery_data
from meru.runs.finish import finish_discovery
from meru.runs.folder import environment, make_run_folder, save_changes
from meru.runs.train import closing, make_logger
from meru.training.loggers import NoLogger
from meru.training.optimizer import build_optimizer, scaled_rate
from meru.training.settings import TrainerSettings
from meru.training.trainer import Trainer

log = logging.getLogger("meru")


def train_discovery(config: DictConfig, *, device: torch.device) -> dict[str, float] | None:
    """Train to the end and say how well the unlabelled training images were sorted.

    The last weights count: choosing others would need the labels that are to be discovered.

    Args:
        config: As `configs/train.yaml` describes it, with a model of `task: discovery`.
        device: This process's.

    Returns:
        The figures in the main process; None in others, and after a signal stopped the run.

    Raises:
        UserError: for whatever the user can put right.
    """
    settings = TrainerSettings.of(config.trainer)
    data = load_discovery_data(config)
    check_decoding(data.paths(), **reading_options(config.data))
    plan = BatchPlan.of(
        config.data, images=len(data.train), world_size=distributed.world_size(), accumulate=settings.accumulate
    )
    folder = user_path(config.resume) if config.resume else None
    begun = folder is not None and (folder / "last.pt").exists()
    asked, config = config, with_num_classes(config, data, device=device)
    torch.manual_seed(config.seed)  # the same weights in every process
    pretrained = build(without_pretrained_weights(config) if begun else config)
    model, transforms = pretrained.model.to(device), pretrained.transforms
    distributed.seed_training(model, config.seed)
    optimizer = build_optimizer(
        model, **instantiate(config.optim, _convert_="all"), images_per_step=plan.images_per_step
    )
    folder = folder or make_run_folder(config, asked=asked)
    logger = make_logger(config, folder, device) if distributed.is_main() else NoLogger()
    log.info("run folder %s", folder)
    rate = scaled_rate(config.optim.learning_rate, config.optim.get("batch_of_rate"), plan.images_per_step)
    log.info("%s", plan.describe(learning_rate=rate))
    log.info(
        "%d training images, %d of them labelled; %d old and %d new classes, %d in the classifier; %s",
        len(data.train),
        int(data.train.labelled.sum()),
        data.num_old,
        len(data.class_names) - data.num_old,
        config.discovery.num_classes,
        ", ".join(f"{name} {value}" for name, value in environment(device).items()),
    )

    released = model.released_batches
    found: dict[str, Tensor | int] = {}

    def neighbours(epoch: int) -> Tensor:
        # A run that resumes within an epoch has the neighbours that the weights at the epoch's start made.
        if found.get("epoch") != epoch:
            find = released_neighbours if released else nearest_images
            found["neighbours"] = find(config, data.train, model, transforms, epoch=epoch, device=device)
            found["epoch"] = epoch
        return found["neighbours"]

    def batches(start_step: int) -> Iterable[dict[str, Tensor]]:
        # Called once the weights of a resumed run are in the model: views kept before would be those of an empty tower.
        return discovery_training_loader(
            data.train,
            transform=transforms.training,
            sampler=config.discovery.sampler,
            neighbours=neighbours,
            independent=released,
            seed=config.seed,
            total_steps=settings.epochs * plan.batches_per_epoch,
            start_step=start_step,
            rank=distributed.rank(),
            **worker_options(config.data),
            **reading_options(config.data),
            kept_views=keep_views(config, data.train, model, transforms, device=device),
            batch_size=plan.batch_size,
            world_size=plan.world_size,
        )

    trainer = Trainer(
        model=model,
        optimizer=optimizer,
        batches=batches,
        batches_per_epoch=plan.batches_per_epoch,
        evaluate=None,
        logger=logger,
        folder=folder,
        device=device,
        settings=settings,
        epoch_state=found,
        on_resumed=partial(save_changes, folder, config),
    )
    figures = None
    with closing(logger, folder):
        finished = trainer.run()
        if distributed.is_main() and finished:
            figures = finish_discovery(config, folder, trainer, data, transforms, logger, device=device)
        elif not finished:
            log.info("stopped at step %d; to go on: %s", trainer.step, pasteable("resume", folder))
    distributed.barrier()
    return figures


def with_num_classes(config: DictConfig, data: DiscoveryData, *, device: torch.device) -> DictConfig:
    """The configuration with a number in `discovery.num_classes`: that of the data, the given or an estimated one.

    What was asked for stays in `discovery.asked_num_classes`, so that scripts/ablate.py can tell a change.
    """
    wanted, true = config.discovery.num_classes, len(data.class_names)
    if wanted is None:
        number = true
    elif wanted == "estimate":
        number = distributed.decided_by_main(lambda: estimated_classes(config, data, device=device))
    elif isinstance(wanted, int):
        number = wanted
    else:
        raise UserError(f"discovery.num_classes={wanted}: give a number, estimate, or null for as many as there are")
    if number < data.num_old:
        raise UserError(f"discovery.num_classes={number}: there are {data.num_old} old classes already; give more")
    config = config.copy()
    with open_dict(config):
        config.discovery.num_classes = number
        config.discovery.asked_num_classes = config.discovery.get("asked_num_classes", wanted)
    return config


def estimated_classes(config: DictConfig, data: DiscoveryData, *, device: torch.device) -> int:
    """How many classes the features of the untrained tower suggest: see `meru.metrics.clustering`."""
    config = config.copy()
    config.discovery.num_classes = data.num_old + 2  # any number: the classifier is not used
    model, _, transforms = build(config)
    read = read_features(config, data.train, model.to(device), transforms, device=device)
    images = len(read.get("features", ()))
    maximum = config.discovery.maximum_classes or min(3 * data.num_old, images)
    if data.num_old < 2 or not data.num_old <= maximum <= images or not read["labelled"].any():
        raise UserError(
            f"discovery.num_classes=estimate: up to {maximum} classes, {data.num_old} of them old, cannot be estimated "
            f"from {images} images: at least two are to be old, and discovery.maximum_classes lies between the old "
            "ones and the images; set it, or give discovery.num_classes as a number"
        )
    number, _ = estimate_num_classes(
        read["features"],
        read["label"],
        read["labelled"],
        data.num_old,
        maximum=maximum,
        seed=config.seed,
    )
    log.info("estimated %d classes, there are %d", number, len(data.class_names))
    return number


@torch.no_grad()
def keep_views(
    config: DictConfig, split: DiscoverySplit, model: nn.Module, transforms: Transforms, *, device: torch.device
) -> Tensor | None:
    """What the frozen part of the tower says of `discovery.cached_views` views of every image, `(n, V, …)`, float16.

    They are the views of the first V/2 epochs. Every process keeps its own. None if no views are to be kept.

    Raises:
        UserError: for an odd number of views, a tower that cannot be cut, and images that do not decode.
    """
    number = config.discovery.cached_views
    if not number:
        return None
    if number < 0 or number % 2:
        raise UserError(f"discovery.cached_views={number}: views come in pairs; give an even number, or 0 to keep none")
    model.eval()
    began, kept = time.perf_counter(), None
    for epoch in range(number // 2):
        loader = every_view_loader(
            split,
            transform=transforms.training,
            epoch=epoch,
            batch_size=16,  # small batches stay in a CPU's cache, and do not slow a GPU down that reads from disk
            seed=config.seed,
            **worker_options(config.data),
            **reading_options(config.data),
        )
        for batch in loader:
            if batch["skipped"]:
                raise UserError("discovery.cached_views needs every image to decode: set it to 0, or restore them")
            output = model.frozen_output(batch["image"].flatten(0, 1).to(device, non_blocking=True))
            if kept is None:
                kept = torch.empty(len(split), number, *output.shape[1:], dtype=torch.float16)
            kept[batch["image_index"], 2 * epoch : 2 * epoch + 2] = output.unflatten(0, (-1, 2)).cpu().half()
    model.train()
    megabytes, seconds = kept.numel() * kept.element_size() / 2**20, time.perf_counter() - began
    log.info("kept %d views of %d images, %.0f MiB, in %.0f s", number, len(split), megabytes, seconds)
    return kept


def nearest_images(
    config: DictConfig,
    split: DiscoverySplit,
    model: nn.Module,
    transforms: Transforms,
    *,
    epoch: int = 0,
    device: torch.device,
) -> Tensor:
    """Every image's nearest by their projected features, itself first, `(n, discovery.neighbours)`.

    In the data set's order and without augmentation, so the same in every epoch with the same model.
    """
    read = read_features(config, split, model, transforms, device=device)
    if len(read.get("projected", ())) < len(split):
        raise UserError("discovery.sampler=neighbours needs every image to decode: choose weighted, or restore them")
    return _nearest(read["projected"], config.discovery.neighbours)


@torch.no_grad()
def released_neighbours(
    config: DictConfig,
    split: DiscoverySplit,
    model: nn.Module,
    transforms: Transforms,
    *,
    epoch: int,
    device: torch.device,
) -> Tensor:
    """What the released code takes for neighbours, `(n, discovery.neighbours)`.

    It reads one augmented view each of images drawn by weight with replacement, and takes the places in that draw for
    places in the data set: the images of a batch have little to do with each other, and half of them are not labelled
    ones any more.
    """
    was_training = model.training
    model.eval()
    loader = weighted_view_loader(
        split,
        transform=transforms.training,
        epoch=epoch,
        batch_size=config.evaluation.batch_size,
        seed=config.seed,
        **worker_options(config.data),
        **reading_options(config.data),
    )
    views = (batch["image"][:, 0].to(device, non_blocking=True) for batch in loader)
    embedded = torch.cat([model.embed_image(view).cpu() for view in views])
    model.train(was_training)
    return _nearest(embedded, config.discovery.neighbours)


def _nearest(vectors: Tensor, count: int) -> Tensor:
    """Each unit vector's nearest, itself first: `(n, D)` → int64 `(n, count)`."""
    if count > len(vectors):
        raise UserError(f"discovery.neighbours={count}: there are {len(vectors)} training images; choose fewer")
    nearest = []
    for start in range(0, len(vectors), 1024):
        scores = exact_product(vectors[start : start + 1024], vectors)
        rows = torch.arange(len(scores))
        scores[rows, start + rows] = 2.0  # above every cosine: itself first, whatever else is equal
        nearest.append(scores.topk(count, dim=1).indices)
    return torch.cat(nearest)
