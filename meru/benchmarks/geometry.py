"""Accuracy and speed of hyperbolic distances and other operations on points, as Markdown tables."""

from __future__ import annotations

import math
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Callable

import geoopt
import mpmath
import torch
from torch import Tensor

from meru.benchmarks.measuring import peak_bytes, synchronize
from meru.benchmarks.pairs import pairs_table
from meru.geometry import lorentz, poincare
from meru.reports.tables import markdown_table

RADII = (0.0, 1.0, 4.0, 8.0)  # radii √c·d(0, x) of the first point
DECADES = range(-6, 2)  # decades of the distance
CURVATURES = (0.1, 1.0, 10.0)
GEOOPT_BATCH = 256  # geoopt's pairwise form holds B·B·D numbers, so it is compared only at this size


def report(batch: int, dimension: int, repeats: int, device: str) -> str:
    """All three tables; `batch` and `dimension` apply to those of speed."""
    speed, pairs = (table(batch, dimension, repeats, device) for table in (speed_table, pairs_table))
    return "\n\n".join(
        ["### Accuracy", accuracy_table(), "### Speed of all-pairs distances", speed, "### Speed on pairs", pairs]
    )


# ---------------------------------------------------------------- other implementations


def published_inner_to_distance(inner: Tensor, c: Tensor) -> Tensor:
    """The published form of the distance, arcosh(−c⟨x, y⟩_L)/√c."""
    return torch.acosh(torch.clamp(-c * inner, min=1 + 1e-8)) / c.sqrt()


def with_time(x: Tensor, c: Tensor) -> Tensor:
    """All D + 1 components, time first, as geoopt stores points."""
    return torch.cat([(1 / c + (x * x).sum(-1, keepdim=True)).sqrt(), x], -1)


def published(x: Tensor, y: Tensor, c: Tensor) -> Tensor:
    x, y = with_time(x, c), with_time(y, c)
    return published_inner_to_distance((x[:, 1:] * y[:, 1:]).sum(-1) - x[:, 0] * y[:, 0], c)


def published_pairwise(x: Tensor, y: Tensor, c: Tensor) -> Tensor:
    x_time, y_time = with_time(x, c)[:, :1], with_time(y, c)[:, :1]
    return published_inner_to_distance(x @ y.T - x_time @ y_time.T, c)


def geoopt_distance(x: Tensor, y: Tensor, c: Tensor) -> Tensor:
    return geoopt.Lorentz(k=1 / c).dist(with_time(x, c), with_time(y, c))


def geoopt_pairwise(x: Tensor, y: Tensor, c: Tensor) -> Tensor:
    return geoopt.Lorentz(k=1 / c).dist(with_time(x, c)[:, None], with_time(y, c))


def ball(x: Tensor, y: Tensor, c: Tensor) -> Tensor:
    """Distances in the Poincaré ball of the given points scaled to half of their norm, away from its edge."""
    return poincare.pairwise_distance(x / 2, y / 2, c)


def geoopt_ball(x: Tensor, y: Tensor, c: Tensor) -> Tensor:
    return geoopt.manifolds.stereographic.math.dist(x[:, None] / 2, y / 2, k=-c)


def cosine(x: Tensor, y: Tensor, c: Tensor) -> Tensor:
    return torch.nn.functional.normalize(x, dim=-1) @ torch.nn.functional.normalize(y, dim=-1).T


# ---------------------------------------------------------------- accuracy


def accuracy_table(*, dimension: int = 64, pairs: int = 8) -> str:
    """Largest relative errors of float32 distances, by the radius of one point and the distance of the other."""
    errors = defaultdict(lambda: defaultdict(list))
    flawed = defaultdict(lambda: defaultdict(list))
    generator = torch.Generator().manual_seed(0)
    for radius in RADII:
        for c in CURVATURES:
            x, y = sample_pairs(radius, c, dimension, pairs, generator)
            exact = [exact_distance(*pair, c) for pair in zip(x, y, strict=True)]
            # Rounding moves the points, so a pair belongs to the decade of its exact distance.
            cells = [(radius, round(math.log10(d)) if d else None) for d in exact]
            for method, (distances, gradients) in measure(x, y, torch.tensor(c)).items():
                for i, cell in enumerate(cells):
                    if cell[1] in DECADES:
                        errors[cell][method].append(abs(distances[i].item() / exact[i] - 1))
                        lost = not gradients[i].isfinite().all() or not gradients[i].any()
                        flawed[cell][method].append(lost)
    methods = ("meru", "meru, all pairs", "published", "geoopt")
    rows = []
    for cell in sorted(errors):
        worst = [f"{max(errors[cell][method]):.0e}" for method in methods]
        share = [f"{100 * statistics.mean(flawed[cell][method]):.0f} %" for method in methods]
        rows.append([f"{cell[0]:g}", f"1e{cell[1]}", *worst, *share])
    header = ["radius", "distance", *methods, *(f"{method}: lost" for method in methods)]
    note = (
        f"Largest relative error of float32 distances, D = {dimension}, c in {CURVATURES}, against mpmath on "
        "the same float32 points; radius √c·d(0, x) of one of the two. Lost: share of pairs whose gradient "
        "is zero or not finite. Published: arcosh(clamp(−c⟨x, y⟩, min=1 + 1e-8))/√c."
    )
    return note + "\n\n" + markdown_table(header, rows)


def sample_pairs(radius: float, c: float, dimension: int, pairs: int, generator) -> tuple[Tensor, Tensor]:
    """Float32 points at a radius (units of 1/√c) and, for every decade, points at about that distance from them.

    Half of the first points lie on the axes, where even very small steps survive rounding.
    """
    distances = 10.0 ** torch.tensor(DECADES, dtype=torch.float64).repeat_interleave(2 * pairs)
    scaled = math.sqrt(c) * distances[:, None]
    x, step = torch.randn(2, len(distances), dimension, generator=generator, dtype=torch.float64)
    axes = torch.randperm(len(x) // 2, generator=generator) % dimension
    x[::2] = torch.eye(dimension, dtype=torch.float64)[axes]
    x = x / x.norm(dim=-1, keepdim=True) * math.sinh(radius)
    product = (x * step).sum(-1, keepdim=True)
    step, step_time = step + product * x, product * math.cosh(radius)  # projected to the tangent space at x
    step = step / (step.square().sum(-1, keepdim=True) - step_time.square()).sqrt()
    y = torch.cosh(scaled) * x + torch.sinh(scaled) * step
    return (x / math.sqrt(c)).float(), (y / math.sqrt(c)).float()


def exact_distance(x: Tensor, y: Tensor, c: float) -> float:
    """The distance by the textbook formula with 60 digits."""
    with mpmath.workdps(60):
        c, x, y = mpmath.mpf(c), [mpmath.mpf(a) for a in x.tolist()], [mpmath.mpf(a) for a in y.tolist()]
        times = (1 / c + mpmath.fdot(x, x)) * (1 / c + mpmath.fdot(y, y))
        cosh = c * (mpmath.sqrt(times) - mpmath.fdot(x, y))
        return float(mpmath.acosh(cosh) / mpmath.sqrt(c)) if cosh > 1 else 0.0


def measure(x: Tensor, y: Tensor, c: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Distances of pairs and their gradients with respect to x, by every method."""
    methods = {
        "meru": lorentz.distance,
        "meru, all pairs": lambda x, y, c: lorentz.pairwise_distance(x, y, c).diagonal(),
        "published": published,
        "geoopt": geoopt_distance,
    }
    results = {}
    for name, method in methods.items():
        x = x.detach().requires_grad_()
        distances = method(x, y, c)
        results[name] = distances.detach(), torch.autograd.grad(distances.sum(), x)[0]
    return results


# ---------------------------------------------------------------- speed


def speed_table(batch: int, dimension: int, repeats: int, device: str) -> str:
    """Time and memory of all-pairs distances, as multiples of those of a matrix of cosines."""
    large = {"cosine": cosine, "meru": lorentz.pairwise_distance, "published": published_pairwise}
    small = {**large, "geoopt": geoopt_pairwise, "meru, Poincaré ball": ball, "geoopt, Poincaré ball": geoopt_ball}
    rows = [*speed_rows(large, batch, dimension, repeats, device)]
    if batch != GEOOPT_BATCH:
        rows += speed_rows(small, GEOOPT_BATCH, dimension, repeats, device)
    header = ["B", "form", "forward", "forward + backward", "peak forward", "peak forward + backward"]
    note = (
        f"All pairs of B and B points, D = {dimension}, float32. Times: median of {repeats} rounds, in "
        "random order, as a multiple of the cosine matmul in the same round. Peaks: memory of new tensors, "
        "including the given gradient, as a multiple of B² numbers. geoopt has no all-pairs form; broadcast, it "
        f"holds B·B·D numbers, so it runs only at B = {GEOOPT_BATCH}."
    )
    return note + "\n\n" + markdown_table(header, rows)


def speed_rows(
    methods: dict[str, Callable], batch: int, dimension: int, repeats: int, device: str
) -> list[list[str]]:
    """One row per method; the methods take turns."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(batch, dimension, generator=generator) / math.sqrt(dimension) for _ in range(2))
    inputs = [tensor.to(device).requires_grad_() for tensor in (x, y, torch.tensor(1.0))]
    gradient = torch.randn(batch, batch, generator=generator).to(device)
    times = defaultdict(list)
    for _ in range(repeats + 1):  # the first round warms up
        for name in random.sample(sorted(methods), len(methods)):
            times[name].append((seconds(methods[name], inputs), seconds(methods[name], inputs, gradient)))
    rows = []
    for name, method in methods.items():
        rounds = list(zip(times[name], times["cosine"], strict=True))[1:]
        if name == "cosine":
            columns = [f"{1000 * statistics.median(own[i] for own, _ in rounds):.1f} ms" for i in (0, 1)]
        else:
            columns = [f"{statistics.median(own[i] / base[i] for own, base in rounds):.2f}×" for i in (0, 1)]
        peaks = [peak_bytes(method, inputs, backward, device) for backward in (False, True)]
        rows.append([str(batch), name, *columns, *(f"{peak / (4 * batch * batch):.1f} B²" for peak in peaks)])
    return rows


def seconds(method: Callable, inputs: list[Tensor], gradient: Tensor | None = None) -> float:
    """Wall time of the forward pass; with a gradient, of the forward and backward pass."""
    synchronize(inputs[0].device.type)
    start = time.perf_counter()
    if gradient is None:
        with torch.no_grad():
            method(*inputs)
    else:
        torch.autograd.grad(method(*inputs), inputs, gradient, allow_unused=True)
    synchronize(inputs[0].device.type)
    return time.perf_counter() - start
