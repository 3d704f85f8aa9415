"""The end of a stage of a training run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meru import distributed, sharing

if TYPE_CHECKING:
    from meru.training.checkpoint import MetricsFile
    from meru.training.trainer import Trainer


def end_stage(trainer: Trainer, metrics: MetricsFile | None) -> None:
    """Compute the figures of the stage that ends now, with its last weights, and keep them in the run's state.

    All processes call this and share the work; the main one has `metrics` and writes.
    """
    if trainer.sharded:
        trainer.sharded.gather()
    with sharing.together():
        figures = trainer.at_stage_end(trainer.evaluated, trainer.step // trainer.stage_steps - 1)
    if metrics is not None:
        trainer.epoch_state.update(figures)
        metrics.write({"step": trainer.step, **figures})
        trainer.logger.log(figures, step=trainer.step)
    distributed.wait_for_main()
