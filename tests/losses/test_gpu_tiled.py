"""Losses by tiles on a GPU, with TF32 and autocast switched on around them, against float64 on the CPU.

The same tests run on the CPU, so that they are right themselves.
"""

from contextlib import contextmanager

import pytest
import torch

from meru.geometry import tiles
from meru.geometry.spaces import Euclidean, Hyperboloid, Sphere
from meru.losses.tile_sums import Contrast
from meru.losses.tiled import tiled_contrast

GPU = pytest.param(
    "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
)
B = 150
LABELS = torch.arange(B) % 9
LOSSES = {
    "pair": {},
    "class": {"labels": LABELS},
    "sigmoid": {"sigmoid": True},
    "margins within": {"margin": 0.2, "share": 0.4, "labels": LABELS, "within": True},
}


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    for device in ("cpu", "cuda"):
        monkeypatch.setitem(tiles.TILE, device, (64, 48))


@contextmanager
def nothing_waits(device):
    """Make it an error that the host waits for a GPU."""
    if device != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def values_and_gradients(space, device, dtype, *, squared, labels=None, within=False, **settings):
    generator = torch.Generator().manual_seed(0)
    points = [0.3 * torch.randn(B, 16, generator=generator) for _ in range(2)]
    points[1][7], points[1][8] = points[0][7], points[0][9]  # a partner, and another point, that are equal
    points = [space(1.0).lift(each) if space is Hyperboloid else space().lift(each) for each in points]
    x, y, c, scale, bias = (
        each.to(device, dtype).requires_grad_()
        for each in (*points, torch.tensor(1.0), torch.tensor(14.0), torch.tensor(-2.0))
    )
    labels = None if labels is None else (labels.to(device),) * 2
    contrast = Contrast(
        space=space(c) if space is Hyperboloid else space(), both=True, squared=squared, labels=labels,
        static=True, **settings,
    )  # fmt: skip
    given = (x, y, scale, bias, c)
    weights = torch.linspace(0.5, 1.5, B, dtype=dtype, device=device) / B
    with nothing_waits(device):
        losses = tiled_contrast(
            x, y, scale, contrast, bias=bias if contrast.sigmoid else None, within=(x, y) if within else ()
        )
        total = sum((each * weights).sum() for each in losses)
        gradients = torch.autograd.grad(total, given, allow_unused=True)
    return [each.detach().cpu().double() for each in (*losses, *gradients) if each is not None]


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    ("space", "squared"), [(Sphere, False), (Euclidean, False), (Hyperboloid, False), (Hyperboloid, True)]
)
def test_tiles_are_exact_and_make_no_one_wait(space, squared, loss, device):
    expected = values_and_gradients(space, "cpu", torch.float64, squared=squared, **LOSSES[loss])
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast(device, dtype=torch.bfloat16):
            found = values_and_gradients(space, device, torch.float32, squared=squared, **LOSSES[loss])
    finally:
        torch.set_float32_matmul_precision("highest")
    for ours, exact in zip(found, expected, strict=True):
        assert float((ours - exact).abs().max()) < 3e-5 * max(1e-3, float(exact.abs().max()))
