"""The caption hierarchy: its term by loops, what has no influence, its controls, and runs with it."""

import math

import pytest
import torch

from meru.encoders.image import timm_image_encoder
from meru.encoders.text import CaptionTokenizer, text_transformer
from meru.errors import UserError
from meru.geometry.spaces import Euclidean, Hyperboloid
from meru.losses.caption_hierarchy import calibrated_entailment
from meru.losses.uncha import uncertainty
from meru.models.meru_patches import MERUPatches

VIT = {"patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 4}
HIERARCHY = {"weight": 0.2, "pooling": "query", "order": "image_below_query", "parents": "caption"}


def build(dimension=32, space="hyperboloid", **settings):
    torch.manual_seed(0)
    model = MERUPatches(
        image=timm_image_encoder(name="vit_tiny_patch16_224", image_size=32, arguments=VIT),
        text=text_transformer(architecture="L2_W16_A4", context_length=16),
        embedding_dimension=dimension,
        space=space,
        loss={
            "contrastive": {"weight": 1.0, "positives": "pair"},
            "entailment": {"weight": 0.2 if space != "sphere" else 0.0, "minimum_radius": 0.1},
            "caption_hierarchy": {**HIERARCHY, **settings},
        },
    )
    with torch.no_grad():  # spread the points, which are all near each other at the start
        model.textual_proj.weight.mul_(2)
        model.visual_proj.weight.mul_(3)
    return model


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    tokenizer = CaptionTokenizer(context_length=16)
    queries = ["a bird", "a red bird, small", "", "long beak", "", "", "", "its wing is blue", "blue wing"]
    return {
        "image": torch.randint(0, 256, (3, 3, 32, 32), generator=generator, dtype=torch.uint8),
        "tokens": tokenizer.batch(["a red bird. it is small", "a beak", "a bird with a blue wing and a white tail"]),
        "image_index": torch.arange(3),
        "class_index": torch.arange(3),
        "query_tokens": tokenizer.batch(queries).unflatten(0, (3, 3)),
        "query_weight": torch.tensor([[1.0, 0.5, 0.0], [0.75, 0.0, 0.0], [0.0, 1.0, 0.5]]),
        "query_parent": torch.tensor([[-1, 0, -1], [-1, -1, -1], [-1, -1, 1]]),
    }


def looped_pooling(module, query, patches):
    """One query's pooled patches, head by head."""
    weights, biases = (each.chunk(3) for each in (module.attention.in_proj_weight, module.attention.in_proj_bias))
    asked = weights[0] @ (module.query.weight @ query) + biases[0]
    heads = []
    for head in range(8):
        width = len(query) // 8
        those = slice(head * width, (head + 1) * width)
        keys = [(weights[1] @ patch + biases[1])[those] for patch in patches]
        values = [(weights[2] @ patch + biases[2])[those] for patch in patches]
        logits = [float(asked[those] @ key) / math.sqrt(width) for key in keys]
        total = sum(math.exp(each) for each in logits)
        heads.append(sum(math.exp(each) / total * value for each, value in zip(logits, values, strict=True)))
    pooled = module.attention.out_proj.weight @ torch.cat(heads) + module.attention.out_proj.bias
    return pooled + module.mlp(module.norm(pooled))


def angle_and_aperture(x, y, c):
    x_time, y_time = (math.sqrt(1 / c + float(point @ point)) for point in (x, y))
    inner, norm = float(x @ y) - x_time * y_time, float(x.norm())
    ratio = (y_time + x_time * c * inner) / (norm * math.sqrt((c * inner) ** 2 - 1))
    return math.acos(ratio), math.asin(min(1 - 1e-4, 0.2 / (math.sqrt(c) * norm)))


def looped(model, batch, *, pooling="query", order="image_below_query", parents="caption"):
    """The term query by query, in float64."""
    c = model.curvature.item()
    features, patches = model.image_and_patch_features(batch["image"])
    image, caption = model.lift_image(features).double(), model.embed_text(batch["tokens"]).double()

    def residual(general, specific, eta):
        angle, aperture = angle_and_aperture(general, specific, c)
        return max(0.0, angle - eta * aperture) + 0.1 * angle

    def calibrated(general, specific):
        r, u = residual(general, specific, 1.2), math.log(1 + math.exp(-float(general.norm())))
        return 0.5 * r + 10 * (0.5 * r / math.exp(u) + 0.5 * u)

    total = weight = 0.0
    for row in range(3):
        texts = model.embed_text(batch["query_tokens"][row]).double()
        for number, (worth, parent) in enumerate(
            zip(batch["query_weight"][row].tolist(), batch["query_parent"][row].tolist(), strict=True)
        ):
            if not worth:
                continue
            query = model.text_features(batch["query_tokens"][row])[number]
            seen = looped_pooling(model.local.query_pooling, query, patches[row]) if pooling == "query" else None
            seen = model.lift_image(patches[row].mean(dim=0) if seen is None else seen).double()
            above = caption[row] if parent < 0 else texts[parent]
            if parents == "shuffled":
                above = caption[(row + 1) % 3]
            visual = (seen, image[row]) if order == "image_below_query" else (image[row], seen)
            value = 0.5 * residual(texts[number], seen, 0.7) + calibrated(*visual) + calibrated(texts[number], above)
            total, weight = total + worth * value, weight + worth
    return total / weight


@pytest.mark.parametrize("change", [{}, {"pooling": "mean"}, {"order": "reversed"}, {"parents": "shuffled"}])
@torch.no_grad()
def test_the_term_is_the_written_one_and_each_control_changes_it(batch, change):
    model = build(**change)
    value = model(batch).logs["loss/caption_hierarchy"].item()
    assert value == pytest.approx(looped(model, batch, **change), abs=1e-4)
    for other in ({}, {"pooling": "mean"}, {"order": "reversed"}, {"parents": "shuffled"}):
        if other != change and (model.local.query_pooling is not None or other.get("pooling") == "mean"):
            assert abs(value - looped(model, batch, **other)) > 1e-3


def test_padding_and_absent_queries_have_no_influence(batch):
    model = build()
    expected = model(batch)
    expected.loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    absent = batch["query_weight"] == 0
    tokens = torch.nn.functional.pad(batch["query_tokens"], (0, 4))
    tokens[absent] = torch.tensor([7, 8, 9, 49407]).repeat(6)[: tokens.shape[-1]]
    output = model({**batch, "query_tokens": tokens, "query_parent": batch["query_parent"].masked_fill(absent, 2)})
    output.loss.backward()
    torch.testing.assert_close(output.loss, expected.loss)
    for name, gradient in gradients.items():
        torch.testing.assert_close(dict(model.named_parameters())[name].grad, gradient, atol=1e-5, rtol=1e-3)


def test_captions_without_queries_give_zero_and_finite_gradients(batch):
    model = build()
    output = model({**batch, "query_weight": torch.zeros(3, 3)})
    assert output.logs["loss/caption_hierarchy"] == 0 and output.logs["queries_per_caption"] == 0
    output.loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert all(value.isfinite().all() for value in output.logs.values())
    some = model({**batch, "query_weight": batch["query_weight"] * torch.tensor([[1.0], [0.0], [0.0]])})
    assert some.logs["queries_per_caption"].item() == pytest.approx(2 / 3)
    assert some.logs["radius/query_sentence"].shape == (1,) and some.logs["radius/query_part"].shape == (0,)


@pytest.mark.parametrize("space", [Hyperboloid(1.0), Euclidean()], ids=["hyperboloid", "euclidean"])
def test_gradients_are_finite_where_points_coincide_at_the_origin_and_far_out(space):
    points = torch.stack([torch.zeros(4), torch.full((4,), 0.3), torch.full((4,), 30.0)])
    for specific in (points, points.flip(0)):
        general, specific = points.clone().requires_grad_(), specific.clone().requires_grad_()
        value = calibrated_entailment(general, specific, space, aperture_scale=1.2)
        value.sum().backward()
        assert value.isfinite().all() and general.grad.isfinite().all() and specific.grad.isfinite().all()


def test_calibration_moves_general_points_outwards_if_their_cones_hold_what_they_should():
    general = torch.tensor([[0.5, 0.0]], requires_grad=True)
    value = calibrated_entailment(general, torch.tensor([[2.0, 0.0]]), Hyperboloid(1.0), aperture_scale=1.2)
    assert value.item() == pytest.approx(5 * math.log(1 + math.exp(-0.5)), rel=1e-4)  # r = 0: α u/2 is left
    value.backward()
    assert general.grad[0, 0] < 0
    assert uncertainty(torch.zeros(2, 3)).tolist() == pytest.approx([math.log(2)] * 2)


@pytest.mark.parametrize("pooling", ["query", "mean"])
def test_every_parameter_is_trained_and_exists_only_with_a_weight(batch, pooling):
    model = build(pooling=pooling)
    model(batch).loss.backward()
    for name, parameter in model.named_parameters():
        assert not parameter.requires_grad or parameter.grad is not None, name
    without = build(weight=0.0)
    added = model.state_dict().keys() - without.state_dict().keys()
    assert any(name.startswith("local.query_pooling.") for name in added) == (pooling == "query")
    assert len(added) == (11 if pooling == "query" else 0)
    assert model.reads_caption_queries and not without.reads_caption_queries
    plain = {name: value for name, value in batch.items() if not name.startswith("query_")}
    assert "loss/caption_hierarchy" not in without(plain).logs
    torch.testing.assert_close(model.embed_image(batch["image"]), without.embed_image(batch["image"]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"space": "sphere"}, r"model\.space=sphere has no cones: set loss\.caption_hierarchy\.weight=0"),
        ({"dimension": 36}, r"embedding_dimension=36: .*multiple of 8"),
        ({"pooling": "max"}, r"loss\.caption_hierarchy\.pooling=max: choose one of query, mean"),
        ({"order": "none"}, r"loss\.caption_hierarchy\.order=none"),
        ({"parents": "none"}, r"loss\.caption_hierarchy\.parents=none"),
    ],
)
def test_mistakes_are_one_line(arguments, message):
    with pytest.raises(UserError, match=message):
        build(**arguments)
    if arguments == {"dimension": 36}:
        build(dimension=36, pooling="mean")


def test_flat_space_has_cones_too(batch):
    assert build(space="euclidean")(batch).logs["loss/caption_hierarchy"] > 0
