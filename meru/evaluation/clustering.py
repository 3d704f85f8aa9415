"""k-means on features, with and without labels of some, and how many classes there are.

Vaze et al., "Generalized Category Discovery", CVPR 2022, sections 3.2 and 3.3.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import silhouette_score
from torch import Tensor

from meru.evaluation.discovery import matched


def kmeans(features: Tensor, clusters: int, *, seed: int = 0, restarts: int = 3) -> Tensor:
    """Cluster of every row of `features` `(n, D)`, int64 `(n,)`: scikit-learn's, the best of some restarts.

    Raises:
        ValueError: if there are fewer rows than clusters, or a feature is not finite.
    """
    _check(features, clusters)
    found = KMeans(clusters, n_init=restarts, random_state=seed).fit_predict(features.double().cpu().numpy())
    return torch.from_numpy(found.astype(np.int64))


def semi_supervised_kmeans(
    features: Tensor,
    labels: Tensor,
    labelled: Tensor,
    clusters: int,
    *,
    seed: int = 0,
    restarts: int = 3,
    iterations: int = 100,
) -> Tensor:
    """k-means in which labelled rows stay in the cluster of their class.

    The first clusters start at the means of the labelled classes, the others where k-means++ puts them.

    Args:
        features: Shape `(n, D)`.
        labels: Class of each row, 0 … number of labelled classes − 1 where `labelled`, shape `(n,)`.
        labelled: bool `(n,)`.
        clusters: At least as many as there are labelled classes.
        seed: Of k-means++.
        restarts: So many starts; the one whose rows end nearest to their centres counts.
        iterations: At most so many of each.

    Returns:
        int64 `(n,)`; clusters of labelled classes have the classes' numbers.

    Raises:
        ValueError: for fewer clusters than labelled classes or more than rows, or a feature that is not finite.
    """
    _check(features, clusters)
    features = features.double()
    known = int(labels[labelled].max()) + 1 if labelled.any() else 0
    if clusters < known:
        raise ValueError(f"{clusters} clusters for {known} labelled classes: there must be at least as many")
    generator = torch.Generator().manual_seed(seed)
    best, least = None, float("inf")
    for _ in range(restarts):
        centres = _starting_centres(features, labels, labelled, known, clusters, generator)
        assigned = torch.full((len(features),), -1)
        for _ in range(iterations):
            new = torch.cdist(features, centres).argmin(dim=1)
            new[labelled] = labels[labelled]
            if torch.equal(new, assigned):
                break
            assigned = new
            counts = torch.bincount(assigned, minlength=clusters)
            sums = torch.zeros_like(centres).index_add_(0, assigned, features)
            centres = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], centres)
        inertia = (features - centres[assigned]).square().sum().item()
        if inertia < least:
            best, least = assigned, inertia
    return best


def _starting_centres(
    features: Tensor, labels: Tensor, labelled: Tensor, known: int, clusters: int, generator: torch.Generator
) -> Tensor:
    """Means of the labelled classes, then k-means++ (Arthur and Vassilvitskii, 2007) among the unlabelled rows."""
    centres = [features[labelled & (labels == each)].mean(dim=0) for each in range(known)]
    candidates = features[~labelled] if (~labelled).any() else features
    while len(centres) < clusters:
        if centres:
            weights = torch.cdist(candidates, torch.stack(centres)).amin(dim=1).square()
        else:
            weights = torch.ones(len(candidates), dtype=torch.float64)
        if not weights.sum() > 0:  # every candidate lies on a centre
            weights = torch.ones_like(weights)
        centres.append(candidates[int(torch.multinomial(weights, 1, generator=generator))])
    return torch.stack(centres)


def estimate_num_classes(
    features: Tensor,
    labels: Tensor,
    labelled: Tensor,
    num_old: int,
    *,
    maximum: int,
    seed: int = 0,
    candidates: int = 9,
) -> tuple[int, dict[int, float]]:
    """How many classes there are, old ones included, by how well k-means finds classes whose labels it was not given.

    As in Vaze et al., half of the labelled classes keep their labels and half lose them (by lot), semi-supervised
    k-means runs with K clusters, and the accuracy on the classes whose labels were hidden is looked at: too many
    clusters split them. That alone does not see hidden classes merged with unlabelled ones, so the score of K is the
    mean of it and of the silhouette (Rousseeuw, 1987). K is searched from coarse to fine: equally spaced first, then
    around the best.

    Args:
        features: Shape `(n, D)`.
        labels: Class of each row where `labelled`, shape `(n,)`.
        labelled: bool `(n,)`.
        num_old: Labelled classes, at least four.
        maximum: Largest K that is tried.
        seed: Of the lot and of k-means++.
        candidates: Tried in each round.

    Returns:
        K, and the score of every K that was tried.

    Raises:
        ValueError: for fewer than four labelled classes, or a `maximum` below their number or above that of the rows.
    """
    if num_old < 4:
        raise ValueError(f"{num_old} labelled classes are too few to hide some of them: at least four are needed")
    if not num_old <= maximum <= len(features):
        raise ValueError(f"maximum={maximum}: it must be from {num_old}, the labelled classes, to {len(features)}")
    order = torch.randperm(num_old, generator=torch.Generator().manual_seed(seed))
    kept, hidden = order[: num_old // 2], order[num_old // 2 :]
    number = torch.full((num_old,), -1)
    number[kept] = torch.arange(len(kept))
    anchors = labelled & torch.isin(labels, kept)
    judged = labelled & torch.isin(labels, hidden)
    renumbered = torch.where(anchors, number[labels.clamp(0, num_old - 1)], -1)
    scores: dict[int, float] = {}

    def try_all(numbers: Sequence[int]) -> int:
        for clusters in numbers:
            if clusters not in scores:
                found = semi_supervised_kmeans(features, renumbered, anchors, clusters, seed=seed)
                accuracy = float(matched(found[judged].numpy(), labels[judged].numpy()).mean())
                scores[clusters] = (accuracy + silhouette(features, found, seed=seed)) / 2
        return max(scores, key=lambda clusters: (scores[clusters], -clusters))

    low, high = num_old, maximum
    while True:
        numbers = np.unique(np.linspace(low, high, candidates).round().astype(int)).tolist()
        best = try_all(numbers)
        step = max(1, round((high - low) / (candidates - 1)))
        if step == 1:
            return best, dict(sorted(scores.items()))
        low, high = max(num_old, best - step), min(maximum, best + step)


def silhouette(features: Tensor, clusters: Tensor, *, seed: int = 0, most: int = 4000) -> float:
    """How much nearer rows are to their own cluster than to the next one, in [−1, 1], of at most `most` rows by lot."""
    rows = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed))[:most]
    chosen = clusters[rows].numpy()
    if not 2 <= len(np.unique(chosen)) < len(chosen):
        return 0.0
    return float(silhouette_score(features[rows].double().numpy(), chosen))


def _check(features: Tensor, clusters: int) -> None:
    if not features.isfinite().all():
        raise ValueError("features that are NaN or infinite cannot be clustered")
    if not 1 <= clusters <= len(features):
        raise ValueError(f"{clusters} clusters of {len(features)} rows: there must be at least 1 and at most as many")
