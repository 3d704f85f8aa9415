"""Samples in tar files: files whose names are equal up to the first dot belong together."""

from __future__ import annotations

import functools
import json
import re
import subprocess
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import BinaryIO

from meru.data.shards.programs import ProgramOutput
from meru.errors import UserError
from meru.files import os_error_message

# What reading a damaged tar file raises, from several layers.
FAULTS = (tarfile.TarError, OSError, EOFError, ValueError, zlib.error, subprocess.SubprocessError)

OR_SKIP = ": mend the shard, or set data.on_error=skip"
_META = re.compile(r"__[^/]*__($|/)")  # names that webdataset leaves out


def webdataset() -> ModuleType:
    """The library webdataset.

    Raises:
        UserError: if it is not installed.
    """
    try:
        import webdataset
    except ImportError:
        raise UserError('data=shards needs webdataset: pip install webdataset') from None
    return webdataset


def is_local(url: str) -> bool:
    """Whether a shard is a file."""
    return not url.startswith(("http:", "https:", "pipe:"))


def reason_of(error: Exception) -> str:
    """The reason of an error while reading a tar file, on one line."""
    if isinstance(error, OSError) and error.errno is not None:
        return os_error_message(error)
    return " ".join(str(error.args[0] if error.args else error).split())[:150] or type(error).__name__


@dataclass(frozen=True)
class RawSample:
    """A sample as it is in the tar file.

    Attributes:
        place: Tar file and key, for messages.
        files: Ending in lower case → content.
    """

    place: str
    files: dict[str, bytes]
    _read: dict[str, object] = field(default_factory=dict, repr=False, compare=False)

    def content(self, ending: str) -> object:
        """The value of a JSON file, which is parsed once; the text of another file.

        Raises:
            ValueError: if it is not JSON, or not UTF-8.
        """
        if ending not in self._read:
            text = self.files[ending].decode("utf-8-sig")
            self._read[ending] = json.loads(text) if ending.endswith("json") else text
        return self._read[ending]


@dataclass(frozen=True)
class Fields:
    """Which files of a sample hold what.

    Attributes:
        image: Endings of the image, the first that is there counts.
        captions: An ending, `txt`, or a key in a JSON file, `json.caption`; its value is a text or a list of texts.
        regions: A key in a JSON file with boxes and phrases, `json.noun_chunks`; or crops as images of their own with
            a text each, `parent*` for parent000.jpg and parent000.txt; None: neither.
        box_format: As for `meru.data.datasets.own.boxes.regions`.
    """

    image: tuple[str, ...] = ("jpg", "jpeg", "png", "webp")
    captions: str = "txt"
    regions: str | None = None
    box_format: str = "xywh"

    @classmethod
    def of(cls, *, image: str, captions: str, regions: str | None, box_format: str = "xywh") -> Fields:
        """The fields of a configuration; endings of images are joined by `;`."""
        endings = tuple(each.strip().lstrip(".").lower() for each in image.split(";") if each.strip(". "))
        if not endings:
            raise UserError(f"data.image_field={image}: give endings such as jpg;png")
        regions = regions and regions.lstrip(".")
        if regions and "*" in regions and not re.fullmatch(r"[^.*]+\*", regions):
            raise UserError(
                f"data.boxes_field={regions}: give what the names of crops begin with and a star: parent*"
            )
        return cls(endings, captions.lstrip("."), regions, box_format)

    @property
    def crops(self) -> str | None:
        """What the names of crops begin with; None if there are none."""
        return self.regions.removesuffix("*") if self.regions and self.regions.endswith("*") else None

    @property
    def number_of_crops(self) -> str:
        """The ending of a file that says how many crops a sample has."""
        return f"num{self.crops}s.txt"

    def crop_of(self, ending: str) -> str | None:
        """The crop that a file belongs to: `parent000.jpg`, `parent000.txt` → `parent000`; None: to none."""
        name, _, kind = ending.rpartition(".")
        kinds = ("txt", *Fields.image, *(each.rpartition(".")[2] for each in self.image))
        return name if self.crops and re.fullmatch(rf"{re.escape(self.crops)}\d+", name) and kind in kinds else None

    def uses(self, ending: str) -> bool:
        """Whether a file of a sample is read."""
        named = (self.captions, self.number_of_crops if self.crops else self.regions or "")
        return ending in self.image or any(_begins(each, ending) for each in named) or self.crop_of(ending) is not None

    def grouping(self) -> Grouping:
        """Counts samples by the names of files."""
        return Grouping(self.image)

    def image_of(self, raw: RawSample) -> bytes | None:
        """The content of the image; None if there is none."""
        return next((raw.files[ending] for ending in self.image if ending in raw.files), None)

    def captions_of(self, raw: RawSample) -> tuple[str, ...]:
        """The captions of a sample, white space reduced to single spaces; empty ones are left out.

        Raises:
            UserError: if there are none, or they are not texts; the message names tar file and key.
        """
        found = value_of(raw, self.captions, key="data.caption_field")
        listed = found if isinstance(found, list) else [found]
        if wrong := [each for each in listed if not isinstance(each, str | None)]:
            raise UserError(
                f"{raw.place}: {self.captions} is {json.dumps(wrong[0], ensure_ascii=False)[:60]}, not a text: set "
                "data.caption_field to another, or data.on_error=skip",
                exit_code=1,
            )
        captions = tuple(filter(None, (" ".join(each.split()) for each in listed if each)))
        if not captions:
            raise UserError(
                f"{raw.place}: its caption ({self.captions}) is empty: mend it, or set data.on_error=skip", exit_code=1
            )
        return captions

    def text_of_boxes(self, raw: RawSample) -> str:
        """The text that GRIT's boxes point into: `caption` in the same JSON file, as it is there."""
        place = self.regions.rpartition(".")[0]
        text = value_of(raw, f"{place}.caption", key="data.boxes_field")
        return text if isinstance(text, str) else ""


class Grouping:
    """Follows the names of files in a tar file as webdataset groups them."""

    def __init__(self, image: tuple[str, ...]):
        self.image, self.key, self.counted = image, None, False
        self.split = webdataset().tariterators.base_plus_ext

    def image_begins(self, name: str) -> bool:
        """Whether a file is the first image of its sample."""
        if _META.match(name):
            return False
        key, ending = self.split(name)
        if key is None:
            return False
        if key != self.key:
            self.key, self.counted = key, False
        if self.counted or ending.lower() not in self.image:
            return False
        self.counted = True
        return True


def samples_in(url: str, fields: Fields, *, without_image: bool = False) -> Iterator[RawSample]:
    """The samples with an image in a tar file, or all of them, in its order, read as a stream.

    Raises:
        UserError: if the tar file cannot be opened or is damaged; the message names it and the sample before, and what
            a server answered.
    """
    library = webdataset()
    last, stream = None, None
    try:
        stream = _opened(url)
        for sample in library.tariterators.group_by_keys(_members(url, stream, fields)):
            files = {name: content for name, content in sample.items() if not name.startswith("__")}
            last = sample["__key__"]
            raw = RawSample(f"shard {url}, sample {last}", files)
            if without_image or fields.image_of(raw) is not None:
                yield raw
        if reason := failure_of(stream):
            raise OSError(reason)
    except FAULTS as error:
        where = f"after sample {last}" if last else "at its start"
        reason, advice = failure_of(stream), "check the address" if last is None else "try again"
        if reason is None:
            reason, advice = reason_of(error), "fetch it again"
        raise UserError(f"shard {url} cannot be read {where} ({reason}): {advice}", exit_code=1) from None
    finally:
        if stream is not None:
            stream.close()


def _members(url: str, stream: object, fields: Fields) -> Iterator[dict[str, str | bytes]]:
    """The files in a tar file as webdataset's `group_by_keys` takes them.

    Samples wait in memory for their turn: without the contents that are not used, but with all names. In a file that is
    not compressed, such contents are not even read.
    """
    split, uses = webdataset().tariterators.base_plus_ext, functools.cache(fields.uses)
    tar = _tar(url, stream)
    for member in tar:
        if member.isreg() and not _META.match(member.name):
            used = uses((split(member.name)[1] or "").lower())
            content = tar.extractfile(member).read() if used else b""
            yield {"fname": member.name, "data": content, "__url__": url}
        tar.members = []  # otherwise they would all stay in memory


def _tar(url: str, stream: object) -> tarfile.TarFile:
    if is_local(url):
        try:
            return tarfile.open(fileobj=stream, mode="r:")
        except tarfile.ReadError:  # compressed, or damaged
            stream.seek(0)
    return tarfile.open(fileobj=stream, mode="r|*")


def _opened(url: str) -> BinaryIO | ProgramOutput:
    """A stream of bytes; addresses are read with curl."""
    return Path(url).open("rb") if is_local(url) else ProgramOutput(url)


def failure_of(stream: BinaryIO | ProgramOutput | None) -> str | None:
    """Why the program that fills a stream has failed; None if it has not, and for files."""
    return stream.failure() if isinstance(stream, ProgramOutput) else None


def value_of(raw: RawSample, field: str, *, key: str) -> object:
    """The text of a file of a sample, or the value of a key in a JSON file: `json.a.b`.

    Raises:
        UserError: if it is missing, which says what there is, or cannot be read.
    """
    ending = next((each for each in sorted(raw.files, key=len, reverse=True) if _begins(field, each)), None)
    names = field[len(ending) + 1 :].split(".") if ending and field != ending else []
    if ending is None or (names and not ending.endswith("json")):
        there = ", ".join(sorted(raw.files))
        raise UserError(f"{raw.place} has no {field}, it has {there}: {_advice(key)}", exit_code=1)
    try:
        value = raw.content(ending)
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{raw.place}: {ending} cannot be read ({reason}){OR_SKIP}", exit_code=1) from None
    for depth, name in enumerate(names):
        if not isinstance(value, dict) or name not in value:
            there = ", ".join(sorted(value)) if isinstance(value, dict) else "no keys"
            place = ".".join([ending, *names[:depth]])
            raise UserError(f"{raw.place} has no {field}; {place} has {there}: {_advice(key)}", exit_code=1)
        value = value[name]
    return value


def _begins(field: str, ending: str) -> bool:
    return field == ending or field.startswith(f"{ending}.")


def _advice(key: str) -> str:
    return f"set {key} to one of these, json.<key> for a key in a JSON file"
