"""Search in a folder of images by a sentence: `scripts/search.py`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, NamedTuple

import torch

from meru import distributed
from meru.assemble import Pretrained
from meru.data.datasets.own.folders import images_in
from meru.data.images import read_image
from meru.data.loading import ordered_loader, read_or_skip
from meru.errors import UserError
from meru.evaluation.image_text import embed_captions, embed_images
from meru.files import output_file, user_path
from meru.metrics.retrieval import top_k
from meru.reports.attention import save_figure
from meru.reports.contact_sheet import contact_sheet
from meru.sources.opening import load

log = logging.getLogger("meru")

BATCH_SIZE = 64


class Found(NamedTuple):
    """An image of a ranking; a larger score means more similar."""

    score: float
    path: Path


def search_run(run: str, *, images: str, output: str | None = None, **options: Any) -> list[Found]:
    """As `search`, with the source of a model, which is opened when the other arguments are known to be usable."""
    _require_places(images, output)
    return search(load(run), images=images, output=output, **options)


def search(
    pretrained: Pretrained, *, images: str | Path, text: str, top: int = 10, output: str | None = None, workers: int = 2
) -> list[Found]:
    """Rank the images of a folder by their similarity to a sentence.

    Images that cannot be decoded are left out, and the log counts them.

    Args:
        pretrained: A model with a text tower.
        images: The folder; images in folders inside it are included.
        text: The sentence.
        top: Length of the ranking.
        output: A PNG file for the images found; None: none.
        workers: Processes that read images.

    Returns:
        The `top` most similar images, best first.

    Raises:
        UserError: if the folder has no image that can be decoded, the model has no text tower, or `output` cannot be
            written.
    """
    folder, file = _require_places(images, output)
    if pretrained.tokenizer is None:
        raise UserError(f"{type(pretrained.model).__name__} has no text tower, so it cannot search by a sentence")
    ranking = _ranking(pretrained, [folder / inner for inner in images_in(folder)], text, top=top, workers=workers)
    if file:
        pictures = [read_image(found.path) for found in ranking]
        names = [f"{place}. {found.path.name}" for place, found in enumerate(ranking, start=1)]
        save_figure(contact_sheet(pictures, names, title=text), file)
        log.info("images: %s", file)
    return ranking


def _require_places(images: str | Path, output: str | Path | None) -> tuple[Path, Path | None]:
    """The folder of images and the file for those found."""
    folder = user_path(images)
    if not folder.is_dir():
        raise UserError(f"images={images}: there is no such folder")
    return folder, output_file(output, example="found.png") if output else None


def _ranking(pretrained: Pretrained, paths: list[Path], text: str, *, top: int, workers: int) -> list[Found]:
    device, model = distributed.start(), pretrained.model.eval()
    model.to(device)
    loader = ordered_loader(
        paths,
        {"class_index": torch.zeros(len(paths), dtype=torch.int64)},
        batch_size=BATCH_SIZE,
        transform=pretrained.transforms.evaluation,
        workers=workers,
        on_error="skip",
    )
    if all(read_or_skip(path, on_error="skip") is None for path in paths):  # usually reads only the first
        raise UserError(f"none of the {len(paths)} images in {paths[0].parent} can be decoded: restore them")
    found = embed_images(model, loader, device=device)
    if skipped := len(paths) - len(found["image_index"]):
        log.warning("%d of %d images cannot be decoded and are left out", skipped, len(paths))
    query = embed_captions(model, [text], tokenizer=pretrained.tokenizer.batch, device=device)
    scores, places = top_k(query, found["embeddings"], similarity=model.similarity, k=top)
    numbers = found["image_index"][places[0]].tolist()
    return [Found(score, paths[number]) for score, number in zip(scores[0].tolist(), numbers, strict=True)]


def format_ranking(ranking: list[Found], folder: Path) -> str:
    """One line an image: place, score and the path inside the folder."""
    lines = (f"{place:>4}  {score:8.3f}  {path.relative_to(folder)}" for place, (score, path) in enumerate(ranking, 1))
    return "\n".join(["         score  image", *lines])
