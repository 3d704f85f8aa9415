"""Records of samples in shards."""

from __future__ import annotations

import math
from pathlib import Path

from meru.data.datasets.own.boxes import LEAST_INSIDE, regions, require_inside, share_inside
from meru.data.records import Crop, ImageRecord, Region
from meru.data.shards.tars import OR_SKIP, Fields, RawSample, value_of
from meru.errors import UserError


def record_of(
    raw: RawSample, fields: Fields, *, index: int, size: tuple[int, int] | None, path: Path | None = None
) -> ImageRecord:
    """The record of a sample; it is a class of its own.

    Args:
        raw: The sample.
        fields: Which files of it hold what.
        index: Its number.
        size: Height and width of its image in pixels; None: unknown, and its boxes are left out.
        path: A file of its image; None: its place in the tar file, only for messages.

    Raises:
        UserError: for captions and boxes that are missing or of another form, and boxes outside the image; the message
            names tar file and key.
    """
    parts: tuple[Crop, ...] | tuple[Region, ...] = ()
    if fields.crops:
        parts = crops_of(raw, fields)
    elif size:
        parts = regions_of(raw, fields, *size)
    return ImageRecord(path or Path(raw.place), index, fields.captions_of(raw), regions=parts)


def crops_of(raw: RawSample, fields: Fields) -> tuple[Crop, ...]:
    """The crops of a sample that are images of their own, with a text each, in the order of their numbers.

    Raises:
        UserError: if there are none, unless a file says 0; if one lacks its image or text; if their number is not that
            in the file. The message names tar file and key.
    """
    found: dict[str, dict[str, str]] = {}
    for ending in raw.files:
        if (name := fields.crop_of(ending)) is not None:
            found.setdefault(name, {})["text" if ending.endswith(".txt") else "image"] = ending
    told = raw.files.get(fields.number_of_crops)
    if told is None and not found:
        there = ", ".join(sorted(raw.files))
        raise UserError(
            f"{raw.place} has no {fields.regions}, it has {there}: set data.boxes_field to what the names of its crops "
            "begin with, or to null; if only some samples lack them, set data.on_error=skip",
            exit_code=1,
        )
    for name, files in found.items():
        if len(files) == 1:
            (present,) = files.values()
            missing = "text (.txt)" if "image" in files else "image"
            raise UserError(f"{raw.place}: {name} lacks its {missing}, it has only {present}{OR_SKIP}", exit_code=1)
    if told is not None and told.split() != [str(len(found)).encode()]:
        said = f"{fields.number_of_crops} says {told.decode(errors='replace').strip()[:20] or 'nothing'}"
        raise UserError(f"{raw.place}: {said}, but there are {len(found)} crops{OR_SKIP}", exit_code=1)
    return tuple(_crop(raw, files) for _, files in sorted(found.items()))


def _crop(raw: RawSample, files: dict[str, str]) -> Crop:
    text = value_of(raw, files["text"], key="data.boxes_field")
    return Crop(raw.files[files["image"]], " ".join(text.split()), files["image"])


def regions_of(raw: RawSample, fields: Fields, height: int, width: int) -> tuple[Region, ...]:
    """The boxes with phrases of a sample, in pixels.

    They are as `meru.data.datasets.own.boxes.regions` reads them, or GRIT's `noun_chunks` and `ref_exps`: lists of
    `[start, end, left, top, right, bottom, score]`, characters of the caption and edges as shares of the image (Peng et
    al., "Kosmos-2: Grounding Multimodal Large Language Models to the World", ICLR 2024). Those without area are left
    out.

    Raises:
        UserError: for another form, and for boxes outside the image.
    """
    if fields.regions is None:
        return ()
    found = value_of(raw, fields.regions, key="data.boxes_field")
    if not isinstance(found, list) or not any(_is_grit(each) for each in found):
        read = regions(found, raw.place, box_format=fields.box_format)
        require_inside(read, raw.place, height=height, width=width)
        return read
    caption = fields.text_of_boxes(raw)
    return tuple(filter(None, (_region(each, caption, height, width, raw.place) for each in found)))


def _is_grit(value: object) -> bool:
    numbers = isinstance(value, list) and all(type(each) in (int, float) and math.isfinite(each) for each in value)
    return numbers and len(value) in (6, 7)


def _region(value: object, caption: str, height: int, width: int, place: str) -> Region | None:
    """A box of GRIT with its phrase; None if it has no area."""
    if not _is_grit(value):
        raise UserError(
            f"{place}: the box {str(value)[:60]} is not of GRIT's form, [start, end, left, top, right, bottom, score]",
            exit_code=1,
        )
    start, end, *edges = value[:6]
    left, top, right, bottom = edges
    if left >= right or top >= bottom:
        return None
    if share_inside((left, top, right - left, bottom - top), height=1, width=1) < LEAST_INSIDE:
        raise UserError(
            f"{place}: the box {str(value)[:60]} lies outside its image of {width} × {height} pixels: GRIT's edges are "
            'shares of the image, from 0 to 1; boxes in pixels are {"box": [x, y, width, height], "phrase": …}',
            exit_code=1,
        )
    left, top, right, bottom = (min(max(edge, 0.0), 1.0) for edge in edges)
    box = (left * width, top * height, (right - left) * width, (bottom - top) * height)
    return Region(box, " ".join(caption[int(start) : int(end)].split()))
