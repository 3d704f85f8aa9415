"""The two hyperbolic losses of HypGCD: categories (HCL) and local hierarchies (LHL) in the Poincaré ball.

HypGCD (IEEE TNNLS 2025, doi 10.1109/TNNLS.2025.3597074); common ancestors of triplets: Kim et al., "HIER: Metric
Learning Beyond Class Labels via Hierarchical Regularization", CVPR 2023, section 3.2.
"""

from __future__ import annotations

import math
from itertools import combinations

import torch
from torch import Tensor
from torch.nn import functional as F

from meru.geometry import poincare
from meru.geometry.all_pairs import root

ANCESTORS = ("batch", "midpoint", "proxies")


def category_loss(
    points: Tensor,
    classes: Tensor,
    curvature: Tensor | float,
    *,
    temperature: float = 1.0,
    smoothing: float = 0.1,
    riemannian: bool = False,
) -> Tensor:
    """HCL: cross-entropy of each point's distances to the centres of the classes in the batch.

    Args:
        points: z in the ball, of all views, shape `(n, D)`.
        classes: Given or predicted class of each, shape `(n,)`.
        curvature: c > 0 of the ball.
        temperature: τ of `contrast_with_centres`.
        smoothing: s of `contrast_with_centres`.
        riemannian: Whether the gradient of each point is multiplied by ((1 − c‖z‖²)/2)², see
            `poincare.riemannian_gradient`: at most ¼, and 0.094 at a clip of 2.3 with c = 0.1. The authors use it, and
            their loss weight of 0.1 assumes it.

    Returns:
        Scalar ≥ 0, float32; 0 if there is only one class.
    """
    present, classes = classes.unique(return_inverse=True)
    if riemannian:
        points = poincare.riemannian_gradient(points, curvature)
    return contrast_with_centres(points, classes, len(present), curvature, temperature=temperature, smoothing=smoothing)


def contrast_with_centres(
    points: Tensor, classes: Tensor, number: int, curvature: Tensor | float, *, temperature: float, smoothing: float
) -> Tensor:
    """Cross-entropy of each point's distances to the centres of K classes.

        mean_i −Σ_k t_ik log softmax_k( −d(z_i, μ_k)/τ )

    μ_k is the Einstein midpoint of the points of class k, or the origin if there are none; t is 1 − s for the point's
    class, and s is divided between the others.

    Args:
        points: z in the ball, shape `(n, D)`.
        classes: Class of each, 0 … K − 1, shape `(n,)`.
        number: K, the number of classes.
        curvature: c > 0 of the ball.
        temperature: τ.
        smoothing: s in [0, 1).

    Returns:
        Scalar ≥ 0, float32; 0 if there is only one class.
    """
    if number < 2:
        return points.sum() * 0.0
    centres = poincare.group_midpoints(points, classes, number, curvature)
    log_share = (-poincare.pairwise_distance(points, centres, curvature) / temperature).log_softmax(dim=1)
    own = F.one_hot(classes, number).to(log_share.dtype)
    targets = (1 - smoothing) * own + smoothing / (number - 1) * (1 - own)
    return -(targets * log_share).sum(dim=1).mean()


def local_hierarchy_loss(
    points: Tensor,
    classes: Tensor,
    curvature: Tensor | float,
    *,
    neighbours: int = 30,
    triplets: int = 50,
    margin: float = 0.1,
    ancestors: str = "batch",
    proxies: Tensor | None = None,
    temperature: float = 0.1,
    exclude_members: bool = False,
    sample_ancestors: bool = True,
) -> Tensor:
    """LHL: the common ancestor of two near points is nearer to them than their common ancestor with a third point.

    j is among the reciprocal nearest neighbours of i by exp(−d) + [same class], and k is not; the loss of the triplets
    is that of `loss_of_triplets`.

    Args:
        points: In the ball, of all views, shape `(n, D)`.
        classes: Given or predicted class of each, shape `(n,)`.
        curvature: c > 0 of the ball.
        neighbours: Size of a neighbourhood, the point itself included.
        triplets: Number drawn for each i that has at least two reciprocal neighbours.
        margin: δ.
        ancestors: Candidates: the points themselves (`batch`), learned points of the ball (`proxies`, as in HIER), or,
            without a choice, the Einstein midpoints of the two and of the three points (`midpoint`).
        proxies: Points `(P, D)` for `proxies`.
        temperature: τ of the choice of ancestors.
        exclude_members: Whether i, j and k may not be their own ancestors (`batch`).
        sample_ancestors: False: choose the most likely one, without noise.

    Returns:
        Scalar ≥ 0, float32; 0 if no point has two reciprocal neighbours.
    """
    if ancestors not in ANCESTORS:
        raise ValueError(f"ancestors={ancestors}: choose one of {', '.join(ANCESTORS)}")
    with torch.autocast(points.device.type, enabled=False):
        distances = poincare.pairwise_distance(points, points, curvature)
        members = draw_triplets(distances.detach(), classes, neighbours=neighbours, triplets=triplets)
        if not len(members[0]):
            return points.sum() * 0.0
        if ancestors == "midpoint":
            return loss_of_midpoints(distances, members, curvature, margin=margin)
        return loss_of_triplets(
            distances if ancestors == "batch" else poincare.pairwise_distance(points, given(proxies), curvature),
            members,
            margin=margin,
            temperature=temperature,
            exclude_members=exclude_members and ancestors == "batch",
            sample_ancestors=sample_ancestors,
        )


def given(proxies: Tensor | None) -> Tensor:
    """The proxies that `ancestors=proxies` needs; ValueError without them."""
    if proxies is None:
        raise ValueError("ancestors=proxies: give the proxies")
    return proxies


def loss_of_midpoints(
    distances: Tensor, members: tuple[Tensor, Tensor, Tensor], curvature: Tensor | float, *, margin: float
) -> Tensor:
    """As `loss_of_triplets`, with the Einstein midpoints of each pair and triplet as ancestors.

    Args:
        distances: Between all points, shape `(n, n)`.
        members: i, j and k, index tensors of shape `(t,)`.
        curvature: c > 0 of the ball.
        margin: δ.
    """
    near, far = (midpoint_distances(distances, each, members, curvature) for each in (members[:2], members))
    return _hinges(near, far, margin).mean()


def loss_of_triplets(
    reach: Tensor,
    triplets: tuple[Tensor, Tensor, Tensor],
    *,
    margin: float,
    temperature: float,
    exclude_members: bool = False,
    sample_ancestors: bool = True,
) -> Tensor:
    """Mean loss of triplets whose ancestors are chosen among candidates.

        [d(i, ij) − d(i, ijk) + δ]₊ + [d(j, ij) − d(j, ijk) + δ]₊ + [d(k, ijk) − d(k, ij) + δ]₊

    The ancestor of a set is the candidate ρ that a Gumbel-softmax with logits −max_{s ∈ set} d(s, ρ)/τ chooses, with a
    straight-through gradient. Triplets whose two ancestors are the same count as 0.

    Args:
        reach: Distances of the points to the candidates, shape `(n, C)`.
        triplets: i, j and k, index tensors of shape `(t,)`, t > 0.
        margin: δ.
        temperature: τ.
        exclude_members: Whether i, j and k, candidates with the same indices, may not be their own ancestors.
        sample_ancestors: False: choose the most likely one, without noise.

    Returns:
        Scalar ≥ 0, float32.
    """
    with torch.no_grad():
        logits = [-each / temperature for each in _reach_of_sets(*(reach[member] for member in triplets))]
        noise = [gumbel_noise(each) if sample_ancestors else torch.zeros_like(each) for each in logits]
        if exclude_members:
            excluded = torch.stack(triplets, dim=1)
            noise = [each.scatter_(1, excluded, -math.inf) for each in noise]
        pair, triple = ((each + chance).argmax(dim=1) for each, chance in zip(logits, noise, strict=True))
        near, far = ([reach[member, chosen] for member in triplets] for chosen in (pair, triple))
        counts = ~(_hinges(near, far, margin) <= 0) & (pair != triple)  # written so that NaN counts too
    # Triplets with zero loss have no gradient either: the costly part is computed only for the others.
    number, counts = len(pair), counts.nonzero()[:, 0]
    members = [reach[member[counts]] for member in triplets]
    logits = [-each / temperature for each in _reach_of_sets(*members)]
    chosen = [choose_ancestor(each, chance[counts]) for each, chance in zip(logits, noise, strict=True)]
    near, far = ([(choice * row).sum(dim=1) for row in members] for choice in chosen)
    return _hinges(near, far, margin).sum() / number


def _reach_of_sets(i: Tensor, j: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Largest distance of candidates to a pair and to a triplet, from their distances to i, j, k."""
    of_pair = torch.where(i > j, i, j)  # torch.maximum splits the gradient of ties, which takes longer
    return of_pair, torch.where(of_pair > k, of_pair, k)


def _hinges(near: list[Tensor], far: list[Tensor], margin: float) -> Tensor:
    """The three terms together, from distances of i, j, k to the ancestor of the pair (`near`) and of all (`far`)."""
    return (
        torch.relu(near[0] - far[0] + margin)
        + torch.relu(near[1] - far[1] + margin)
        + torch.relu(far[2] - near[2] + margin)
    )


def midpoint_distances(
    distances: Tensor, members: tuple[Tensor, ...], from_points: tuple[Tensor, ...], curvature: Tensor | float
) -> list[Tensor]:
    """Distances to the Einstein midpoints of sets of points, from the distances of the points to one another.

    On the hyperboloid, the midpoint of m points is their sum divided by its length. With E = cosh(√c d) − 1 of two
    points, S the sum of E over the pairs of a set, T the sum of E from a point s to the members, and q = √(1 + 2S/m²),

        cosh(√c d(s, midpoint)) − 1 = (T − 2S/(m(q + 1))) / (m q)

    Args:
        distances: Between all points, shape `(n, n)`.
        members: m index tensors of shape `(t,)` that give the sets.
        from_points: Index tensors of shape `(t,)`.
        curvature: c > 0.

    Returns:
        For each of `from_points` a tensor of shape `(t,)`; 0, with gradient 0, within a thousandth of the set's spread,
        where the right-hand side consists of rounding errors.
    """
    scale = curvature**0.5
    number, excess = len(members), 2 * (distances * (scale / 2)).sinh().square()
    spread = sum((excess[a, b] for a, b in combinations(members, 2)), excess.new_zeros(()))
    q = (1 + 2 * spread / number**2).sqrt()
    found = []
    for point in from_points:
        total = sum(excess[point, member] for member in members)
        apart = total - 2 * spread / (number * (q + 1))
        apart = torch.where(apart <= 1e-6 * total, 0, apart)
        found.append(2 / scale * root(apart / (2 * number * q)).asinh())
    return found


def draw_triplets(
    distances: Tensor, classes: Tensor, *, neighbours: int, triplets: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Triplets (i, j, k), j a reciprocal nearest neighbour of i and k not, from torch's default generator.

    Args:
        distances: Between all points, shape `(n, n)`, without gradient.
        classes: Shape `(n,)`.
        neighbours: Size of a neighbourhood, the point itself included.
        triplets: Number for each i with at least two reciprocal neighbours and a point that is not one.

    Returns:
        Indices, three of shape `(t,)`; t = 0 where no point qualifies.
    """
    near = reciprocal_neighbours(distances, classes, neighbours)
    itself = torch.eye(len(near), dtype=torch.bool, device=near.device)
    return draw_members(near, ~near & ~itself, triplets)


def reciprocal_neighbours(distances: Tensor, classes: Tensor, neighbours: int) -> Tensor:
    """Which points are among each other's nearest by exp(−d) + [same class], bool `(n, n)`, False on the diagonal.

    Arguments as for `draw_triplets`.
    """
    size = len(distances)
    itself = torch.eye(size, dtype=torch.bool, device=distances.device)
    alike = (-distances).exp() + (classes[:, None] == classes)
    alike = alike.masked_fill(itself, math.inf)  # a point is its own nearest despite rounding
    nearest = torch.zeros_like(itself).scatter_(1, alike.topk(min(neighbours, size), dim=1).indices, True)
    return nearest & nearest.T & ~itself


def draw_members(second: Tensor, third: Tensor, triplets: int) -> tuple[Tensor, Tensor, Tensor]:
    """Triplets (i, j, k) for each i that has at least two j and a k to draw from.

    Args:
        second, third: Which points j and k may be for each i, bool `(n, n)`.
        triplets: Number of triplets for each such i.
    """
    anchors = ((second.sum(dim=1) > 1) & third.any(dim=1)).nonzero()[:, 0]
    if not len(anchors):
        return anchors, anchors, anchors
    j, k = (torch.multinomial(allowed[anchors].float(), triplets, replacement=True) for allowed in (second, third))
    return anchors.repeat_interleave(triplets), j.flatten(), k.flatten()


def choose_ancestor(logits: Tensor, noise: Tensor) -> Tensor:
    """One-hot choice of a candidate for every row, `(t, C)` → `(t, C)`, with the gradient of the softmax.

    Args:
        logits: Shape `(t, C)`.
        noise: Added to the logits, same shape: `gumbel_noise` samples by probability, 0 chooses the most likely, −∞
            excludes one.
    """
    soft = (logits + noise).softmax(dim=1)
    hard = torch.zeros_like(soft).scatter_(1, soft.argmax(dim=1, keepdim=True), 1.0)
    return hard + soft - soft.detach()


def gumbel_noise(like: Tensor) -> Tensor:
    """−log(−log u), u uniform in (0, 1] by torch's default generator, of the shape of `like`."""
    # Uniform numbers are multiples of 2⁻²⁴; torch's exponential_() takes several times as long as their logarithm.
    uniform = torch.rand_like(like).clamp_(min=2.0**-25)
    return uniform.log_().neg_().clamp_(min=2.0**-25).log_().neg_()
