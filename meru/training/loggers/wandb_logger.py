"""Weights & Biases: online with a log-in, offline without."""

from __future__ import annotations

import logging
import os
import secrets
import shlex
from collections.abc import Mapping
from contextlib import suppress
from netrc import NetrcParseError, netrc
from pathlib import Path
from types import ModuleType

from torch import Tensor

from meru.errors import require
from meru.files import write_text
from meru.run_layout import WANDB_ID
from meru.training.loggers.base import ServiceLogger, finite_histogram, readable_name

log = logging.getLogger("meru")


class WandbLogger(ServiceLogger):
    """A Weights & Biases logger: online with a configured log-in, else offline; never prompts, only warns on failure.

    wandb's environment variables apply if an argument is None or `auto`: `WANDB_MODE`, `WANDB_PROJECT`, `WANDB_ENTITY`,
    `WANDB_RUN_GROUP`, `WANDB_TAGS`. `WANDB_NAME`, `WANDB_RUN_ID`, `WANDB_RESUME` and `WANDB_DIR` always apply. In a
    sweep, its agent sets project, id and name.

    Args:
        folder: The run folder, for wandb's files and the run's id.
        config: The run's complete configuration, which is logged.
        name: The run's name.
        identity: The id in wandb of a run from an older version of this project; the folder's name.
        project: The project's name; None: `WANDB_PROJECT`, or else `meru`.
        entity: User or team; None: wandb's default.
        mode: `online`, `offline`, `disabled`; `auto`: the mode in `WANDB_MODE` or wandb's settings, or else online with
            a log-in and offline without.
        tags, group: As in `wandb.init`.

    Raises:
        UserError: for another mode.
    """

    service = "wandb"

    def __init__(
        self,
        *,
        folder: Path,
        config: Mapping,
        name: str,
        identity: str,
        project: str | None = None,
        entity: str | None = None,
        mode: str = "auto",
        tags: list[str] | None = None,
        group: str | None = None,
    ):
        self.folder = folder
        self.reason = ""  # why the run is offline
        require(mode, ("auto", "online", "offline", "disabled"), key="logger.mode")
        mode = _mode_of_environment() if mode == "auto" else mode
        if mode == "disabled":
            return
        os.environ.setdefault("WANDB_SILENT", "true")
        sweep = bool(os.environ.get("WANDB_SWEEP_ID"))
        arguments = {
            "dir": os.environ.get("WANDB_DIR") or str(folder),
            "config": dict(config),
            "project": None if sweep else project or os.environ.get("WANDB_PROJECT") or "meru",
            "entity": None if sweep else entity,
            "name": None if sweep else os.environ.get("WANDB_NAME") or readable_name(name, folder),
            "resume": None if sweep or os.environ.get("WANDB_RESUME") else "allow",
            "tags": tags,
            "group": group,
        }
        self.guarded(lambda: self._start(mode, folder, identity, arguments))
        if self.run and not self.reason:
            log.info("wandb: %s", self.run.url)

    def _start(self, mode: str | None, folder: Path, identity: str, arguments: dict) -> None:
        import wandb

        self.wandb = wandb
        mode = mode or _mode_of_settings(wandb)
        if mode == "disabled":
            return
        if mode == "offline":
            self.reason = "logged offline"
        elif not is_logged_in(wandb):
            mode, self.reason = "offline", "no API key, logged offline"
        arguments["id"] = run_identity(folder, older=identity)
        timeout = {} if os.environ.get("WANDB_INIT_TIMEOUT") else {"init_timeout": 60}
        settings = wandb.Settings(quiet=True, console="off", **timeout)
        try:
            self.run = wandb.init(settings=settings, mode=mode or "online", **arguments)
        except Exception as error:  # no network, a key that is not valid, a server that does not answer
            if mode == "offline":
                raise
            self.reason = f"not online ({' '.join(str(error).split())[:160]}), logged offline"
            with suppress(Exception):
                wandb.teardown()  # releases the id
            self.run = wandb.init(settings=settings, mode="offline", **arguments)
        self.run.define_metric("*", step_metric="step")

    def log(self, figures: Mapping[str, float | Tensor], *, step: int) -> None:
        """Log numbers as curves and one-dimensional tensors as histograms."""
        if self.run:
            self.guarded(lambda: self.run.log({"step": step, **{k: self._value(v) for k, v in figures.items()}}))

    def images(self, name: str, rows: list[list], columns: list[str], *, step: int) -> None:
        """Log a table; cells that are paths or image tensors `(3, H, W)` are shown as images."""
        if self.run:
            self.guarded(
                lambda: self.run.log(
                    {"step": step, name: self.wandb.Table(columns, [[self._cell(c) for c in row] for row in rows])}
                )
            )

    def finish(self, exit_code: int = 0) -> None:
        """Close the run, as failed unless `exit_code` is 0, and log how to upload an offline run."""
        if not self.run:
            return
        settings = getattr(self.run, "settings", None)
        folder = os.path.abspath(getattr(settings, "sync_dir", self.folder / "wandb" / "latest-run"))
        self.guarded(lambda: self.run.finish(exit_code=exit_code) if exit_code else self.run.finish())
        if self.run and self.reason:
            log.info("wandb: %s; to upload: wandb sync %s", self.reason, shlex.quote(folder))
        self.run = None

    def _value(self, value: float | Tensor):
        if isinstance(value, Tensor) and value.dim():
            return self.wandb.Histogram(np_histogram=finite_histogram(value))
        return float(value)

    def _cell(self, cell):
        if isinstance(cell, Path):
            return self.wandb.Image(str(cell))
        return self.wandb.Image(cell.float() / 255) if isinstance(cell, Tensor) else cell


def run_identity(folder: Path, *, older: str) -> str:
    """The unique id of a run in wandb, kept in the file `wandb_id` so that a resumed run continues it.

    Args:
        folder: The run folder. A copy of a folder that still exists gets an id of its own.
        older: The id of a run whose folder has wandb's files, but not `wandb_id`.

    Returns:
        The id; `WANDB_RUN_ID`, which the agent of a sweep sets, takes precedence.
    """
    path, place = folder / WANDB_ID, str(folder.absolute())
    kept, kept_place = [*path.read_text("utf-8").splitlines(), "", ""][:2] if path.is_file() else ("", "")
    original = Path(kept_place, WANDB_ID)
    if kept and original.is_file() and not original.samefile(path) and kept in original.read_text("utf-8"):
        kept = secrets.token_hex(4)
    if not kept:
        kept = older if (folder / "wandb").is_dir() else secrets.token_hex(4)
    identity = os.environ.get("WANDB_RUN_ID") or kept
    text = f"{identity}\n{place}\n"
    if not path.is_file() or path.read_text("utf-8") != text:
        write_text(path, text)
    return identity


def _mode_of_environment() -> str | None:
    """The mode in wandb's environment variables, as a value of `logger.mode`."""
    if os.environ.get("WANDB_DISABLED", "").lower() in ("true", "1", "yes", "on", "t", "y"):
        return "disabled"
    asked = os.environ.get("WANDB_MODE", "").lower()
    mode = {"dryrun": "offline", "run": "online"}.get(asked, asked)
    if mode not in ("", "online", "offline", "disabled", "shared"):
        log.warning("WANDB_MODE=%s is not online, offline or disabled: ignored", asked)
        del os.environ["WANDB_MODE"]
        return None
    return mode or None


def _mode_of_settings(wandb: ModuleType) -> str | None:
    """The mode that `wandb offline` or `wandb disabled` saved in wandb's settings files."""
    with suppress(Exception):  # wandb.setup is documented, its return value hardly
        mode = wandb.setup().settings.mode
        return {"dryrun": "offline"}.get(mode, mode) if mode in ("offline", "dryrun", "disabled") else None
    return None


def is_logged_in(wandb: ModuleType) -> bool:
    """Whether wandb has an API key, so that it will not prompt for one; uses no network."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    with suppress(TypeError, AttributeError):  # versions without `prompt`
        return bool(wandb.login(prompt=False, verify=False))
    with suppress(Exception):
        return bool(wandb.api.api_key)
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("//")[-1].split("/")[0]
    try:
        return netrc(os.path.expanduser(os.environ.get("NETRC") or "~/.netrc")).authenticators(host) is not None
    except (OSError, NetrcParseError):
        return False
