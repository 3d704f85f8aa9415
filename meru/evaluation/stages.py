"""The figures at the end of a stage of category discovery, and the table of all stages."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from meru.data.discovery.stages import Stages
from meru.metrics.stages import stage_metrics
from meru.reports.tables import format_rows

COLUMNS = {
    "All": "all/accuracy",
    "Old": "old/accuracy",
    "New": "new/accuracy",
    "now": "new_now/accuracy",
    "lost": "forgetting",
}
SHOWN = 8  # of the latest stages; the JSON file has all


def stage_figures(
    read: Mapping[str, Tensor], measured: Tensor, stages: Stages, *, stage: int, classes: int, earlier: Mapping
) -> dict[str, float]:
    """The figures of `stage_metrics`, and `stage/<k>/classes`, the classes of the classifier that take part.

    Args:
        read: Result of `meru.evaluation.classes.read_features`, with so many classes.
        measured: Places of the images to measure on, `(m,)`.
        stages: The stages of the run.
        stage: The stage that has ended, from 0.
        classes: Number of classes that take part.
        earlier: The figures of earlier stages.

    Returns:
        Empty if none of the images decodes.
    """
    chosen = torch.isin(read["image_index"], measured) if read else torch.zeros(0, dtype=torch.bool)
    if not chosen.any():
        return {}
    figures = stage_metrics(
        read["prediction"][chosen],
        read["label"][chosen],
        class_stage=stages.class_stage,
        num_old=stages.num_old,
        stage=stage,
        earlier=earlier,
    )
    return {**figures, f"stage/{stage + 1}/classes": float(classes)}


def figures_of_stages(state: Mapping) -> dict[str, float]:
    """The figures of all stages in a run's state, and `forgetting`, that of the last."""
    figures = {name: value for name, value in state.items() if name.startswith("stage/")}
    lost = [value for name, value in figures.items() if name.endswith("/forgetting")]  # in the order of the stages
    return {**figures, **({"forgetting": lost[-1]} if lost else {})}


def format_stages(figures: Mapping[str, float | None], *, adjusted: bool = False) -> str:
    """A row for each stage; empty without figures of stages.

    now: the new classes that arrived in the stage; lost: forgetting. `adjusted`: other figures of the run are corrected
    (`meru.evaluation.bias`), and the title says that these are not.
    """
    found = {int(form[1]) for name in figures if (form := re.match(r"stage/(\d+)/", name))}
    if not found:
        return ""
    rows = {f"stage {k}, {figures[f'stage/{k}/classes']:.0f} classes": f"stage/{k}" for k in sorted(found)[-SHOWN:]}
    title = "At the end of each stage (now: new classes that arrived in it, lost: forgetting)"
    title += ", not adjusted" if adjusted else ""
    return format_rows(figures, title, rows=rows, columns=COLUMNS)
