"""The end of a run: its weights first, then its figures, then pictures. What fails takes nothing along with it."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable
from pathlib import Path

from meru.assemble import Pretrained
from meru.encoders.weights import load_weights
from meru.errors import UserError
from meru.optional_part import reason_of
from meru.reports.tables import write_json
from meru.run_layout import BEST, FIGURES, MODEL
from meru.tasks.contract import Figures, Findings, Task
from meru.training.checkpoint import save_weights
from meru.training.loggers import NoLogger, WandbLogger
from meru.training.trainer import Trainer

log = logging.getLogger("meru")


def finish(
    task: Task, folder: Path, trainer: Trainer, pretrained: Pretrained, logger: NoLogger | WandbLogger
) -> Figures:
    """Export the chosen weights, evaluate them, once, and draw the pictures.

    Raises:
        UserError: if the figures cannot be had or written; the weights are exported before.
    """
    model = trainer.evaluated
    chosen = choose_weights(task, folder, trainer)
    save_weights(folder / MODEL, model.state_dict())
    pretrained = pretrained._replace(model=model)
    title = f"{task.name_of(None)}, {chosen}"
    findings = report(
        folder,
        lambda: task.evaluate(pretrained),
        table=lambda figures: task.table(figures, title, model=model),
        logger=logger,
        step=trainer.step,
    )
    task.draw(findings, folder, pretrained, logger=logger, step=trainer.step)
    return findings.figures


def choose_weights(task: Task, folder: Path, trainer: Trainer) -> str:
    """Load the best weights of the validations, if there were any, and say which weights the model has now."""
    best = folder / BEST
    if best.exists():
        load_weights(trainer.evaluated, best, what=BEST)
        return f"the best of {trainer.settings.monitor} on validation, step {trainer.best['step']:.0f}"
    if trainer.best["step"] >= 0:
        log.warning("%s is gone: the weights of the last step count instead", best)
        return f"the last step ({BEST} is gone)"
    return "the last step (no validation split)" if task.validates else "the last step"


def report(
    folder: Path,
    evaluate: Callable[[], Findings],
    *,
    table: Callable[[Figures], str],
    logger: NoLogger | WandbLogger,
    step: int,
) -> Findings:
    """Compute the figures, write `test.json`, which marks the run as finished, and print the table.

    Without any figure, as without test images, `test.json` holds an empty object and no table is printed.

    Raises:
        UserError: if that fails for a reason the user can put right; it says how to get the figures then.
    """
    path = folder / FIGURES
    try:
        findings = evaluate()
        write_json(path, findings.figures)
    except Exception as error:
        command = shlex.join(["python", "scripts/evaluate.py", f"run={folder}", f"output={path}"])
        kept = f"the trained model is kept in {folder / MODEL}; for its figures then: {command}"
        if isinstance(error, UserError | OSError):
            raise UserError(f"{reason_of(error)}; {kept}", exit_code=1) from error
        log.error("%s", kept)  # a fault of the program: its traceback follows
        raise
    figures = findings.figures
    logger.log({f"test/{name}": figure for name, figure in figures.items() if figure is not None}, step=step)
    if figures:
        log.info("%s", table(figures))
    log.info("model, figures and configuration: %s", folder)
    return findings
