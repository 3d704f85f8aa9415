"""The end of a run: its weights first, then its figures, then pictures. What fails takes nothing along with it."""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from omegaconf import DictConfig

from meru.assemble import Pretrained
from meru.data.discovery.splits import DiscoveryData
from meru.data.loading import read_or_skip, reading_options
from meru.data.records import ImageRecord, ImageTextData
from meru.data.transforms import Transforms
from meru.encoders.weights import load_weights
from meru.errors import UserError
from meru.evaluation.classes import ClassTrees, discovery_figures, format_discovery, save_trees
from meru.evaluation.image_text import embed_captions, embed_images
from meru.metrics.retrieval import top_k
from meru.optional_part import optional, reason_of
from meru.reports.attention import save_figure
from meru.reports.tables import format_table, write_json
from meru.runs.evaluate import draw_attention, evaluate_split, evenly_spread, image_batches
from meru.training.checkpoint import save_weights
from meru.training.loggers import NoLogger
from meru.training.trainer import Trainer

log = logging.getLogger("meru")


def finish(
    config: DictConfig,
    folder: Path,
    trainer: Trainer,
    data: ImageTextData,
    pretrained: Pretrained,
    logger,
    *,
    device: torch.device,
) -> dict[str, float | None]:
    """Export the chosen weights of an image–text run, use the test split, once, and draw the pictures.

    Raises:
        UserError: if the figures cannot be had or written; the weights are exported before.
    """
    model = trainer.evaluated
    best = folder / "best.safetensors"
    if best.exists():
        load_weights(model, best, what="best.safetensors")
        policy = f"the best of {config.trainer.monitor} on validation, step {trainer.best['step']:.0f}"
    elif trainer.best["step"] >= 0:
        log.warning("%s is gone: the weights of the last step count instead", best)
        policy = "the last step (best.safetensors is gone)"
    else:
        policy = "the last step (no validation split)"
    save_weights(folder / "model.safetensors", model.state_dict())
    pretrained = pretrained._replace(model=model)
    figures = report(
        folder,
        lambda: evaluate_split(config, data.test, data, pretrained, device=device),
        table=lambda figures: format_table(figures, f"test split, {policy}"),
        logger=logger,
        step=trainer.step,
    )
    if not isinstance(logger, NoLogger) and (records := data.validation or data.test):
        with optional("the table of retrieved images"):
            rows = retrieved_images(config, records, pretrained, device=device)
            columns = ["caption", "its image", *(f"found {n}" for n in range(1, len(rows[0]) - 1))]
            logger.images("retrieved", rows, columns, step=trainer.step)
    if pictures := config.evaluation.get("attention_pictures"):  # not in configurations of older runs
        with optional("pictures of attention"):
            records = data.test or data.validation or data.train
            rows = save_attention(pictures, folder, records, pretrained, **reading_options(config.data))
            logger.images("attention", rows, ["caption", "where its words look"], step=trainer.step)
    return figures


def finish_discovery(
    config: DictConfig,
    folder: Path,
    trainer: Trainer,
    data: DiscoveryData,
    transforms: Transforms,
    logger,
    *,
    device: torch.device,
) -> dict[str, float | None]:
    """Export the last weights of a discovery run, say what they found, and draw the trees of it.

    Raises:
        UserError: if the figures cannot be had or written; the weights are exported before.
    """
    model = trainer.evaluated
    save_weights(folder / "model.safetensors", model.state_dict())
    found: list[ClassTrees] = []

    def figures_of() -> dict[str, float | None]:
        figures, trees = discovery_figures(config, data, model, transforms, device=device)
        found.append(trees)
        return figures

    figures = report(
        folder,
        figures_of,
        table=lambda figures: format_discovery(figures, "unlabelled training images, the last step"),
        logger=logger,
        step=trainer.step,
    )
    save_trees(folder / "tree", found[0])
    return figures


def report(
    folder: Path,
    figures_of: Callable[[], dict[str, float | None]],
    *,
    table: Callable[[dict], str],
    logger,
    step: int,
) -> dict[str, float | None]:
    """Compute the figures, write `test.json`, which marks the run as finished, and print the table.

    Without any figure, as without test images, `test.json` holds an empty object and no table is printed.

    Raises:
        UserError: if that fails for a reason the user can put right; it says how to get the figures then.
    """
    path = folder / "test.json"
    try:
        figures = figures_of()
        write_json(path, figures)
    except Exception as error:
        command = shlex.join(["python", "scripts/evaluate.py", f"run={folder}", f"output={path}"])
        kept = f"the trained model is kept in {folder / 'model.safetensors'}; for its figures then: {command}"
        if isinstance(error, UserError | OSError):
            raise UserError(f"{reason_of(error)}; {kept}", exit_code=1) from error
        log.error("%s", kept)  # a fault of the program: its traceback follows
        raise
    logger.log({f"test/{name}": figure for name, figure in figures.items() if figure is not None}, step=step)
    if figures:
        log.info("%s", table(figures))
    log.info("model, figures and configuration: %s", folder)
    return figures


def retrieved_images(
    config: DictConfig, records: Sequence[ImageRecord], pretrained: Pretrained, *, device: torch.device
) -> list[list]:
    """For eight captions spread over the records: the caption, its image's file, and the five images nearest to it."""
    model = pretrained.model.eval()
    images = embed_images(model, image_batches(config, records, pretrained), device=device)
    decoded = images["image_index"].tolist()
    queries = [decoded[place] for place in evenly_spread(len(decoded), 8)]
    captions = [records[query].captions[0] for query in queries]
    texts = embed_captions(model, captions, tokenizer=pretrained.tokenizer.batch, device=device)
    _, nearest = top_k(texts, images["embeddings"], similarity=model.similarity, k=5)
    found = images["image_index"][nearest].tolist()
    return [
        [caption, records[query].path, *(records[index].path for index in row)]
        for caption, query, row in zip(captions, queries, found, strict=True)
    ]


def save_attention(
    count: int, folder: Path, records: Sequence[ImageRecord], pretrained: Pretrained, **reading: str | int
) -> list[list[str | Path]]:
    """Pictures of where the words of `count` captions look, spread over the records: each caption and its PNG file.

    A picture that fails is left out with a warning; with on_error=skip, images that do not decode are left out without
    one. `reading` is what `read_or_skip` takes.
    """
    rows = []
    for number, index in enumerate(evenly_spread(len(records), count)):
        record = records[index]
        path = folder / "attention" / f"{number}_{safe_name(record.path.stem)}.png"
        with optional(f"the picture of attention of {record.path}"):
            if (image := read_or_skip(record.path, **reading)) is None:
                continue
            save_figure(draw_attention(pretrained, image, record.captions[0]), path)
            rows.append([record.captions[0], path])
    return rows


def safe_name(name: str) -> str:
    """A name as part of a file's that every file system takes: letters, digits, `-`, `.` and `_`, at most 50."""
    return re.sub(r"[^\w.-]+", "_", name)[:50]
