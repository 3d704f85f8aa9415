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
from meru.files import CONFIGS
from meru.restarts import note_run, noted_run
from meru.runs.duration import Stopwatch
from meru.runs.folder import (
    environment,
    has_begun,
    make_run_folder,
    release,
    require_data,
    resumed_config,
    resumed_folder,
    save_changes,
    save_environment,
)
from meru.tasks.contract import Figures
from meru.tasks.kinds import task_of
from meru.training.loggers.base import AnyLogger, NoLogger, SeveralLoggers
from meru.training.optimizer import build_optimizer, scaled_rate
from meru.training.settings import TrainerSettings
from meru.training.trainer import Trainer
from meru.training.wrapping import check_fit

log = logging.getLogger("meru")


def start_or_resume(config: DictConfig, words: Sequence[str], *, restartable: bool = True) -> None:
    """Train according to a command line, a new run or the one that `resume` names.

    Args:
        config: The checked configuration as composed from the command line.
        words: The command line.
        restartable: Whether processes that torchrun has started again go on with their earlier run.
    """
    device = distributed.start(patience=config.data.timeout)
    check_targets(config, source="the command line")
    absolute_paths(config)
    if not config.resume and restartable:
        config.resume = _noted_run()
    if config.resume:
        config = distributed.decided_by_main(partial(resumed_config, config, words))
        require_data(config, key="data.root")
    train(config, device=device)
    distributed.stop()  # not after a failure: other processes would report errors before this one


def _noted_run() -> str | None:
    """The run of an earlier attempt of this torchrun, which any of its machines may have noted."""
    found = next(filter(None, distributed.collect(noted_run())), None)
    if found is None:
        return None
    log.info("torchrun has started the processes again: they go on with %s", found)
    return str(found)


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
    divided = {"world_size": distributed.world_size(), "accumulate": accumulate}
    plan = BatchPlan.of(config.data, images=task.images_per_epoch(), **divided)
    asked, config = config, task.complete_config()
    settings = TrainerSettings.of(config.trainer)
    folder = resumed_folder(config)
    begun = distributed.decided_by_main(lambda: folder is not None and has_begun(folder))
    torch.manual_seed(config.seed)  # the same weights in every process
    pretrained = build(without_pretrained_weights(config, low_rank=True) if begun else config)
    model = pretrained.model.to(device)
    check_fit(model, settings, device)
    distributed.seed_training(model, config.seed)
    options = instantiate(config.optim, _convert_="all")
    optimizer = build_optimizer(model, **options, images_per_step=plan.images_per_step)
    folder = folder or make_run_folder(config, asked=asked)
    note_run(folder)
    logger = make_logger(config, folder, device) if distributed.is_main() else NoLogger()
    rate = scaled_rate(config.optim.learning_rate, config.optim.get("batch_of_rate"), plan.images_per_step)
    log.info("run folder %s", folder)
    log.info("%s", plan.describe(learning_rate=rate))
    log.info("%s; %s", task.describe(), save_environment(folder, device))
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
        on_validated=partial(_save_plots, task, folder, pretrained, logger),
        stages=task.stages,
        at_stage_end=partial(task.at_stage_end, pretrained),
    )
    with closing(logger, folder, watch):
        finished = trainer.run()
        figures = _finish(task, folder, trainer, pretrained, logger) if finished else None
        if not finished:
            log.info("stopped at step %d; to go on: %s", trainer.step, pasteable("resume", folder))
    distributed.wait_for_main()
    return figures if distributed.is_main() else None


# Imported here: what these two need, Matplotlib above all, would delay the first step.


def _finish(*arguments) -> Figures:
    from meru.runs.finish import finish

    return finish(*arguments)


def _save_plots(*arguments) -> None:
    from meru.runs.plots import save_plots

    save_plots(*arguments)


@contextlib.contextmanager
def closing(logger: AnyLogger, folder: Path, watch: Stopwatch) -> Iterator[None]:
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


def make_logger(config: DictConfig, folder: Path, device: torch.device) -> AnyLogger:
    """Make the logger that `config.logger` names, and those of its `also`, which have the settings of their files."""
    facts = {**OmegaConf.to_container(config, resolve=True), "environment": environment(device)}
    sections = [config.logger, *(OmegaConf.load(CONFIGS / "logger" / f"{name}.yaml") for name in also(config.logger))]
    loggers = []
    for section in sections:
        own = OmegaConf.masked_copy(section, [key for key in section if key != "also"])
        start = instantiate(own, _partial_=True, _convert_="all")
        loggers.append(start(folder=folder, config=facts, name=f"{config.name}/{folder.name}", identity=folder.name))
    loggers = [each for each in loggers if type(each) is not NoLogger] or loggers[:1]
    return loggers[0] if len(loggers) == 1 else SeveralLoggers(loggers)


def also(section: DictConfig) -> list[str]:
    """The other loggers of a section `logger`, each once."""
    first = str(section._target_)
    names = dict.fromkeys(section.get("also") or [])
    return [name for name in names if OmegaConf.load(CONFIGS / "logger" / f"{name}.yaml")._target_ != first]
