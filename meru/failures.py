"""The first failure of a run's processes is what the user reads, once and last.

When one process of a group fails, the others fail after it because their partner is gone. So the processes of a machine
share a folder, and the first that fails leaves its line there; the rest stay silent. `scripts/torchrun.py` makes that
folder and prints the line when all processes have ended. Under plain `torchrun` the folder is that of its own error
files, and the process prints its line itself.
"""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import suppress
from pathlib import Path

FOLDER = "MERU_FAILURES"  # environment variable: the folder of scripts/torchrun.py
PATIENCE = 2.0  # seconds in which a process that lost its partner waits for the partner's own reason
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


def joined(rank: int, processes: int) -> None:
    """Note which process this is; said of every failure from now on."""
    _place.update(rank=rank, processes=processes)


def several() -> bool:
    """Whether this process is one of a group, or will be."""
    return _place["processes"] > 1 or _folder() is not None


def is_main() -> bool:
    """Whether this is the process that saves."""
    return _place["rank"] == 0


def report(message: str, exit_code: int, *, details: str = "", lost: bool = False) -> None:
    """Say why this process ends, on one line of standard error, unless another of its group has said why it did.

    Args:
        message: In one or more lines.
        exit_code: With which this process will end.
        details: Printed before it, say a traceback.
        lost: Whether it fails only because another process is gone.
    """
    _place["said"] = True
    rank = f"rank {_place['rank']}: " if _place["processes"] > 1 else ""
    line = f"error: {rank}{' '.join(message.split())}"
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
    """The line and the exit code of the first process that failed and could say why; None if none did."""
    for name in (_FIRST, _LOST):
        with suppress(OSError, ValueError):
            word = json.loads((folder / name).read_text("utf-8"))
            return word["line"], word["exit_code"]
    return None


def named_reason(folder: Path) -> bool:
    """Whether that process failed by itself, not for want of another."""
    return (folder / _FIRST).exists()


def lost_partner(error: BaseException) -> bool:
    """Whether an exception says no more than that another process of the group is gone."""
    if _place["processes"] == 1 or not isinstance(error, RuntimeError):
        return False
    return any(sign in str(error) for sign in _CONNECTION_LOST)


def _folder() -> Path | None:
    folder = os.environ.get(FOLDER)
    error_file = os.environ.get("TORCHELASTIC_ERROR_FILE")  # <run>/attempt_<n>/<local rank>/error.json
    if not folder and error_file:
        folder = Path(error_file).parent.parent
    return Path(folder) if folder and Path(folder).is_dir() else None


def _leave_word(path: Path, line: str, exit_code: int) -> bool:
    """Write the file if there is none; True if this process was the first."""
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
        print(*(part.rstrip("\n") for part in parts if part), sep="\n", file=sys.stderr, flush=True)
