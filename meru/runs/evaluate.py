"""Evaluate a finished run of any kind again: `scripts/evaluate.py`."""

from __future__ import annotations

import logging

from omegaconf import DictConfig, OmegaConf

from meru import distributed
from meru.configuration import absolute_paths
from meru.configuration.saved import change, check_targets, leaves
from meru.errors import UserError
from meru.files import user_path
from meru.reports.attention import save_figure
from meru.reports.tables import write_json
from meru.runs.folder import require_data
from meru.sources.opened import Opened
from meru.sources.opening import open_source
from meru.tasks.contract import Figures, Task
from meru.tasks.kinds import task_of
from meru.training.settings import allow_tf32

log = logging.getLogger("meru")


def evaluate_run(config: DictConfig) -> Figures:
    """Evaluate a finished run again, print its table, and write the figures.

    Args:
        config: A checked configuration of `configs/evaluate.yaml`.

    Raises:
        UserError: if the run is not finished, its data are missing, or an option does not apply to it.
    """
    check_output(config)
    opened = open_source(config.run)
    trained = evaluated_config(config, opened)
    pretrained = opened.pretrained
    kind = task_of(trained)
    kind.check_question(config, name=opened.name)
    device = distributed.start()
    task = kind(trained, device=device)
    task.require_images(config.split)
    pretrained.model.to(device)
    allow_tf32(trained.trainer.get("tf32", False), device=device)  # reproduces the figures of the run
    title = f"{task.name_of(config.split)} of {opened.name}"
    if config.suite:
        return evaluate_suite(config, task, opened, title=title)
    figures = task.evaluate(pretrained, split=config.split).figures
    if not figures:
        raise UserError(f"no image of {trained.data.root} decodes: restore the images")
    log.info("%s", task.table(figures, title, model=pretrained.model))
    if config.output:
        write_json(user_path(config.output), figures)
        log.info("figures: %s", user_path(config.output))
    return figures


def evaluate_suite(config: DictConfig, task: Task, opened: Opened, *, title: str) -> Figures:
    """Print the table of `suite`; write its figures and their plot to `output`, or to the run folder, if any."""
    suite, captions = task.suites[config.suite], config.captions_per_image
    figures = task.evaluate_suite(suite, opened.pretrained, split=config.split, captions_per_image=captions)
    log.info("%s", suite.table(figures, title))
    output = user_path(config.output) if config.output else opened.output(f"{config.suite}.json")
    if output is None:
        return figures
    write_json(output, figures)
    save_figure(suite.picture(figures, title), output.with_suffix(".png"))
    log.info("figures: %s and %s", output, output.with_suffix(".png").name)
    return figures


def evaluated_config(config: DictConfig, opened: Opened) -> DictConfig:
    """The configuration of a source with the changes for this evaluation.

    Raises:
        UserError: if its data are missing or unknown, or their loader is not permitted.
    """
    trained = opened.config
    if not opened.has_data and not config.data:
        raise UserError(f"run={opened.name} says nothing of its data: name some to evaluate it on, data=<name>")
    if config.root:
        change(trained, "data.root", str(user_path(config.root)))
    for key, value in leaves(OmegaConf.to_container(config.data, resolve=True)):
        change(trained, f"data.{key}", value)
    check_targets(trained, source="the command line")
    absolute_paths(trained)
    require_data(trained, key="root")
    for key in ("captions_per_image", "templates", "batch_size", "pointing"):
        trained.evaluation[key] = config[key]
    trained.data.workers = config.workers
    return trained


def check_output(config: DictConfig) -> None:
    """Refuse an `output` that cannot be written, before anything is read.

    Raises:
        UserError: if it cannot be written; the message names the key.
    """
    if config.output:
        output = user_path(config.output)
        if output.is_dir():
            raise UserError(f"output={config.output} is a folder: name a file in it, {output / 'figures.json'}")
        if config.suite and output.suffix == ".png":
            raise UserError(f"output={config.output}: name a JSON file; the plot is written beside it")
