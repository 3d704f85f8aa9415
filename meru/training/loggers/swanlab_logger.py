"""SwanLab: online with a log-in, offline without."""

from __future__ import annotations

import logging
import os
import secrets
import shlex
import string
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from torch import Tensor

from meru.errors import require
from meru.files import write_text
from meru.run_layout import SWANLAB, SWANLAB_ID
from meru.training.loggers.base import ServiceLogger, finite_histogram, is_picture, picture, readable_name

log = logging.getLogger("meru")

MODES = ("auto", "online", "offline", "disabled")
_ID_LENGTH = 21  # of SwanLab's own ids


class SwanlabLogger(ServiceLogger):
    """A SwanLab logger: online with a configured log-in, else offline; never prompts, only warns on failure.

    SwanLab's own `sync_wandb` carries only scalars; this logger also sends histograms, tables and images. Its
    environment variables apply if an argument is None or `auto`: `SWANLAB_MODE`, `SWANLAB_PROJECT`,
    `SWANLAB_WORKSPACE`.

    Args:
        folder: The run folder; SwanLab's files lie in `swanlab/` in it.
        config: The run's complete configuration, which is logged.
        name: The run's name.
        identity: Unused; the run's id is kept in the file `swanlab_id`, so that a resumed run continues it.
        project: The project's name; None: `SWANLAB_PROJECT`, or else `meru`.
        workspace: User or organisation; None: `SWANLAB_WORKSPACE`, or else SwanLab's default.
        mode: `online`, `offline`, `disabled`; `auto`: `SWANLAB_MODE`, or else online with a log-in and offline without.
        tags, group: As in `swanlab.init`.

    Raises:
        UserError: for another mode.
    """

    service = "SwanLab"

    def __init__(
        self,
        *,
        folder: Path,
        config: Mapping,
        name: str,
        identity: str,
        project: str | None = None,
        workspace: str | None = None,
        mode: str = "auto",
        tags: list[str] | None = None,
        group: str | None = None,
    ):
        require(mode, MODES, key="logger.mode")
        self.reason = ""  # why the run is offline
        wanted = mode if mode != "auto" else _mode_of_environment()
        if wanted == "disabled":
            return
        try:
            import swanlab
        except ImportError:
            self.require("swanlab")
            return
        self.swanlab: ModuleType = swanlab
        arguments = {
            "log_dir": str(folder / SWANLAB),
            "config": dict(config),
            "project": project or os.environ.get("SWANLAB_PROJECT") or "meru",
            "workspace": workspace or os.environ.get("SWANLAB_WORKSPACE") or None,
            "name": readable_name(name, folder),
            "tags": tags,
            "group": group,
            "id": _run_identity(folder),
            "resume": "allow",
        }
        self.guarded(lambda: self._start(wanted, arguments))

    def _start(self, mode: str | None, arguments: dict) -> None:
        if mode == "offline":
            self.reason = "logged offline"
        elif not _is_logged_in():
            mode, self.reason = "offline", "no API key, logged offline"
        Path(arguments["log_dir"]).mkdir(parents=True, exist_ok=True)
        try:
            self.run = self.swanlab.init(mode=mode or "online", **arguments)
        except Exception as error:  # no network, a key that is not valid, a server that does not answer
            if mode == "offline":
                raise
            self.reason = f"not online ({' '.join(str(error).split())[:160]}), logged offline"
            self.run = self.swanlab.init(mode="offline", reinit=True, **arguments)
        if not self.reason:
            log.info("swanlab: %s", getattr(self.run, "url", None) or "online")

    def log(self, figures: Mapping[str, float | Tensor], *, step: int) -> None:
        """Log numbers as curves and tensors with dimensions as bar charts of their histogram."""
        if self.run:
            self.guarded(lambda: self.swanlab.log({k: self._value(v) for k, v in figures.items()}, step=step))

    def images(self, name: str, rows: list[list], columns: list[str], *, step: int) -> None:
        """Log a table: its text as a table, and its images with the text of their row as caption."""
        if self.run:
            self.guarded(lambda: self._images(name, rows, columns, step))

    def _images(self, name: str, rows: list[list], columns: list[str], step: int) -> None:
        pictures, written = [], []
        for row in rows:
            text = [str(cell) for cell in row if not is_picture(cell)]
            written.append(["(image)" if is_picture(cell) else str(cell) for cell in row])
            for column, cell in zip(columns, row, strict=True):
                if is_picture(cell):
                    caption = " | ".join([column, *text])
                    pictures.append(self.swanlab.Image(picture(cell), caption=caption))
        if pictures:
            self.swanlab.log({name: pictures}, step=step)
        table = self.swanlab.echarts.Table()
        table.add(columns, written)
        self.swanlab.log({f"{name}_table": table}, step=step)

    def _value(self, value: float | Tensor) -> object:
        if not (isinstance(value, Tensor) and value.dim()):
            return float(value)
        counts, edges = finite_histogram(value)
        chart = self.swanlab.echarts.Bar()
        chart.add_xaxis([f"{edge:.4g}" for edge in edges[:-1]])
        chart.add_yaxis("count", counts.tolist())
        return chart

    def finish(self, exit_code: int = 0) -> None:
        """Close the run, as crashed unless `exit_code` is 0, and log how to upload an offline run."""
        if not self.run:
            return
        folder = getattr(self.run, "dir", None) or "<folder of the run>"
        state = {"state": "crashed", "error": f"exit code {exit_code}"} if exit_code else {}
        self.guarded(lambda: self.swanlab.finish(**state))
        if self.run and self.reason:
            log.info("swanlab: %s; to upload: swanlab sync %s", self.reason, shlex.quote(os.path.abspath(str(folder))))
        self.run = None


def _mode_of_environment() -> str | None:
    """The mode in `SWANLAB_MODE`, as a value of `logger.mode`."""
    asked = os.environ.get("SWANLAB_MODE", "").lower()
    mode = {"cloud": "online", "local": "offline"}.get(asked, asked)
    if mode not in ("", *MODES[1:]):
        log.warning("SWANLAB_MODE=%s is not online, offline or disabled: ignored", asked)
        del os.environ["SWANLAB_MODE"]
        return None
    return mode or None


def _is_logged_in() -> bool:
    """Whether SwanLab has an API key, so that it will not prompt for one; uses no network."""
    if os.environ.get("SWANLAB_API_KEY"):
        return True
    home = os.environ.get("SWANLAB_ROOT") or os.environ.get("SWANLAB_SAVE_DIR") or Path.home() / ".swanlab"
    return any((Path(place) / ".netrc").is_file() for place in (Path.cwd() / ".swanlab", home))


def _run_identity(folder: Path) -> str:
    """The run's id, kept in its folder."""
    path = folder / SWANLAB_ID
    kept = path.read_text("utf-8").strip() if path.is_file() else ""
    if not kept:
        kept = "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(_ID_LENGTH))
        write_text(path, f"{kept}\n")
    return kept
