"""How a data set drawn by code comes into its folder: once, whole, and never into another's folder."""

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
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from meru.errors import UserError
from meru.files import user_path

try:
    import fcntl
except ImportError:  # Windows, where nothing is cleaned up
    fcntl = None

_LOCK = "being_made"

log = logging.getLogger("meru")


def draw_once(
    root: str | Path,
    *,
    kind: str,
    version: int,
    arguments: Mapping[str, int],
    least: Mapping[str, int],
    pictures: Callable[[], int],
    write: Callable[[Path], None],
) -> Path:
    """Draws a data set into `root`, or finds it there.

    Everything is drawn into a temporary folder beside `root` and renamed at the end: under its own name the data
    set is complete, also when several processes draw at once or one of them is killed.

    Args:
        root: The folder to make. One with the same drawings is left as it is.
        kind: What is drawn, such as `birds`; version and arguments are kept in `<kind>.json`.
        version: Of the code that draws.
        arguments: Whole numbers that the drawings depend on.
        least: The least that each of the arguments may be.
        pictures: How many there will be, for the log; called once the arguments are known to be good.
        write: Fills the folder that it is given, which exists.

    Returns:
        `root`.

    Raises:
        UserError: an argument out of range; `root` holds other drawings or something else, or cannot be written.
    """
    root = user_path(root)
    for name, value in arguments.items():
        if type(value) is not int or value < least[name]:
            raise UserError(f"{kind}: {name} is {value!r}; give a whole number of at least {least[name]}")
    made_with = {"drawer_version": version, **arguments}
    try:
        if not _is_drawn(root, kind, made_with):
            log.info("drawing %d %s into %s", pictures(), kind, root)
            _draw(root, kind, made_with, write)
    except OSError as error:
        raise UserError(
            f"{kind}: cannot draw into {root} ({error.strerror or error}); make room there or set another data.root",
            exit_code=1,
        ) from error
    return root


@contextlib.contextmanager
def scratch_folder(root: Path) -> Iterator[Path]:
    """A folder beside `root` for what is to become it; it is gone afterwards.

    Folders that processes of this machine left there when they were killed go first.
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
    except (OSError, OverflowError):  # somebody else's
        return True
    return True


def _is_locked(path: Path) -> bool:
    """Whether a process holds the lock: one in another container may have the host's name, and numbers of its own."""
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
        made = json.dumps(made_with, indent=2) + "\n"
        (folder / f"{kind}.json").write_text(made, encoding="utf-8", newline="\n")
        write(folder)
        try:
            folder.rename(root)
        except OSError:
            # Another process may have finished the same drawings first; its folder is as good.
            if not _is_drawn(root, kind, made_with):
                raise
    log.info("drawn in %.1f s", time.monotonic() - started)


def _is_drawn(root: Path, kind: str, made_with: dict[str, int]) -> bool:
    """Whether `root` holds exactly these drawings; anything else in it is a `UserError`."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    try:
        found = json.loads((root / f"{kind}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{kind}: {root} holds something other than drawn {kind}; set another data.root")
    differing = [f"{name} {found.get(name)}, not {made_with[name]}" for name in made_with
                 if found.get(name) != made_with[name]]
    if differing:
        raise UserError(
            f"{kind}: {root} was drawn with {'; '.join(differing)}: delete it to draw anew, or set another data.root"
        )
    return True
