"""Metrics of category discovery: predictions are matched to true classes by one assignment over all images.

Vaze et al., "Generalized Category Discovery", CVPR 2022, section 4.1; the protocol called v2 in its code: one
assignment over old and new classes. With separate assignments for old and new classes (v1), scores are inflated,
because one cluster may then be used twice.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from torch import Tensor

CHANCE_DRAWS = 20


def discovery_metrics(predictions: Tensor, labels: Tensor, num_old: int) -> dict[str, float]:
    """Figures on the unlabelled images.

    Args:
        predictions: Predicted class or cluster of each image, int64 ≥ 0, shape `(n,)`; any numbering.
        labels: True class, old classes first, int64 ≥ 0, shape `(n,)`.
        num_old: Number of old classes, whose labels are below it.

    Returns:
        `discovery/{all,old,new}/accuracy`, by one assignment over all (v2), with `All = (n_old · Old + n_new · New)/n`;
        `discovery_balanced/…`, the same as means of the classes; `discovery_v1/…`, by two assignments, with all of them
        counted; `discovery/new_as_old/share`, the images of new classes whose cluster is assigned to an old class, and
        `discovery/old_as_new/share`, the reverse; each also as `…/chance_…`, that of random predictions with the same
        cluster sizes, mean of 20 seeded draws;
        `discovery/all/normalized_mutual_information`, `discovery/all/adjusted_rand_index`, and
        `discovery/{all,old,new}/images`. Figures of old or new classes are left out if there are no such images.

    Raises:
        ValueError: if the lengths differ, there are no images, or a number is negative.
    """
    if predictions.shape != labels.shape or predictions.ndim != 1:
        raise ValueError(f"predictions of shape {tuple(predictions.shape)} for labels of {tuple(labels.shape)}")
    if not len(labels):
        raise ValueError("there are no images to measure discovery on")
    if min(int(predictions.min()), int(labels.min())) < 0:
        raise ValueError("predictions and labels must not be negative")
    predicted, true = predictions.cpu().numpy(), labels.cpu().numpy()
    groups = {"all": np.ones(len(true), dtype=bool), "old": true < num_old, "new": true >= num_old}
    groups = {name: chosen for name, chosen in groups.items() if chosen.any()}
    figures = _accuracies(predicted, true, groups, num_old)
    generator = np.random.default_rng(0)
    draws = [_accuracies(generator.permutation(predicted), true, groups, num_old) for _ in range(CHANCE_DRAWS)]
    for name in list(figures):
        row, _, metric = name.rpartition("/")
        figures[f"{row}/chance_{metric}"] = float(np.mean([each[name] for each in draws]))
    figures |= {
        "discovery/all/normalized_mutual_information": normalized_mutual_info_score(true, predicted),
        "discovery/all/adjusted_rand_index": adjusted_rand_score(true, predicted),
    }
    figures |= {f"discovery/{name}/images": chosen.sum() for name, chosen in groups.items()}
    return {name: float(figure) for name, figure in figures.items()}


def _accuracies(
    predicted: np.ndarray, true: np.ndarray, groups: Mapping[str, np.ndarray], num_old: int
) -> dict[str, float]:
    """The accuracies of `discovery_metrics` and the shares on the wrong side, of groups of images by name."""
    assigned = assignments(predicted, true)
    right = assigned == true
    figures = {f"discovery/{name}/accuracy": right[chosen].mean() for name, chosen in groups.items()}
    if len(groups) == 3:
        taken_for_old = (assigned >= 0) & (assigned < num_old)
        figures["discovery/new_as_old/share"] = taken_for_old[groups["new"]].mean()
        figures["discovery/old_as_new/share"] = (assigned >= num_old)[groups["old"]].mean()
    classes = np.unique(true)
    of_class = np.array([right[true == each].mean() for each in classes])
    parts = {"all": classes >= 0, "old": classes < num_old, "new": classes >= num_old}
    figures |= {f"discovery_balanced/{name}/accuracy": of_class[parts[name]].mean() for name in groups}
    twice = np.zeros(len(true), dtype=bool)
    for name in groups.keys() - {"all"}:
        twice[groups[name]] = matched(predicted[groups[name]], true[groups[name]])
    return figures | {f"discovery_v1/{name}/accuracy": twice[chosen].mean() for name, chosen in groups.items()}


def assignments(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """The class of each image under the best assignment of clusters to classes, int `(n,)`; −1 where there is none."""
    class_of = assigned_classes(predicted, true)
    return np.array([class_of.get(cluster, -1) for cluster in predicted.tolist()])


def matched(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """The images that are correct under the best assignment of clusters to classes, bool `(n,)`."""
    return assignments(predicted, true) == true


def assigned_classes(predicted: np.ndarray, true: np.ndarray) -> dict[int, int]:
    """Cluster → class, with the most correct images in total; with more clusters than classes, some get no class.

    The assignment is one to one (Kuhn, "The Hungarian Method for the Assignment Problem", 1955).
    """
    clusters, rows = np.unique(predicted, return_inverse=True)
    classes, columns = np.unique(true, return_inverse=True)
    counts = np.zeros((len(clusters), len(classes)), dtype=np.int64)
    np.add.at(counts, (rows, columns), 1)
    pairs = zip(*linear_sum_assignment(counts, maximize=True), strict=True)
    return {int(clusters[row]): int(classes[column]) for row, column in pairs}
