"""Metrics of category discovery whose classes arrive in stages: what is found, and what is forgotten.

After every stage, the images of all classes that have arrived are matched by one assignment (v2, as in
`meru.metrics.discovery`). Forgetting is that of Chaudhry et al., "Riemannian Walk for Incremental Learning", ECCV 2018.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from meru.metrics.discovery import CHANCE_DRAWS, assignments, discovery_metrics


def stage_metrics(
    predictions: Tensor,
    labels: Tensor,
    *,
    class_stage: Tensor,
    num_old: int,
    stage: int,
    earlier: Mapping[str, float],
) -> dict[str, float]:
    """Figures at the end of a stage.

    Args:
        predictions: Predicted class of each image, int64 ≥ 0, shape `(n,)`.
        labels: True class, of those that have arrived, int64 ≥ 0, shape `(n,)`.
        class_stage: The stage in which each class arrives, counted from 0, int64 `(C,)`.
        num_old: Number of old classes, whose labels are below it.
        stage: The stage that has ended, from 0; names count from 1.
        earlier: The figures of earlier stages.

    Returns:
        `stage/<k>/{all,old,new}/accuracy`, with chance levels, and the other figures of one assignment by
        `discovery_metrics`; `stage/<k>/new_now/accuracy`, of the new classes that arrived in this stage;
        `stage/<k>/since_<j>/accuracy`, of the classes that arrived in stage j, for j = 1 the old ones included; and
        from the second stage on `stage/<k>/forgetting`, see `forgetting`. Those without images are left out.
    """
    place = f"stage/{stage + 1}"
    found = discovery_metrics(predictions, labels, num_old)
    figures = {
        f"{place}/{name.removeprefix('discovery/')}": figure
        for name, figure in found.items()
        if name.startswith("discovery/")
    }
    predicted, true = predictions.cpu().numpy(), labels.cpu().numpy()
    arrived = class_stage.numpy()[true]
    right = assignments(predicted, true) == true
    if (now := (arrived == stage) & (true >= num_old)).any():
        generator = np.random.default_rng(0)
        draws = [assignments(generator.permutation(predicted), true) for _ in range(CHANCE_DRAWS)]
        figures[f"{place}/new_now/accuracy"] = float(right[now].mean())
        figures[f"{place}/new_now/chance_accuracy"] = float(np.mean([(each == true)[now].mean() for each in draws]))
    for first in range(stage + 1):
        if (group := arrived == first).any():
            figures[f"{place}/since_{first + 1}/accuracy"] = float(right[group].mean())
    accuracies = [
        [{**earlier, **figures}.get(f"stage/{k + 1}/since_{j + 1}/accuracy") for j in range(k + 1)]
        for k in range(stage + 1)
    ]
    if (lost := forgetting(accuracies)) is not None:
        figures[f"{place}/forgetting"] = lost
    return figures


def forgetting(accuracies: list[list[float | None]]) -> float | None:
    """How much accuracy is lost on classes of earlier stages, on average over these stages.

        F_k = 1/(k − 1) Σ_{j < k} ( max_{j ≤ l < k} a_{l,j} − a_{k,j} )

    Args:
        accuracies: a_{l,j}, after stage l on the classes that arrived in stage j ≤ l; None if there is no image.

    Returns:
        F_k of the last stage k, in [−1, 1], below 0 if accuracy has grown; None in the first stage.
    """
    *before, now = accuracies
    lost = []
    for j, present in enumerate(now[:-1]):
        known = [figure for after in before[j:] if (figure := after[j]) is not None]
        if known and present is not None:
            lost.append(max(known) - present)
    return sum(lost) / len(lost) if lost else None
