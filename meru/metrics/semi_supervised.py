"""k-means that keeps labelled rows with their class: Vaze et al., CVPR 2022, section 3.2."""

from __future__ import annotations

import torch
from torch import Tensor

from meru.geometry.all_pairs import exact_product
from meru.metrics.clustering import kmeans

ROUNDS = 100


def semi_supervised_kmeans(
    features: Tensor, labels: Tensor, labelled: Tensor, clusters: int, *, seed: int = 0, rounds: int = ROUNDS
) -> Tensor:
    """Cluster of every row, where labelled rows always belong to the cluster of their class.

    Centres of labelled classes start at the means of their rows, the others at those of k-means on the unlabelled rows
    that are farthest from the labelled means. It ends when nothing changes.

    Args:
        features: `(n, D)`.
        labels: Class of the labelled rows, 0 … L − 1, int64 `(n,)`; a class without labelled rows is found as a new
            one is.
        labelled: bool `(n,)`.
        clusters: K ≥ L.
        seed: Of k-means for the start.
        rounds: At most so many.

    Returns:
        int64 `(n,)`; numbers below L are the labelled classes.

    Raises:
        ValueError: if there are fewer clusters than labelled classes, or fewer unlabelled rows than other clusters.
    """
    features = features.double()
    known = labels[labelled].unique()
    others = [number for number in range(clusters) if number not in set(known.tolist())]
    if len(known) and int(known.max()) >= clusters:
        raise ValueError(f"{clusters} clusters for a label {int(known.max())}: labels must be below the number")
    if int((~labelled).sum()) < len(others):
        raise ValueError(f"{len(others)} clusters without labels of {int((~labelled).sum())} unlabelled rows")
    centres = features.new_zeros(clusters, features.shape[1])
    for number in known.tolist():
        centres[number] = features[labelled & (labels == number)].mean(dim=0)
    if others:
        free = features[~labelled]
        if len(known):
            apart = torch.cdist(free, centres[known]).amin(dim=1)
            share = max(len(others), round(len(free) * len(others) / clusters))
            free = free[apart.topk(share).indices.sort().values]
        start = kmeans(free, len(others), seed=seed, restarts=1)
        for place, number in enumerate(others):
            rows = free[start == place]
            centres[number] = rows.mean(dim=0) if len(rows) else free[place]
    found = torch.full((len(features),), -1)
    for _ in range(rounds):
        scores = exact_product(features, centres) - centres.square().sum(dim=1) / 2
        now = torch.where(labelled, labels, scores.argmax(dim=1))
        if torch.equal(now, found):
            break
        found = now
        counts = found.bincount(minlength=clusters)
        sums = torch.zeros_like(centres).index_add_(0, found, features)
        centres = torch.where((counts > 0)[:, None], sums / counts.clamp(min=1)[:, None], centres)
    return found
