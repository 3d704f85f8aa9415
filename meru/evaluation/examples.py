"""What an image–text model does with single images and captions: images that it retrieves, and where words look."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from meru.assemble import Pretrained
from meru.data.loading import read_or_skip
from meru.data.records import ImageRecord
from meru.evaluation.image_text import embed_captions, embed_images
from meru.metrics.retrieval import top_k
from meru.optional_part import optional
from meru.reports.attention import attention_figure, save_figure


def retrieved_images(
    pretrained: Pretrained,
    batches: Iterable[dict[str, Tensor]],
    records: Sequence[ImageRecord],
    *,
    device: torch.device,
) -> list[list]:
    """For eight captions spread over the records: the caption, its image's file, and the five images nearest to it.

    Args:
        pretrained: The model and its tokenizer.
        batches: The records' images in order, as an evaluation loader gives them.
        records: The images and their captions.
        device: The model's.
    """
    model = pretrained.model.eval()
    images = embed_images(model, batches, device=device)
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
        path = folder / f"{number}_{safe_name(record.path.stem)}.png"
        with optional(f"the picture of attention of {record.path}"):
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


def evenly_spread(length: int, count: int) -> list[int]:
    """At most `count` indices, evenly spread over `length`."""
    return list(range(0, length, max(1, length // count)))[:count]


def safe_name(name: str) -> str:
    """A name as part of a file's that every file system takes: letters, digits, `-`, `.` and `_`, at most 50."""
    return re.sub(r"[^\w.-]+", "_", name)[:50]
