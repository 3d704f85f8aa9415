"""CO-SNE: points of hyperbolic space in the Poincaré disk, with their neighbours and their distances from the origin.

Guo et al., "CO-SNE: Dimensionality Reduction and Visualization for Hyperbolic Data", CVPR 2022. With hyperbolic
distances in both spaces, in units of 1/√c,

    p_{j|i} = exp(−d(x_i, x_j)²/(2σ_i²)) / Σ_{k≠i} exp(−d(x_i, x_k)²/(2σ_i²)),   p_ij = (p_{j|i} + p_{i|j}) / (2n)
    q_ij = (d(y_i, y_j)² + γ²)⁻¹ / Σ_{k≠l} (d(y_k, y_l)² + γ²)⁻¹
    loss = Σ_{i≠j} p_ij log(p_ij / q_ij) + λ/n · Σ_i (‖x_i‖² − ‖y_i‖²)²

where σ_i gives each point the same perplexity, q is Cauchy's distribution, and ‖·‖ is the norm in the unit ball. The
paper weights the two terms by constants too; here the second one alone has a weight.
"""

from __future__ import annotations

import torch
from torch import Tensor

from meru.geometry.all_pairs import TINY
from meru.geometry.disk import DiskView, unit_radius
from meru.geometry.spaces import Space

STEPS = 400
RATE = 0.02
SEARCH = 60  # halvings of the interval of σ


def co_sne(
    space: Space,
    points: Tensor,
    *,
    perplexity: float = 20.0,
    scale: float = 0.1,
    radius_weight: float = 300.0,
    steps: int = STEPS,
) -> Tensor:
    """Places `(n, 2)` in the unit disk, float64, that minimise the loss from the projection of `DiskView` on.

    The result is the same for the same points. Time and memory grow with n²: take a sample.

    Args:
        space: The points' space.
        points: `(n, D)`, D ≥ 2.
        perplexity: Effective number of neighbours of each point; at most (n − 1)/3 is used.
        scale: γ > 0: a smaller one lets points that are no neighbours come closer.
        radius_weight: λ ≥ 0: a larger one keeps distances from the origin more exactly.
        steps: Of the optimizer.

    Raises:
        ValueError: for fewer than four points, or fewer than two dimensions.
    """
    if len(points) < 4:
        raise ValueError(f"{len(points)} points: CO-SNE needs at least four")
    points = points.detach().double().cpu()
    start = DiskView.fit(space, points).place(space, points)
    norms = unit_radius(space, points)
    unit = float(torch.as_tensor(space.in_ball(points)[1]).detach()) ** 0.5
    distances = torch.stack([space.distance(point.expand_as(points), points) for point in points]).detach() * unit
    wanted = neighbour_probabilities(distances, perplexity=min(perplexity, (len(points) - 1) / 3))
    with torch.enable_grad():
        # Tangent vectors at the origin: no step can leave the disk.
        length = start.norm(dim=1, keepdim=True)
        tangent = (start / length.clamp_min(TINY) * torch.atanh(length)).requires_grad_()
        optimizer = torch.optim.Adam([tangent], lr=RATE)
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = RATE * (1 - step / steps)
            optimizer.zero_grad()
            loss(_in_disk(tangent), wanted, norms, scale=scale, radius_weight=radius_weight).backward()
            optimizer.step()
    return _in_disk(tangent.detach())


def neighbour_probabilities(distances: Tensor, *, perplexity: float) -> Tensor:
    """p_ij for distances `(n, n)`, shape `(n, n)`, symmetric, with sum 1 and 0 on the diagonal."""
    n = len(distances)
    squared = distances.square()
    diagonal = torch.eye(n, dtype=torch.bool)
    low, high = (squared.new_full((n, 1), edge) for edge in (-30.0, 30.0))  # of log(1/(2σ²))
    goal = torch.as_tensor(perplexity, dtype=squared.dtype).log()
    for _ in range(SEARCH):
        middle = (low + high) / 2
        given = (-middle.exp() * squared).masked_fill(diagonal, -torch.inf).softmax(dim=1)
        entropy = -(given * given.clamp_min(TINY).log()).sum(dim=1, keepdim=True)
        low, high = torch.where(entropy > goal, middle, low), torch.where(entropy > goal, high, middle)
    return (given + given.T) / (2 * n)


def loss(places: Tensor, wanted: Tensor, norms: Tensor, *, scale: float, radius_weight: float) -> Tensor:
    """The loss of places `(n, 2)` in the unit disk for p_ij `(n, n)` and norms `(n,)` of points in the unit ball."""
    diagonal = torch.eye(len(places), dtype=torch.bool)
    apart = (places[:, None] - places[None]).square().sum(dim=-1)
    free = 1 - places.square().sum(dim=-1)
    ratio = apart / (free[:, None] * free[None])
    # d = 2 asinh(√ratio); the root has no gradient at 0, where the diagonal is masked.
    squared = (2 * torch.asinh(ratio.masked_fill(diagonal, 1.0).clamp_min(1e-18).sqrt())).square()
    log_weights = (-(squared + scale**2).log()).masked_fill(diagonal, -torch.inf)
    log_q = (log_weights - log_weights.flatten().logsumexp(dim=0)).masked_fill(diagonal, 0.0)
    divergence = (wanted * (wanted.clamp_min(TINY).log() - log_q)).sum()
    return divergence + radius_weight * (norms.square() - places.square().sum(dim=-1)).square().mean()


def _in_disk(tangent: Tensor) -> Tensor:
    """Places of tangent vectors at the origin, `(n, 2)`, half their distance long."""
    length = tangent.norm(dim=1, keepdim=True).clamp_min(1e-12)
    return tangent / length * length.tanh().clamp_max(1 - 1e-9)
