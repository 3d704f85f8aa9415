"""Draws a synthetic data set into its folder: once, completely, and never over other content."""

from __future__ import annotations

import contextlib
import glob
import json
import logging
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from meru.errors import UserError
from meru.files import user_path

try:
    import fcntl
except ImportError:  # Windows, where leftover folders are not deleted
    fcntl = None

_LOCK = "being_made"

log = logging.getLogger("meru")


@dataclass(frozen=True)
class Drawing:
    """A synthetic data set: its version, its arguments, and the function that draws it.

    Attributes:
        kind: Its name, such as `birds`; version and arguments are kept in `<kind>.json`.
        version: Raise it whenever the same arguments no longer give the same folder.
        least: The arguments, all whole numbers, with the smallest value allowed for each.
        count: The number of images for given arguments.
        write: Fills an existing folder according to the arguments.
    """

    kind: str
    version: int
    least: Mapping[str, int]
    count: Callable[..., int]
    write: Callable[..., None]

    def draw(self, root: str | Path, *, section: str = "data.load", **arguments: int) -> Path:
        """Draw the data set into `root`, if it is not there yet.

        Files are written to a temporary folder beside `root`, which is renamed at the end. A data set under its own
        name is therefore complete, even if several processes draw at once or one of them is killed.

        Args:
            root: The folder to create. If it was drawn with the same arguments, it is left unchanged.
            section: The section of the configuration that the arguments are from, for messages.
            arguments: The arguments named in `least`.

        Returns:
            `root`.

        Raises:
            UserError: if an argument is out of range, or `root` holds other content or cannot be written.
        """
        root, kind = user_path(root), self.kind
        for name, value in arguments.items():
            if type(value) is not int or value < self.least[name]:
                raise UserError(f"{kind}: {name} is {value!r}; give a whole number of at least {self.least[name]}")
        made_with = {"drawer_version": self.version, **arguments}
        try:
            if not _is_drawn(root, kind, made_with, section):
                log.info("drawing %d %s into %s", self.count(**arguments), kind, root)
                _draw(root, kind, made_with, lambda folder: self.write(folder, **arguments))
        except OSError as error:
            raise UserError(
                f"{kind}: cannot draw into {root} ({error.strerror or error}); make room there or set another "
                "data.root",
                exit_code=1,
            ) from error
        return root


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write a text file with the same bytes on every system."""
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


@contextlib.contextmanager
def scratch_folder(root: Path) -> Iterator[Path]:
    """A temporary folder beside `root` for building it, deleted afterwards.

    Folders left there by killed processes of this machine are deleted first.
    """
    root.parent.mkdir(parents=True, exist_ok=True)
    start = f".{root.name[:40]}-{re.sub(r'[^A-Za-z0-9]', '_', socket.gethostname())[:40]}-"
    for left in root.parent.glob(f"{glob.escape(start)}*"):
        maker = re.fullmatch(r"(\d+)-\w+", left.name.removeprefix(start))
        if fcntl and maker and not _is_alive(int(maker[1])) and not _is_locked(left / _LOCK):
            shutil.rmtree(left, ignore_errors=True)
    with (
        tempfile.TemporaryDirectory(prefix=f"{start}{os.getpid()}-", dir=root.parent) as scratch,
        open(Path(scratch) / _LOCK, "w") as lock,
    ):
        with contextlib.suppress(OSError, AttributeError):  # some network drives have no locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield Path(scratch)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # another user's process
        return True
    return True


def _is_locked(path: Path) -> bool:
    """Whether a process holds the lock. Processes of other containers may share the host name but not process ids."""
    try:
        with open(path) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def _draw(root: Path, kind: str, made_with: dict[str, int], write: Callable[[Path], None]) -> None:
    started = time.monotonic()
    with scratch_folder(root) as scratch:
        folder = scratch / root.name
        folder.mkdir()
        write_lines(folder / f"{kind}.json", [json.dumps(made_with, indent=2)])
        write(folder)
        try:
            folder.rename(root)
        except OSError:
            # Another process may have finished the same data set first, and its folder is used.
            if not _is_drawn(root, kind, made_with):
                raise
    log.info("drawn in %.1f s", time.monotonic() - started)


def _is_drawn(root: Path, kind: str, made_with: dict[str, int], section: str = "data.load") -> bool:
    """Whether `root` holds exactly this data set; raises `UserError` if it holds anything else."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    try:
        found = json.loads((root / f"{kind}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{kind}: {root} holds something other than synthetic {kind}; set another data.root")
    differing = [name for name in made_with if found.get(name) != made_with[name]]
    if differing:
        drawn = "; ".join(f"{name} {found.get(name)}, not {made_with[name]}" for name in differing)
        fitting = ""
        if all(name in found and name != "drawer_version" for name in differing):
            fitting = ", give " + " ".join(f"+{section}.{name}={found[name]}" for name in differing)
        raise UserError(
            f"{kind}: {root} was drawn with {drawn}: delete it to draw anew{fitting}, or set another data.root"
        )
    return True
