"""What is due after a step of a training run, by its number and the settings alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meru.training.trainer import Trainer


def logging(trainer: Trainer, step: int) -> bool:
    """Whether the figures of a step are written."""
    return step % trainer.settings.log_every == 0 or step == trainer.total_steps


def validation(trainer: Trainer) -> bool:
    """Whether the present step is validated: every few epochs, and at the end of the run and of each stage."""
    every = trainer.settings.evaluate_every * trainer.steps_per_epoch
    return trainer.step % every == 0 or trainer.step == trainer.total_steps or stage_end(trainer)


def stage_end(trainer: Trainer) -> bool:
    """Whether a stage ends with the present step; a run without stages has none that ends."""
    return trainer.stages > 1 and trainer.step % trainer.stage_steps == 0


def checkpoint(trainer: Trainer) -> bool:
    """Whether a checkpoint is written besides those at validations."""
    return trainer.settings.checkpoint_every > 0 and trainer.step % trainer.settings.checkpoint_every == 0


def plots(trainer: Trainer) -> bool:
    """Whether a validation is followed by plots."""
    every = trainer.settings.figures_every * trainer.settings.evaluate_every * trainer.steps_per_epoch
    return every > 0 and trainer.step % every == 0 and trainer.step < trainer.total_steps


def diagnosis(trainer: Trainer) -> bool:
    """Whether the gradients of the next step's terms are measured."""
    return trainer.settings.diagnose_every > 0 and trainer.step % trainer.settings.diagnose_every == 0
