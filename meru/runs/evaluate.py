"""Evaluate a finished run of any kind again: `scripts/evaluate.py`."""

from __future__ import annotations

import logging

import torch
from omegaconf import DictConfig, OmegaConf

from meru import distributed, sharing
from meru.assemble import Pretrained, is_discovery
from meru.configuration import absolute_paths
from meru.configuration.saved import change, check_targets, choices, leaves
from meru.configuration.suite_settings import settings_of
from meru.data.transforms import EvaluationTransform
from meru.errors import UserError
from meru.evaluation.suite import HEADS, Answer, Subject
from meru.evaluation.suites import SUITES
from meru.files import output_file, user_path, write_text
from meru.reports.attention import save_figure
from meru.reports.tables import finite_figures, write_json
from meru.runs.folder import require_data
from meru.sources.opened import Opened
from meru.sources.opening import open_source
from meru.tasks.contract import Figures
from meru.tasks.data import load_for_suite
from meru.tasks.kinds import task_of
from meru.training.precision import allow_tf32

log = logging.getLogger("meru")


def evaluate_run(config: DictConfig) -> Figures:
    """Evaluate a finished run again, print its table, and write the figures.

    The processes of torchrun share the work, and the main one prints and writes.

    Args:
        config: A checked configuration of `configs/evaluate.yaml`.

    Raises:
        UserError: if the run is not finished, its data are missing, or an option does not apply to it.
    """
    check_output(config)
    opened = open_source(config.run)
    hidden = opened.config.data.get("hidden_heads") if opened.has_data else None  # before the data may be others
    trained = evaluated_config(config, opened)
    pretrained = opened.pretrained
    kind = task_of(trained)
    kind.check_question(config, name=opened.name)
    _require_text(config, trained, opened)
    if config.prior_adjustment is not None and not is_discovery(trained):
        raise UserError(
            f"prior_adjustment={config.prior_adjustment}: it corrects the usual figures of a run of category "
            "discovery; leave it out"
        )
    device = distributed.start()
    pretrained.model.to(device)
    allow_tf32(trained.trainer.get("tf32", False), device=device)  # reproduces the figures of the run
    if config.suite:
        return evaluate_suite(config, trained, opened, device=device, hidden_heads=hidden)
    task = kind(trained, device=device)
    task.require_images(config.split)
    title = f"{task.name_of(config.split)} of {opened.name}"
    with sharing.together():
        figures = task.evaluate(pretrained, split=config.split).figures
    if not distributed.is_main():
        return figures
    if not figures:
        raise UserError(f"no image of {trained.data.root} decodes: restore the images")
    log.info("%s", task.table(figures, title, model=pretrained.model))
    if config.output:
        write_json(user_path(config.output), figures)
        log.info("figures: %s", user_path(config.output))
    return figures


def _require_text(config: DictConfig, trained: DictConfig, opened: Opened) -> None:
    """Refuse to ask a model without a text tower what needs one; category discovery has questions of its own."""
    reads_text = SUITES[config.suite].reads_text if config.suite else not is_discovery(trained)
    if reads_text and opened.pretrained.tokenizer is None:
        others = [name for name, suite in SUITES.items() if not suite.reads_text]
        advice = f"choose suite={' or '.join(others)}" if others else "name an image-text model"
        raise UserError(f"run={opened.name} has no text tower, which this evaluation needs: {advice}")


def evaluate_suite(
    config: DictConfig, trained: DictConfig, opened: Opened, *, device: torch.device, hidden_heads: str | None = None
) -> Figures:
    """Print the table of `suite`; write its figures and their plot to the run folder, or to `output`.

    Without a run folder and `output`, the table is printed only.

    Args:
        config: A checked configuration of `configs/evaluate.yaml`.
        trained: The configuration of the source with the section `data` to evaluate on.
        opened: The model.
        device: The model's.
        hidden_heads: `data.hidden_heads` of its training, for the title where that matters.
    """
    suite, data_name = SUITES[config.suite], chosen_data(config)
    data = load_for_suite(trained, suite.needs, suite=config.suite)
    settings = {key: config[key] for key in ("split", "batch_size", *settings_of(config.suite))}
    subject = Subject(_with_squash(opened.pretrained, trained), data, trained.data, settings, device)
    with sharing.together():
        answer = suite.evaluate(subject)
    found, files = answer if isinstance(answer, Answer) else (answer, {})
    figures = finite_figures(found)
    if not distributed.is_main():
        return figures
    images = f"{config.split} split" if config.split else suite.images
    title = f"{images} of {f'{data_name}, ' if data_name else ''}{opened.name}"
    if suite.needs is HEADS and opened.has_data:
        title += f", trained with data.hidden_heads={hidden_heads or 'null'}"
    log.info("%s", suite.table(figures, title))
    file = f"{config.suite}_{data_name}.json" if data_name else f"{config.suite}.json"
    output = user_path(config.output) if config.output else opened.output(file)
    if output is None:
        return figures
    write_json(output, figures)
    save_figure(suite.picture(figures, title), output.with_suffix(".png"))
    written = [output.with_suffix(".png").name]
    for ending, content in files.items():
        path = output.with_name(f"{output.stem}_{ending}")
        if isinstance(content, str):
            write_text(path, content)
        else:
            save_figure(content, path)
        written.append(path.name)
    log.info("figures: %s and %s", output, ", ".join(written))
    return figures


def evaluated_config(config: DictConfig, opened: Opened) -> DictConfig:
    """The configuration of a source with the changes for this evaluation.

    Raises:
        UserError: if its data are missing or unknown, or their loader is not permitted.
    """
    trained = opened.config
    if not opened.has_data and not chosen_data(config):
        raise UserError(f"run={opened.name} says nothing of its data: name some to evaluate it on, data=<name>")
    take_data(config, trained)
    check_targets(trained, source="the command line")
    absolute_paths(trained)
    require_data(trained, key="root")
    for key in ("captions_per_image", "templates", "batch_size", "pointing"):
        trained.evaluation[key] = config[key]
    if config.prior_adjustment is not None:
        change(trained, "discovery.prior_adjustment", config.prior_adjustment)
    trained.data.workers = config.workers
    return trained


def take_data(config: DictConfig, trained: DictConfig) -> None:
    """Replace the section `data` of a run by the file of configs/data that was chosen, or change its keys, in place."""
    if chosen_data(config):
        trained.data = OmegaConf.create(OmegaConf.to_container(config.data, resolve=False))
    else:
        for key, value in leaves(OmegaConf.to_container(config.data, resolve=True)):
            change(trained, f"data.{key}", value)
    if config.root:
        change(trained, "data.root", str(user_path(config.root)))


def chosen_data(config: DictConfig) -> str | None:
    """The name of the file of configs/data whose section replaces that of the run; None: the run's own."""
    whole = "on_error" in config.data and "timeout" in config.data  # of every file in configs/data
    return choices().get("data") if whole else None


def _with_squash(pretrained: Pretrained, trained: DictConfig) -> Pretrained:
    """The same with the transform that the data want: other data than the run's may need all of the image."""
    transforms = pretrained.transforms
    before, squash = transforms.evaluation, trained.data.squash
    if before.squash == squash:
        return pretrained
    evaluation = EvaluationTransform(before.image_size, squash=squash)
    return pretrained._replace(transforms=transforms._replace(evaluation=evaluation))


def check_output(config: DictConfig) -> None:
    """Refuse an `output` that cannot be written, before anything is read.

    Raises:
        UserError: if it cannot be written; the message names the key.
    """
    if config.output:
        output_file(config.output, example="figures.json")  # the plot of a suite is written beside it
