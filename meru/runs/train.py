"""Complete runs of any kind: data, model, run folder, training, and figures at the end."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from meru import distributed
from meru.assemble import build, without_pretrained_weights
from meru.configuration import absolute_paths
from meru.configuration.overrides import pasteable
from meru.configuration.saved import check_targets
from meru.data.loading import check_decoding, reading_options
from meru.data.sampling import BatchPlan
from meru.runs.duration import Stopwatch
from meru.runs.finish import finish
from meru.runs.folder import (
    environment,
    has_begun,
    make_run_folder,
    release,
    require_data,
    resumed_config,
    resumed_folder,
    save_changes,
)
from meru.tasks.contract import Figures
from meru.tasks.kinds import task_of
from meru.training.loggers import NoLogger, WandbLogger
from meru.training.optimizer import build_optimizer, scaled_rate
from meru.training.settings import TrainerSettings
from meru.training.trainer import Trainer

log = logging.getLogger("meru")


def start_or_resume(config: DictConfig, words: Sequence[str]) -> None:
    """Train according to a command line, a new run or the one that `resume` names.

    Args:
        config: The checked configuration as composed from the command line.
        words: The command line.
    """
    device = distributed.start()
    check_targets(config, source="the command line")
    absolute_paths(config)
    if config.resume:
        config = resumed_config(config, words)
        require_data(config, key="data.root")
    train(config, device=device)
    distributed.stop()  # not after a failure: other processes would report errors before this one


def train(config: DictConfig, *, device: torch.device) -> Figures | None:
    """Train to the end, then evaluate once.

    Args:
        config: A configuration of `configs/train.yaml`; with `resume`, of the run to resume.
        device: Device of this process.

    Returns:
        The figures in the main process; None in other processes, and if a signal stopped the run.

    Raises:
        UserError: for failures that the user can fix.
    """
    watch, accumulate = Stopwatch(), TrainerSettings.of(config.trainer).accumulate
    task = task_of(config)(config, device=device)
    check_decoding(task.data.paths(), **reading_options(config.data))
    plan = BatchPlan.of(
        config.data, images=len(task.data.train), world_size=distributed.world_size(), accumulate=accumulate
    )
    asked, config = config, task.complete_config()
    settings = TrainerSettings.of(config.trainer)
    folder = resumed_folder(config)
    begun = folder is not None and has_begun(folder)
    torch.manual_seed(config.seed)  # the same weights in every process
    pretrained = build(without_pretrained_weights(config) if begun else config)
    model = pretrained.model.to(device)
    distributed.seed_training(model, config.seed)
    optimizer = build_optimizer(
        model, **instantiate(config.optim, _convert_="all"), images_per_step=plan.images_per_step
    )
    folder = folder or make_run_folder(config, asked=asked)
    logger = make_logger(config, folder, device) if distributed.is_main() else NoLogger()
    rate = scaled_rate(config.optim.learning_rate, config.optim.get("batch_of_rate"), plan.images_per_step)
    facts = ", ".join(f"{name} {value}" for name, value in environment(device).items())
    log.info("run folder %s", folder)
    log.info("%s", plan.describe(learning_rate=rate))
    log.info("%s; %s", task.describe(), facts)
    task.prepare(pretrained, begun=begun)
    trainer = Trainer(
        model=model,
        optimizer=optimizer,
        batches=partial(task.batches, pretrained, plan),
        batches_per_epoch=plan.batches_per_epoch,
        evaluate=task.validation(pretrained),
        logger=logger,
        folder=folder,
        device=device,
        settings=settings,
        epoch_state=task.epoch_state,
        on_resumed=partial(save_changes, folder, config),
    )
    figures = None
    with closing(logger, folder, watch):
        finished = trainer.run()
        if distributed.is_main() and finished:
            figures = finish(task, folder, trainer, pretrained, logger)
        elif not finished:
            log.info("stopped at step %d; to go on: %s", trainer.step, pasteable("resume", folder))
    distributed.barrier()
    return figures


@contextlib.contextmanager
def closing(logger: NoLogger | WandbLogger, folder: Path, watch: Stopwatch) -> Iterator[None]:
    """Close a run's logger after the block, as failed after an error, record the duration, and unlock the folder."""
    try:
        yield
    except BaseException:
        logger.finish(exit_code=1)
        raise
    finally:
        if distributed.is_main():
            watch.save(folder)
    logger.finish()
    release(folder)


def make_logger(config: DictConfig, folder: Path, device: torch.device) -> NoLogger | WandbLogger:
    """Make the logger that `config.logger` names."""
    facts = {**OmegaConf.to_container(config, resolve=True), "environment": environment(device)}
    start = instantiate(config.logger, _partial_=True, _convert_="all")
    return start(folder=folder, config=facts, name=f"{config.name}/{folder.name}", identity=folder.name)
