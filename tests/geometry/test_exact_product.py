"""The product of all pairs in real float32, in both passes, and that every score is one."""

import ast
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from meru.files import PROJECT
from meru.geometry import lorentz, poincare
from meru.geometry.all_pairs import exact_product
from meru.geometry.spaces import Sphere
from meru.layers.bidirectional_attention import BidirectionalAttention
from meru.losses.hypgcd import category_loss, local_hierarchy_loss
from meru.losses.interaction import word_contrast
from meru.losses.simgcd import supervised_contrastive_loss, view_contrastive_loss
from meru.models.simgcd import SimGCD

MATMULS = ("aten.mm", "aten.bmm", "aten.addmm", "aten.baddbmm", "aten.addmv", "aten.mv", "aten.dot", "aten.linear")


class MatmulPrecisions(TorchDispatchMode):
    """Notes how precise every float32 matmul inside is."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        if str(function).startswith(MATMULS) and result.dtype != torch.float64:
            self.seen.append(torch.get_float32_matmul_precision())
        return result


@pytest.fixture
def reduced_precision():
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision("highest")


def tensors(*shapes, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


def word_logits(words, keys, scale=None):
    torch.manual_seed(0)
    return BidirectionalAttention(dimension=16).to(words.device).word_logits(words, keys, scale)


def class_logits(features, weight):
    return SimGCD.class_logits(SimpleNamespace(classifier=SimpleNamespace(weight=weight)), features)


def labels(x):
    return torch.arange(len(x), device=x.device) % 3


def real(x):
    return torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)


def in_ball(x):
    return poincare.exp_map0(x / 8)


# Of two matrices `(80, 16)`, enough for a float32 matmul of points with themselves, or two batches `(4, 6, 16)`.
SCORES = {
    "exact_product": exact_product,
    "pairwise_inner": lorentz.pairwise_inner,
    "pairwise_distance": lorentz.pairwise_distance,
    "poincare.pairwise_distance": lambda x, y: poincare.pairwise_distance(in_ball(x), in_ball(y)),
    "Sphere.similarity": Sphere().similarity,
    "SimGCD.class_logits": class_logits,
    "supervised_contrastive_loss": lambda x, y: supervised_contrastive_loss(x + y, labels(x)),
    "view_contrastive_loss": view_contrastive_loss,
    "category_loss": lambda x, y: category_loss(in_ball(x + y), labels(x), 1.0),
    "local_hierarchy_loss": lambda x, y: local_hierarchy_loss(in_ball(x + y), labels(x), 1.0, neighbours=8),
}
BATCHED_SCORES = {
    "exact_product": exact_product,
    "word_contrast in a caption": lambda x, y: word_contrast(x, y, real(x), 3.0),
    "word_contrast in a batch": lambda x, y: word_contrast(x, y, real(x), 3.0, scope="batch"),
    "word_logits": word_logits,
    "cosine word_logits": lambda x, y: word_logits(x, y, 5.0),
    "word_logits of many images": lambda x, y: word_logits(x, y[0]),
}
CASES = [((80, 16), *case) for case in SCORES.items()] + [((4, 6, 16), *case) for case in BATCHED_SCORES.items()]


@pytest.mark.parametrize(("shape", "name", "score"), CASES, ids=[case[1] for case in CASES])
def test_every_score_is_float32_in_both_passes(shape, name, score, reduced_precision):
    x, y = tensors(shape, shape)
    torch.manual_seed(0)
    with MatmulPrecisions() as forward:
        value = score(x, y)
    with MatmulPrecisions() as backward:
        value.sum().backward()
    assert forward.seen and set(forward.seen) == {"highest"}
    assert backward.seen and set(backward.seen) == {"highest"}
    assert torch.get_float32_matmul_precision() == "medium"


@pytest.mark.parametrize(("shape", "name", "score"), CASES, ids=[case[1] for case in CASES])
def test_every_score_is_the_same_under_autocast(shape, name, score):
    x, y = tensors(shape, shape)
    torch.manual_seed(0)
    value = score(x, y)
    expected = torch.autograd.grad(value.sum(), (x, y), retain_graph=True)
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = score(x, y)
        gradients = torch.autograd.grad(under_autocast.sum(), (x, y))
    assert under_autocast.dtype == torch.float32
    torch.testing.assert_close(under_autocast, value)
    torch.testing.assert_close(gradients, expected)


def test_losses_models_and_geometry_hold_no_plain_matmul():
    """Projections and attention belong to the network, whose precision is the user's choice."""
    files = [path for room in ("geometry", "losses", "models") for path in (PROJECT / "meru" / room).glob("*.py")]
    # Those inside `exact_matmul`:
    allowed = {"exact_matmul", "_ExactProduct", "_fill", "_far_gradients", "Products", "Distances"}
    for path in files:
        for outer in ast.parse(path.read_text(encoding="utf-8")).body:
            if getattr(outer, "name", None) in allowed:
                continue
            for node in ast.walk(outer):
                plain = isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult)
                function = getattr(node, "func", None)
                called = getattr(function, "attr", None) in ("matmul", "einsum", "mm", "bmm", "cdist")
                called = called and "donot_use_mm" not in ast.unparse(node)  # distances without a matmul
                linear = function is not None and ast.unparse(function) == "F.linear"
                assert not (plain or called or linear), f"{path.name}: {ast.unparse(node)}"


SHAPES = [
    ((5, 3), (4, 3)),
    ((2, 5, 3), (2, 4, 3)),
    ((2, 5, 3), (4, 3)),
    ((5, 3), (2, 4, 3)),
    ((2, 1, 5, 3), (1, 6, 4, 3)),
    ((0, 3), (4, 3)),
]


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_product_and_its_gradients_are_those_of_matmul(shapes):
    x, y = tensors(*shapes, dtype=torch.float64)
    product, expected = exact_product(x, y), x @ y.mT
    torch.testing.assert_close(product, expected)
    weights = torch.randn_like(expected)
    reference = torch.autograd.grad(expected, (x, y), weights)
    torch.testing.assert_close(torch.autograd.grad(product, (x, y), weights), reference)
    if x.numel():
        assert torch.autograd.gradgradcheck(exact_product, (x, y))


def test_product_with_itself_with_one_side_fixed_and_of_half_precision():
    (x,) = tensors((5, 3))
    (gradient,) = torch.autograd.grad(exact_product(x, x).square().sum(), x)
    torch.testing.assert_close(gradient, torch.autograd.grad((x @ x.T).square().sum(), x)[0])
    fixed = torch.ones(2, 3)
    torch.testing.assert_close(torch.autograd.grad(exact_product(fixed, x).sum(), x)[0], torch.full((5, 3), 2.0))
    narrow = exact_product(x.bfloat16(), fixed.bfloat16())
    assert torch.equal(narrow, x.bfloat16().float() @ fixed.T)
    assert exact_product(x, fixed.double()).dtype == torch.float64


def test_compiled_scores_are_right_and_as_precise(reduced_precision):
    def loss(x, y, projection):
        scores = exact_product(torch.nn.functional.linear(x, projection), y) - lorentz.pairwise_inner(x, y, 0.5)
        return scores.logsumexp(dim=1).sum()

    inputs = tensors((6, 8), (7, 8), (8, 8))
    expected = loss(*inputs)
    reference = torch.autograd.grad(expected, inputs)
    torch.compiler.reset()
    value = torch.compile(loss, backend="aot_eager")(*inputs)
    torch.testing.assert_close(value, expected)
    with MatmulPrecisions() as backward:
        gradients = torch.autograd.grad(value, inputs)
    torch.testing.assert_close(gradients, reference)
    # Two for each product, and two of the projection, which is the user's: "medium", which torch 2.6 makes "high" of.
    assert len(backward.seen) == 6 and backward.seen.count("highest") == 4
