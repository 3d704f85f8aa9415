"""How long a run took: `duration.json` in its folder, added up over all processes that resumed it."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path

from meru.errors import UserError
from meru.reports.tables import write_json
from meru.run_layout import DURATION


class Stopwatch:
    """Measures wall time and CPU time from its creation on."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.monotonic(), _cpu_seconds()

    def save(self, folder: Path) -> None:
        """Add the time so far to the run's duration; the time of a process that was killed is not known.

        Args:
            folder: The run folder. CPU time is that of this process and of its workers that have ended.
        """
        before = read_duration(folder)
        now = {"minutes": time.monotonic() - self._wall, "cpu_minutes": _cpu_seconds() - self._cpu}
        with suppress(UserError):  # on a full disk: a duration is not worth the run
            write_json(folder / DURATION, {name: before.get(name, 0.0) + now[name] / 60 for name in now})


def read_duration(folder: Path) -> dict[str, float]:
    """`minutes` of wall time and `cpu_minutes` of a run; empty if it did not record them, as older versions."""
    with suppress(OSError, ValueError, RecursionError):
        read = json.loads((folder / DURATION).read_text(encoding="utf-8"))
        names = ("minutes", "cpu_minutes")
        if isinstance(read, dict) and all(isinstance(read.get(name), int | float) for name in names):
            return {name: float(read[name]) for name in names}
    return {}


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
