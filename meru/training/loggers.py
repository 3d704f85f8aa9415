"""Where figures go: always to `metrics.jsonl`, and to Weights & Biases if asked. Logging never stops a run."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from netrc import NetrcParseError, netrc
from pathlib import Path
from shlex import quote

import numpy as np
from torch import Tensor

log = logging.getLogger("meru")


def finite_histogram(values: Tensor, *, bins: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Numbers per bin, and the bins' edges, of the finite ones of some values of any shape.

    numpy's own range has no room for bins where values differ by their rounding alone, as radii of clipped points do.
    """
    numbers = values.detach().double().cpu().numpy()
    numbers = numbers[np.isfinite(numbers)]
    low, high = (numbers.min(), numbers.max()) if numbers.size else (0.0, 0.0)
    margin = 1e-3 * max(abs(low), abs(high)) or 1.0
    return np.histogram(numbers, bins=bins, range=(low - margin, high + margin))


class NoLogger:
    """Figures stay in `metrics.jsonl`. Takes what `WandbLogger` takes."""

    def __init__(self, **_: object):
        pass

    def log(self, figures: Mapping[str, float | Tensor], *, step: int) -> None:
        """Do nothing."""

    def images(self, name: str, rows: list[list], columns: list[str], *, step: int) -> None:
        """Do nothing."""

    def finish(self) -> None:
        """Do nothing."""


class WandbLogger:
    """Weights & Biases: online if an API key is configured, else offline; asks nothing, and gives up quietly.

    Args:
        folder: The run folder; offline data go there.
        config: The run's configuration, logged whole.
        project: Project's name.
        name: The run's name.
        mode: `auto`, `online`, `offline`.
        identity: A run with the same identity is continued.
        tags, group: As in `wandb.init`.
    """

    def __init__(
        self,
        *,
        folder: Path,
        config: Mapping,
        project: str,
        name: str,
        identity: str,
        mode: str = "auto",
        tags: list[str] | None = None,
        group: str | None = None,
    ):
        self.folder = folder
        self.run = None
        if mode == "auto":
            mode = "online" if _has_api_key() else "offline"
        self.offline = mode == "offline"
        os.environ.setdefault("WANDB_SILENT", "true")
        self._guarded(
            lambda: self._start(
                dir=str(folder),
                config=dict(config),
                project=project,
                name=name,
                id=identity,
                resume="allow",
                mode=mode,
                tags=tags,
                group=group,
            )
        )
        if self.run and not self.offline:
            log.info("wandb: %s", self.run.url)

    def _start(self, **arguments) -> None:
        import wandb

        self.wandb = wandb
        settings = wandb.Settings(init_timeout=60, quiet=True, console="off")
        self.run = wandb.init(settings=settings, **arguments)
        self.run.define_metric("*", step_metric="step")

    def log(self, figures: Mapping[str, float | Tensor], *, step: int) -> None:
        """Log numbers as curves and one-dimensional tensors as histograms."""
        if self.run:
            self._guarded(lambda: self.run.log({"step": step, **{k: self._value(v) for k, v in figures.items()}}))

    def images(self, name: str, rows: list[list], columns: list[str], *, step: int) -> None:
        """Log a table; cells that are paths or image tensors `(3, H, W)` are shown as pictures."""
        if self.run:
            self._guarded(
                lambda: self.run.log(
                    {"step": step, name: self.wandb.Table(columns, [[self._cell(c) for c in row] for row in rows])}
                )
            )

    def finish(self) -> None:
        """Close the run and say how an offline one is sent."""
        if self.run:
            self._guarded(lambda: self.run.finish())
        if self.run and self.offline:
            latest = quote(str(self.folder / "wandb" / "latest-run"))
            log.info("wandb: no API key, logged offline; to send: wandb sync %s", latest)

    def _value(self, value: float | Tensor):
        if isinstance(value, Tensor) and value.dim():
            return self.wandb.Histogram(np_histogram=finite_histogram(value))
        return float(value)

    def _cell(self, cell):
        if isinstance(cell, Path):
            return self.wandb.Image(str(cell))
        return self.wandb.Image(cell.float() / 255) if isinstance(cell, Tensor) else cell

    def _guarded(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # whatever goes wrong in logging must not cost the training
            log.warning("wandb gave up (%s); training goes on, figures are in metrics.jsonl", error)
            self.run = None


def _has_api_key() -> bool:
    """Whether wandb could log in without asking: by environment variable or `wandb login`."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("//")[-1].split("/")[0]
    try:
        file = os.path.expanduser(os.environ.get("NETRC") or "~/.netrc")
        return netrc(file).authenticators(host) is not None
    except (OSError, NetrcParseError):
        return False
