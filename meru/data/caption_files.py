"""Captions from a file beside those of the data set, such as those that a language model has written.

JSON, `{"owl/1.jpg": ["a brown owl", {"caption": "an owl asleep", "weight": 2.0}]}`, or JSON Lines with `image` and
`captions` in each line.
"""

from __future__ import annotations

import dataclasses
import json
import math
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from meru.data.records import ImageRecord, ImageTextData
from meru.data.texts import read_text
from meru.errors import UserError

MODES = ("add", "replace", "mix")
KEY = "data.captions_from"
LAYOUT = (
    'write {"<image>": ["<caption>", {"caption": "<caption>", "weight": 2}], …}, or lines of '
    '{"image": "<image>", "captions": […]}'
)


class Generated(NamedTuple):
    """A caption from a file.

    Attributes:
        caption: Not empty.
        weight: ≥ 0; a caption of weight 2 is drawn twice as often as one of weight 1.
    """

    caption: str
    weight: float


class Described(NamedTuple):
    """Data with captions from a file.

    Attributes:
        data: The data.
        images: Training images that the file has captions for.
        without: Training images that keep their own.
        unknown: Entries of the file that are of no image of the data.
    """

    data: ImageTextData
    images: int
    without: int
    unknown: int


def read_captions_file(path: Path) -> dict[str, tuple[Generated, ...]]:
    """Image → its captions, of which at least one has a weight above 0.

    Raises:
        UserError: if the file is missing or not in the layout, an image is listed twice, a caption is empty, or a
            weight is below 0; the message says where.
    """
    found: dict[str, tuple[Generated, ...]] = {}
    for place, image, captions in _entries(path):
        name = unicodedata.normalize("NFC", image)
        if name in found:
            raise UserError(f"{KEY}: {place}: the image {image} is listed twice; put all its captions into one entry")
        found[name] = tuple(_caption(each, place, image) for each in captions)
        if not any(each.weight for each in found[name]):
            why = "all weights are 0" if captions else "there is no caption"
            raise UserError(f"{KEY}: {place}: {why} of the image {image}; leave its entry out to keep its own captions")
    if not found:
        raise UserError(f"{KEY}: {path} has captions of no image; {LAYOUT}")
    return found


def _entries(path: Path) -> Iterator[tuple[str, str, list]]:
    """For every entry of a file its place for messages, the image, and its captions as they are there."""
    text = read_text(path, needed=f": {KEY} needs this file")

    def parsed(text: str, place: str) -> object:
        try:
            return json.loads(text, object_pairs_hook=_Pairs)
        except (ValueError, RecursionError) as error:
            why = "nested too deeply" if isinstance(error, RecursionError) else error
            raise UserError(f"{KEY}: {place} cannot be read as JSON ({why}); {LAYOUT}") from None

    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        for number, line in lines:
            place = f"{path}, line {number}"
            value = parsed(line, place)
            fields = dict(value) if isinstance(value, _Pairs) else {}
            yield _checked(place, fields.get("image"), fields.get("captions"))
        return
    value = parsed(text, str(path))
    if not isinstance(value, _Pairs):
        raise UserError(f"{KEY}: {path} is no JSON object; {LAYOUT}")
    for image, captions in value:
        yield _checked(str(path), image, captions)


class _Pairs(list):
    """A JSON object as pairs, so that a name given twice is seen."""


def _checked(place: str, image: object, captions: object) -> tuple[str, str, list]:
    if not isinstance(image, str) or not image or not isinstance(captions, list) or isinstance(captions, _Pairs):
        of = f" of the image {image}" if isinstance(image, str) and image else ""
        raise UserError(f"{KEY}: {place}: the entry{of} is not a list of captions; {LAYOUT}")
    return place, image, captions


def _caption(value: object, place: str, image: str) -> Generated:
    fields = dict(value) if isinstance(value, _Pairs) else {"caption": value}
    caption, weight = fields.get("caption"), fields.get("weight", 1.0)
    if not isinstance(caption, str) or set(fields) - {"caption", "weight"}:
        raise UserError(f"{KEY}: {place}: a caption of the image {image} is not text; {LAYOUT}")
    if not caption.strip():
        raise UserError(f"{KEY}: {place}: a caption of the image {image} is empty; write it, or leave it out")
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
        raise UserError(f"{KEY}: {place}: a weight of the image {image} is {weight}; give a number of at least 0")
    return Generated(" ".join(caption.split()), float(weight))


def with_captions_of(
    data: ImageTextData,
    captions: Mapping[str, Sequence[Generated]],
    *,
    mode: str,
    share: float,
    everywhere: bool = False,
    path: str | Path = "",
) -> Described:
    """Give the training images the captions of a file; those without an entry keep their own.

    Args:
        data: The data with their own captions.
        captions: Of `read_captions_file`. An image is the end of its path: `1.jpg`, `owl/1.jpg` or more.
        mode: `add`: beside its own, which weigh 1; `replace`: instead of them; `mix`: drawn with probability `share`.
        share: For `mix`, in [0, 1].
        everywhere: Whether the other splits have them too; figures are then not those of the data set.
        path: The file, for messages.

    Raises:
        UserError: if no training image has an entry, or an entry is of several images or twice of one; or for shards.
    """
    if data.shards:
        raise UserError(f"{KEY}={path}: captions of shards are read as a stream; put them into the shards instead")
    of_image, unknown = _by_image((*data.train, *data.validation, *data.test), captions, path)

    def described(records: Iterable[ImageRecord]) -> tuple[ImageRecord, ...]:
        return tuple(
            _with_captions(each, of_image[each.path], mode=mode, share=share) if each.path in of_image else each
            for each in records
        )

    images = sum(record.path in of_image for record in data.train)
    if not images:
        example = data.train[0].path if data.train else "none"
        raise UserError(
            f"{KEY}={path}: none of its {len(captions)} images, such as {next(iter(captions))}, is a training image of "
            f"these data, such as {example}: give the file for these data"
        )
    splits = {"train": described(data.train)}
    if everywhere:
        splits |= {"validation": described(data.validation), "test": described(data.test)}
    return Described(dataclasses.replace(data, **splits), images, len(data.train) - images, unknown)


def _by_image(
    records: Sequence[ImageRecord], captions: Mapping[str, Sequence[Generated]], path: str | Path
) -> tuple[dict[Path, Sequence[Generated]], int]:
    """Image file → its captions, and how many entries are of no image."""
    by_name: dict[str, dict[Path, tuple[str, ...]]] = defaultdict(dict)
    for record in records:
        parts = _parts(record.path.as_posix())
        by_name[parts[-1]][record.path] = parts
    found: dict[Path, Sequence[Generated]] = {}
    entry_of: dict[Path, str] = {}
    unknown = 0
    for image, each in captions.items():
        end = _parts(image)
        fitting = [file for file, parts in by_name.get(end[-1], {}).items() if parts[-len(end) :] == end]
        if len(fitting) > 1:
            raise UserError(
                f"{KEY}={path}: {image} may be {fitting[0]} or {fitting[1]}: write the name with its folder"
            )
        if not fitting:
            unknown += 1
            continue
        if (earlier := entry_of.setdefault(fitting[0], image)) != image:
            raise UserError(f"{KEY}={path}: {earlier} and {image} are the same image, {fitting[0]}: list it once")
        found[fitting[0]] = each
    return found, unknown


def _parts(path: str) -> tuple[str, ...]:
    """The names in a path, without `.`; a name of its own if there are none."""
    return PurePosixPath(unicodedata.normalize("NFC", path)).parts or (path,)


def _with_captions(record: ImageRecord, generated: Sequence[Generated], *, mode: str, share: float) -> ImageRecord:
    """A record with own and generated captions, and how often each is drawn."""
    number, total = len(record.captions), sum(each.weight for each in generated)
    own, others = 1.0, 1.0  # what the weights are multiplied by
    if mode == "mix":
        own, others = (1 - share) / number, share / total
    elif mode == "replace":
        own = 0.0
    weighted = [(caption, own) for caption in record.captions]
    weighted += [(each.caption, each.weight * others) for each in generated]
    kept = [position for position, (_, weight) in enumerate(weighted) if weight > 0]
    weights = tuple(weighted[position][1] for position in kept)
    texts = [caption for caption, _ in weighted]
    # A generated caption has no back-translation and stands for itself.
    translations = (*record.back_translations, *texts[number:]) if record.back_translations else ()
    return dataclasses.replace(
        record,
        captions=tuple(texts[position] for position in kept),
        back_translations=tuple(translations[position] for position in kept) if translations else (),
        caption_weights=weights if len(set(weights)) > 1 else (),
    )
