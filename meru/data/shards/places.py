"""Where shards are, and how many samples each of them holds."""

from __future__ import annotations

import glob
import json
import logging
import os
import re
import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from meru.data.shards.tars import FAULTS, Fields, is_local, reason_of, webdataset
from meru.errors import UserError

log = logging.getLogger("meru")

TRUST = "MERU_TRUST"
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")
_ENDINGS = (".tar", ".tar.gz", ".tgz")


class Shard(NamedTuple):
    """A tar file.

    Attributes:
        url: An absolute path, or a URL.
        samples: The number of its samples.
    """

    url: str
    samples: int


def shard_urls(pattern: str, *, root: str | Path, key: str) -> tuple[str, ...]:
    """The shards that a pattern names, in its order; those of a glob are sorted.

    Args:
        pattern: Paths or URLs with braces, `{00000..00099}`, and globs, `*.tar`; several are joined by `::`. A folder
            stands for all tar files in it.
        root: The folder that relative paths start from.
        key: Name of the pattern's key, for messages.

    Raises:
        UserError: if the pattern matches nothing, a file is missing or named twice, or its kind of URL is not read.
    """
    webdataset()
    import braceexpand

    found: list[str] = []
    for each in pattern.split("::"):
        try:
            expanded = list(braceexpand.braceexpand(each)) if not each.startswith("pipe:") else [each]
        except braceexpand.UnbalancedBracesError:
            raise UserError(f"{key}={each}: a brace is not closed; write {{00000..00099}}") from None
        for one in expanded:
            found += _places(one, Path(root), key)
    if not found:
        raise UserError(f"{key}={pattern}: no shard matches; relative paths start from data.root={root}")
    if len(set(found)) < len(found):
        twice = next(url for url in found if found.count(url) > 1)
        raise UserError(f"{key}={pattern}: {twice} is named twice: every shard must be named once")
    if absent := [url for url in found if is_local(url) and not os.path.isfile(url)]:
        raise UserError(
            f"{key}={pattern}: {len(absent)} of {len(found)} shards do not exist, the first is {absent[0]}; relative "
            f"paths start from data.root={root}"
        )
    return tuple(found)


def _places(url: str, root: Path, key: str) -> list[str]:
    """The shards of a path or URL without braces."""
    if url.startswith("pipe:"):
        if "pipe" not in os.environ.get(TRUST, "").split(","):
            raise UserError(
                f"{key}={url}: pipe: runs a shell command, which needs your consent: set {TRUST}=pipe in the "
                "environment, or give files or http(s) addresses"
            )
        return [url]
    if not is_local(url):
        return [url]
    scheme = _SCHEME.match(url)
    if scheme and scheme[1] != "file" and not (root / url).exists():
        raise UserError(f"{key}={url}: {scheme[1]}: is not read; give files or http(s) addresses")
    path = root / Path(url.removeprefix("file://").removeprefix("file:")).expanduser()
    if path.is_dir():
        return sorted(str(each) for each in path.iterdir() if each.name.endswith(_ENDINGS))
    if glob.has_magic(str(path)) and not path.exists():
        return sorted(each for each in glob.glob(str(path), recursive=True) if os.path.isfile(each))
    return [str(path)]


def counted(urls: Sequence[str], fields: Fields, *, sizes: str | None, on_error: str, key: str) -> tuple[Shard, ...]:
    """The shards with the number of their samples.

    It is taken from `sizes`, else from `sizes.json` beside a shard (file name → samples), else from img2dataset's
    `<shard>_stats.json`, else counted from the headers in the tar file.

    Args:
        urls: As from `shard_urls`.
        fields: Which files of a sample are its image.
        sizes: A JSON file as `sizes.json`; None: none.
        on_error: `skip`: of a damaged shard, count the samples before the damage.
        key: Name of the pattern's key, for messages.

    Raises:
        UserError: if a shard cannot be counted, or none has samples.
    """
    known = _Sizes(sizes)
    numbers = {url: known.of(url) for url in urls}
    open_ones = [url for url in urls if numbers[url] is None]
    if far := [url for url in open_ones if not is_local(url)]:
        raise UserError(
            f"{key}: the number of samples in {far[0]} is not known, and counting would download it: give "
            'data.sizes=<a JSON file {"00000.tar": 10000, …}>'
        )
    if open_ones:
        log.info("counting the samples of %d shards, which sizes.json beside them would save", len(open_ones))
        with ThreadPoolExecutor(8) as pool:
            numbers |= zip(
                open_ones, pool.map(lambda url: count_samples(url, fields, on_error=on_error), open_ones), strict=True
            )
    if not any(numbers.values()):
        raise UserError(
            f"{key}: {urls[0]}{f' and {len(urls) - 1} more hold' if len(urls) > 1 else ' holds'} no image "
            f"({', '.join(fields.image)}): set data.image_field to the ending of the images"
        )
    return tuple(Shard(url, numbers[url]) for url in urls if numbers[url])


class _Sizes:
    """Numbers of samples that files beside the shards give."""

    def __init__(self, sizes: str | None):
        self.named = None if sizes is None else self._read(Path(sizes))
        self.read: dict[Path, dict] = {}

    def of(self, url: str) -> int | None:
        """The number of a shard's samples; None if no file says it."""
        name = url.partition("?")[0].rpartition("/")[2]
        if self.named is not None:
            if name not in self.named:
                raise UserError(f"data.sizes has no {name}: it must name every shard")
            return self._number(self.named[name], f"data.sizes: {name}")
        if not is_local(url):
            return None
        path = Path(url)
        listed = path.parent / "sizes.json"
        if listed not in self.read:
            self.read[listed] = self._read(listed) if listed.is_file() else {}
        if name in self.read[listed]:
            return self._number(self.read[listed][name], f"{listed}: {name}")
        stats = path.with_name(f"{path.name.partition('.')[0]}_stats.json")
        if stats.is_file():
            return self._number(self._read(stats).get("successes"), f"{stats}: successes")
        return None

    @staticmethod
    def _read(path: Path) -> dict:
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read ({' '.join(str(error).split())}): repair or remove it") from None
        if not isinstance(found, dict):
            raise UserError(f'{path} is not of the form {{"00000.tar": 10000, …}}: repair or remove it')
        return found

    @staticmethod
    def _number(value: object, where: str) -> int:
        if type(value) is not int or value < 0:
            raise UserError(f"{where} is {value}, not a number of samples: repair or remove the file")
        return value


def count_samples(path: str, fields: Fields, *, on_error: str = "raise") -> int:
    """The samples with an image in a tar file, from its headers; contents are not read if it is not compressed.

    Raises:
        UserError: if it is no tar file or is cut off, unless `on_error` is `skip`; the message names it.
    """
    groups = fields.grouping()
    number = 0
    try:
        with tarfile.open(path, "r:*") as tar:
            for member in tar:
                if member.isreg():
                    number += groups.image_begins(member.name)
                tar.members = []  # otherwise they would all stay in memory
    except FAULTS as error:
        if on_error != "skip":
            raise UserError(
                f"shard {path} is not a whole tar file ({reason_of(error)}): fetch it again, or set "
                "data.on_error=skip to use what comes before",
                exit_code=1,
            ) from None
        log.warning("shard %s is damaged (%s): the %d samples before are used", path, reason_of(error), number)
    return number
