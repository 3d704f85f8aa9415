"""CLIP and MERU: the printed losses, the published names, the bounds, and what a weight of 0 means."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from meru.encoders.image import timm_image_encoder
from meru.encoders.text import CaptionTokenizer, text_transformer
from meru.errors import UserError
from meru.geometry import lorentz, poincare
from meru.losses.hypgcd import category_loss
from meru.models.clip import CLIP
from meru.models.meru import MERU
from meru.models.terms import Step

VIT = {"patch_size": 16, "embed_dim": 64, "depth": 2, "num_heads": 4}


def build(kind, *, contrastive=1.0, entailment=0.2, positives="pair", **arguments):
    torch.manual_seed(0)
    return kind(
        image=timm_image_encoder(name="vit_tiny_patch16_224", image_size=32, arguments=VIT),
        text=text_transformer(architecture="L2_W16_A4", context_length=16),
        embedding_dimension=32,
        loss={
            "contrastive": {"weight": contrastive, "positives": positives},
            "entailment": {"weight": entailment, "minimum_radius": 0.1},
        },
        **arguments,
    )


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    tokenizer = CaptionTokenizer(context_length=16)
    return {
        "image": torch.randint(0, 256, (4, 3, 32, 32), generator=generator, dtype=torch.uint8),
        "tokens": tokenizer.batch(["a bird", "a red bird", "a blue bird with a long beak", "a wing"]),
        "image_index": torch.tensor([0, 1, 0, 2]),
        "class_index": torch.tensor([0, 0, 0, 1]),
    }


@pytest.mark.parametrize("kind", [CLIP, MERU])
def test_losses_of_category_discovery_work_on_images_and_captions(kind, batch):
    model = build(kind)
    model.loss |= {
        "category": {"weight": 0.5, "temperature": 1.0, "smoothing": 0.1},
        "hierarchy": {"weight": 0.5, "neighbours": 3, "triplets": 4, "margin": 0.1, "ancestors": "midpoint"},
    }
    output = model(batch)
    image, text = model.embed_image(batch["image"]), model.embed_text(batch["tokens"])
    points, curvature = model.space.in_ball(torch.cat([image, text]))
    poincare.require_inside(points, curvature)
    expected = category_loss(points, torch.tensor([0, 0, 0, 1, 0, 0, 0, 1]), curvature)
    torch.testing.assert_close(output.logs["loss/category"], expected.detach())
    assert output.logs["loss/hierarchy"] > 0
    output.loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_norm_exponent_bends_norms_and_leaves_directions(batch):
    features = torch.randn(6, 32, generator=torch.Generator().manual_seed(0)) * torch.arange(6.0)[:, None]
    tangents = {}
    for exponent in (1.0, 0.5, 0.0):
        model = build(MERU, norm_exponent=exponent)
        tangents[exponent] = lorentz.log_map0(model.lift(features, model.visual_alpha), model.curvature)
    norm = features.norm(dim=1) / 32**0.5
    torch.testing.assert_close(tangents[1.0].norm(dim=1), norm)  # alpha starts at 1/√D
    torch.testing.assert_close(tangents[0.5].norm(dim=1), norm.sqrt())
    torch.testing.assert_close(tangents[0.0].norm(dim=1), torch.tensor([0.0, 1, 1, 1, 1, 1]))
    torch.testing.assert_close(
        F.normalize(tangents[0.5][1:], dim=1), F.normalize(tangents[1.0][1:], dim=1), rtol=1e-4, atol=1e-5
    )
    model(batch).loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    with pytest.raises(UserError, match="norm_exponent=1.5"):
        build(MERU, norm_exponent=1.5)


def published_meru(model, batch):
    """Loss as printed in the paper (equations 1–9), float64, from the model's Euclidean features."""
    c = model.curv.detach().double().exp()

    def lift(features, alpha):
        u = features.double() * alpha.double().exp()
        r = c.sqrt() * u.norm(dim=-1, keepdim=True)
        return torch.sinh(r) * u / r

    image = lift(model.image_features(batch["image"]), model.visual_alpha)
    text = lift(model.text_features(batch["tokens"]), model.textual_alpha)
    image_time, text_time = ((1 / c + (x * x).sum(-1)).sqrt() for x in (image, text))
    inner = image @ text.t() - image_time[:, None] * text_time
    logits = -model.logit_scale.double().exp() * torch.acosh(-c * inner) / c.sqrt()
    target = torch.arange(len(image))
    contrastive = 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.t(), target))
    own = c * inner.diagonal()
    norm = text.norm(dim=-1)
    angle = torch.acos((image_time + own * text_time) / (norm * (own**2 - 1).sqrt()))
    aperture = torch.asin(2 * 0.1 / (c.sqrt() * norm))
    return contrastive, (angle - aperture).clamp(min=0).mean()


def test_clip_loss_is_the_printed_one(batch):
    model = build(CLIP)
    image, text = (F.normalize(x) for x in (model.image_features(batch["image"]), model.text_features(batch["tokens"])))
    logits = model.logit_scale.exp() * image @ text.t()
    target = torch.arange(4)
    expected = 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.t(), target))
    torch.testing.assert_close(model(batch).loss, expected)


@pytest.mark.parametrize("curvature", [0.3, 1.0, 4.0])
def test_meru_loss_and_gradients_are_the_printed_ones(batch, curvature):
    model = build(MERU, curvature=curvature)
    output = model(batch)
    contrastive, entailment = published_meru(model, batch)
    assert output.logs["loss/contrastive"].item() == pytest.approx(contrastive.item(), abs=1e-4)
    assert output.logs["loss/entailment"].item() == pytest.approx(entailment.item(), abs=1e-4)
    parameters = [p for name, p in model.named_parameters() if name not in ("curv", "visual_alpha", "textual_alpha")]
    ours = torch.autograd.grad(output.loss, parameters)
    expected = torch.autograd.grad(contrastive + 0.2 * entailment, parameters)
    for mine, theirs in zip(ours, expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-3)


def test_curvature_and_scales_get_gradients(batch):
    model = build(MERU)
    model(batch).loss.backward()
    for name in ("curv", "visual_alpha", "textual_alpha", "logit_scale"):
        assert getattr(model, name).grad.abs() > 0, name
    fixed = build(MERU, learn_curvature=False)
    fixed(batch).loss.backward()
    assert fixed.curv.grad is None


def test_names_of_parameters_are_those_of_published_checkpoints():
    names = {name for name in build(MERU).state_dict() if not name.startswith(("visual.", "textual."))}
    clip = {"visual_proj.weight", "textual_proj.weight", "logit_scale", "pixel_mean", "pixel_std"}
    assert names == clip | {"curv", "visual_alpha", "textual_alpha"}
    assert {name for name in build(CLIP).state_dict() if not name.startswith(("visual.", "textual."))} == clip


def test_starting_values_are_those_of_the_paper():
    model = build(MERU)
    assert model.logit_scale.exp().item() == pytest.approx(1 / 0.07)
    assert model.curvature.item() == pytest.approx(1.0)
    assert model.visual_alpha.exp().item() == pytest.approx(32**-0.5)


@pytest.mark.parametrize(
    ("towers", "arguments", "expected"),
    [
        ((55.0, 55.0), {}, 55.0),
        ((55.0, 55.0), {"logit_scale": 20.0}, 20.0),
        ((150.0, 150.0), {}, 100.0),
        ((55.0, 55.0), {"maximum_logit_scale": 30.0}, 30.0),
        ((55.0, None), {}, 1 / 0.07),  # a text tower from scratch knows nothing of that temperature
        ((None, None), {}, 1 / 0.07),
    ],
)
@pytest.mark.parametrize("kind", [CLIP, MERU])
def test_the_temperature_starts_where_the_weights_have_it(kind, towers, arguments, expected):
    image = timm_image_encoder(name="vit_tiny_patch16_224", image_size=32, arguments=VIT)
    text = text_transformer(architecture="L1_W16_A1", context_length=16)
    model = kind(
        image=replace(image, logit_scale=towers[0]),
        text=replace(text, logit_scale=towers[1]),
        loss={"contrastive": {"positives": "pair"}},
        embedding_dimension=32,
        **arguments,
    )
    assert model.logit_scale.exp().item() == pytest.approx(expected)


@pytest.mark.parametrize("norm_exponent", [1.0, 0.5])
def test_alphas_start_at_the_radius(batch, norm_exponent):
    model = build(MERU, norm_exponent=norm_exponent, initial_radius=0.4, curvature=3.0)
    assert model.visual_alpha.exp().item() == pytest.approx(32**-0.5)  # nothing was measured yet
    before = torch.get_rng_state()
    with torch.no_grad():
        model.visual_proj.weight.mul_(5)
        norms = model.start_at_radius([batch["image"][:3], batch["image"][3:]], [batch["tokens"]])
        assert model.training and torch.equal(torch.get_rng_state(), before)
        model.eval()
        points = model.embed_image(batch["image"]), model.embed_text(batch["tokens"])
    for each, alpha, norm in zip(points, (model.visual_alpha, model.textual_alpha), norms, strict=True):
        assert model.radius(each).mean().item() == pytest.approx(0.4, rel=1e-4)
        assert alpha.exp().item() == pytest.approx(0.4 / norm)
    if norm_exponent == 1:
        assert norms[0] == pytest.approx(model.image_features(batch["image"]).norm(dim=1).mean().item())


def test_short_features_are_not_lengthened(batch):
    model = build(MERU, initial_radius=50.0)
    norms = model.start_at_radius([batch["image"]], [batch["tokens"]])
    assert max(norms) < 50
    assert model.visual_alpha.item() == model.textual_alpha.item() == 0
    for wrong in (0.0, -1.0):
        with pytest.raises(UserError, match="model.initial_radius"):
            build(MERU, initial_radius=wrong)


@pytest.mark.parametrize("kind", [CLIP, MERU])
def test_every_scalar_of_the_model_is_a_logarithm_with_a_name(kind):
    model = build(kind)
    assert set(model.log_scalars) == {name for name, parameter in model.named_parameters() if not parameter.dim()}


def test_constrain_brings_scalars_back_into_their_bounds():
    model = build(MERU, curvature=2.0)
    with torch.no_grad():
        model.logit_scale.fill_(9.0)
        model.curv.fill_(9.0)
        model.visual_alpha.fill_(1.0)
    model.constrain_()
    assert model.logit_scale.exp().item() == pytest.approx(100.0)
    assert model.curvature.item() == pytest.approx(20.0)
    assert model.visual_alpha.item() == 0.0
    with torch.no_grad():
        model.curv.fill_(-9.0)
    model.constrain_()
    assert model.curvature.item() == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("positives", "rows"), [("pair", [1, 1, 1, 1]), ("image", [2, 1, 2, 1]), ("class", [3, 3, 3, 1])]
)
def test_positives_of_a_batch(batch, positives, rows):
    model = build(CLIP, positives=positives)
    labels = model.positive_labels(batch)
    assert (labels[:, None] == labels).sum(dim=1).tolist() == rows


def test_a_term_of_weight_zero_is_not_computed(batch, monkeypatch):
    model = build(MERU, entailment=0.0)
    monkeypatch.setattr(MERU, "logs", lambda *_: {})  # the log computes the cones for its own purpose
    monkeypatch.setattr("meru.models.meru.entailment_excess", lambda *_: pytest.fail("computed"))
    assert set(model(batch).logs) == {"loss/contrastive"}


def test_logs_tell_what_users_of_meru_ask_for(batch):
    logs = build(MERU)(batch).logs
    assert {"curvature", "logit_scale", "alpha/image", "alpha/text", "norm/image", "norm/text", "share_in_cone",
            "clamped/curvature", "clamped/lift_image", "clamped/lift_text", "clamped/half_aperture",
            "clamped/logit_scale"} <= set(logs)  # fmt: skip
    assert logs["norm/image"].shape == (4,)
    c, norms = logs["curvature"], logs["norm/text"]
    expected = torch.asinh(c.sqrt() * norms).mean() / c.sqrt()
    torch.testing.assert_close(logs["radius/text"], expected)
    assert logs["radius/image"] > 0
    assert not any(value.requires_grad for value in logs.values())


def test_captions_inside_the_dead_radius_are_counted():
    model = build(MERU)
    text = torch.zeros(4, 32)
    text[:, 0] = torch.tensor([0.05, 0.19, 0.21, 3.0])
    step = Step(batch={}, image=torch.ones(4, 32), text=text)
    assert model.logs(step)["clamped/half_aperture"] == 0.5


def test_embeddings_are_points_of_the_space(batch):
    clip, meru = build(CLIP).eval(), build(MERU).eval()
    assert torch.allclose(clip.embed_text(batch["tokens"]).norm(dim=-1), torch.ones(4))
    points = meru.embed_text(batch["tokens"])
    similarity = meru.similarity(points, points)
    assert not similarity.diagonal().any()
    assert (similarity <= 0).all()
    torch.testing.assert_close(meru.average(points[:, None].expand(-1, 3, -1)), points)
    floating = batch["image"].float() / 255
    torch.testing.assert_close(meru.embed_image(floating), meru.embed_image(batch["image"]))


def test_geometry_is_float32_under_autocast(batch):
    model = build(MERU).eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        image, text = model.embed_image(batch["image"]), model.embed_text(batch["tokens"])
        assert image.dtype == text.dtype == model.similarity(image, text).dtype == torch.float32
        inside = model.similarity(image, text)
    assert torch.equal(inside, model.similarity(image, text))


def test_alpha_of_half_precision_features_is_applied_in_float32():
    model = build(MERU)
    features = torch.randn(2, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        lifted = model.lift(features, model.visual_alpha)
    assert torch.equal(lifted, model.lift(features, model.visual_alpha))
    expected = math.sinh(features[0].norm().item() * 32**-0.5)
    assert lifted[0].detach().norm().item() == pytest.approx(expected, rel=1e-5)


def test_unknown_positives_are_one_clear_line():
    with pytest.raises(UserError, match="loss.contrastive.positives=all: choose one of pair, image, class"):
        build(CLIP, positives="all")
