"""k-means on features, and an estimate of the number of classes.

Vaze et al., "Generalized Category Discovery", CVPR 2022, section 3.3.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from meru import sharing
from meru.metrics.discovery import matched

COARSE, FINE = 9, 9  # numbers of classes tried in each round
BELL = 0.06  # width of the smoothing bell: neighbours within 6 % count most


def kmeans(features: Tensor, clusters: int, *, seed: int = 0, restarts: int = 3) -> Tensor:
    """Cluster of every row of `features` `(n, D)`, int64 `(n,)`: scikit-learn's k-means, the best of several restarts.

    Raises:
        ValueError: if there are fewer rows than clusters, or a feature is not finite.
    """
    _check(features, clusters)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct rows than clusters: some stay empty
        found = KMeans(clusters, n_init=restarts, random_state=seed).fit_predict(features.float().cpu().numpy())
    return torch.from_numpy(found.astype(np.int64))


def estimate_num_classes(
    features: Tensor,
    labels: Tensor,
    labelled: Tensor,
    num_old: int,
    *,
    maximum: int,
    seed: int = 0,
    repeats: int = 3,
    dimensions: int = 64,
    most: int = 20_000,
) -> tuple[int, dict[int, float]]:
    """Estimate the number of classes, old ones included: the K with which k-means recovers the labelled classes best.

    The criterion is that of Vaze et al.: k-means, without labels, groups all images into K clusters, and the labelled
    ones are scored by accuracy under the best assignment. A single run of k-means is too noisy for a search (their
    search by Brent's method ends at an arbitrary lucky K), so

    - the score of K is the mean accuracy of several runs with different starts;
    - K is searched in two rounds, each with equal ratios: from `num_old` to `maximum`, then around the best;
    - the best K is the maximum of a smoothed curve, in which neighbours nearer by ratio weigh more;
    - k-means runs on the first principal components, which is faster and removes noise, and these are whitened:
      directions in which images of one labelled class differ count little, in new classes too.

    In `sharing.together`, the processes divide the runs.

    Args:
        features: Shape `(n, D)`.
        labels: Class of each row, shape `(n,)`; unused where not `labelled`, bool `(n,)`.
        num_old: Number of labelled classes, at least two.
        maximum: Largest K that is tried.
        seed: Seed of k-means.
        repeats: Runs of k-means for each K.
        dimensions: Largest number of principal components.
        most: Largest number of rows; if there are more, this many are chosen at random.

    Returns:
        K, and the score of every K that was tried.

    Raises:
        ValueError: for too few labelled classes or rows, a `maximum` out of range, or a feature that is not finite.
    """
    _check_estimate(features, labelled, num_old, maximum)
    if len(features) > most:
        rows = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed))[:most].sort().values
        features, labels, labelled = features[rows], labels[rows], labelled[rows]
        maximum = min(maximum, most)
    reduced = whitened(principal_components(features, dimensions), labels, labelled)
    scores: dict[int, float] = {}

    def try_all(numbers: Sequence[int]) -> int:
        new = [number for number in dict.fromkeys(numbers) if number not in scores]
        attempts = [(clusters, seed + run) for clusters in new for run in range(repeats)]
        found = sharing.results_of(attempts, lambda attempt: _accuracy(reduced, labels, labelled, *attempt))
        scores.update(zip(new, np.reshape(found, (-1, repeats)).mean(axis=1).tolist(), strict=True))
        return _smooth_maximum(scores)

    best, ratio = try_all(_equal_ratios(num_old, maximum, COARSE)), (maximum / num_old) ** (1 / (COARSE - 1))
    around = _equal_ratios(max(num_old, round(best / ratio)), min(maximum, round(best * ratio)), FINE)
    return try_all(around), dict(sorted(scores.items()))


def _accuracy(features: Tensor, labels: Tensor, labelled: Tensor, clusters: int, seed: int) -> float:
    """Accuracy of one run of k-means on the labelled rows."""
    found = kmeans(features, clusters, seed=seed, restarts=2)[labelled.cpu()]
    return float(matched(found.numpy(), labels[labelled].cpu().numpy()).mean())


def principal_components(features: Tensor, dimensions: int) -> Tensor:
    """Rows projected on their principal components, `(n, D)` → float32 `(n, min(dimensions, D))`."""
    centred = features.double() - features.double().mean(dim=0)
    if dimensions >= features.shape[1]:
        return centred.float()
    _, axes = torch.linalg.eigh(centred.T @ centred)  # in ascending order
    return (centred @ axes[:, -dimensions:]).float()


def whitened(features: Tensor, labels: Tensor, labelled: Tensor, *, shrinkage: float = 0.1) -> Tensor:
    """Features in coordinates in which labelled classes have equal spread in all directions, `(n, D)`.

    Their pooled covariance W about the class means becomes nearly the identity (Hatch et al., "Within-Class Covariance
    Normalization for SVM-based Speaker Recognition", Interspeech 2006); W is first shrunk towards an isotropic
    covariance of the same size by `shrinkage`. If no class has two labelled rows, the features are unchanged.
    """
    classes, own = labels[labelled].unique(return_inverse=True)
    rows = features[labelled].double()
    sums = rows.new_zeros(len(classes), rows.shape[1]).index_add_(0, own, rows)
    spread = rows - (sums / own.bincount(minlength=len(classes))[:, None])[own]
    covariance = spread.T @ spread / max(1, len(rows) - len(classes))
    size = covariance.diagonal().mean()
    if not size > 1e-12 * rows.square().mean():
        return features
    sphere = size * torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
    values, axes = torch.linalg.eigh((1 - shrinkage) * covariance + shrinkage * sphere)
    return (features.double() @ (axes / values.sqrt())).to(features.dtype)


def _equal_ratios(low: int, high: int, count: int) -> list[int]:
    return np.unique(np.geomspace(low, high, count).round().astype(int)).tolist()


def _smooth_maximum(scores: dict[int, float]) -> int:
    """The K whose smoothed score is highest; the smaller one if tied.

    A line is fitted around each K with bell-shaped weights in log K: a plain mean would be biased for K with neighbours
    on one side only.
    """
    numbers = np.array(sorted(scores))
    values, place = np.array([scores[number] for number in numbers]), np.log(numbers)
    smooth = []
    for here in place:
        weight = np.exp(-0.5 * ((place - here) / BELL) ** 2)
        offset = place - here
        zero, one, two = (np.sum(weight * offset**power) for power in range(3))
        line = weight * (two - offset * one)
        mean = np.sum(weight * values) / zero
        smooth.append(np.sum(line * values) / line.sum() if two * zero - one**2 > 1e-12 else mean)
    return int(numbers[int(np.argmax(np.round(smooth, 12)))])


def _check_estimate(features: Tensor, labelled: Tensor, num_old: int, maximum: int) -> None:
    if num_old < 2 or not labelled.any():
        raise ValueError(f"{num_old} labelled classes, {int(labelled.sum())} labelled rows: at least two are needed")
    if not num_old <= maximum <= len(features):
        raise ValueError(f"maximum={maximum}: it must be from {num_old}, the labelled classes, to {len(features)}")
    _check(features, maximum)


def _check(features: Tensor, clusters: int) -> None:
    if not features.isfinite().all():
        raise ValueError("features that are NaN or infinite cannot be clustered")
    if not 1 <= clusters <= len(features):
        raise ValueError(f"{clusters} clusters of {len(features)} rows: there must be at least 1 and at most as many")
