"""How features fill their space: effective rank, alignment and uniformity, the gap of two modalities, tied scores."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

QUANTILES = (5, 50, 95)  # percent


def quantiles(values: Tensor, percents: Sequence[int] = QUANTILES) -> dict[str, float]:
    """Quantiles of values of any shape, by the percent as text, with linear interpolation.

    Raises:
        ValueError: without any value.
    """
    values = values.detach().double().flatten().cpu()
    if not len(values):
        raise ValueError("there are no quantiles of nothing")
    ordered = values.sort().values  # torch.quantile refuses more than 2^24 values
    figures = {}
    for percent in percents:
        place = percent / 100 * (len(ordered) - 1)
        low, high = ordered[math.floor(place)].item(), ordered[math.ceil(place)].item()
        figures[str(percent)] = low + (high - low) * (place - math.floor(place))
    return figures


def effective_rank(features: Tensor) -> float:
    """Number of dimensions that centred features fill: the exponential of the entropy of their singular values.

        exp(−Σ p_i ln p_i),   p_i = σ_i / Σ σ

    Roy & Vetterli, "The Effective Rank: A Measure of Effective Dimensionality", EUSIPCO 2007. It is r for r equal
    singular values.

    Args:
        features: Shape `(n, D)`.

    Returns:
        1 … min(n − 1, D); 0 if all rows are equal except for rounding.
    """
    features = features.detach().double()
    singular = torch.linalg.svdvals(features - features.mean(dim=0))
    if singular.sum() <= 1e-6 * features.norm():
        return 0.0
    share = singular / singular.sum()
    return torch.special.entr(share).sum().exp().item()


def modality_gap(x: Tensor, y: Tensor) -> float:
    """Distance between the mean directions of two sets of vectors, `(n, D)` and `(m, D)`: 0 … 2.

    Liang et al., "Mind the Gap: Understanding the Modality Gap in Multi-modal Contrastive Representation Learning",
    NeurIPS 2022.
    """
    means = [F.normalize(each.detach().double(), dim=-1).mean(dim=0) for each in (x, y)]
    return (means[0] - means[1]).norm().item()


def alignment(x: Tensor, y: Tensor) -> float:
    """Mean squared distance of the directions of matching vectors, row by row, `(n, D)` each: 0 … 4; lower is closer.

    Wang & Isola, "Understanding Contrastive Representation Learning through Alignment and Uniformity on the
    Hypersphere", ICML 2020, with α = 2.
    """
    x, y = (F.normalize(each.detach().double(), dim=-1) for each in (x, y))
    return (x - y).square().sum(dim=-1).mean().item()


def uniformity(x: Tensor) -> float | None:
    """Logarithm of the mean of exp(−2 d²) over all pairs of directions of vectors `(n, D)`; lower is more even.

    Wang & Isola, ICML 2020, with t = 2. It is 0 if all directions are equal; about −4 for directions spread at random.

    Returns:
        −8 … 0; None for fewer than two vectors.
    """
    if len(x) < 2:
        return None
    squares = torch.pdist(F.normalize(x.detach().double(), dim=-1)).square()
    return (-2 * squares).exp().mean().log().item()


def angles(x: Tensor, y: Tensor) -> Tensor:
    """Angles in degrees at the origin between vectors `(…, D)`, row by row, `(…)`; exact for near directions."""
    x, y = (F.normalize(each.detach().double(), dim=-1) for each in (x, y))
    return torch.rad2deg(2 * torch.atan2((x - y).norm(dim=-1), (x + y).norm(dim=-1)))


def tied(scores: Tensor) -> Tensor:
    """For every query, the share of its scores that another of its scores equals: `(Q, n)` → `(Q,)`."""
    ordered = scores.sort(dim=1).values
    same = ordered[:, 1:] == ordered[:, :-1]
    before, after = F.pad(same, (1, 0)), F.pad(same, (0, 1))
    return (before | after).double().mean(dim=1)


def bending(distances: Tensor, tangents_x: Tensor, tangents_y: Tensor) -> float | None:
    """Mean relative difference of distances in a space from those of the tangent vectors at the origin.

    0 in flat space. In hyperbolic space it grows with the radius: points at the same radius and another direction are
    farther apart than their tangent vectors.

    Args:
        distances: In the space, row by row, shape `(n,)`.
        tangents_x, tangents_y: Tangent vectors of the same points, in the space's unit of length, `(n, D)`.

    Returns:
        None if all pairs coincide.
    """
    flat = (tangents_x.double() - tangents_y.double()).norm(dim=-1)
    apart = flat > 1e-6 * flat.max().clamp_min(1e-30)
    if not apart.any():
        return None
    return (distances.double()[apart] / flat[apart] - 1).mean().item()
