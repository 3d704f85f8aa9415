"""A whole run: its folder, its data, training, and the figures on the test split. The scripts are thin."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from meru import distributed
from meru.assemble import build, without_pretrained_weights
from meru.configuration.overrides import pasteable
from meru.data.augmentation import caption_augmentation
from meru.data.loading import check_decoding, reading_options, training_loader
from meru.data.parts import CropParts
from meru.data.records import ImageTextData
from meru.data.sampling import BatchPlan
from meru.data.workers import worker_options
from meru.files import user_path
from meru.runs.data import load_data
from meru.runs.evaluate import any_decodes, evaluate_split, evenly_spread, image_batches
from meru.runs.finish import finish
from meru.runs.folder import environment, make_run_folder, release, save_changes
from meru.training.initial_radius import start_at_initial_radius
from meru.training.loggers import NoLogger, WandbLogger
from meru.training.optimizer import build_optimizer, scaled_rate
from meru.training.settings import TrainerSettings
from meru.training.trainer import Trainer

log = logging.getLogger("meru")


def train(config: DictConfig, *, device: torch.device) -> dict[str, float] | None:
    """Train to the end and evaluate once on the test split.

    Args:
        config: As `configs/train.yaml` describes it; with `resume`, of the run to go on with.
        device: This process's.

    Returns:
        The figures on the test split in the main process; None in others, and after a signal stopped the run.

    Raises:
        UserError: for whatever the user can put right.
    """
    settings = TrainerSettings.of(config.trainer)
    data = load_data(config)
    check_decoding(data.paths(), **reading_options(config.data))
    parts = part_source(config, data)
    plan = BatchPlan.of(
        config.data, images=len(data.train), world_size=distributed.world_size(), accumulate=settings.accumulate
    )
    torch.manual_seed(config.seed)  # the same weights in every process
    folder = user_path(config.resume) if config.resume else None
    begun = folder is not None and (folder / "last.pt").exists()
    pretrained = build(without_pretrained_weights(config) if begun else config)
    model = pretrained.model.to(device)
    distributed.seed_training(model, config.seed)
    optimizer = build_optimizer(
        model, **instantiate(config.optim, _convert_="all"), images_per_step=plan.images_per_step
    )
    folder = folder or make_run_folder(config)
    logger = make_logger(config, folder, device) if distributed.is_main() else NoLogger()
    log.info("run folder %s", folder)
    rate = scaled_rate(config.optim.learning_rate, config.optim.get("batch_of_rate"), plan.images_per_step)
    log.info("%s", plan.describe(learning_rate=rate))
    log.info(
        "%d training, %d validation and %d test images of %d %s; %s",
        *(len(split) for split in (data.train, data.validation, data.test)),
        len(data.class_names),
        "identities" if data.class_kind == "identity" else "classes",
        ", ".join(f"{name} {value}" for name, value in environment(device).items()),
    )
    captions = [caption for record in data.train for caption in record.captions]
    if cut := pretrained.tokenizer.count_cut(captions):
        log.info("%d of %d training captions are longer than the context and lose their last words", cut, len(captions))
    if model.initial_radius and not begun and not config.encoder.init:  # weights of a whole model bring their alphas
        sample = [data.train[index] for index in evenly_spread(len(data.train), 256)]
        images = image_batches(config, sample, pretrained)
        captions = [record.captions[0] for record in sample]
        start_at_initial_radius(model, images, captions, pretrained.tokenizer, device=device)
    validated = any_decodes(data.validation, **reading_options(config.data))
    if data.validation and not validated:
        log.warning("none of the %d validation images decodes: the last weights will count", len(data.validation))
    figures_of = partial(evaluate_split, config, data.validation, data, pretrained, device=device)
    trainer = Trainer(
        model=model,
        optimizer=optimizer,
        batches=lambda start: training_loader(
            data.train,
            transform=pretrained.transforms.training,
            tokenize=pretrained.tokenizer,
            seed=config.seed,
            total_steps=settings.epochs * plan.batches_per_epoch,
            start_step=start,
            rank=distributed.rank(),
            **worker_options(config.data),
            **reading_options(config.data),
            parts=parts,
            augment_text=caption_augmentation(config.data.get("text_augmentation")),
            batch_size=plan.batch_size,
            world_size=plan.world_size,
        ),
        batches_per_epoch=plan.batches_per_epoch,
        evaluate=(lambda model: figures_of(model=model)) if validated else None,
        logger=logger,
        folder=folder,
        device=device,
        settings=settings,
        on_resumed=partial(save_changes, folder, config),
    )
    figures = None
    with closing(logger, folder):
        finished = trainer.run()
        if distributed.is_main() and finished:
            figures = finish(config, folder, trainer, data, pretrained, logger, device=device)
        elif not finished:
            log.info("stopped at step %d; to go on: %s", trainer.step, pasteable("resume", folder))
    distributed.barrier()
    return figures


@contextlib.contextmanager
def closing(logger: NoLogger | WandbLogger, folder: Path) -> Iterator[None]:
    """Close the logger of a run after the block, as failed after an error, and give the run folder free."""
    try:
        yield
    except BaseException:
        logger.finish(exit_code=1)
        raise
    logger.finish()
    release(folder)


def make_logger(config: DictConfig, folder: Path, device: torch.device) -> NoLogger | WandbLogger:
    """The logger that `config.logger` names."""
    facts = {**OmegaConf.to_container(config, resolve=True), "environment": environment(device)}
    start = instantiate(config.logger, _partial_=True, _convert_="all")
    return start(folder=folder, config=facts, name=f"{config.name}/{folder.name}", identity=folder.name)


def part_source(config: DictConfig, data: ImageTextData) -> CropParts | None:
    """Where a model that learns from crops gets them."""
    if not (parts := config.get("parts")):
        return None
    crops = CropParts(crops=parts.crops, window=parts.window)
    crops.check(data.train, config.data.root)
    return crops
