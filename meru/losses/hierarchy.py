"""The two hyperbolic losses of HypGCD: categories (HCL) and local hierarchies (LHL) in the Poincaré ball.

HypGCD (IEEE TNNLS 2025, doi 10.1109/TNNLS.2025.3597074); common ancestors of triplets: Kim et al., "HIER: Metric
Learning Beyond Class Labels via Hierarchical Regularization", CVPR 2023, section 3.2.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from meru import poincare

ANCESTORS = ("batch", "midpoint", "proxies")


def category_loss(
    points: Tensor,
    classes: Tensor,
    curvature: Tensor | float,
    *,
    temperature: float = 1.0,
    smoothing: float = 0.1,
    all_classes: int | None = None,
) -> Tensor:
    """HCL: every point is to be nearer to the centre of its class than to those of others.

        mean_i −Σ_{k ∈ P} t_ik log softmax_{k ∈ P}( −d(z_i, μ_k)/τ )

    μ_k is the Einstein midpoint of the points of class k, P the classes that the batch has, t is 1 − s on the own class
    and shares s among the others of P.

    Args:
        points: z in the ball, of all views, shape `(n, D)`.
        classes: Given or predicted class of each, shape `(n,)`.
        curvature: c > 0 of the ball.
        temperature: τ.
        smoothing: s in [0, 1).
        all_classes: Number of classes, to have P all of them and the centre of absent ones at the origin, as the
            released code has: points are then driven from the origin.

    Returns:
        Scalar ≥ 0, float32; 0 where there is one class only.
    """
    if all_classes is None:
        present, classes = classes.unique(return_inverse=True)
        number = len(present)
    else:
        number = all_classes
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
    released: bool = False,
) -> Tensor:
    """LHL: two that are near each other have a common ancestor nearer than that of the two with a third.

        [d(i, ij) − d(i, ijk) + δ]₊ + [d(j, ij) − d(j, ijk) + δ]₊ + [d(k, ijk) − d(k, ij) + δ]₊

    j is among the reciprocal nearest neighbours of i by exp(−d) + [same class], k is not. The ancestor of a set is the
    candidate ρ that a Gumbel-softmax with logits −max_{s ∈ set} d(s, ρ)/τ chooses, with a straight-through gradient.
    Triplets whose two ancestors are the same count as 0.

    Args:
        points: In the ball, of all views, shape `(n, D)`.
        classes: Given or predicted class of each, shape `(n,)`.
        curvature: c > 0 of the ball.
        neighbours: Size of a neighbourhood, the point itself included.
        triplets: Drawn for each i that has at least two reciprocal neighbours.
        margin: δ.
        ancestors: Candidates: the points themselves (`batch`), learned points of the ball (`proxies`, of HIER), or no
            choice but the Einstein midpoints of the two and of the three (`midpoint`).
        proxies: Points `(P, D)` for `proxies`.
        temperature: τ of the choice.
        exclude_members: Whether i, j and k may not be their own ancestors (`batch`).
        sample_ancestors: False: the most likely one, no noise.
        released: Distances as the released code has them, for comparison: the Möbius formula on features that were
            never mapped into the ball, beyond whose edge it is not even monotone.

    Returns:
        Scalar ≥ 0, float32; 0 where no point has two reciprocal neighbours.
    """
    if ancestors not in ANCESTORS:
        raise ValueError(f"ancestors={ancestors}: choose one of {', '.join(ANCESTORS)}")
    measure = released_distance if released else poincare.pairwise_distance
    with torch.autocast(points.device.type, enabled=False):
        distances = measure(points, points, curvature)
        i, j, k = draw_triplets(distances.detach(), classes, neighbours=neighbours, triplets=triplets)
        if not len(i):
            return points.sum() * 0.0
        if ancestors == "midpoint":
            pair, triple = torch.stack([points[i], points[j]], 1), torch.stack([points[i], points[j], points[k]], 1)
            pair, triple = (poincare.einstein_midpoint(members, None, curvature) for members in (pair, triple))
            near = [poincare.distance(points[member], pair, curvature) for member in (i, j, k)]
            far = [poincare.distance(points[member], triple, curvature) for member in (i, j, k)]
            differs = torch.ones_like(i, dtype=torch.bool)
        else:
            reach = distances if ancestors == "batch" else measure(points, proxies, curvature)
            members = [reach[member] for member in (i, j, k)]
            of_pair = torch.maximum(members[0], members[1])
            of_triple = torch.maximum(of_pair, members[2])
            excluded = torch.stack([i, j, k], dim=1) if exclude_members and ancestors == "batch" else None
            chosen = [
                choose_ancestor(-each / temperature, excluded, sample=sample_ancestors) for each in (of_pair, of_triple)
            ]
            near, far = ([(choice * row).sum(dim=1) for row in members] for choice in chosen)
            differs = chosen[0].argmax(dim=1) != chosen[1].argmax(dim=1)
        losses = (
            torch.relu(near[0] - far[0] + margin)
            + torch.relu(near[1] - far[1] + margin)
            + torch.relu(far[2] - near[2] + margin)
        )
        return torch.where(differs, losses, 0).mean()


def draw_triplets(
    distances: Tensor, classes: Tensor, *, neighbours: int, triplets: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Triplets (i, j, k), j a reciprocal nearest neighbour of i and k none, from torch's default generator.

    Args:
        distances: Between all points, shape `(n, n)`, without gradient.
        classes: Shape `(n,)`.
        neighbours: Size of a neighbourhood, the point itself included.
        triplets: For each i with at least two reciprocal neighbours and a point that is none.

    Returns:
        Indices, three of shape `(t,)`; t = 0 where no point qualifies.
    """
    size = len(distances)
    itself = torch.eye(size, dtype=torch.bool, device=distances.device)
    alike = (-distances).exp() + (classes[:, None] == classes)
    alike = alike.masked_fill(itself, math.inf)  # whatever rounding does, a point is its own nearest
    nearest = torch.zeros_like(itself).scatter_(1, alike.topk(min(neighbours, size), dim=1).indices, True)
    reciprocal = nearest & nearest.T & ~itself
    others = ~reciprocal & ~itself
    anchors = ((reciprocal.sum(dim=1) > 1) & others.any(dim=1)).nonzero()[:, 0]
    if not len(anchors):
        return anchors, anchors, anchors
    j, k = (torch.multinomial(allowed[anchors].float(), triplets, replacement=True) for allowed in (reciprocal, others))
    return anchors.repeat_interleave(triplets), j.flatten(), k.flatten()


def choose_ancestor(logits: Tensor, excluded: Tensor | None = None, *, sample: bool = True) -> Tensor:
    """One-hot choice of a candidate for every row, `(t, C)` → `(t, C)`, whose gradient is that of the softmax.

    Args:
        logits: Shape `(t, C)`.
        excluded: Candidates that may not be chosen, shape `(t, m)`.
        sample: With Gumbel noise from torch's default generator; else the largest.
    """
    if excluded is not None:
        logits = logits.scatter(1, excluded, -math.inf)
    if sample:
        return F.gumbel_softmax(logits, hard=True)
    soft = logits.softmax(dim=1)
    hard = torch.zeros_like(soft).scatter_(1, soft.argmax(dim=1, keepdim=True), 1.0)
    return hard + soft - soft.detach()


def released_distance(x: Tensor, y: Tensor, curvature: Tensor | float) -> Tensor:
    """2/√c · artanh √( c‖x − y‖² / (1 − 2c⟨x, y⟩ + c²‖x‖²‖y‖²) ), all pairs, clamped as in the released code.

    Inside the ball the distance; outside, where that code uses it, not: see `local_hierarchy_loss`.
    """
    with torch.autocast(x.device.type, enabled=False):
        x, y = x.float(), y.float()
        squares = x.square().sum(dim=1)[:, None], y.square().sum(dim=1)
        product = x @ y.T
        apart = (squares[0] + squares[1] - 2 * product).clamp(min=0)
        denominator = 1 - 2 * curvature * product + curvature**2 * squares[0] * squares[1]
        ratio = curvature * apart / denominator.clamp(min=1e-5)
        return 2 / curvature**0.5 * torch.atanh((ratio + 1e-12).sqrt().clamp(max=1 - 1e-5))
