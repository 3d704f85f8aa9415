"""Files of numbers computed once from images and shared by runs: `data.cache`.

A file is written under a temporary name and renamed; its description, written last, makes it valid.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from torch import Tensor

from meru.data.records import Images
from meru.errors import UserError
from meru.files import os_error_message, user_path, write_atomically, write_text

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

log = logging.getLogger("meru")

BLOCK = 2**20  # bytes read at a time for the checksum
BLOCKS = 1024  # at most so many are read, spread over the file: about a second


def cache_folder(setting: str | None) -> Path:
    """The folder of `data.cache`; without one, `meru` in the user's cache folder."""
    if setting:
        return user_path(setting)
    return user_path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "meru"


def can_hold(folder: Path) -> bool:
    """Whether files can be made in a cache folder, which is made if it is missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def image_facts(images: Images) -> str:
    """A hash that changes with any of the images: path, size and time of change of files, or the pixels."""
    if isinstance(images, Tensor):
        return hashlib.sha256(images.contiguous().numpy().data).hexdigest()
    return digest_of([_file_facts(path) for path in images])


def _file_facts(path: Path) -> tuple[str, int, int]:
    try:
        facts = path.stat()
    except OSError:  # reading the image says what is wrong
        return str(path), 0, 0
    return str(path), facts.st_size, facts.st_mtime_ns


def digest_of(facts: object) -> str:
    """A hash of a value by its `repr`."""
    return hashlib.sha256(repr(facts).encode("utf-8", "surrogateescape")).hexdigest()


def stored_file(
    folder: Path, facts: object, *, blocks: Callable[[], Iterable[Tensor]], what: str, without: str, quiet: bool = False
) -> Path:
    """The file that holds the given blocks one after another; computed if no valid file does.

    A process that needs a file which another one is computing waits for it.

    Args:
        folder: Folder of all such files, made if it is missing.
        facts: All that the blocks depend on; equal values have the same `repr`.
        blocks: Gives contiguous tensors.
        what: Describes the content for the log.
        without: The setting that does without the file, for messages.
        quiet: Whether to log nothing of a file that is found or computed.

    Raises:
        UserError: if the folder cannot be used, or the disk is full.
    """
    path = folder / f"{digest_of(facts)[:32]}.bin"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"data.cache={folder}: {os_error_message(error)}", exit_code=1) from None
    level = logging.DEBUG if quiet else logging.INFO
    with _locked(path.with_suffix(".lock"), what):
        if not _is_valid(path):
            began = time.perf_counter()
            _write(path, blocks, what, f"make room, name another folder by data.cache=<folder>, or set {without}")
            seconds = time.perf_counter() - began
            log.log(level, "cached %s, %.0f MiB, in %.0f s: %s", what, path.stat().st_size / 2**20, seconds, path)
        elif log.isEnabledFor(level):
            log.log(level, "found %s, %.0f MiB, in %s", what, path.stat().st_size / 2**20, path)
    return path


def _write(path: Path, blocks: Callable[[], Iterable[Tensor]], what: str, advice: str) -> None:
    def write(file) -> None:
        for block in blocks():
            file.write(block.contiguous().numpy().data)

    with contextlib.suppress(OSError):
        for old in (path.with_suffix(".json"), *path.parent.glob(f".{path.name}.*.tmp")):  # of a killed process
            old.unlink(missing_ok=True)
    write_atomically(path, write, advice=advice)
    description = {"what": what, "bytes": path.stat().st_size, "checksum": _checksum(path)}
    write_text(path.with_suffix(".json"), json.dumps(description), advice=advice)


def _is_valid(path: Path) -> bool:
    description = path.with_suffix(".json")
    if not description.exists():
        return False  # never finished
    try:
        told, size = json.loads(description.read_text("utf-8")), path.stat().st_size
        valid = told.get("bytes", size) == size and told["checksum"] == _checksum(path)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        valid = False
    if not valid:
        log.warning("%s is damaged and is computed again", path)
    return valid


def _checksum(path: Path) -> int:
    """The checksum of a file up to 1 GiB; of a larger one, of 1,024 blocks spread evenly over it."""
    checksum, size = 0, path.stat().st_size
    step = max(BLOCK, size // BLOCKS)
    with path.open("rb") as file:
        for place in range(0, size, step):
            file.seek(place)
            checksum = zlib.crc32(file.read(BLOCK), checksum)
    return checksum


@contextlib.contextmanager
def _locked(path: Path, what: str) -> Iterator[None]:
    """Hold a lock, which ends with the process; wait while another process holds it. Some systems have no locks."""
    try:
        file = path.open("a")
    except OSError as error:
        raise UserError(f"data.cache={path.parent}: {os_error_message(error)}", exit_code=1) from None
    with file:
        waited = False
        while fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not waited:
                    log.info("waiting for another run that computes %s", what)
                waited = True
                time.sleep(0.5)
            except OSError:  # no locks on this file system
                break
        yield
