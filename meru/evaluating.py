"""The figures and pictures of image–text runs: at the end of training, and again by scripts/evaluate.py."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import Compose

from meru import distributed
from meru.data.loading import evaluation_loader
from meru.data.parts import PART_OF_WORD, part_places
from meru.data.records import ImageRecord, ImageTextData
from meru.data.transforms import read_image
from meru.encoders.weights import load_weights
from meru.errors import UserError
from meru.evaluation.image_text import embed_captions, embed_images, evaluate_image_text
from meru.evaluation.pictures import attention_figure, save_figure
from meru.evaluation.pointing import pointing_game
from meru.evaluation.report import format_table, write_json
from meru.evaluation.retrieval import top_k
from meru.evaluation.robustness import Degradation, evaluate_robustness, format_robustness, robustness_figure
from meru.evaluation.zero_shot import PROMPT_TEMPLATES
from meru.files import user_path
from meru.pretrained import Pretrained, load, read_config
from meru.run_data import load_data
from meru.training.checkpoint import save_weights
from meru.training.settings import allow_tf32
from meru.training.trainer import Trainer

log = logging.getLogger("meru")


def evaluate_run(config: DictConfig) -> dict[str, float]:
    """Evaluate a finished run again, print its table, and write the figures.

    Args:
        config: As `configs/evaluate.yaml` describes it.

    Raises:
        UserError: if the run is not finished, or its data are not where they were.
    """
    if config.suite and config.suite not in SUITES:
        raise UserError(f"suite={config.suite}: choose one of {', '.join(SUITES)}, or leave it out")
    run = user_path(config.run)
    pretrained = load(run)
    trained = read_config(run)
    if config.root:
        trained.data.root = str(user_path(config.root))
    for key in ("captions_per_image", "templates", "batch_size", "pointing"):
        trained.evaluation[key] = config[key]
    trained.data.workers = config.workers
    data = load_data(trained)
    splits = {"test": data.test, "validation": data.validation, "train": data.train}
    if not splits.get(config.split):
        raise UserError(f"split={config.split}: choose one of {', '.join(name for name in splits if splits[name])}")
    device = distributed.start()
    pretrained.model.to(device)
    allow_tf32(trained.trainer.get("tf32", False), device=device)  # figures of the run come out the same
    if config.suite:
        return SUITES[config.suite](config, trained, splits[config.split], data, pretrained, device=device)
    figures = evaluate_split(trained, splits[config.split], data, pretrained, device=device)
    log.info("%s", format_table(figures, f"{config.split} split of {run.name}"))
    if config.output:
        write_json(user_path(config.output), figures)
        log.info("figures: %s", config.output)
    return figures


def evaluate_degraded(
    config: DictConfig,
    trained: DictConfig,
    records: Sequence[ImageRecord],
    data: ImageTextData,
    pretrained: Pretrained,
    *,
    device: torch.device,
) -> dict[str, float | None]:
    """`suite=robustness`: worse images, shorter captions; table, `robustness.json` and a plot beside the model."""
    transforms = pretrained.transforms

    def batches(degradation: Degradation | None) -> DataLoader:
        log.info("images, %s", degradation or "as they are")
        steps = [degradation, transforms.evaluation] if degradation else [transforms.evaluation]
        degraded = pretrained._replace(transforms=transforms._replace(evaluation=Compose(steps)))
        return image_batches(trained, records, degraded)

    figures = evaluate_robustness(
        pretrained.model,
        batches,
        captions=[record.captions for record in records],
        tokenizer=pretrained.tokenizer.batch,
        device=device,
        class_kind=data.class_kind,
        captions_per_image=config.captions_per_image,
    )
    run = user_path(config.run)
    title = f"{config.split} split of {run.name}"
    log.info("%s", format_robustness(figures, title))
    output = user_path(config.output or run / "robustness.json")
    write_json(output, figures)
    save_figure(robustness_figure(figures, title), output.with_suffix(".png"))
    log.info("figures: %s and %s", output, output.with_suffix(".png").name)
    return figures


SUITES = {"robustness": evaluate_degraded}


def evaluate_split(
    config: DictConfig,
    records: Sequence[ImageRecord],
    data: ImageTextData,
    pretrained: Pretrained,
    *,
    model: nn.Module | None = None,
    device: torch.device,
) -> dict[str, float]:
    """All figures on some records of the data, of the pretrained model or of another in its place (its average)."""
    model = model or pretrained.model
    captions = [record.captions for record in records]
    figures = evaluate_image_text(
        model,
        image_batches(config, records, pretrained),
        captions=captions,
        class_names=data.class_names,
        class_kind=data.class_kind,
        tokenizer=pretrained.tokenizer.batch,
        device=device,
        captions_per_image=config.evaluation.captions_per_image,
        templates=config.evaluation.templates or PROMPT_TEMPLATES,
    )
    if config.evaluation.get("pointing"):
        places, centres = part_places(records, pretrained.transforms.evaluation)
        figures |= pointing_game(
            model,
            image_batches(config, records, pretrained),
            captions=captions,
            places=places,
            centres=centres,
            part_of_word=PART_OF_WORD,
            tokenize=pretrained.tokenizer.batch,
            words=pretrained.tokenizer.words,
            device=device,
        )
    return figures


def image_batches(config: DictConfig, records: Sequence[ImageRecord], pretrained: Pretrained) -> DataLoader:
    """The records' images in order, as the model takes them in evaluation."""
    return evaluation_loader(
        records,
        transform=pretrained.transforms.evaluation,
        batch_size=config.evaluation.batch_size,
        workers=config.data.workers,
        on_error=config.data.on_error,
    )


def evenly_spread(length: int, count: int) -> list[int]:
    """At most `count` indices, evenly spread over `length`."""
    return list(range(0, length, max(1, length // count)))[:count]
