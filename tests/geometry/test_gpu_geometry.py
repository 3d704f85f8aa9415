"""Geometry and scores on a GPU, with TF32 and autocast switched on around them, against float64 on the CPU.

The same tests run on the CPU, so that they are right themselves.
"""

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from meru.geometry import all_pairs, lorentz, poincare
from meru.geometry.all_pairs import exact_product
from meru.geometry.spaces import Hyperboloid, Sphere
from meru.layers.bidirectional_attention import BidirectionalAttention
from meru.losses.entailment import entailment_excess
from meru.losses.hypgcd import category_loss, local_hierarchy_loss
from meru.losses.interaction import word_contrast
from meru.losses.simgcd import supervised_contrastive_loss, view_contrastive_loss
from meru.models.simgcd import SimGCD

GPU = pytest.param(
    "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
)
on_each_device = pytest.mark.parametrize("device", ["cpu", GPU])
CURVATURE = 0.7


@pytest.fixture(params=["float32", "high", "medium", "autocast", "medium and autocast"])
def surroundings(request, device):
    """What a user may have chosen for the towers; TF32 is `high`. For forward and backward."""
    precision = request.param.split(" ")[0]
    torch.set_float32_matmul_precision(precision if precision in ("high", "medium") else "highest")
    autocast = torch.autocast(device, dtype=torch.bfloat16, enabled="autocast" in request.param)
    with autocast:
        yield request.param
    torch.set_float32_matmul_precision("highest")


def unit_rows(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(shape, generator=generator), dim=-1)


def value_and_gradients(function, inputs, *, device, dtype):
    """Result of a function, and gradients of its product with weights that differ, on the CPU in float64."""
    inputs = [each.to(device, dtype).requires_grad_() for each in inputs]
    value = function(*inputs)
    weights = torch.linspace(0.5, 1.5, value.numel(), dtype=torch.float64).view(value.shape)
    gradients = torch.autograd.grad(value, inputs, weights.to(value))
    return [each.detach().cpu().double() for each in (value, *gradients)]


def assert_as_float64(function, inputs, *, device, tolerance=2e-5, reference=None):
    """Value and gradients of a function in float32, relative to the largest number of each."""
    found = value_and_gradients(function, inputs, device=device, dtype=torch.float32)
    with torch.autocast(device, enabled=False), torch.autocast("cpu", enabled=False):
        expected = value_and_gradients(reference or function, inputs, device="cpu", dtype=torch.float64)
    for actual, exact in zip(found, expected, strict=True):
        limit = tolerance * exact.abs().max().item()
        torch.testing.assert_close(actual, exact, rtol=0, atol=limit)


def labels(x):
    return torch.arange(len(x), device=x.device) % 5


def real(x):
    return torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)


def in_ball(x):
    return poincare.exp_map0(x, CURVATURE)


def class_logits(features, weight):
    return SimGCD.class_logits(SimpleNamespace(classifier=SimpleNamespace(weight=weight)), features)


def cosine(x, y):
    return F.normalize(x, dim=-1) @ F.normalize(y, dim=-1).T


def word_logits(words, keys, scale=None):
    torch.manual_seed(0)
    return BidirectionalAttention(dimension=words.shape[-1]).to(words).word_logits(words, keys, scale)


ROWS = {  # of two matrices `(96, 256)`, with what they are in float64
    "exact_product": (exact_product, None),
    "pairwise_inner": (lambda x, y: lorentz.pairwise_inner(2 * x, 2 * y, CURVATURE), None),
    "distance": (lambda x, y: lorentz.distance(2 * x, y, CURVATURE), None),
    "pairwise_distance": (lambda x, y: lorentz.pairwise_distance(2 * x, y, CURVATURE), None),
    "poincare.pairwise_distance": (lambda x, y: poincare.pairwise_distance(in_ball(x), in_ball(y), CURVATURE), None),
    "exp_map0, log_map0": (lambda x, y: lorentz.log_map0(lorentz.exp_map0(3 * x, CURVATURE) + y, CURVATURE), None),
    "exterior_angle": (lambda x, y: lorentz.exterior_angle(x, 2 * y, CURVATURE), None),
    "entailment_excess": (lambda x, y: entailment_excess(2 * x, 3 * y, Hyperboloid(CURVATURE)), None),
    "Sphere.similarity": (Sphere().similarity, None),
    "SimGCD.class_logits": (class_logits, cosine),
}
BATCHES = {  # of two batches `(6, 16, 256)`
    "exact_product": exact_product,
    "pairwise_distance": lambda x, y: lorentz.pairwise_distance(x.flatten(0, 1), y[0], CURVATURE),
}
LOSSES = {  # of two matrices; most are float32 of anything, and are compared with float32 on the CPU
    "supervised_contrastive_loss": lambda x, y: supervised_contrastive_loss(x + y, labels(x)),
    "view_contrastive_loss": lambda x, y: view_contrastive_loss(x, y, 0.2),
    "word_contrast in a caption": lambda x, y: words_of(word_contrast, x, y, scope="caption"),
    "word_contrast in a batch": lambda x, y: words_of(word_contrast, x, y, scope="batch"),
    "word_logits": lambda x, y: word_logits(x.float(), y.float()),
    "cosine word_logits": lambda x, y: word_logits(x.float(), y.float(), 5.0),
    "category_loss": lambda x, y: category_loss(in_ball(x + y), labels(x), CURVATURE),
}


def words_of(contrast, x, y, scope):
    x, y = x.view(6, 16, -1), y.view(6, 16, -1)
    return contrast(x, y, real(x), 5.0, scope=scope)


@on_each_device
@pytest.mark.parametrize("name", ROWS)
def test_geometry_and_scores_are_float32_whatever_surrounds_them(name, device, surroundings):
    function, reference = ROWS[name]
    inputs = [unit_rows(96, 256), unit_rows(96, 256, seed=1)]
    assert_as_float64(function, inputs, device=device, reference=reference)


@on_each_device
@pytest.mark.parametrize("name", BATCHES)
def test_batches_are_float32_whatever_surrounds_them(name, device, surroundings):
    inputs = [unit_rows(6, 16, 256), unit_rows(6, 16, 256, seed=1)]
    assert_as_float64(BATCHES[name], inputs, device=device)


@on_each_device
@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_float32_whatever_surrounds_them(name, device, surroundings):
    inputs = [unit_rows(96, 256), unit_rows(96, 256, seed=1)]
    assert_as_float64(LOSSES[name], inputs, device=device)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_plain_product_is_not_float32_with_tf32():
    """So the tests above can fail."""
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("a card without TF32")
    x, y = unit_rows(256, 512).cuda(), unit_rows(256, 512, seed=1).cuda()
    exact = x.double() @ y.double().T
    torch.set_float32_matmul_precision("high")
    try:
        plain, product = x @ y.T, exact_product(x, y)
    finally:
        torch.set_float32_matmul_precision("highest")
    assert (product - exact).abs().max() < 1e-6 < 1e-5 < (plain - exact).abs().max()


def crowded(seed=0):
    """256 points of float32 about radius 1, `(256, 64)`, and 320 others of which some equal or nearly equal them."""
    x, y = 1.2 * unit_rows(256, 64, seed=seed), 1.1 * unit_rows(320, 64, seed=seed + 1)
    y[:8] = x[40:48]
    y[8:16] = x[48:56] + 1e-5 * unit_rows(8, 64, seed=seed + 2)
    return x, y


@on_each_device
@pytest.mark.parametrize("block", [320 * 256, 320 * 50, 7], ids=["one block", "six blocks", "a row a block"])
@pytest.mark.parametrize("space", ["lorentz", "poincare"])
def test_all_pairs_are_those_of_float64(space, block, device, monkeypatch):
    monkeypatch.setitem(all_pairs.BLOCK, device, block)
    x, y = crowded()
    scale = 1.0 if space == "lorentz" else 0.6
    module = {"lorentz": lorentz, "poincare": poincare}[space]
    inputs = [scale * x, scale * y, torch.tensor(CURVATURE)]
    assert_as_float64(
        module.pairwise_distance,
        inputs,
        device=device,
        reference=lambda x, y, c: module.distance(x[:, None], y, c),
    )
    distances = module.pairwise_distance(*(each.to(device) for each in inputs[:2]), CURVATURE)
    assert (distances[range(40, 48), range(8)] == 0).all()
    near = distances[range(48, 56), range(8, 16)].cpu().double()
    expected = module.distance(inputs[0][48:56].double(), inputs[1][8:16].double(), CURVATURE)
    torch.testing.assert_close(near, expected, rtol=1e-5, atol=0)


@on_each_device
def test_points_that_crowd_together_are_told_apart(device):
    """Those of an untrained tower, for which the kernel takes a float64 matmul."""
    x = 1.2 * unit_rows(1, 64) + 1e-3 * unit_rows(64, 64, seed=1)
    inputs = [x, x.flip(0) + 1e-4 * unit_rows(64, 64, seed=2), torch.tensor(CURVATURE)]
    assert_as_float64(
        lorentz.pairwise_distance,
        inputs,
        device=device,
        reference=lambda x, y, c: lorentz.distance(x[:, None], y, c),
    )


@on_each_device
def test_exterior_angles_from_points_that_meet_to_opposite_ones(device, surroundings):
    x = 1.2 * unit_rows(64, 64)
    far = torch.cat([x[:16] + 1e-2 * unit_rows(16, 64, seed=1), -x[16:32], 2 * x[32:48], 1.5 * unit_rows(16, 64)])
    assert_as_float64(lambda a, b: lorentz.exterior_angle(a, b, CURVATURE), [x[:16], far[:16]], device=device)
    for gap in (0.0, 1e-8, 1e-7, 1e-6, 1e-5):
        a = x.to(device).requires_grad_()
        b = (x + gap * unit_rows(64, 64, seed=3)).to(device).requires_grad_()
        angle = lorentz.exterior_angle(a, b, CURVATURE)
        gradients = torch.autograd.grad(angle.sum(), (a, b))
        assert not angle.any() and not any(each.any() for each in gradients)
    a, b = x.to(device).requires_grad_(), far.to(device).requires_grad_()
    angle = lorentz.exterior_angle(a, b, CURVATURE)
    expected = lorentz.exterior_angle(x.double(), far.double(), CURVATURE)
    torch.testing.assert_close(angle.cpu().double(), expected, rtol=1e-6, atol=1e-6)
    assert all(each.isfinite().all() for each in torch.autograd.grad(angle.sum(), (a, b)))


@on_each_device
@pytest.mark.parametrize("spread", [1.0, 1e-3, 0.0])
def test_category_and_hierarchy_losses_are_finite(spread, device, surroundings):
    """Also of points that crowd together, up to all being equal."""
    torch.manual_seed(0)
    features = (unit_rows(1, 32) + spread * unit_rows(96, 32, seed=1)).to(device).requires_grad_()
    for loss in (
        lambda points: category_loss(points, labels(points), CURVATURE),
        lambda points: local_hierarchy_loss(points, labels(points), CURVATURE, neighbours=12, triplets=5),
        lambda points: local_hierarchy_loss(
            points, labels(points), CURVATURE, neighbours=12, triplets=5, ancestors="midpoint"
        ),
    ):
        value = loss(in_ball(features))
        (gradient,) = torch.autograd.grad(value, features)
        assert value.isfinite() and gradient.isfinite().all()
        assert value.device.type == device
