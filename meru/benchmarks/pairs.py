"""Speed of operations on pairs of points, beside the published formulas and geoopt, as a Markdown table."""

from __future__ import annotations

import math
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Callable

import geoopt
import torch
from torch import Tensor

from meru.benchmarks.measuring import peak_bytes, synchronize
from meru.geometry import lorentz, poincare
from meru.geometry.spaces import Euclidean, Sphere
from meru.reports.tables import markdown_table

C = 1.0
OURS = "meru"
Method = Callable[[Tensor, Tensor], Tensor]


def pairs_table(batch: int, dimension: int, repeats: int, device: str) -> str:
    """Time and memory of every operation on `batch` pairs, beside the fastest other implementation."""
    rows = [row(name, methods, batch, dimension, repeats, device) for name, methods in operations().items()]
    header = ["operation", "fastest other", "forward", "forward + backward", "peak forward", "peak forward + backward"]
    note = (
        f"{batch} pairs, or the centre of {batch} points, D = {dimension}, float32. Times of the fastest other "
        f"implementation, then meru's as a multiple of them: medians of {repeats} rounds, in random order. Peaks: new "
        "tensors in units of B·D numbers, of the other one → meru. Published: MERU's, EuCLIP's and hyptorch's formulas."
    )
    return note + "\n\n" + markdown_table(header, rows)


def row(name: str, methods: dict[str, Method], batch: int, dimension: int, repeats: int, device: str) -> list[str]:
    """The row of one operation; its implementations take turns."""
    inputs = sample(batch, dimension, device, scale=0.15 if name.startswith("ball") else 1.0)
    times = defaultdict(list)
    for _ in range(repeats + 2):  # two rounds warm up
        for method in random.sample(sorted(methods), len(methods)):
            times[method].append([seconds(methods[method], inputs, backward=each) for each in (False, True)])
    medians = {
        method: [statistics.median(some[2:]) for some in zip(*rounds, strict=True)] for method, rounds in times.items()
    }
    columns, names = [], []
    for i in (0, 1):
        best = min((other for other in medians if other != OURS), key=lambda other: medians[other][i])
        names.append(best)
        columns.append(f"{1000 * medians[best][i]:.2f} ms, {medians[OURS][i] / medians[best][i]:.2f}×")
    unit = 4 * batch * dimension
    for i, best in enumerate(names):
        peaks = [peak_bytes(methods[method], inputs, bool(i), device) / unit for method in (best, OURS)]
        columns.append(f"{peaks[0]:.1f} → {peaks[1]:.1f}")
    return [name, " / ".join(dict.fromkeys(names)), *columns]


def sample(batch: int, dimension: int, device: str, *, scale: float) -> list[Tensor]:
    """Pairs of points at radii of about 1 and 1.5, times `scale`."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(batch, dimension, generator=generator) / math.sqrt(dimension) for _ in range(2))
    return [(scale * lorentz.exp_map0(each, C)).to(device).requires_grad_() for each in (x, 1.5 * y)]


def seconds(method: Method, inputs: list[Tensor], *, backward: bool) -> float:
    """Wall time of the forward pass, or of the forward and backward pass."""
    synchronize(inputs[0].device.type)
    start = time.perf_counter()
    with torch.set_grad_enabled(backward):
        value = method(*inputs)
    if backward:
        torch.autograd.grad(value, inputs, torch.ones_like(value), allow_unused=True)
    synchronize(inputs[0].device.type)
    return time.perf_counter() - start


# ---------------------------------------------------------------- implementations


def operations() -> dict[str, dict[str, Method]]:
    """Implementations by operation and name; all take space components or points of the ball `(B, D)`."""
    hyperboloid, ball, sphere = geoopt.Lorentz(k=1 / C), geoopt.PoincareBall(c=C), geoopt.Sphere()
    return {
        "exterior angle": {OURS: lambda x, y: lorentz.exterior_angle(x, y, C), "published": published_angle},
        "distance": {
            OURS: lambda x, y: lorentz.distance(x, y, C),
            "published": published_distance,
            "geoopt": lambda x, y: hyperboloid.dist(with_time(x), with_time(y)),
        },
        "inner product": {
            OURS: lambda x, y: lorentz.inner(x, y, C),
            "published": published_inner,
            "geoopt": lambda x, y: hyperboloid.inner(None, with_time(x), with_time(y)),
        },
        "geodesic": {
            OURS: lambda x, y: lorentz.geodesic(x, y, 0.3, C),
            "geoopt": lambda x, y: along(hyperboloid, with_time(x), with_time(y)),
        },
        "centroid": {OURS: lambda x, y: lorentz.centroid(x, None, C), "sum": centroid},
        "ball: Möbius addition": {
            OURS: lambda x, y: poincare.mobius_add(x, y, C),
            "published": published_addition,
            "geoopt": ball.mobius_add,
        },
        "ball: distance": {
            OURS: lambda x, y: poincare.distance(x, y, C),
            "published": lambda x, y: 2 * torch.atanh(published_addition(-x, y).norm(dim=-1)),
            "geoopt": ball.dist,
        },
        "ball: Einstein midpoint": {
            OURS: lambda x, y: poincare.einstein_midpoint(x, None, C),
            "published": published_midpoint,
        },
        "flat: exterior angle": {OURS: Euclidean().exterior_angle, "published": published_flat_angle},
        "flat: distance": {OURS: Euclidean().distance, "norm": lambda x, y: (x - y).norm(dim=-1)},
        "sphere: distance": {OURS: Sphere().distance, "geoopt": sphere.dist},
        "sphere: geodesic": {
            OURS: lambda x, y: Sphere().geodesic(x, y, 0.3),
            "geoopt": lambda x, y: along(sphere, x, y),
        },
    }


def along(manifold, x: Tensor, y: Tensor) -> Tensor:
    return manifold.expmap(x, 0.3 * manifold.logmap(x, y))


def with_time(x: Tensor) -> Tensor:
    return torch.cat([(1 / C + (x * x).sum(-1, keepdim=True)).sqrt(), x], -1)


def published_times(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return tuple(torch.sqrt(1 / C + torch.sum(each**2, dim=-1)) for each in (x, y))


def published_inner(x: Tensor, y: Tensor) -> Tensor:
    time_x, time_y = published_times(x, y)
    return torch.sum(x * y, dim=-1) - time_x * time_y


def published_distance(x: Tensor, y: Tensor) -> Tensor:
    return torch.acosh(torch.clamp(-C * published_inner(x, y), min=1 + 1e-8)) / C**0.5


def published_angle(x: Tensor, y: Tensor, eps: float = 1e-8) -> Tensor:
    time_x, time_y = published_times(x, y)
    scaled = C * (torch.sum(x * y, dim=-1) - time_x * time_y)
    below = torch.norm(x, dim=-1) * torch.sqrt(torch.clamp(scaled**2 - 1, min=eps))
    return torch.acos(torch.clamp((time_y + scaled * time_x) / (below + eps), min=-1 + eps, max=1 - eps))


def published_flat_angle(x: Tensor, y: Tensor, eps: float = 1e-8) -> Tensor:
    apart = torch.norm(x - y, dim=-1)
    above = torch.sum(y**2, dim=-1) - torch.sum(x**2, dim=-1) - apart**2
    return torch.acos(torch.clamp(above / (2 * torch.norm(x, dim=-1) * apart + eps), min=-1 + eps, max=1 - eps))


def published_addition(x: Tensor, y: Tensor) -> Tensor:
    square_x, square_y, product = ((a * b).sum(-1, keepdim=True) for a, b in ((x, x), (y, y), (x, y)))
    above = (1 + 2 * C * product + C * square_y) * x + (1 - C * square_x) * y
    return above / (1 + 2 * C * product + C**2 * square_x * square_y + 1e-5)


def published_midpoint(x: Tensor, y: Tensor) -> Tensor:
    scale = 2 / (1 - C * x.square().sum(-1, keepdim=True))
    klein = (scale * x).sum(0) / (scale - 1).sum(0)
    return klein / (1 + torch.sqrt((1 - C * klein.square().sum()).clamp_min(1e-15)))


def centroid(x: Tensor, y: Tensor) -> Tensor:
    total = with_time(x).sum(0)
    return total[1:] / (C * (total[0].square() - total[1:].square().sum())).sqrt()
