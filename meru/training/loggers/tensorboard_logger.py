"""TensorBoard: event files in the run folder, for machines without any service."""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import Tensor

from meru.run_layout import TENSORBOARD
from meru.training.loggers.base import ServiceLogger, finite_histogram, is_picture, picture

log = logging.getLogger("meru")


class TensorboardLogger(ServiceLogger):
    """Writes the figures, histograms, tables and images of a run as TensorBoard's event files.

    Args:
        folder: The run folder; the files lie in `tensorboard/` in it. A resumed run adds files, whose steps replace
            those that were logged after the checkpoint.
        config: The run's complete configuration, logged as text.
        name, identity: Unused; TensorBoard names runs by their folders.
    """

    service = "TensorBoard"

    def __init__(self, *, folder: Path, config: Mapping, name: str, identity: str):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            self.require("tensorboard")
            return
        self.place, self.purge = folder / TENSORBOARD, True
        self.guarded(lambda: self._start(SummaryWriter, config))

    def _start(self, writer: type, config: Mapping) -> None:
        begun = self.place.is_dir() and any(self.place.iterdir())
        self.writer, self.waiting = writer, begun
        self.run = writer(str(self.place))
        if not begun:
            self.run.add_text("configuration", f"```\n{json.dumps(dict(config), indent=1, default=str)}\n```")
            log.info("tensorboard: tensorboard --logdir %s", shlex.quote(str(self.place.absolute())))

    def _from(self, step: int) -> None:
        """Before the first figures of a resumed run: hide what was logged at this step or later."""
        if self.waiting:
            self.run.close()
            self.run, self.waiting = self.writer(str(self.place), purge_step=step), False

    def log(self, figures: Mapping[str, float | Tensor], *, step: int) -> None:
        """Log numbers as curves and tensors with dimensions as histograms."""
        if self.run:
            self.guarded(lambda: self._log(figures, step))

    def _log(self, figures: Mapping[str, float | Tensor], step: int) -> None:
        self._from(step)
        for name, value in figures.items():
            if isinstance(value, Tensor) and value.dim():
                counts, edges = finite_histogram(value)
                middles = (edges[1:] + edges[:-1]) / 2
                self.run.add_histogram_raw(
                    name,
                    min=float(edges[0]),
                    max=float(edges[-1]),
                    num=int(counts.sum()),
                    sum=float(counts @ middles),
                    sum_squares=float(counts @ middles**2),
                    bucket_limits=edges[1:].tolist(),
                    bucket_counts=counts.tolist(),
                    global_step=step,
                )
            else:
                self.run.add_scalar(name, float(value), step)
        self.run.flush()

    def images(self, name: str, rows: list[list], columns: list[str], *, step: int) -> None:
        """Log a table: its text as Markdown, its images under the number of their row and their column."""
        if self.run:
            self.guarded(lambda: self._images(name, rows, columns, step))

    def _images(self, name: str, rows: list[list], columns: list[str], step: int) -> None:
        self._from(step)
        lines = [f"| row | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
        for number, row in enumerate(rows):
            shown = ["(image)" if is_picture(cell) else str(cell).replace("|", "\\|") for cell in row]
            lines.append(f"| {number} | {' | '.join(shown)} |")
            for column, cell in zip(columns, row, strict=True):
                if is_picture(cell):
                    tag, values = f"{name}/{number:03d}/{column}", np.asarray(picture(cell))
                    self.run.add_image(tag, values, step, dataformats="HWC")
        self.run.add_text(name, "\n".join(lines), step)
        self.run.flush()

    def finish(self, exit_code: int = 0) -> None:
        """Close the event file."""
        if self.run:
            self.guarded(self.run.close)
        self.run = None
