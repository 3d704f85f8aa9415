"""Report only the first failure among a run's processes, as the last line of the output.

When one process of a group fails, the others fail because it is gone. The processes of a machine therefore share a
folder: the first that fails writes its line there, and the rest stay silent. `scripts/torchrun.py` makes that folder
and prints the line when all processes have ended. Under plain `torchrun` the folder is that of torchrun's error files,
and the process prints its line itself.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

FOLDER = "MERU_FAILURES"  # environment variable with the folder that scripts/torchrun.py made
PATIENCE = 2.0  # seconds that a process waits for another's reason after losing the connection to it
_FIRST, _LOST = "first.json", "lost.json"
_CONNECTION_LOST = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "gloo/transport",
    "remote process exited",
    "Timed out waiting",
)

_place = {"rank": 0, "processes": 1, "said": False}
_group: dict[str, Callable | None] = {"say": None, "lost": None}


def joined(rank: int, processes: int) -> None:
    """Note which process this is; later error messages name it."""
    _place.update(rank=rank, processes=processes)


def in_group(say: Callable[[str], None] | None, lost: Callable[[], str | None] | None) -> None:
    """Note how to tell processes on other machines why this one fails, and how to ask which one is gone."""
    _group.update(say=say, lost=lost)


def cause_of_loss() -> str | None:
    """Why the connection to another process broke, in a few seconds; None if nothing is known of it."""
    with suppress(KeyboardInterrupt):  # torchrun ends this process meanwhile
        return _group["lost"]() if _group["lost"] else None
    return None


def several() -> bool:
    """Whether this process is one of a group, or will be."""
    return _place["processes"] > 1 or _folder() is not None


def is_main() -> bool:
    """Whether this is the main process, which saves."""
    return _place["rank"] == 0


def report(message: str, exit_code: int, *, details: str = "", lost: bool = False) -> None:
    """Report in one line on standard error why this process ends, unless another process of the group has done so.

    Args:
        message: The reason; line breaks become spaces.
        exit_code: The code with which this process will exit.
        details: Printed before the message, for instance a traceback.
        lost: Whether this process fails only because another one is gone.
    """
    _place["said"] = True
    rank = f"rank {_place['rank']}: " if _place["processes"] > 1 else ""
    line = f"error: {rank}{' '.join(message.split())}"
    if _group["say"] and not lost:
        _group["say"](" ".join(message.split()))
    folder = _folder()
    if folder is None:
        _print(details, line)
    elif lost:
        if os.environ.get(FOLDER):
            _leave_word(folder / _LOST, line, exit_code)
            return
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until and not (folder / _FIRST).exists():
            time.sleep(0.05)
        if _leave_word(folder / _FIRST, line, exit_code):
            _print(line)
    elif _leave_word(folder / _FIRST, line, exit_code):
        _print(details, *([] if os.environ.get(FOLDER) else [line]))


def reported() -> bool:
    """Whether another process of this group has failed already."""
    folder = _folder()
    return folder is not None and not _place["said"] and (folder / _FIRST).exists()


def first_of(folder: Path) -> tuple[str, int] | None:
    """The line and the exit code of the first process that reported a failure; None if none did."""
    for name in (_FIRST, _LOST):
        with suppress(OSError, ValueError):
            word = json.loads((folder / name).read_text("utf-8"))
            return word["line"], word["exit_code"]
    return None


def named_reason(folder: Path) -> bool:
    """Whether that process failed for a reason of its own, not because another one was gone."""
    return (folder / _FIRST).exists()


def lost_partner(error: BaseException) -> bool:
    """Whether an exception only says that another process of the group is gone."""
    if _place["processes"] == 1 or not isinstance(error, RuntimeError):
        return False
    of_store = type(error).__name__ in ("DistNetworkError", "DistStoreError")
    return of_store or any(sign in str(error) for sign in _CONNECTION_LOST)


def place_of_launch() -> Path | None:
    """A folder that lasts as long as the torchrun of this machine, through all attempts; None without torchrun."""
    folder, error_file = os.environ.get(FOLDER), os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not folder and error_file:  # <launch>/attempt_<n>/<local rank>/error.json
        folder = str(Path(error_file).parent.parent.parent)
    return Path(folder) if folder and Path(folder).is_dir() else None


def last_attempt(launch: Path) -> Path:
    """The folder of the messages of the last attempt that left any, in `place_of_launch`."""
    return max(launch.glob("attempt_*"), key=lambda path: int(path.name.rpartition("_")[2]), default=launch)


def _folder() -> Path | None:
    place = place_of_launch()
    if place is None:
        return None
    attempt = place / f"attempt_{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    with suppress(OSError):
        attempt.mkdir(exist_ok=True)
    return attempt if attempt.is_dir() else None


def _leave_word(path: Path, line: str, exit_code: int) -> bool:
    """Write the file unless it exists; True if this process was the first."""
    try:
        with path.open("x", encoding="utf-8") as file:
            json.dump({"line": line, "exit_code": exit_code}, file)
    except FileExistsError:
        return False
    except OSError:  # a full disk must not swallow the reason
        return True
    return True


def _print(*parts: str) -> None:
    with suppress(OSError, ValueError):  # standard error may be gone
        for part in filter(None, parts):
            print(part.rstrip("\n"), file=sys.stderr, flush=True)
