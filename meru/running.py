"""A whole run: its folder, its data, training, and the figures on the test split. The scripts are thin."""

from __future__ import annotations

import logging
import platform
import subprocess
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from meru import distributed
from meru.command_line import PROJECT
from meru.data.cub import ImageRecord, ImageTextData
from meru.data.loading import evaluation_loader, steps_per_epoch, training_loader
from meru.data.transforms import training_transform
from meru.encoders.weights import load_weights
from meru.errors import UserError
from meru.evaluation.image_text import evaluate_image_text
from meru.evaluation.report import format_table, write_json
from meru.evaluation.zero_shot import PROMPT_TEMPLATES
from meru.pretrained import Pretrained, build, read_config, without_pretrained_weights
from meru.training.checkpoint import save_weights, write_atomically
from meru.training.loggers import NoLogger, WandbLogger
from meru.training.optimizer import build_optimizer
from meru.training.trainer import Trainer, TrainerSettings

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
    settings = TrainerSettings(**config.trainer)
    data = load_data(config)
    batch = {"batch_size": config.data.batch_size, "world_size": distributed.world_size()}
    batches_per_epoch = steps_per_epoch(len(data.train), **batch)
    torch.manual_seed(config.seed)  # the same weights in every process
    folder = Path(config.resume) if config.resume else None
    begun = folder is not None and (folder / "last.pt").exists()
    pretrained = build(without_pretrained_weights(config) if begun else config)
    torch.manual_seed(config.seed + distributed.rank())  # but not the same dropout
    model = pretrained.model.to(device)
    optimizer = build_optimizer(model, **instantiate(config.optim, _convert_="all"))
    folder = folder or make_run_folder(config)
    logger = make_logger(config, folder) if distributed.is_main() else NoLogger()
    log.info("run folder %s", folder)
    log.info(
        "%d training, %d validation and %d test images of %d classes; %s",
        *(len(split) for split in (data.train, data.validation, data.test)),
        len(data.class_names),
        ", ".join(f"{name} {value}" for name, value in environment(device).items()),
    )
    figures_of = partial(evaluate_split, config, class_names=data.class_names, pretrained=pretrained, device=device)
    trainer = Trainer(
        model=model,
        optimizer=optimizer,
        batches=lambda start: training_loader(
            data.train,
            transform=training_transform(
                pretrained.image_size, scale=config.data.crop_scale, flip=config.data.flip
            ),
            tokenize=pretrained.tokenizer,
            seed=config.seed,
            total_steps=settings.epochs * batches_per_epoch,
            start_step=start,
            rank=distributed.rank(),
            workers=config.data.workers,
            on_error=config.data.on_error,
            **batch,
        ),
        batches_per_epoch=batches_per_epoch,
        evaluate=(lambda model: figures_of(data.validation, model=model)) if data.validation else None,
        logger=logger,
        folder=folder,
        device=device,
        settings=settings,
    )
    finished = trainer.run()
    figures = None
    if distributed.is_main():
        if finished:
            figures = finish(config, folder, trainer, partial(figures_of, data.test), logger)
        else:
            log.info("stopped at step %d; to go on: resume=%s", trainer.step, folder)
        logger.finish()
    distributed.barrier()
    return figures


def finish(config, folder: Path, trainer: Trainer, figures_on_test: Callable, logger) -> dict[str, float]:
    """Export the chosen weights and use the test split, once."""
    model = trainer.evaluated
    best = folder / "best.safetensors"
    if best.exists():
        load_weights(model, best, what="best.safetensors")
        policy = f"the best of {config.trainer.monitor} on validation, step {trainer.best['step']:.0f}"
    else:
        policy = "the last step (no validation split)"
    save_weights(folder / "model.safetensors", model.state_dict())
    figures = figures_on_test(model=model)
    write_json(folder / "test.json", figures)
    logger.log({f"test/{name}": figure for name, figure in figures.items()}, step=trainer.step)
    log.info("%s", format_table(figures, f"test split, {policy}"))
    log.info("model, figures and configuration: %s", folder)
    return figures


def make_logger(config: DictConfig, folder: Path) -> NoLogger | WandbLogger:
    """The logger that `config.logger` names."""
    facts = {**OmegaConf.to_container(config, resolve=True), "environment": environment(torch.device("cpu"))}
    start = instantiate(config.logger, _partial_=True, _convert_="all")
    return start(folder=folder, config=facts, name=f"{config.name}/{folder.name}", identity=folder.name)


def make_run_folder(config: DictConfig) -> Path:
    """A new folder with `config.yaml` in it; the main process decides its name for all.

    Raises:
        UserError: if the folder named by `folder` holds something already.
    """
    folder = None
    if distributed.is_main():
        stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        folder = Path(config.folder or Path(config.output) / config.name / stamp).expanduser().absolute()
        if not config.folder:
            folder = next(name for name in _numbered(folder) if not name.exists())
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"folder={folder} is not empty: choose another, or go on with resume={folder}")
        folder.mkdir(parents=True, exist_ok=True)
        save_config(folder, config)
    return distributed.broadcast(folder)


def _numbered(folder: Path) -> Iterator[Path]:
    """The name itself, then with -2, -3, …: two runs may start in the same second."""
    yield folder
    for number in range(2, 10_000):
        yield folder.with_name(f"{folder.name}-{number}")


def save_config(folder: Path, config: DictConfig) -> None:
    """Write `config.yaml`, everything resolved, so that the run can be read without this checkout's configs/."""
    text = OmegaConf.to_yaml(config, resolve=True)
    write_atomically(folder / "config.yaml", lambda temporary: temporary.write_text(text, encoding="utf-8"))


def resumed_config(config: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The configuration of the run to be resumed, with the command line's `key=value` overrides on top.

    Choices of groups on the command line (`experiment=cub_meru`, `data=birds`) must be those of the run.

    Raises:
        UserError: if `resume` names no run folder, or a group or key differs from the run's.
    """
    folder = Path(config.resume).expanduser().absolute()
    resumed = read_config(folder)
    if resumed.name != config.name:
        raise UserError(f"resume={folder} is a run of {resumed.name}, not of {config.name}: start it by the same command")
    for override in overrides:
        key, _, value = override.partition("=")
        if key in ("resume", "experiment") or (PROJECT / "configs" / key).is_dir():
            continue
        if OmegaConf.select(resumed, key, default=override) is override:
            raise UserError(f"{override}: the resumed run's configuration has no key {key}")
        OmegaConf.update(resumed, key, OmegaConf.from_dotlist([f"x={value}"]).x)
    resumed.folder = str(folder)
    return resumed


def load_data(config: DictConfig) -> ImageTextData:
    """The splits; drawn or unpacked data are made by the main process while the others wait."""
    if distributed.is_main():
        data = instantiate(config.data.load)
    distributed.barrier()
    return data if distributed.is_main() else instantiate(config.data.load)


def evaluate_split(
    config: DictConfig,
    records: Sequence[ImageRecord],
    class_names: Sequence[str],
    pretrained: Pretrained,
    *,
    model: nn.Module | None = None,
    device: torch.device,
) -> dict[str, float]:
    """All figures on some records, of the pretrained model or of another in its place (say, its moving average)."""
    batches = evaluation_loader(
        records,
        transform=pretrained.transform,
        batch_size=config.evaluation.batch_size,
        workers=config.data.workers,
        on_error=config.data.on_error,
    )
    return evaluate_image_text(
        model or pretrained.model,
        batches,
        captions=[record.captions for record in records],
        class_names=class_names,
        tokenizer=pretrained.tokenizer.batch,
        device=device,
        captions_per_image=config.evaluation.captions_per_image,
        templates=config.evaluation.templates or PROMPT_TEMPLATES,
    )


def environment(device: torch.device) -> dict[str, str]:
    """Where and by which code a run was made: what makes its figures repeatable."""
    commit = subprocess.run(
        ["git", "-C", str(PROJECT), "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return {
        "commit": commit.stdout.strip() or "unknown",
        "device": f"{distributed.world_size()} × {name}",
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
