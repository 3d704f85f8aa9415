"""The plots of `evaluation.figures` of a run: in its folder, and in its loggers."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from meru.assemble import Pretrained
from meru.optional_part import optional
from meru.reports.attention import save_figure
from meru.run_layout import PLOTS
from meru.runs.visualize.curves import draw_curves
from meru.tasks.contract import Task
from meru.training.loggers.base import AnyLogger


def save_plots(
    task: Task,
    folder: Path,
    pretrained: Pretrained,
    logger: AnyLogger,
    model: nn.Module,
    step: int,
    *,
    finished: bool = False,
) -> None:
    """Draw the plots that the configuration asks for; a failure is one warning, and the run goes on.

    Args:
        task: The run's.
        folder: The run folder.
        pretrained: The model's tokenizer and transforms.
        logger: Gets a table with the plots.
        model: The model.
        step: Of the training; part of the files' names unless the run is finished.
        finished: Whether the run is at its end.
    """
    names = task.config.evaluation.get("figures") or []  # missing in configurations of older runs
    plots = {}
    with optional("plots"):
        plots |= task.plots(names, pretrained._replace(model=model), finished=finished) if names else {}
    if "curves" in names:
        with optional("the plot curves"):
            plots["curves"] = draw_curves([folder])
    saved = {}
    for name, figure in plots.items():
        path = folder / PLOTS / (f"{name}.png" if finished else f"{name}_step{step}.png")
        with optional(f"the plot {path.name}"):
            save_figure(figure, path)
            saved[name] = path
    if saved:
        logger.images("figures", [list(saved.values())], list(saved), step=step)  # a row with a column for each
