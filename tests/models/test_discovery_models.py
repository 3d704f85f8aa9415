"""SimGCD and HypGCD: their terms, which labels they look at, and what switches off."""

import pytest
import torch
from torch.nn import functional as F

from meru.encoders.image import timm_image_encoder
from meru.errors import UserError
from meru.geometry import poincare
from meru.losses.hypcd import supervised_distance_loss, view_distance_loss
from meru.losses.hypgcd import category_loss, local_hierarchy_loss
from meru.losses.simgcd import supervised_contrastive_loss, view_contrastive_loss
from meru.models.hypcd import HypCD
from meru.models.hypgcd import HypGCD, category, hierarchy
from meru.models.hypgcd_released import HypGCDReleased
from meru.models.simgcd import SimGCD, ViewStep

VIT = {"patch_size": 16, "embed_dim": 64, "depth": 2, "num_heads": 4}
LOSS = {
    "supervised_contrastive": {"weight": 0.35, "temperature": 0.07},
    "supervised_classification": {"weight": 0.35},
    "view_contrastive": {"weight": 0.65, "temperature": 1.0},
    "self_distillation": {"weight": 0.65, "entropy": 2.0, "start": 0.07, "end": 0.04, "epochs": 30},
    "category": {"weight": 0.1, "temperature": 1.0, "smoothing": 0.1},
    "hierarchy": {
        "weight": 5.0, "neighbours": 6, "triplets": 4, "margin": 0.1, "ancestors": "batch", "proxies": 7,
        "temperature": 0.1, "exclude_members": False,
    },
}  # fmt: skip
EUCLIDEAN = {"supervised_contrastive", "supervised_classification", "view_contrastive", "self_distillation"}


def build(kind=HypGCD, loss=None, **arguments):
    torch.manual_seed(0)
    settings = {name: {**values, **(loss or {}).get(name, {})} for name, values in LOSS.items()}
    image = timm_image_encoder(
        name="vit_tiny_patch16_224", image_size=32, arguments=VIT, train_last_blocks=arguments.pop("blocks", None)
    )
    arguments = {"projection_width": 32, "projection_dimension": 16, **arguments}
    return kind(image=image, num_classes=5, loss=settings, **arguments)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    return {
        "image": torch.randint(0, 256, (8, 2, 3, 32, 32), generator=generator, dtype=torch.uint8),
        "label": torch.tensor([0, 1, 2, 0, -1, -1, -1, -1]),
        "labelled": torch.tensor([True] * 4 + [False] * 4),
        "image_index": torch.arange(8),
        "epoch": torch.tensor(3.0),
    }


def labelled_step(projected, classes):
    """A step in which all views are labelled, and predicted to be what they are."""
    logits = F.one_hot(classes, 5).float()
    return ViewStep(projected, logits, classes, torch.ones_like(classes, dtype=torch.bool), torch.tensor(0.0))


@pytest.mark.parametrize(
    ("kind", "terms"), [(SimGCD, EUCLIDEAN), (HypCD, EUCLIDEAN), (HypGCD, {*EUCLIDEAN, "category", "hierarchy"})]
)
def test_loss_is_the_weighted_sum_and_trains_everything(kind, terms, batch):
    model = build(kind)
    output = model(batch)
    found = {name.removeprefix("loss/"): value for name, value in output.logs.items() if name.startswith("loss/")}
    assert set(found) == terms
    torch.testing.assert_close(output.loss.detach(), sum(LOSS[name]["weight"] * value for name, value in found.items()))
    output.loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("off", sorted(LOSS))
def test_every_term_switches_off(off, batch):
    output = build(loss={off: {"weight": 0.0}})(batch)
    assert f"loss/{off}" not in output.logs and output.loss.isfinite()


def test_labels_of_unlabelled_images_change_nothing(batch):
    model = build()
    torch.manual_seed(0)
    expected = model(batch).loss
    torch.manual_seed(0)
    other = model({**batch, "label": torch.where(batch["labelled"], batch["label"], 4)}).loss
    assert torch.equal(expected, other)


@pytest.mark.parametrize("labelled", [0, 1])
def test_batches_without_labels_or_with_one(labelled, batch):
    mask = torch.arange(8) < labelled
    output = build()({**batch, "labelled": mask})
    output.loss.backward()
    assert output.loss.isfinite()


def test_given_labels_count_for_the_centres_and_predictions_where_there_are_none(batch):
    model = build().eval()
    views = batch["image"].transpose(0, 1).flatten(0, 1)
    features = model.features(views)
    logits = model.class_logits(features)
    classes = torch.where(batch["labelled"].repeat(2), batch["label"].repeat(2), logits.argmax(dim=1))
    points = model.lift(model.projection(features))
    poincare.require_inside(points, 0.1)
    assert poincare.distance_to_origin(points, 0.1).max() <= 2 * 2.3 + 1e-4
    expected = category_loss(points, classes, 0.1)
    torch.testing.assert_close(model(batch).logs["loss/category"], expected.detach())


def test_predictions_are_cosines_and_known_ones_come_first(batch):
    model = build(SimGCD).eval()
    images = batch["image"][:, 0]
    logits = model.predict(images)
    weights = F.normalize(model.classifier.weight, dim=1)
    torch.testing.assert_close(logits, F.normalize(model.features(images), dim=1) @ weights.T)
    torch.testing.assert_close(model.embed_image(images).norm(dim=1), torch.ones(8))


def test_only_the_last_block_is_trained_where_asked(batch):
    model = build(blocks=1)
    model(batch).loss.backward()
    trained = {name.split(".")[2] for name, p in model.named_parameters() if name.startswith("visual.blocks") and
               p.requires_grad}
    assert trained == {"1"}


def test_the_final_norm_is_frozen_where_asked(batch):
    for final_layers in (True, False):
        image = timm_image_encoder(
            name="vit_tiny_patch16_224",
            image_size=32,
            arguments=VIT,
            train_last_blocks=1,
            train_final_layers=final_layers,
        )
        trained = {name.split(".")[0] for name, p in image.network.named_parameters() if p.requires_grad}
        assert trained == ({"blocks", "norm"} if final_layers else {"blocks"})


def test_the_final_layers_can_be_trained_alone():
    image = timm_image_encoder(
        name="vit_tiny_patch16_224", image_size=32, arguments=VIT, train_last_blocks=0, train_final_layers=True
    )
    assert {name.split(".")[0] for name, p in image.network.named_parameters() if p.requires_grad} == {"norm"}
    mobile = timm_image_encoder(
        name="mobilenetv2_035", image_size=32, train_last_blocks=0, train_final_layers=True, freeze_batch_norm=True
    )
    assert {name for name, p in mobile.network.named_parameters() if p.requires_grad} == {"conv_head.weight"}


def test_proxies_are_parameters_and_only_theirs(batch):
    model = build(loss={"hierarchy": {"ancestors": "proxies"}})
    assert model.proxies.shape == (7, 16)
    model(batch).loss.backward()
    assert model.proxies.grad.isfinite().all()
    assert build().proxies is None


def test_proxies_have_a_local_loss_among_themselves(batch):
    """HIER's second one; triplets that are drawn without classes, and candidates that are all proxies."""
    model = build(loss={"hierarchy": {"ancestors": "proxies", "margin": 1.0, "neighbours": 3}}).eval()
    projected, classes = torch.randn(8, 16), torch.arange(8) % 2
    step = labelled_step(projected, classes)
    settings = {name: model.loss["hierarchy"][name] for name in ("neighbours", "triplets", "margin", "temperature")}
    proxies = model.lift(model.proxies)
    torch.manual_seed(3)
    first = local_hierarchy_loss(
        model.lift(projected), classes, model.curvature, ancestors="proxies", proxies=proxies, **settings
    )
    second = local_hierarchy_loss(proxies, torch.arange(7), model.curvature, **settings)
    torch.manual_seed(3)
    found = hierarchy(model, step)
    assert second > 0
    torch.testing.assert_close(found, first + second)


def test_the_classifier_starts_as_a_linear_layer_of_torch_does():
    """Rows of length 0.58: twenty times as long ones would turn four hundred times as slowly."""
    weight = build(SimGCD).classifier.weight
    assert weight.abs().max() <= weight.shape[1] ** -0.5
    assert weight.norm(dim=1).mean().item() == pytest.approx(3**-0.5, rel=0.15)


def test_the_riemannian_factor_is_a_key_and_part_of_released():
    lengths = {}
    for name, riemannian, kind in (
        ("plain", False, HypGCD), ("scaled", True, HypGCD), ("released", True, HypGCDReleased),
    ):  # fmt: skip
        model = build(kind, loss={"category": {"riemannian": riemannian}}).eval()
        projected = (4 * F.normalize(torch.randn(16, 16), dim=1)).requires_grad_()  # all beyond the clip
        model.terms["category"](model, labelled_step(projected, torch.arange(16) % 3)).backward()
        lengths[name] = projected.grad.norm().item()
    assert lengths["plain"] > 5 * lengths["scaled"] and lengths["plain"] > 5 * lengths["released"]


def test_released_behaviour_runs_and_differs(batch):
    model, released = build().eval(), build(HypGCDReleased).eval()
    ours, theirs = model(batch).logs, released(batch).logs
    torch.testing.assert_close(ours["loss/view_contrastive"], theirs["loss/view_contrastive"])
    assert not torch.isclose(ours["loss/category"], theirs["loss/category"])


def test_without_any_term_there_is_nothing_to_learn(batch):
    with pytest.raises(UserError, match="nothing to learn"):
        build(SimGCD, loss={name: {"weight": 0.0} for name in EUCLIDEAN})(batch)


def test_settings_that_cannot_be():
    with pytest.raises(UserError, match="choose one of batch, midpoint, proxies"):
        build(loss={"hierarchy": {"ancestors": "none"}})
    with pytest.raises(UserError, match="riemannian=false: the released code always scales"):
        build(HypGCDReleased, loss={"category": {"riemannian": False}})
    with pytest.raises(ValueError, match="curvature must be positive"):
        build(curvature=0.0)
    with pytest.raises(UserError, match="num_classes=1"):
        SimGCD(image=build(SimGCD).visual, num_classes=1, loss=LOSS)


def random_step(epoch=0.0, width=16):
    generator = torch.Generator().manual_seed(2)
    projected, logits = torch.randn(8, width, generator=generator), torch.randn(8, 5, generator=generator)
    labels, labelled = torch.tensor([0, 1, 2, 0] * 2), torch.tensor([True, True, True, False] * 2)
    return ViewStep(projected, logits, labels, labelled, torch.tensor(epoch))


def test_categories_start_later_where_asked():
    model = build(loss={"category": {"start_epoch": 3}})
    assert category(model, random_step(2.99)) == 0
    assert category(model, random_step(3.0)) == category(build(), random_step()) > 0


def test_categories_see_labelled_views_and_confident_predictions():
    step = random_step()
    probability = (step.logits / 0.1).softmax(dim=1).amax(dim=1)
    step = step._replace(labelled=torch.arange(8) == int(probability.argmin()))
    middle = probability.median().item()
    seen = step.labelled | (probability > middle)
    assert 2 < seen.sum() < 8
    model = build(loss={"category": {"confidence": middle}})
    classes = torch.where(step.labelled, step.labels, step.logits.argmax(dim=1))
    expected = category_loss(model.lift(step.projected[seen]), classes[seen], 0.1)
    torch.testing.assert_close(category(model, step), expected)
    nothing = step._replace(labelled=torch.zeros(8, dtype=torch.bool), logits=step.logits * 0)
    assert category(model, nothing) == 0


def test_scaled_features_fill_the_ball():
    projected = 8 * F.normalize(random_step().projected, dim=1)
    assert build().logs(random_step()._replace(projected=projected))["clamped/clip"] == 1
    model = build(feature_scale=0.25)
    logs = model.logs(random_step()._replace(projected=projected))
    assert logs["clamped/clip"] == 0
    for name in ("radius/mean", "radius/quantile_5", "radius/quantile_95"):
        assert logs[name].item() == pytest.approx(2 * 8 * 0.25, rel=1e-5)
    proxies = build(feature_scale=0.25, loss={"hierarchy": {"ancestors": "proxies"}})
    torch.testing.assert_close(proxies.lift_proxies(), build().lift(proxies.proxies))


def test_the_released_code_has_no_late_or_confident_categories():
    for key in ("start_epoch", "confidence"):
        with pytest.raises(UserError, match=f"loss.category.{key}=1"):
            build(HypGCDReleased, loss={"category": {key: 1}})


def test_hypcd_mixes_angles_and_distances_of_the_tower_s_features():
    torch.manual_seed(0)
    model = build(HypCD, distance_share=0.8, distance_epochs=4, projection_width=None)
    step = random_step(1.5, width=64)
    assert model.projection(step.projected) is step.projected
    share, points, shown = 0.8 * 2 / 4, model.lift(step.projected), step.labelled
    expected = {
        "supervised_contrastive": (
            supervised_contrastive_loss(step.projected[shown], step.labels[shown], 0.07 * 0.3),
            supervised_distance_loss(points[shown], step.labels[shown], 0.1, 0.07),
        ),
        "view_contrastive": (
            view_contrastive_loss(*step.projected.chunk(2), 0.3), view_distance_loss(*points.chunk(2), 0.1, 1.0)
        ),
    }  # fmt: skip
    for name, (by_angle, by_distance) in expected.items():
        torch.testing.assert_close(model.terms[name](model, step), (1 - share) * by_angle + share * by_distance)


def test_hypcd_predicts_by_a_layer_of_the_ball(batch):
    model = build(HypCD).eval()
    images = batch["image"][:, 0]
    points = model.lift(model.features(images))
    torch.testing.assert_close(model.predict(images), model.classifier(points))
    assert (model.predict(images).norm(dim=1) < 0.1**-0.5).all()
    assert model.embed_ball(images).shape == (8, 16)
