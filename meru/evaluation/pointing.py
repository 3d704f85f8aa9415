"""The pointing game: whether a word attends to the patch that shows the part it names.

Zhang et al., "Top-down Neural Attention by Excitation Backprop", IJCV 2018, section 4.2, with key-points instead
of objects: a hit is a part's key-point inside the patch that the part's word attends to most. Baselines are a random
patch, and the patch at the centre of the bounding box.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from meru import sharing
from meru.data.loading import reading_options
from meru.data.parts import PartWords, part_places
from meru.encoders.sizes import grid_of
from meru.errors import UserError
from meru.evaluation.suite import Subject
from meru.reports.bars import bars_figure
from meru.reports.tables import format_rows

KINDS = ("pointing", "box_centre", "chance")
Hits = dict[str, dict[str, list[float]]]  # kind → part → share of hits of each mention


@torch.no_grad()
def pointing_game(
    model: nn.Module,
    batches: Iterable[dict[str, Tensor]],
    *,
    captions: Sequence[Sequence[str]],
    places: Sequence[Mapping[str, Tensor]],
    centres: Sequence[tuple[float, float]],
    part_of_word: Mapping[str, str],
    tokenize: Callable[[list[str]], Tensor],
    words: Callable[[Tensor], list[tuple[str, int]]],
    device: torch.device,
    captions_at_once: int = 128,
) -> dict[str, float]:
    """Share of the mentions of visible parts whose most attended patch contains the part.

    The model is put into evaluation mode temporarily. In `sharing.together`, the processes divide the images.

    Args:
        model: Has `word_attention`, to N patches row by row, and `patch_offset`: a position belongs to the patch with
            the nearest receptive field centre (see `meru.encoders.image.patch_offset`); for cached rows also
            `image_size`.
        batches: The images, from an evaluation loader.
        captions: Captions of every record, by its `image_index`.
        places: Part → its positions `(k, 2)` from left and top, in shares of the model's input image, in [0, 1). A hit
            on any of the k counts. Parts that are not visible are left out.
        centres: Centre of the bounding box, in the same units.
        part_of_word: The words that count, and the parts they name.
        tokenize: Captions → int64 `(C, L)`, padded with 0.
        words: Token ids `(L,)` → words, each with the position of its last token.
        device: The model's device.
        captions_at_once: Captions per pass, which bounds the memory.

    Returns:
        `pointing/accuracy@1`, over all mentions, and its chance level; `pointing/mean_of_parts/…` and
        `pointing/<part>/…`; the same under `box_centre/…` for the centre of the box; `pointing/mentions`. Empty if
        no caption names a visible part.
    """
    was_training = model.training
    model.eval()

    def hits(batch: dict[str, Tensor]) -> Hits:
        shares: Hits = {name: defaultdict(list) for name in KINDS}
        mentions = _mentions(batch["image_index"].tolist(), captions, places, part_of_word, tokenize, words)
        images = batch["image"].to(device)
        size = tuple(images.shape[-2:]) if images.dim() == 4 else model.image_size
        for start in range(0, len(mentions), captions_at_once):
            some = mentions[start : start + captions_at_once]
            tokens = nn.utils.rnn.pad_sequence([tokens for _, tokens, _ in some], batch_first=True).to(device)
            # Consecutive mentions share their image: only a few images of the batch are needed at a time.
            rows, image_of = torch.tensor([row for row, _, _ in some], device=device).unique(return_inverse=True)
            attention = model.word_attention(images[rows], tokens, image_of).float().cpu()
            for (row, _, named), of_caption in zip(some, attention, strict=True):
                record = int(batch["image_index"][row])
                grid = grid_of(of_caption.shape[-1], size)
                _count_hits(shares, of_caption, named, places[record], centres[record], grid, model.patch_offset)
        return shares

    found = sharing.results_of(batches, hits)
    model.train(was_training)
    return _figures(_merged(found))


def evaluate_pointing(subject: Subject) -> dict[str, float | None]:
    """The figures of `pointing_game` on the split.

    Raises:
        UserError: if the data name no words for parts, or no caption names a visible part.
    """
    part_of_word = PartWords.of(subject.section).part_of
    if not part_of_word:
        raise UserError("suite=pointing needs words for parts: choose data with data.part_words, such as data=cub")
    records, transform = subject.records(), subject.pretrained.transforms.evaluation
    maximum_pixels = reading_options(subject.section)["maximum_pixels"]
    places, centres = part_places(records, transform, maximum_pixels=maximum_pixels)
    figures = pointing_game(
        subject.model,
        subject.batches_of(records),
        captions=[record.captions[: subject.settings["captions_per_image"]] for record in records],
        places=places,
        centres=centres,
        part_of_word=part_of_word,
        tokenize=subject.tokenize,
        words=subject.pretrained.tokenizer.words,
        device=subject.device,
    )
    if not figures:
        raise UserError("suite=pointing: no caption of the split names a visible part: choose data with key-points")
    return figures


def format_pointing(figures: Mapping[str, float | None], title: str) -> str:
    """The shares over all mentions, averaged over parts, and of each part, beside those of the centre of the box."""
    return format_rows(figures, title, rows=_rows(figures), columns={"R@1": "accuracy@1"})


def pointing_figure(figures: Mapping[str, float | None], title: str = "") -> Figure:
    """Bars of these shares."""
    return bars_figure(figures, title, rows=_rows(figures), columns={"R@1": "accuracy@1"})


def _rows(figures: Mapping[str, float | None]) -> dict[str, str]:
    """Label → the first part of the name of each share."""
    rows = {}
    for name in figures:
        row, _, metric = name.rpartition("/")
        if metric == "accuracy@1":
            rows[row.replace("_", " ").replace("/", ", ")] = row
    return rows


def _count_hits(shares, attention, named, places, centre, grid, offset: float) -> None:
    """Append to `shares` the score of each part that a caption names; `attention` is the caption's, `(L, N)`."""
    middle = _patches(torch.tensor([centre]), grid, offset)
    for part, position in named:
        right = _patches(places[part], grid, offset)
        weights = attention[position]
        most = (weights == weights.max()).nonzero()[:, 0]  # several if a sigmoid is saturated
        shares["pointing"][part].append(torch.isin(most, right).float().mean().item())
        shares["box_centre"][part].append(float(torch.isin(middle, right)))
        shares["chance"][part].append(len(right) / attention.shape[-1])


def _mentions(records, captions, places, part_of_word, tokenize, words) -> list[tuple[int, Tensor, list]]:
    """Row in the batch, token ids and `(part, position)` of every caption that names a part visible in its image."""
    found = []
    for row, record in enumerate(records):
        for caption in captions[record]:
            (tokens,) = tokenize([caption])
            parts = ((part_of_word.get(word), position) for word, position in words(tokens))
            named = [(part, position) for part, position in parts if part in places[record]]
            if named:
                found.append((row, tokens, named))
    return found


def _patches(places: Tensor, grid: tuple[int, int], offset: float) -> Tensor:
    """The distinct patches of a grid of rows and columns that contain the positions `(k, 2)`."""
    rows, columns = grid
    column, row = (
        (place * count - offset).floor().long().clamp(0, count - 1)
        for place, count in zip(places.unbind(dim=-1), (columns, rows), strict=True)
    )
    return (row * columns + column).unique()


def _merged(of_batches: Sequence[Hits]) -> Hits:
    every: Hits = {name: defaultdict(list) for name in KINDS}
    for shares in of_batches:
        for name, parts in shares.items():
            for part, values in parts.items():
                every[name][part] += values
    return every


def _figures(shares: dict[str, dict[str, list[float]]]) -> dict[str, float]:
    def rows(by_part: dict[str, list[float]]) -> dict[str, float]:
        means = {part: sum(values) / len(values) for part, values in sorted(by_part.items())}
        every = [value for values in by_part.values() for value in values]
        return {"": sum(every) / len(every), "/mean_of_parts": sum(means.values()) / len(means), **{
            f"/{part}": mean for part, mean in means.items()
        }}

    if not shares["chance"]:
        return {}
    figures = {}
    chance = rows(shares["chance"])
    for name in ("pointing", "box_centre"):
        for row, share in rows(shares[name]).items():
            figures[f"{name}{row}/accuracy@1"] = share
            figures[f"{name}{row}/chance_accuracy@1"] = chance[row]
    return {**figures, "pointing/mentions": float(sum(map(len, shares["chance"].values())))}
