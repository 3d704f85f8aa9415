"""Distances of all pairs: gradients, memory, precision; the float32 island."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from meru.geometry import all_pairs, lorentz
from meru.geometry.all_pairs import exact_matmul, length, root, sinhc


def batch(*, rows=48, columns=80, dimension=16, spread=1.0, seed=0):
    """Points about radius 1, crowded where `spread` is small, a curvature, and weights for the distances."""
    generator = torch.Generator().manual_seed(seed)
    shapes = (1, dimension), (rows, dimension), (columns, dimension)
    centre, x, y = (torch.randn(shape, generator=generator) / dimension**0.5 for shape in shapes)
    x, y = (centre + spread * (p - centre) for p in (x, y))
    return x, y, torch.tensor(0.7), torch.randn(rows, columns, generator=generator)


def value_and_gradients(function, x, y, c, weights):
    inputs = [tensor.clone().requires_grad_() for tensor in (x, y, c)]
    value = function(*inputs)
    return value.detach(), torch.autograd.grad(value, inputs, weights)


def brute_force(x, y, c):
    return lorentz.distance(x[:, None], y, c)


def assert_gradients_close(actual, expected, *, tolerance=1e-5):
    for gradient, reference in zip(actual, expected, strict=True):
        limit = tolerance * reference.abs().max().item()
        torch.testing.assert_close(gradient.double(), reference, rtol=0, atol=limit)


@pytest.mark.parametrize("spread", [1.0, 0.05, 1e-3])
def test_all_pairs_against_brute_force(spread):
    x, y, c, weights = batch(spread=spread)
    y[3], y[7] = x[5], x[6] + 1e-5
    value, gradients = value_and_gradients(lorentz.pairwise_distance, x, y, c, weights)
    expected, reference = value_and_gradients(brute_force, *(t.double() for t in (x, y, c, weights)))
    torch.testing.assert_close(value.double(), expected, rtol=5e-5, atol=0)
    assert_gradients_close(gradients, reference)


@pytest.mark.parametrize("spread", [1.0, 0.05, 1e-3, 0.0])
def test_few_pairs_without_a_search_for_near_ones_as_on_a_gpu(spread, monkeypatch):
    monkeypatch.setattr(all_pairs, "_without_waiting", lambda distances: True)
    monkeypatch.setattr(all_pairs, "_near", None)
    x, y, c, weights = batch(spread=spread)
    y[3], y[7] = x[5], x[6] + 1e-5
    value, gradients = value_and_gradients(lorentz.pairwise_distance, x, y, c, weights)
    expected, reference = value_and_gradients(brute_force, *(t.double() for t in (x, y, c, weights)))
    assert value[5, 3] == 0 and (spread or value.count_nonzero() == len(x))  # all are one point but y[7]
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=2e-7)
    if spread:
        assert_gradients_close(gradients, reference)
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("block", [1, 200, 2**20])
def test_blocks_and_pieces_change_nothing(block, monkeypatch):
    x, y, c, weights = batch(rows=90, columns=120)
    y[:4] = x[10:14]
    expected, reference = value_and_gradients(brute_force, *(t.double() for t in (x, y, c, weights)))
    monkeypatch.setitem(all_pairs.BLOCK, "cpu", block)
    value, gradients = value_and_gradients(lorentz.pairwise_distance, x, y, c, weights)
    torch.testing.assert_close(value.double(), expected, rtol=5e-5, atol=0)
    assert_gradients_close(gradients, reference)


def test_backward_twice_gives_the_same():
    x, y, c, weights = batch()
    x.requires_grad_()
    value = lorentz.pairwise_distance(x, y, c)
    first, second = (torch.autograd.grad(value, x, weights, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


class Memory(TorchDispatchMode):
    """Notes the largest tensor made inside."""

    largest = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.numel())
        return result


@pytest.mark.parametrize("spread", [1.0, 1e-3, 0.0])
def test_all_pairs_never_build_a_cube(spread, monkeypatch):
    monkeypatch.setitem(all_pairs.BLOCK, "cpu", 2**14)
    x, y, c, weights = batch(rows=150, columns=200, dimension=64, spread=spread)
    for function in (lorentz.pairwise_distance, lorentz.pairwise_inner):
        with Memory() as memory:
            value_and_gradients(function, x, y, c, weights)
        assert 150 * 200 <= memory.largest <= 2 * 150 * 200  # a list of near pairs holds two indices each
    with Memory() as memory:
        brute_force(x, y, c)
    assert memory.largest >= 150 * 200 * 64


def test_backward_inside_autocast_is_float32():
    x, y, c, weights = batch()
    _, expected = value_and_gradients(lorentz.pairwise_distance, x, y, c, weights)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, gradients = value_and_gradients(lorentz.pairwise_distance, x, y, c, weights)
    for gradient, reference in zip(gradients, expected, strict=True):
        assert torch.equal(gradient, reference)


def choose_by_call():
    torch.set_float32_matmul_precision("medium")


def choose_by_setting():
    if not hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        pytest.skip("torch < 2.9")
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"


def matmul_precision():
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return torch.backends.cuda.matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision


@pytest.mark.parametrize("choose", [choose_by_call, choose_by_setting])
def test_reduced_matmul_precision_is_suspended_and_restored(choose):
    x, y, c, weights = batch(rows=300, columns=300, dimension=256)
    expected, reference = value_and_gradients(lorentz.pairwise_distance, x, y, c, weights)
    try:
        choose()
        chosen = matmul_precision()
        value, gradients = value_and_gradients(lorentz.pairwise_distance, x, y, c, weights)
        with exact_matmul():
            assert matmul_precision() == "highest"
        assert matmul_precision() == chosen != "highest"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert torch.equal(value, expected)
    assert all(torch.equal(*pair) for pair in zip(gradients, reference, strict=True))


def test_not_a_number_is_not_hidden():
    x, y, c, _ = batch()
    x[2, 1] = float("nan")
    for distances in (lorentz.pairwise_distance(x, y, c), brute_force(x, y, c)):
        assert distances[2].isnan().all()
        assert distances.isnan().sum() == distances.shape[1]


def test_compiled_is_right():
    def loss(x, y, c):
        x, y = lorentz.exp_map0(x, c), lorentz.exp_map0(y, c)
        paired = lorentz.distance(x, y[: len(x)], c)
        return lorentz.pairwise_distance(x, y, c).logsumexp(1).sum() + paired.sum()

    x, y, c, _ = batch()
    y[0] = x[0]
    weights = torch.tensor(1.0)
    value, gradients = value_and_gradients(torch.compile(loss, backend="eager"), x, y, c, weights)
    expected, reference = value_and_gradients(loss, x, y, c, weights)
    torch.testing.assert_close(value, expected)
    assert_gradients_close(gradients, [g.double() for g in reference])


def test_helpers_are_smooth_where_textbook_forms_are_not():
    square = torch.tensor([-1.0, 0.0, 4.0], requires_grad=True)
    assert root(square).tolist() == [0, 0, 2]
    assert torch.autograd.grad(root(square).sum(), square)[0].tolist() == [0, 0, 0.25]
    x = torch.zeros(2, 3, requires_grad=True)
    assert torch.autograd.grad(length(x).sum(), x)[0].abs().max() == 0
    z = torch.tensor([0.0, 1e-9, 1e-2, 0.0999, 0.1001, 2.0], dtype=torch.float64)
    expected = torch.where(z == 0, 1, torch.sinh(z) / z)
    torch.testing.assert_close(sinhc(z.square()), expected, rtol=1e-14, atol=0)
    assert torch.autograd.gradcheck(sinhc, z.square().requires_grad_())


def test_points_on_opposite_sides_far_out_are_at_finite_distance_with_finite_gradients():
    """√c d up to 60: cosh(√c d)² is beyond float32."""
    for radius in (10.0, 25.0, 30.0):
        x = torch.tensor([[math.sinh(radius), 0.0], [0.0, 1.0]], requires_grad=True)
        distances = lorentz.pairwise_distance(x, -x.detach(), 1.0)
        assert distances[0, 0].item() == pytest.approx(2 * radius, rel=1e-5)
        (gradient,) = torch.autograd.grad(distances.sum(), x)
        assert gradient.isfinite().all() and gradient.any(dim=1).all()
