"""Measures images and captions before training: sizes, files that cannot be decoded, equal files, lengths, scripts."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch
from tqdm import tqdm

from meru.data.images import MAXIMUM_PIXELS, OR_SKIP, check_maximum_pixels, read_image
from meru.encoders.text import CaptionTokenizer
from meru.errors import UserError

MOST_CAPTIONS = 50_000  # of more, evenly spread ones are measured
_READ = 2**20  # bytes at a time
_FULL_LENGTH = 10**6  # tokens; no caption is cut


class DecodedImages(NamedTuple):
    """What decoding of files gives.

    Attributes:
        sizes: Width and height of each image that decodes.
        unreadable: Why the others do not, in order.
    """

    sizes: dict[Path, tuple[int, int]]
    unreadable: dict[Path, str]


def decode_all(paths: Sequence[Path], maximum_pixels: int | None) -> DecodedImages:
    """Decode every file once.

    Args:
        paths: The files.
        maximum_pixels: As `data.maximum_pixels`; None: its default.
    """
    limit = check_maximum_pixels(maximum_pixels or MAXIMUM_PIXELS)

    def size_or_reason(path: Path) -> tuple[int, int] | str:
        try:
            _, height, width = read_image(path, maximum_pixels=limit).shape
        except UserError as error:
            return str(error).removeprefix("image ").removesuffix(OR_SKIP)
        return width, height

    torch.set_num_threads(1)  # the pool's threads are enough
    paths = list(dict.fromkeys(paths))
    with ThreadPoolExecutor() as pool:
        found = list(tqdm(pool.map(size_or_reason, paths), "reading images", len(paths), disable=None, delay=5))
    of = dict(zip(paths, found, strict=True))
    return DecodedImages(
        {path: each for path, each in of.items() if not isinstance(each, str)},
        {path: each for path, each in of.items() if isinstance(each, str)},
    )


def equal_files(paths: Sequence[Path]) -> list[list[Path]]:
    """Groups of files with the same bytes, in order; only files of equal size are read.

    Two names of one file, say by a symbolic link, are equal files too.
    """
    by_size: dict[int, list[Path]] = defaultdict(list)
    for path in dict.fromkeys(paths):
        try:
            by_size[os.stat(path).st_size].append(path)
        except OSError:  # decoding reports it
            continue
    groups: dict[bytes, list[Path]] = defaultdict(list)
    for path in (path for same in by_size.values() if len(same) > 1 for path in same):
        try:
            groups[_digest(path)].append(path)
        except OSError:
            continue
    return [group for group in groups.values() if len(group) > 1]


def _digest(path: Path) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while block := file.read(_READ):
            digest.update(block)
    return digest.digest()


def across_splits(groups: Sequence[Sequence[Path]], splits: Mapping[str, Sequence[Path]]) -> list[tuple[str, Path]]:
    """Of groups of equal files those that lie in several splits: each copy with its split, group by group."""
    split_of = {path: name for name, paths in splits.items() for path in paths}
    crossing = [group for group in groups if len({split_of[path] for path in group}) > 1]
    return [(split_of[path], path) for group in crossing for path in group]


class CaptionLengths(NamedTuple):
    """Lengths of captions in tokens, both special ones included, and how many exceed the context."""

    shortest: int
    median: int
    longest: int
    cut: int
    measured: int


def caption_lengths(captions: Sequence[str], *, context_length: int) -> CaptionLengths:
    """Measure captions, at least one, with CLIP's tokenizer.

    Args:
        captions: Of more than `MOST_CAPTIONS`, evenly spread ones are measured.
        context_length: Most tokens that a text tower takes.
    """
    chosen = _evenly_spread(captions)
    whole = CaptionTokenizer(context_length=_FULL_LENGTH)
    lengths = sorted(len(whole(caption)) for caption in chosen)
    cut = sum(length > context_length for length in lengths)
    return CaptionLengths(lengths[0], lengths[len(lengths) // 2], lengths[-1], cut, len(lengths))


class ForeignScripts(NamedTuple):
    """Letters that are not Latin.

    Attributes:
        captions: Share of the captions that have such letters.
        letters: Share of all letters.
        scripts: Their scripts as Unicode names them, the most frequent first: `cjk`, `cyrillic`, `arabic`, …
    """

    captions: float
    letters: float
    scripts: list[str]


def foreign_scripts(captions: Sequence[str]) -> ForeignScripts:
    """The share of captions, at least one, and of their letters that CLIP's English vocabulary has no words for."""
    chosen = _evenly_spread(captions)
    letters: Counter[str] = Counter()
    concerned = 0
    for caption in chosen:
        own = Counter(_scripts(caption))
        letters += own
        concerned += bool(own.keys() - {"latin"})
    foreign = letters.total() - letters["latin"]
    return ForeignScripts(
        concerned / len(chosen),
        foreign / max(1, letters.total()),
        [name for name, _ in letters.most_common() if name != "latin"],
    )


def _scripts(caption: str) -> Iterator[str]:
    for letter in filter(str.isalpha, caption):
        if letter.isascii():
            yield "latin"
        else:
            yield unicodedata.name(letter, "unknown").split()[0].lower()


def _evenly_spread(captions: Sequence[str]) -> Sequence[str]:
    if len(captions) <= MOST_CAPTIONS:
        return captions
    return [captions[number * len(captions) // MOST_CAPTIONS] for number in range(MOST_CAPTIONS)]
