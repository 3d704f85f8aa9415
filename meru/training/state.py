"""The state of a training run in a checkpoint: collected for saving, and restored."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from meru import distributed
from meru.encoders.weights import fit
from meru.errors import UserError
from meru.training.sharded import whole

if TYPE_CHECKING:
    import torch

    from meru.training.trainer import Trainer

log = logging.getLogger("meru")


def state_of(trainer: Trainer) -> dict:
    """Collect the state for a checkpoint, except that of the random generators; every process calls this."""
    return {
        "step": trainer.step,
        "steps_per_epoch": trainer.steps_per_epoch,
        "epochs": trainer.settings.epochs,
        "processes": distributed.world_size(),
        "epoch_state": trainer.epoch_state,
        "best": trainer.best,
        "model": whole(trainer.model.state_dict()),
        "optimizer": whole(trainer.optimizer.state_dict()),
        "optimizer_class": type(trainer.optimizer).__name__,
        "average": trainer.average.state_dict() if trainer.average else None,
        "scalars": trainer.movement.state(),
    }


def restore(trainer: Trainer, state: dict, *, source: str) -> None:
    """Restore a trainer from the state of a checkpoint; `source` names its file.

    Raises:
        UserError: if the checkpoint has another model, optimizer or epoch length, or is past the last step.
    """
    _check_steps(trainer, state)
    fit(trainer.model, state["model"], source=source, what="resume")
    if bool(trainer.average) != bool(state.get("average")):
        raise UserError("resume: trainer.ema_decay was switched on or off since this run began")
    if trainer.average:
        trainer.average.load_state_dict(state["average"])
    if spoilt := trainer.spoilt_weights():
        raise UserError(f"resume: the weight {spoilt[0]} in {source} is not finite: restore a copy", exit_code=1)
    _restore_optimizer(trainer.optimizer, state)
    trainer.epoch_state.update(state.get("epoch_state", {}))
    trainer.movement.load(state.get("scalars"))  # missing in checkpoints of older versions
    trainer.step, trainer.best = state["step"], state["best"]


def _check_steps(trainer: Trainer, state: dict) -> None:
    """Check that a step keeps its position in the epoch and its images."""
    began = state.get("steps_per_epoch", trainer.steps_per_epoch)  # missing in checkpoints of older versions
    if began != trainer.steps_per_epoch:
        before, now = state["processes"], distributed.world_size()
        raise UserError(
            f"resume: this run began with {before} {_processes(before)} and {began} steps per epoch; {now} "
            f"{_processes(now)} would make {trainer.steps_per_epoch}: start {before} (NGPU={before}), and do not "
            "change the training images or the batch size"
        )
    if state["step"] > trainer.total_steps:
        raise UserError(
            f"resume: trainer.epochs={trainer.settings.epochs} ends at step {trainer.total_steps}, and this run is at "
            f"step {state['step']} already: set at least {-(-state['step'] // trainer.steps_per_epoch)} epochs"
        )
    epochs, now = state.get("epochs", trainer.settings.epochs), trainer.settings.epochs
    if epochs != now and trainer.stages > 1:
        raise UserError(f"resume: trainer.epochs={now}: the stages of this run have {epochs} epochs each; leave it so")
    if epochs != now and distributed.is_main():
        log.info("trainer.epochs was %d and is %d: the learning rate follows the new length", epochs, now)


def _processes(number: int) -> str:
    return "process" if number == 1 else "processes"


def _restore_optimizer(optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Restore the optimizer's moments; learning rates, weight decay etc. follow the current configuration."""
    own, began = type(optimizer).__name__, state.get("optimizer_class")
    if began not in (None, own):
        raise UserError(f"resume: this run began with {began}, not {own}: leave optim as it was")
    configured = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    try:
        optimizer.load_state_dict(state["optimizer"])
    except (ValueError, KeyError) as error:
        raise UserError(
            "resume: the run began with other parameter groups: restore optim.multipliers and the trained layers, "
            "or begin a new run"
        ) from error
    saved = state["optimizer"]["param_groups"]
    for group, before, options in zip(optimizer.param_groups, saved, configured, strict=True):
        if missing := ({"betas", "momentum"} & options.keys()) - before.keys():
            raise UserError(f"resume: this run began with an optimizer without {min(missing)}: leave optim as it was")
        group.update(options)
