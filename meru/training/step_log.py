"""The figures of training steps, in `metrics.jsonl`, in the loggers and behind the progress bar."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from tqdm import tqdm

from meru import distributed
from meru.training.checkpoint import MetricsFile
from meru.training.scalars import ScalarMovement

log = logging.getLogger("meru")


@dataclass(kw_only=True)
class StepLog:
    """Writes the figures of a step.

    Attributes:
        model: May name its `expected_clamps`, which are not warned of.
        movement: Of the model's scalars.
        metrics: The file; None except in the main process.
        logger: Has `log(figures, step=…)`.
        progress: Shows loss and speed.
    """

    model: nn.Module
    movement: ScalarMovement
    metrics: MetricsFile | None
    logger: Any
    progress: tqdm
    warned: set[str] = field(default_factory=set, init=False)

    def write(self, figures: dict[str, Tensor], *, step: int, epoch: float, images: int, seconds: float) -> None:
        """Write the figures of this process, averaged over all; every process calls this.

        Args:
            figures: Scalars, and tensors `(n,)` for histograms, which are those of the main process.
            step: Its number.
            epoch: The progress in epochs.
            images, seconds: Trained on by this process since the last time.
        """
        scalars = {name: value.item() for name, value in figures.items() if not value.dim()}
        everyone = distributed.collect(scalars)
        if self.metrics is None:
            return
        scalars = {name: sum(each[name] for each in everyone) / len(everyone) for name in scalars}
        scalars |= self.movement.figures()
        speed = images * distributed.world_size() / max(seconds, 1e-9)
        line = {"step": step, "epoch": epoch, **scalars}
        self.metrics.write({**line, "images_per_second": speed})
        self._warn_of_clamps({name for name in scalars if name.startswith("clamped/") and scalars[name] > 0.5}, step)
        histograms = {name: value for name, value in figures.items() if value.dim()}
        self.logger.log({**line, **histograms, "images_per_second": speed}, step=step)
        self.progress.set_postfix({"loss": f"{scalars['loss']:.3f}", "images/s": f"{speed:.0f}"})

    def _warn_of_clamps(self, active: set[str], step: int) -> None:
        """Warn once about a clamp that removes the gradient, unless the model or its initial values explain it."""
        expected = {*getattr(self.model, "expected_clamps", ()), *self.movement.unmoved()}
        for name in sorted(active - self.warned - {f"clamped/{name}" for name in expected}):
            log.warning("step %d: %s is active for over half of the values: little or no gradient", step, name)
            self.warned.add(name)
