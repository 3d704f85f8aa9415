"""Examples from an image–text model: retrieved images, and the attention of words to patches."""

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
from meru.data.sampling import evenly_spread
from meru.evaluation.image_text import embed_captions, embed_images
from meru.metrics.retrieval import top_k
from meru.optional_part import optional
from meru.reports.attention import attention_figure, save_figure

UNTRAINED = "This model trains no attention: similarities of words and patches are shown."


def retrieved_images(
    pretrained: Pretrained,
    batches: Iterable[dict[str, Tensor]],
    records: Sequence[ImageRecord],
    *,
    device: torch.device,
) -> list[list]:
    """For eight captions spread over the records: the caption, the file of its image, and the five nearest images.

    Args:
        pretrained: The model and its tokenizer.
        batches: The records' images in order, from an evaluation loader.
        records: The images and their captions.
        device: The model's device.
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
    """Attention plots of the words of `count` captions spread over the records: each caption and its PNG file.

    A plot that fails is left out with a warning; with on_error=skip, images that cannot be decoded are left out without
    a warning. `reading` is passed to `read_or_skip`.
    """
    rows = []
    for number, index in enumerate(evenly_spread(len(records), count)):
        record = records[index]
        path = folder / f"{number}_{safe_name(record.path.stem)}.png"
        with optional(f"the attention plot of {record.path}"):
            if (image := read_or_skip(record.path, **reading)) is None:
                continue
            save_figure(draw_attention(pretrained, image, record.captions[0]), path)
            rows.append([record.captions[0], path])
    return rows


def draw_attention(pretrained: Pretrained, image: Tensor, caption: str) -> Figure:
    """A plot of the attention of a caption's words to the patches of an image, uint8 RGB `(3, H, W)`."""
    pretrained.model.eval()
    picture, words, weights = attention_of_words(pretrained, image, caption)
    note = "" if pretrained.model.has_word_attention else UNTRAINED
    return attention_figure(picture, words, weights, title=caption, note=note)


@torch.no_grad()
def attention_of_words(pretrained: Pretrained, image: Tensor, caption: str) -> tuple[Tensor, list[str], Tensor]:
    """The prepared image `(3, S, S)`, the words of a caption, and their `word_attention` to its patches, `(K, N)`."""
    model, tokenizer, transforms = pretrained
    device = pretrained.device
    picture, tokens = transforms.evaluation(image), tokenizer.batch([caption])
    (weights,) = model.word_attention(picture[None].to(device), tokens.to(device), torch.tensor([0], device=device))
    words = tokenizer.words(tokens[0])
    return picture, [word for word, _ in words], weights[[at for _, at in words]]


def safe_name(name: str) -> str:
    """A name made safe for file names on any system: letters, digits, `-`, `.` and `_`, at most 50 of them."""
    return re.sub(r"[^\w.-]+", "_", name)[:50]
