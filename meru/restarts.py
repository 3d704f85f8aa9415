"""The run that torchrun's processes go on with when torchrun starts them again (`--max-restarts`).

Without this, every attempt would begin a new run. The processes of a machine note their run folder beside torchrun's
own files, which last as long as torchrun does.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from meru import failures

_FILE = "run.txt"


def note_run(folder: Path) -> None:
    """Note the folder of the run that has begun."""
    place = failures.place_of_launch()
    if place and os.environ.get("LOCAL_RANK", "0") == "0":
        with suppress(OSError):
            (place / _FILE).write_text(str(folder.absolute()), encoding="utf-8")


def noted_run() -> Path | None:
    """The folder that an earlier attempt of this torchrun has noted; None without one."""
    place = failures.place_of_launch()
    if place:
        with suppress(OSError, ValueError):
            return Path((place / _FILE).read_text("utf-8"))
    return None
