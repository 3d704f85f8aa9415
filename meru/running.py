"""A whole run: its folder, its data, training, and the figures on the test split. The scripts are thin."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from hydra.utils import instantiate
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import Compose

from meru import distributed
from meru.data.augmentation import caption_augmentation
from meru.data.batches import BatchPlan
from meru.data.loading import check_decoding, evaluation_loader, read_or_skip, reading_options, training_loader
from meru.data.parts import PART_OF_WORD, CropParts, part_places
from meru.data.records import ImageRecord, ImageTextData
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
from meru.pretrained import Pretrained, build, load, read_config, without_pretrained_weights
from meru.run_folder import environment, make_run_folder
from meru.training.checkpoint import save_weights
from meru.training.initial_radius import start_at_initial_radius
from meru.training.loggers import NoLogger, WandbLogger
from meru.training.optimizer import build_optimizer, scaled_rate
from meru.training.settings import TrainerSettings, allow_tf32
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
    folder = Path(config.resume) if config.resume else None
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
        sample = [data.train[index] for index in _spread(len(data.train), 256)]
        images = image_batches(config, sample, pretrained)
        captions = [record.captions[0] for record in sample]
        start_at_initial_radius(model, images, captions, pretrained.tokenizer, device=device)
    figures_of = partial(evaluate_split, config, data=data, pretrained=pretrained, device=device)
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
            workers=config.data.workers,
            **reading_options(config.data),
            parts=parts,
            augment_text=caption_augmentation(config.data.get("text_augmentation")),
            batch_size=plan.batch_size,
            world_size=plan.world_size,
        ),
        batches_per_epoch=plan.batches_per_epoch,
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
            pretrained = pretrained._replace(model=trainer.evaluated)  # what was exported
            if not isinstance(logger, NoLogger):
                rows = retrieved_images(config, data.validation or data.test, pretrained, device=device)
                columns = ["caption", "its image", *(f"found {n}" for n in range(1, len(rows[0]) - 1))]
                logger.images("retrieved", rows, columns, step=trainer.step)
            if pictures := config.evaluation.get("attention_pictures"):  # not in configurations of older runs
                rows = save_attention(pictures, folder, data.test, pretrained, **reading_options(config.data))
                logger.images("attention", rows, ["caption", "where its words look"], step=trainer.step)
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


def retrieved_images(
    config: DictConfig, records: Sequence[ImageRecord], pretrained: Pretrained, *, device: torch.device
) -> list[list]:
    """For eight captions spread over the records: the caption, its image's file, and the five images nearest to it."""
    model = pretrained.model.eval()
    images = embed_images(model, image_batches(config, records, pretrained), device=device)
    queries = _spread(len(records), 8)
    captions = [records[query].captions[0] for query in queries]
    texts = embed_captions(model, captions, tokenizer=pretrained.tokenizer.batch, device=device)
    _, nearest = top_k(texts, images["embeddings"], similarity=model.similarity, k=5)
    found = images["image_index"][nearest].tolist()
    return [
        [caption, records[query].path, *(records[index].path for index in row)]
        for caption, query, row in zip(captions, queries, found, strict=True)
    ]


def save_attention(
    count: int, folder: Path, records: Sequence[ImageRecord], pretrained: Pretrained, **reading
) -> list[list[str | Path]]:
    """Pictures of where the words of `count` captions look, spread over the records: each caption and its PNG file."""
    rows = []
    for number, index in enumerate(_spread(len(records), count)):
        record = records[index]
        path = folder / "attention" / f"{number}_{record.path.stem}.png"
        if (image := read_or_skip(record.path, **reading)) is None:
            continue
        save_figure(draw_attention(pretrained, image, record.captions[0]), path)
        rows.append([record.captions[0], path])
    return rows


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


def _spread(length: int, count: int) -> list[int]:
    """At most `count` indices, evenly spread over `length`."""
    return list(range(0, length, max(1, length // count)))[:count]


def make_logger(config: DictConfig, folder: Path, device: torch.device) -> NoLogger | WandbLogger:
    """The logger that `config.logger` names."""
    facts = {**OmegaConf.to_container(config, resolve=True), "environment": environment(device)}
    start = instantiate(config.logger, _partial_=True, _convert_="all")
    return start(folder=folder, config=facts, name=f"{config.name}/{folder.name}", identity=folder.name)


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
    check_decoding({config.split: [record.path for record in splits[config.split]]}, **reading_options(trained.data))
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


def part_source(config: DictConfig, data: ImageTextData) -> CropParts | None:
    """Where a model that learns from crops gets them."""
    patches = config.get("patches")
    if not patches or patches.mode != "crops":
        return None
    crops = CropParts(crops=patches.crops, window=patches.window)
    crops.check(data.train, config.data.root)
    return crops


def load_data(config: DictConfig) -> ImageTextData:
    """The splits of images and captions."""
    if "load" not in config.data:
        raise UserError("this data set has no captions, only classes to discover: choose model=simgcd or model=hypgcd")
    return instantiate_in_turn(config.data.load)


def instantiate_in_turn(section: DictConfig):
    """What a section of the configuration makes: in the main process first, which may draw or unpack data for all."""
    if distributed.is_main():
        made = instantiate(section)
    distributed.barrier()
    return made if distributed.is_main() else instantiate(section)


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
        maximum_pixels = reading_options(config.data)["maximum_pixels"]
        places, centres = part_places(records, pretrained.transforms.evaluation, maximum_pixels=maximum_pixels)
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
        **reading_options(config.data),
    )
