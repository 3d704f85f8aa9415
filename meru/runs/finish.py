"""The end of a run: export weights, then figures, then plots; a failure does not affect the earlier results."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable
from pathlib import Path

from meru import distributed, sharing
from meru.assemble import Pretrained
from meru.encoders.weights import load_weights
from meru.errors import UserError
from meru.files import CHECKOUT
from meru.layers.low_rank import merged_state
from meru.optional_part import reason_of
from meru.reports.tables import write_json
from meru.run_layout import BEST, FIGURES, MODEL
from meru.runs.plots import save_plots
from meru.tasks.contract import Figures, Findings, Task
from meru.training.checkpoint import save_weights
from meru.training.loggers.base import AnyLogger
from meru.training.trainer import Trainer

log = logging.getLogger("meru")


def finish(
    task: Task, folder: Path, trainer: Trainer, pretrained: Pretrained, logger: AnyLogger
) -> Figures:
    """Export the selected weights, evaluate them once, and draw the plots.

    All processes call this: they share the evaluation, and the main one does everything else and has the figures.

    Raises:
        UserError: if the figures cannot be computed or written; the weights have been exported by then.
    """
    model = trainer.evaluated
    chosen = choose_weights(task, folder, trainer)
    if distributed.is_main():
        save_weights(folder / MODEL, merged_state(model))
    pretrained = pretrained._replace(model=model)
    title = f"{task.name_of(None)}, {chosen}"
    findings = report(
        folder,
        lambda: task.evaluate(pretrained),
        table=lambda figures: task.table(figures, title, model=model),
        logger=logger,
        step=trainer.step,
    )
    if not distributed.is_main():
        return {}
    task.draw(findings, folder, pretrained, logger=logger, step=trainer.step)
    save_plots(task, folder, pretrained, logger, model, trainer.step, finished=True)
    return findings.figures


def choose_weights(task: Task, folder: Path, trainer: Trainer) -> str:
    """Load the best validated weights, if there are any; returns a description of the model's weights.

    The main process reads them for all, which may not see its folder.
    """
    chosen = distributed.decided_by_main(lambda: _load_best(task, folder, trainer))
    distributed.broadcast_weights(trainer.evaluated)
    return chosen


def _load_best(task: Task, folder: Path, trainer: Trainer) -> str:
    best = folder / BEST
    if best.exists():
        load_weights(trainer.evaluated, best, what=BEST)
        return f"the best of {trainer.settings.monitor} on validation, step {trainer.best['step']:.0f}"
    if trainer.best["step"] >= 0:
        log.warning("%s is missing: the weights of the last step are used instead", best)
        return f"the last step ({BEST} is missing)"
    return "the last step (no validation split)" if task.validates else "the last step"


def report(
    folder: Path,
    evaluate: Callable[[], Findings],
    *,
    table: Callable[[Figures], str],
    logger: AnyLogger,
    step: int,
) -> Findings:
    """Compute the figures, write `test.json`, which marks the run as finished, and print the table.

    All processes call this and share the evaluation; the main one writes and prints.
    Without any figure, for instance without test images, `test.json` has an empty object and no table is printed.

    Raises:
        UserError: if that fails for a reason that the user can fix; the message gives the command for the figures.
    """
    path = folder / FIGURES
    try:
        with sharing.together():
            findings = evaluate()
        if distributed.is_main():
            write_json(path, findings.figures)
    except Exception as error:
        program = ["meru-evaluate"] if CHECKOUT is None else ["python", "scripts/evaluate.py"]
        command = shlex.join([*program, f"run={folder}", f"output={path}"])
        kept = f"the trained model is in {folder / MODEL}; to compute its figures later: {command}"
        if isinstance(error, UserError | OSError):
            raise UserError(f"{reason_of(error)}; {kept}", exit_code=1) from error
        log.error("%s", kept)  # a bug, whose traceback follows
        raise
    figures = findings.figures
    if not distributed.is_main():
        return findings
    logger.log({f"test/{name}": figure for name, figure in figures.items() if figure is not None}, step=step)
    if figures:
        log.info("%s", table(figures))
    log.info("model, figures and configuration: %s", folder)
    return findings
