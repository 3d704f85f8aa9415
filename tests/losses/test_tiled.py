"""Losses by tiles are those of the whole matrix: values and gradients, in every space, near and far, in any tiles."""

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from meru.geometry import tiles
from meru.geometry.spaces import Euclidean, Hyperboloid, Space, Sphere
from meru.geometry.tiled_pairs import can_tile
from meru.losses.semantic_margin import semantic_margins, soft_targets
from meru.losses.tile_sums import Contrast
from meru.losses.tiled import tiled_contrast

B = 37  # no multiple of the tiles' sides
SCORES = [(Sphere, False), (Euclidean, False), (Euclidean, True), (Hyperboloid, False), (Hyperboloid, True)]
LABELS = torch.arange(B) * 7 % 5
LOSSES = {
    "pair": {},
    "class": {"labels": LABELS},
    "large scale": {"scale": 100.0},
    "sigmoid": {"sigmoid": True},
    "sigmoid, class": {"sigmoid": True, "labels": LABELS},
    "margins across": {"margin": 0.2, "share": 0.4, "labels": LABELS},
    "margins within": {
        "margin": 0.2,
        "share": torch.tensor(0.4, dtype=torch.float64),
        "labels": LABELS,
        "within": True,
    },
    "margins without beliefs": {"margin": 0.2, "within": True},
}


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    monkeypatch.setitem(tiles.TILE, "cpu", (16, 13))


def features(kind="random"):
    generator = torch.Generator().manual_seed(0)
    x, y = (0.3 * torch.randn(B, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    if kind == "near":  # partners, and two points that are equal to others' partners
        y = x + 1e-3 * y
        y[4], y[5], y[20] = x[4], x[9], x[30]
    if kind == "cloud":
        x, y = 1 + 1e-3 * x, 1 + 1e-3 * y
    if kind == "far":
        x, y = 30 * x, 30 * y
    return x, y


def tiled(x, y, space, scale, bias, *, squared, static, both, labels=None, within=False, **settings):
    contrast = Contrast(
        space=space, squared=squared, both=both, labels=None if labels is None else (labels, labels),
        static=static, **settings,
    )  # fmt: skip
    alike = (x, y)[: 1 + both] if within else ()
    bias = bias if contrast.sigmoid else None
    return tiled_contrast(x, y, scale, contrast, bias=bias, within=alike)[: 1 + both]


def whole(x, y, space, scale, bias, *, squared, both, labels=None, within=False, margin=0.0, share=0.0, sigmoid=False):
    def similarity(x, y):
        scores = space.similarity(x, y)
        return -scores.square() if squared else scores

    labels = torch.arange(B) if labels is None else labels
    positive = labels[:, None] == labels
    targets = positive.to(x) / positive.sum(1, keepdim=True)
    scores, losses = similarity(x, y), []
    for each, points in ((scores, x), (scores.T, y))[: 1 + both]:
        if sigmoid:
            logits = scale * each + bias
            losses.append(F.softplus(torch.where(positive, -logits, logits)).sum(1))
        else:
            margins = semantic_margins(similarity(points, points) if within else each)
            logits = scale * (each + margin * margins)
            losses.append(-(soft_targets(scale * each, targets, share) * logits.log_softmax(1)).sum(1))
    return losses


def results(loss, kind, dtype, space, points="random", scale=14.0, **settings):
    """Losses, and the gradients of a weighted sum by points, scale, bias and curvature."""
    c, scale, bias = (torch.tensor(value, dtype=dtype, requires_grad=True) for value in (1.25, scale, -2.0))
    space = Hyperboloid(c) if space is Hyperboloid else space()
    x, y = (space.lift(each.float()).to(dtype).detach().requires_grad_() for each in features(points))
    losses = loss(x, y, space, scale, bias, **settings)
    total = sum((each * torch.linspace(0.5, 1.5, B, dtype=dtype)).sum() / B for each in losses)
    gradients = torch.autograd.grad(total, (x, y, scale, bias, c), allow_unused=True)
    return [each.detach() for each in losses] + [torch.zeros(()) if each is None else each for each in gradients]


def compare(loss, space, squared, *, dtype, static, points="random", tolerance, of_curvature=None, both=True):
    settings = {"squared": squared, "both": both, **LOSSES[loss]}
    found = results(tiled, loss, dtype, space, points, static=static, **settings)
    expected = results(whole, loss, torch.float64, space, points, **settings)
    for number, (ours, reference) in enumerate(zip(found, expected, strict=True)):
        assert ours.dtype == dtype or not ours.any()
        largest = max(1e-3, float(reference.abs().max()))
        limit = of_curvature if of_curvature and number == len(found) - 1 else tolerance
        assert float((ours - reference).abs().max()) < limit * largest, number


@pytest.mark.parametrize("static", [False, True], ids=["counted", "static"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("space", "squared"), SCORES)
def test_tiles_give_losses_and_gradients_of_the_whole_matrix(space, squared, loss, static):
    compare(loss, space, squared, dtype=torch.float64, static=static, tolerance=1e-8)
    compare(loss, space, squared, dtype=torch.float32, static=static, tolerance=3e-6, of_curvature=3e-5)


@pytest.mark.parametrize("loss", ["pair", "sigmoid, class"])
@pytest.mark.parametrize(("space", "squared"), SCORES)
def test_one_direction_needs_no_columns_losses(space, squared, loss):
    compare(loss, space, squared, dtype=torch.float32, static=False, both=False, tolerance=3e-6, of_curvature=3e-5)


@pytest.mark.parametrize("static", [False, True], ids=["counted", "static"])
@pytest.mark.parametrize("loss", ["class", "margins within"])
@pytest.mark.parametrize(("space", "squared"), SCORES)
def test_near_and_equal_points_keep_their_digits(space, squared, loss, static):
    compare(loss, space, squared, dtype=torch.float32, static=static, points="near", tolerance=1e-5, of_curvature=1e-4)


@pytest.mark.parametrize("static", [False, True], ids=["counted", "static"])
@pytest.mark.parametrize(("space", "squared"), [case for case in SCORES if case[0] is not Sphere])
def test_a_cloud_of_points_keeps_its_digits(space, squared, static):
    """Without centring or a float64 matmul, the distances would be rounding errors only."""
    settings = {"squared": squared, "both": True}
    found = results(tiled, "pair", torch.float32, space, "cloud", static=static, **settings)
    expected = results(whole, "pair", torch.float32, space, "cloud", **settings)
    for ours, reference in zip(found[:4], expected[:4], strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-6 * float(reference.abs().max()))


@pytest.mark.parametrize("static", [False, True], ids=["counted", "static"])
@pytest.mark.parametrize("loss", ["large scale", "margins within"])
@pytest.mark.parametrize(("space", "squared"), SCORES)
def test_far_points_do_not_overflow(space, squared, loss, static):
    compare(loss, space, squared, dtype=torch.float32, static=static, points="far", tolerance=1e-4, of_curvature=1e-3)


def test_points_at_the_largest_radius_have_finite_gradients():
    space = Hyperboloid(torch.tensor(1.0, requires_grad=True))
    x, y = (space.lift(1e6 * each.float()).requires_grad_() for each in features())
    losses = tiled(x, y, space, torch.tensor(100.0), None, squared=False, static=False, both=True)
    gradients = torch.autograd.grad(sum(each.sum() for each in losses), (x, y))
    assert all(each.isfinite().all() for each in (*losses, *gradients))


@pytest.mark.parametrize("static", [False, True], ids=["counted", "static"])
def test_points_that_are_all_equal_have_bounded_gradients(static):
    space, point = Hyperboloid(1.0), torch.full((B, 6), 0.3)
    x, y = (point.clone().requires_grad_() for _ in range(2))
    losses = tiled(x, y, space, torch.tensor(10.0), None, squared=False, static=static, both=True)
    gradients = torch.autograd.grad(sum(each.sum() for each in losses), (x, y))
    torch.testing.assert_close(losses[0], torch.full((B,), float(B)).log(), rtol=1e-3, atol=0)
    assert all(each.abs().max() < 1 for each in gradients)


def test_half_precision_and_autocast_give_float32():
    space, scale = Hyperboloid(1.0), torch.tensor(14.0)
    x, y = (space.lift(each.float()).bfloat16().requires_grad_() for each in features())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (rows,) = tiled(x, y, space, scale, None, squared=False, static=False, both=False)
    (expected,) = whole(x.double(), y.double(), space, scale, None, squared=False, both=False)
    assert rows.dtype == torch.float32
    torch.testing.assert_close(rows, expected.float(), rtol=3e-6, atol=3e-6)
    rows.sum().backward()
    assert x.grad.dtype == torch.bfloat16


class Watch(TorchDispatchMode):
    """Notes the names of operations, and the largest number of elements of a result."""

    def __init__(self):
        super().__init__()
        self.names, self.largest = set(), 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        self.names.add(function.overloadpacket.__name__)
        sizes = [leaf.untyped_storage().nbytes() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self.largest = max(self.largest, *sizes, 0)
        return result


@pytest.mark.parametrize("loss", ["pair", "sigmoid, class", "margins within"])
@pytest.mark.parametrize(("space", "squared"), SCORES)
def test_no_matrix_of_all_pairs_exists_and_no_gpu_is_waited_for(space, squared, loss):
    with Watch() as watch:
        results(tiled, loss, torch.float32, space, squared=squared, static=True, both=True, **LOSSES[loss])
    waiting = {"_local_scalar_dense", "nonzero", "masked_select", "unique", "_unique2", "is_nonzero", "item"}
    assert not watch.names & waiting
    assert watch.largest < 8 * B * B / 2  # a float64 matrix; single columns of points are smaller


def test_spaces_that_compare_in_their_own_way_have_no_tiles():
    class Own(Euclidean):
        """Compares in another way."""

    assert not can_tile(Own()) and all(can_tile(each) for each in (Sphere(), Euclidean(), Hyperboloid(1.0)))
    x = torch.zeros(3, 2)
    with pytest.raises(ValueError, match="Own has no tiles"):
        tiled_contrast(x, x, torch.tensor(1.0), Contrast(space=Own()))
    with pytest.raises(ValueError, match="as many rows as columns"):
        tiled_contrast(x, x[:2], torch.tensor(1.0), Contrast(space=Euclidean(), both=True))
    assert isinstance(Own(), Space)
