"""Samples of shards as image files, for evaluation, which reads images in any order."""

from __future__ import annotations

import itertools
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import astuple
from pathlib import Path

from meru.data.cache_files import cache_folder, digest_of
from meru.data.images import image_size
from meru.data.records import Crop, ImageRecord, Region
from meru.data.shards.records import record_of
from meru.data.shards.tars import Fields, RawSample, is_local, samples_in
from meru.errors import UserError
from meru.files import os_error_message

log = logging.getLogger("meru")

RECORDS = "records.json"


def extracted(
    urls: Sequence[str], *, fields: Fields, key: str, cache: str | None, on_error: str, most: int | None = None
) -> tuple[ImageRecord, ...]:
    """The samples of shards, with images as files in the cache folder, where they are found again.

    Args:
        urls: The shards.
        fields: Which files of a sample hold what.
        key: Name of the key that names the shards, for messages.
        cache: See `meru.data.cache_files.cache_folder`.
        on_error: `skip`: leave out samples without captions, and what comes after damage in a shard.
        most: At most this many of the first samples; None: all.

    Raises:
        UserError: if there are none, or they cannot be read or written.
    """
    facts = [(url, *_state(url)) for url in urls]
    folder = cache_folder(cache) / "shards" / digest_of((facts, astuple(fields), on_error, most))
    try:
        if not (folder / RECORDS).is_file():
            _extract(urls, folder, fields, key=key, on_error=on_error, most=most)
        listed = json.loads((folder / RECORDS).read_text(encoding="utf-8"))
    except OSError as error:
        message = f"{key}: samples cannot be kept in data.cache: {os_error_message(error)}"
        raise UserError(message, exit_code=1) from None
    return tuple(
        ImageRecord(folder / name, number, tuple(captions), regions=tuple(_part(folder, *each) for each in regions))
        for number, (name, captions, regions) in enumerate(listed)
    )


def _part(folder: Path, place: str | list[float], phrase: str, name: str = "") -> Region | Crop:
    """A part as it was written: a crop's file, or a box."""
    return Crop(folder / place, phrase, name) if isinstance(place, str) else Region(tuple(place), phrase)


def _state(url: str) -> tuple[int, int]:
    if not is_local(url):
        return (0, 0)
    found = os.stat(url)
    return found.st_size, found.st_mtime_ns


def _extract(urls: Sequence[str], folder: Path, fields: Fields, *, key: str, on_error: str, most: int | None) -> None:
    """Write the images and their records; the folder appears when it is complete."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    if most is None:
        log.info("%s: extracting %d shards to %s", key, len(urls), folder)
    place = Path(tempfile.mkdtemp(prefix=".", dir=folder.parent))
    try:
        faults: list[str] = []
        images = _images(urls, place, fields, on_error, faults)
        listed = list(itertools.islice(images, most))
        images.close()
        if not listed and faults:
            raise UserError(f"{key}: no sample can be used; the first reason: {faults[0]}", exit_code=1)
        if not listed:
            raise UserError(
                f"{key}: {urls[0]}{f' and {len(urls) - 1} more hold' if len(urls) > 1 else ' holds'} no image with a "
                f"caption ({'|'.join(fields.image)}, {fields.captions}){_there(urls[0], fields)}: set "
                "data.image_field and data.caption_field"
            )
        (place / RECORDS).write_text(json.dumps(listed), encoding="utf-8")
        with suppress(FileExistsError):
            place.rename(folder)
    except OSError:
        if not (folder / RECORDS).is_file():  # otherwise another run has extracted the same
            raise
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _there(url: str, fields: Fields) -> str:
    """What the first sample of a shard has, for a message."""
    first = next(samples_in(url, fields, without_image=True), None)
    return f", its first sample has {', '.join(sorted(first.files))[:200]}" if first else ""


def _images(
    urls: Sequence[str], place: Path, fields: Fields, on_error: str, faults: list[str]
) -> Iterator[tuple[str, tuple[str, ...], tuple]]:
    """Write images; gives the name of the file, the captions and the parts of each. `faults` gets what is left out."""
    number = 0
    for url in urls:
        try:
            for raw in samples_in(url, fields):
                try:
                    yield _written(raw, place, fields, number)
                    number += 1
                except UserError as error:
                    if on_error == "raise":
                        raise
                    faults.append(str(error))
        except UserError as error:
            if on_error == "raise":
                raise
            faults.append(str(error))
    if faults:
        log.warning("left out: %d samples or rests of shards, the first: %s", len(faults), faults[0])


def _written(raw: RawSample, place: Path, fields: Fields, number: int) -> tuple[str, tuple[str, ...], tuple]:
    ending = next(each for each in fields.image if each in raw.files)
    path = place / f"{number:07d}.{ending.rpartition('.')[2]}"
    path.write_bytes(fields.image_of(raw))
    size = None
    if fields.regions and not fields.crops:
        with suppress(UserError):  # a damaged image is met when it is read
            size = image_size(path)
    record = record_of(raw, fields, index=number, size=size, path=path)
    for part in record.regions:
        if isinstance(part, Crop):
            (place / _file_of(part, number)).write_bytes(part.image)
    parts = (part._replace(image=_file_of(part, number)) if isinstance(part, Crop) else part for part in record.regions)
    return path.name, record.captions, tuple(parts)


def _file_of(crop: Crop, number: int) -> str:
    return f"{number:07d}.{crop.name}"
