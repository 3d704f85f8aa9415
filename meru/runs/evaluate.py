"""The figures and pictures of image–text runs: at the end of training, and again by scripts/evaluate.py."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import Compose

from meru import distributed
from meru.assemble import Pretrained, is_discovery, load
from meru.configuration import absolute_paths
from meru.configuration.saved import change, leaves, read_config
from meru.data.loading import read_or_skip, reading_options
from meru.data.pairs import evaluation_loader
from meru.data.parts import PartWords, part_places
from meru.data.records import ImageRecord, ImageTextData
from meru.data.workers import worker_options
from meru.errors import UserError
from meru.evaluation.classes import discovery_figures, format_discovery
from meru.evaluation.image_text import evaluate_image_text
from meru.evaluation.pointing import pointing_game
from meru.evaluation.robustness import Degradation, evaluate_robustness, format_robustness, robustness_figure
from meru.files import user_path
from meru.reports.attention import attention_figure, save_figure
from meru.reports.tables import finite_figures, format_table, write_json
from meru.runs.data import load_data, load_discovery_data
from meru.runs.folder import require_data
from meru.training.settings import allow_tf32

log = logging.getLogger("meru")


SPLITS = ("test", "validation", "train")


def evaluate_run(config: DictConfig) -> dict[str, float | None]:
    """Evaluate a finished run again, print its table, and write the figures.

    Args:
        config: As `configs/evaluate.yaml` describes it.

    Raises:
        UserError: if the run is not finished, its data are not where they were, or what is asked for makes no sense
            for it.
    """
    check_settings(config)
    run = user_path(config.run)
    trained = read_config(run)
    if config.root:
        change(trained, "data.root", str(user_path(config.root)))
    for key, value in leaves(OmegaConf.to_container(config.data, resolve=True)):
        change(trained, f"data.{key}", value)
    absolute_paths(trained)
    require_data(trained, key="root")
    for key in ("captions_per_image", "templates", "batch_size", "pointing"):
        trained.evaluation[key] = config[key]
    trained.data.workers = config.workers
    pretrained = load(run)
    evaluate = evaluate_discovery_run if is_discovery(trained) else evaluate_image_text_run
    return evaluate(config, trained, pretrained, name=run.name)


def check_settings(config: DictConfig) -> None:
    """Refuse values of `configs/evaluate.yaml` that cannot be, before anything is read.

    Raises:
        UserError: naming the key.
    """
    if config.suite and config.suite not in SUITES:
        raise UserError(f"suite={config.suite}: choose one of {', '.join(SUITES)}, or leave it out")
    if config.split is not None and config.split not in SPLITS:
        raise UserError(f"split={config.split}: choose one of {', '.join(SPLITS)}, or leave it out")
    for key, least, empty in (("workers", 0, False), ("batch_size", 1, False), ("captions_per_image", 1, True)):
        value = config[key]
        if not (value is None and empty) and (not isinstance(value, int) or isinstance(value, bool) or value < least):
            or_null = ", or null for all" if empty else ""
            raise UserError(f"{key}={value}: give a whole number of at least {least}{or_null}")
    if isinstance(config.templates, str):
        config.templates = [config.templates]
    if config.output:
        output = user_path(config.output)
        if output.is_dir():
            raise UserError(f"output={config.output} is a folder: name a file in it, {output / 'figures.json'}")
        if config.suite and output.suffix == ".png":
            raise UserError(f"output={config.output}: name a JSON file, the picture goes beside it")


def evaluate_image_text_run(
    config: DictConfig, trained: DictConfig, pretrained: Pretrained, *, name: str
) -> dict[str, float | None]:
    """Evaluate an image–text run on one split; `trained` is its configuration with the changes of this evaluation.

    Raises:
        UserError: if the split has no images.
    """
    data = load_data(trained)
    splits = {split: records for split in SPLITS if (records := getattr(data, split))}
    split = config.split or "test"
    if split not in splits:
        raise UserError(f"split={split}: this run's data have no {split} images; choose {' or '.join(splits)}")
    records = splits[split]
    if not any_decodes(records, **reading_options(trained.data)):
        raise UserError(f"none of the {len(records)} {split} images decodes, {records[0].path} the first: restore them")
    device = distributed.start()
    pretrained.model.to(device)
    allow_tf32(trained.trainer.get("tf32", False), device=device)  # figures of the run come out the same
    title = f"{split} split of {name}"
    if config.suite:
        return SUITES[config.suite](config, trained, records, data, pretrained, title=title, device=device)
    figures = evaluate_split(trained, records, data, pretrained, device=device)
    log.info("%s", format_table(figures, title))
    save_figures(config, figures)
    return figures


def evaluate_discovery_run(
    config: DictConfig, trained: DictConfig, pretrained: Pretrained, *, name: str
) -> dict[str, float | None]:
    """Evaluate a discovery run: all that its own table has, or only its `train` or `test` images.

    Raises:
        UserError: for what a model without captions cannot be asked, and a split without images.
    """
    for key, wants in (("suite", "captions"), ("captions_per_image", "captions"), ("templates", "prompts")):
        if config[key]:
            raise UserError(
                f"{key}={config[key]}: {name} is a run of category discovery, without {wants}; leave the key out"
            )
    if config.split == "validation":
        raise UserError(
            "split=validation: a discovery run has none, its last weights count; choose train (the unlabelled "
            "training images) or test, or leave it out for both"
        )
    data = load_discovery_data(trained)
    if config.split == "test" and not len(data.test):
        raise UserError("split=test: this run's data have no test images; choose train, or leave it out")
    device = distributed.start()
    pretrained.model.to(device)
    allow_tf32(trained.trainer.get("tf32", False), device=device)
    figures, _ = discovery_figures(
        trained, data, pretrained.model, pretrained.transforms, split=config.split, device=device
    )
    if not figures:
        raise UserError(f"no image of {trained.data.root} decodes: restore the images")
    images = {"train": "unlabelled training images", "test": "test images", None: "all images"}[config.split]
    log.info("%s", format_discovery(figures, f"{images} of {name}"))
    save_figures(config, figures)
    return figures


def save_figures(config: DictConfig, figures: dict[str, float | None]) -> None:
    """Write the figures where `output` says, if it says anything."""
    if config.output:
        path = user_path(config.output)
        write_json(path, figures)
        log.info("figures: %s", path)


def evaluate_degraded(
    config: DictConfig,
    trained: DictConfig,
    records: Sequence[ImageRecord],
    data: ImageTextData,
    pretrained: Pretrained,
    *,
    title: str,
    device: torch.device,
) -> dict[str, float | None]:
    """`suite=robustness`: worse images, shorter captions; table, `robustness.json` and a plot beside the model."""
    transforms = pretrained.transforms

    def batches(degradation: Degradation | None) -> DataLoader:
        log.info("images, %s", degradation or "as they are")
        steps = [degradation, transforms.evaluation] if degradation else [transforms.evaluation]
        degraded = pretrained._replace(transforms=transforms._replace(evaluation=Compose(steps)))
        return image_batches(trained, records, degraded)

    found = evaluate_robustness(
        pretrained.model,
        batches,
        captions=[record.captions for record in records],
        tokenizer=pretrained.tokenizer.batch,
        device=device,
        class_kind=data.class_kind,
        captions_per_image=config.captions_per_image,
    )
    figures = finite_figures(found)
    log.info("%s", format_robustness(figures, title))
    output = user_path(config.output or Path(config.run) / "robustness.json")
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
    """All figures on some records of the data, of the pretrained model or of another in its place (its average).

    Empty where there are no records, or none of their images decodes and such are skipped.
    """
    if not any_decodes(records, **reading_options(config.data)):
        log.warning("%s: no figures", f"none of {len(records)} images decodes" if records else "there are no images")
        return {}
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
        templates=config.evaluation.templates or config.data.prompts or (),
    )
    part_of_word = PartWords.of(config.data).part_of
    if config.evaluation.get("pointing") and part_of_word:
        maximum_pixels = reading_options(config.data)["maximum_pixels"]
        places, centres = part_places(records, pretrained.transforms.evaluation, maximum_pixels=maximum_pixels)
        figures |= pointing_game(
            model,
            image_batches(config, records, pretrained),
            captions=captions,
            places=places,
            centres=centres,
            part_of_word=part_of_word,
            tokenize=pretrained.tokenizer.batch,
            words=pretrained.tokenizer.words,
            device=device,
        )
    return finite_figures(figures)


def any_decodes(records: Sequence[ImageRecord], *, on_error: str, **reading: int) -> bool:
    """Whether there is an image to evaluate on; those that do not decode count where they are not to be skipped.

    `reading` is what `read_or_skip` takes.
    """
    return any(
        on_error != "skip" or read_or_skip(record.path, on_error=on_error, **reading) is not None for record in records
    )


def image_batches(config: DictConfig, records: Sequence[ImageRecord], pretrained: Pretrained) -> DataLoader:
    """The records' images in order, as the model takes them in evaluation."""
    return evaluation_loader(
        records,
        transform=pretrained.transforms.evaluation,
        batch_size=config.evaluation.batch_size,
        **worker_options(config.data),
        **reading_options(config.data),
    )


@torch.no_grad()
def draw_attention(pretrained: Pretrained, image: Tensor, caption: str) -> Figure:
    """Where the words of a caption look in an image, uint8 RGB `(3, H, W)`."""
    model, tokenizer, transforms = pretrained
    model.eval()
    device = model.logit_scale.device
    picture, tokens = transforms.evaluation(image), tokenizer.batch([caption])
    (weights,) = model.word_attention(picture[None].to(device), tokens.to(device), torch.tensor([0], device=device))
    words = tokenizer.words(tokens[0])
    return attention_figure(picture, [word for word, _ in words], weights[[at for _, at in words]], title=caption)


def evenly_spread(length: int, count: int) -> list[int]:
    """At most `count` indices, evenly spread over `length`."""
    return list(range(0, length, max(1, length // count)))[:count]
