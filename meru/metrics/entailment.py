"""Metrics of entailment: whether captions entail their own image, and the order of captions from coarse to fine.

Of pairs, ranked by a score: average precision, with equal scores taken as one step of the curve, and the area under
the ROC curve, in which a tie counts one half; a constant score has the chance level in both. `share_of_ties` is the
share of pairs whose score another pair has too: a score that saturates is seen there.

Of lists of captions: the measures of HierarCaps (Alper & Averbuch-Elor, "Emergent Visual-Semantic Hierarchies in
Image-Text Representations", ECCV 2024). Figures have the names that `meru.reports.tables` describes.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from scipy.stats import kendalltau
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor

LEVELS = 50  # radii at which the nearest caption is searched for


def pair_metrics(scores: Tensor, positive: Tensor) -> dict[str, float]:
    """Figures of pairs ranked by a score, higher for pairs that belong together.

    Args:
        scores: Finite, shape `(n,)`.
        positive: Whether a pair belongs together, bool `(n,)`, with both kinds.

    Returns:
        `average_precision`, `area_under_roc`, each also as `chance_…`; `share_of_ties`, and `share_of_zeros`, the share
        of pairs whose score is exactly 0.

    Raises:
        ValueError: if shapes differ, a score is not finite, or one kind is missing.
    """
    if scores.shape != positive.shape or scores.ndim != 1:
        raise ValueError(f"scores of shape {tuple(scores.shape)} for pairs of shape {tuple(positive.shape)}")
    if not scores.isfinite().all():
        raise ValueError("scores that are NaN or infinite cannot be ranked")
    if positive.all() or not positive.any():
        raise ValueError("both kinds of pairs are needed, positive and negative ones")
    values, right = scores.double().cpu().numpy(), positive.cpu().numpy()
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return {
        "average_precision": float(average_precision_score(right, values)),
        "chance_average_precision": float(right.mean()),
        "area_under_roc": float(roc_auc_score(right, values)),
        "chance_area_under_roc": 0.5,
        "share_of_ties": float((counts[inverse] > 1).mean()),
        "share_of_zeros": float((values == 0).mean()),
    }


def order_correlation(radii: Sequence[Tensor]) -> float | None:
    """Mean over lists of Kendall's τ between the captions' radii and their order from coarse to fine; HierarCaps' τ_d.

    Equal radii lower it (τ_b). A list of equal radii, and one with fewer than two captions, has no τ and is left out.

    Args:
        radii: For each list the distances of its captions from the root, in the order of the captions, `(k,)` each.

    Returns:
        In [−1, 1], 0 by chance; None if no list has a τ.
    """
    found = [kendalltau(np.arange(len(each)), each.double().cpu().numpy()).statistic for each in radii if len(each) > 1]
    found = [value for value in found if np.isfinite(value)]
    return float(np.mean(found)) if found else None


def retrieval_by_level(
    scores: Tensor, radii: Tensor, captions: Sequence[str], own: Sequence[Sequence[Sequence[str]]]
) -> dict[str, float]:
    """Precision and recall of the captions met on the way from the root to an image, as HierarCaps measures them.

    At each of 50 equally spaced radii, from the smallest of all captions to the largest, the caption most similar to
    the image is taken among those of at most this radius. With P the different captions taken and G those of the
    image's own lists, precision is |P ∩ G| / |P|, and recall the share of places 1 … k in its lists at which one of
    these captions was taken. Of equally similar captions, the one nearest to the root is taken.

    Args:
        scores: Similarity of each image and each caption, shape `(n, m)`.
        radii: Distance of each caption from the root, shape `(m,)`.
        captions: The m captions.
        own: For each image its lists of captions, from coarse to fine.

    Returns:
        `precision` and `recall`, means over images.
    """
    order = radii.sort(stable=True).indices
    scores, ascending = scores[:, order], radii[order].double()
    best = scores.cummax(dim=1).values
    column = torch.arange(scores.shape[1], device=scores.device)
    # The first column at which the running maximum was reached: the nearest to the root of equal scores.
    rises = torch.cat([torch.ones_like(best[:, :1], dtype=torch.bool), best[:, 1:] > best[:, :-1]], dim=1)
    first = torch.where(rises, column, 0).cummax(dim=1).values
    levels = torch.linspace(float(ascending[0]), float(ascending[-1]), LEVELS, dtype=torch.float64).to(radii.device)
    levels[-1] = ascending[-1]  # rounding would leave out the last caption
    taken = order[first[:, torch.searchsorted(ascending, levels, right=True) - 1]].cpu().tolist()
    precision, recall = [], []
    for places, lists in zip(taken, own, strict=True):
        found, right = {captions[place] for place in places}, {*itertools.chain.from_iterable(lists)}
        precision.append(len(found & right) / len(found))
        by_level = itertools.zip_longest(*lists)
        met = [any(caption in found for caption in level if caption is not None) for level in by_level]
        recall.append(sum(met) / len(met))
    return {"precision": float(np.mean(precision)), "recall": float(np.mean(recall))}
