"""HyCoCLIP and MERU with patches: printed losses, missing parts, names, and what a weight of 0 means."""

import math

import pytest
import torch

from meru.encoders.image import timm_image_encoder
from meru.encoders.text import CaptionTokenizer, text_transformer
from meru.errors import UserError
from meru.models.gahr import GAHR
from meru.models.hycoclip import HyCoCLIP, average_of_terms
from meru.models.meru import MERU
from meru.models.meru_grid import MERUGrid
from meru.models.meru_patches import MERUPatches
from meru.models.terms import Step, contrastive, images_in_cones_of_parts
from meru.models.word_patch_interaction import most_attended

VIT = {"patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 4}
TOKEN_TERMS = ("word_grounding", "word_contrast", "patch_agreement", "part_entailment", "late_interaction")


def build(kind, *, level=None, loss=None, **arguments):
    torch.manual_seed(0)
    settings = {
        "contrastive": {"weight": 1.0, "positives": "pair"},
        "entailment": {"weight": 0.2, "minimum_radius": 0.1, "across_aperture": 0.7, "within_aperture": 1.2},
        "word_grounding": {"weight": 1.0, "exclude_class": True},
        "word_contrast": {"weight": 0.03, "scope": "caption", "exclude_class": True},
        "patch_agreement": {"weight": 0.03},
        "part_entailment": {"weight": 0.1},
        "late_interaction": {"weight": 0.5},
    }
    for name, changes in (loss or {}).items():
        settings[name] = {**settings.get(name, {}), **changes}
    return kind(
        image=timm_image_encoder(name="vit_tiny_patch16_224", image_size=32, arguments=VIT, patch_level=level),
        text=text_transformer(architecture="L2_W16_A4", context_length=16),
        embedding_dimension=32,
        loss=settings,
        **arguments,
    )


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    tokenizer = CaptionTokenizer(context_length=16)
    pictures = torch.randint(0, 256, (2, 4, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return {
        "image": pictures[0],
        "tokens": tokenizer.batch(["a bird", "a red bird", "a blue bird with a long beak", "a wing"]),
        "part_image": pictures[1],
        "part_tokens": tokenizer.batch(["wing", "red bird", "long beak", ""]),
        "has_part": torch.tensor([True, True, True, False]),
        "has_part_text": torch.tensor([True, False, True, False]),
        "image_index": torch.tensor([0, 1, 0, 2]),
        "class_index": torch.tensor([0, 0, 0, 1]),
    }


def looped_hycoclip(model, batch):
    """Both losses as printed, in loops over the samples that have what a term needs; float64."""
    c, scale = model.curvature.item(), model.logit_scale.exp().item()
    points = {
        "image": model.embed_image(batch["image"]), "text": model.embed_text(batch["tokens"]),
        "box": model.embed_image(batch["part_image"]), "words": model.embed_text(batch["part_tokens"]),
    }  # fmt: skip
    points = {name: value.detach().double() for name, value in points.items()}
    boxes = [i for i in range(4) if batch["has_part"][i]]
    worded = [i for i in boxes if batch["has_part_text"][i]]

    def product(x, y):
        return float(x @ y - ((1 / c + x @ x) * (1 / c + y @ y)).sqrt())

    def recognition(rows, columns, those):
        losses = []
        for i in those:
            logits = [-scale * math.acosh(-c * product(points[rows][i], y)) / math.sqrt(c) for y in points[columns]]
            losses.append(math.log(sum(map(math.exp, logits))) - logits[i])
        return sum(losses) / len(losses)

    def outside(general, specific, those, eta):
        excesses = []
        for i in those:
            x, y = points[general][i], points[specific][i]
            inner, norm = product(x, y), float(x.norm())
            x_time, y_time = (math.sqrt(1 / c + float(p @ p)) for p in (x, y))
            ratio = (y_time + x_time * c * inner) / (norm * math.sqrt((c * inner) ** 2 - 1))
            aperture = math.asin(min(1 - 1e-4, 2 * 0.1 / (math.sqrt(c) * norm)))
            excesses.append(max(0.0, math.acos(ratio) - eta * aperture))
        return sum(excesses) / len(excesses)

    everyone = range(4)
    contrastive = (
        recognition("image", "text", everyone) + recognition("text", "image", everyone)
        + recognition("box", "text", boxes) + recognition("words", "image", worded)
    ) / 4  # fmt: skip
    entailment = (
        outside("text", "image", everyone, 0.7) + outside("words", "box", worded, 0.7)
        + outside("box", "image", boxes, 1.2) + outside("words", "text", worded, 1.2)
    ) / 2  # fmt: skip
    return contrastive, entailment


def test_hycoclip_losses_are_the_printed_ones(batch):
    model = build(HyCoCLIP)
    output = model(batch)
    contrastive, entailment = looped_hycoclip(model, batch)
    assert output.logs["loss/contrastive"].item() == pytest.approx(contrastive, abs=1e-4)
    assert output.logs["loss/entailment"].item() == pytest.approx(entailment, abs=1e-4)
    assert output.loss.item() == pytest.approx(contrastive + 0.2 * entailment, abs=1e-4)
    assert not any(value.requires_grad for value in output.logs.values())


def test_terms_that_no_sample_has_are_left_out_of_the_average(batch):
    values = torch.tensor([[1.0, 3.0], [10.0, 20.0], [math.nan, 7.0]])
    masks = torch.tensor([[True, True], [False, False], [False, True]])
    assert average_of_terms(values, masks).item() == pytest.approx((2 + 7) / 2)
    model = build(HyCoCLIP)
    nothing = {**batch, "has_part": torch.zeros(4, dtype=torch.bool)}
    image, text = model.embed_image(batch["image"]), model.embed_text(batch["tokens"])
    output = model(nothing)
    expected = contrastive(model, Step(batch=batch, image=image, text=text))
    torch.testing.assert_close(output.logs["loss/contrastive"], expected.detach(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(
        output.logs["loss/entailment"], 2 * model.excess(text, image, 0.7).mean().detach(), atol=1e-5, rtol=1e-4
    )
    output.loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_names_of_hycoclip_parameters_are_those_of_meru():
    assert build(HyCoCLIP).state_dict().keys() == build(MERU).state_dict().keys()


@pytest.mark.parametrize("level", [None, 0])
@pytest.mark.parametrize("window", [None, 3])
def test_token_terms_train_every_parameter(batch, level, window):
    model = build(MERUPatches, level=level, word_window=window)
    output = model(batch)
    assert {f"loss/{term}" for term in TOKEN_TERMS} <= set(output.logs)
    output.loss.backward()
    for name, parameter in model.named_parameters():
        assert not parameter.requires_grad or parameter.grad is not None, name
    assert model.word_attention(batch["image"], batch["tokens"], torch.arange(4)).shape == (4, 9, 16)


@pytest.mark.parametrize("level", [None, 0])
@pytest.mark.parametrize("only", [*TOKEN_TERMS, None])
def test_a_term_of_weight_zero_is_not_computed_and_leaves_nothing_untrained(batch, only, level):
    off = {term: {"weight": 0.0} for term in TOKEN_TERMS if term != only}
    model = build(MERUPatches, loss=off, level=level)
    output = model(batch)
    terms = {name.removeprefix("loss/") for name in output.logs if name.startswith("loss/")}
    assert terms == {"contrastive", "entailment"} | ({only} if only else set())
    output.loss.backward()
    for name, parameter in model.named_parameters():  # DDP would wait for it
        assert not parameter.requires_grad or parameter.grad is not None, name
    assert model.word_attention(batch["image"], batch["tokens"], torch.arange(4)).isfinite().all()


def test_without_local_terms_the_loss_is_that_of_meru(batch):
    off = {term: {"weight": 0.0} for term in TOKEN_TERMS}
    plain = build(MERU)(batch)
    for kind in (MERUPatches, MERUGrid):
        torch.testing.assert_close(build(kind, loss=off)(batch).loss, plain.loss)


def test_grid_parts_are_the_cells_of_the_image(batch, monkeypatch):
    model = build(MERUGrid, grid=2)
    corner = torch.zeros(4, 3, 32, 32, dtype=torch.uint8)
    corner[:, :, :16, 16:] = 200  # the upper right cell: second of four
    seen = []
    embed = model.embed_image
    monkeypatch.setattr(model, "embed_image", lambda images: seen.append(images) or embed(images))
    output = model({**batch, "image": corner})
    cells = seen[0][4:].unflatten(0, (4, 4))
    assert (cells[:, 1] == 200).all() and not cells[:, [0, 2, 3]].any()
    points = embed(seen[0])
    expected = model.excess(points[4:].unflatten(0, (4, 4)), points[:4, None], 1.2).mean()
    torch.testing.assert_close(output.logs["loss/part_entailment"], expected.detach(), atol=1e-5, rtol=1e-4)


def test_most_attended_patches_hold_the_image(batch):
    model = build(MERUPatches, top=1)
    points, image = model.embed_patches(batch["image"]), model.embed_image(batch["image"])
    attention = torch.zeros(4, 10, 16)
    attention[:, :, 5] = 9.0
    attention[:, -1, 2] = 99.0  # at padding
    real = torch.ones(4, 10, dtype=torch.bool)
    real[:, -1] = False
    parts = most_attended(points, attention, real, top=model.local.top)
    assert torch.equal(parts, points[:, 5:6])
    expected = model.excess(points[:, 5], image, 1.2).mean()
    step = Step(batch=batch, image=image, text=image)
    torch.testing.assert_close(images_in_cones_of_parts(model, step, parts, kind="patch"), expected)


def test_merged_patches_are_averages_of_squares(batch):
    model, merged = build(MERUPatches), build(MERUPatches, merge=2)
    patches = model.image_and_patch_features(batch["image"])[1].unflatten(1, (4, 4))
    expected = torch.stack([patches[:, r : r + 2, c : c + 2].mean(dim=(1, 2)) for r in (0, 2) for c in (0, 2)], dim=1)
    torch.testing.assert_close(merged.image_and_patch_features(batch["image"])[1], expected)


def test_retrieval_is_that_of_meru(batch):
    patches, plain = build(MERUPatches).eval(), build(MERU).eval()
    torch.testing.assert_close(patches.embed_image(batch["image"]), plain.embed_image(batch["image"]))
    torch.testing.assert_close(patches.embed_text(batch["tokens"]), plain.embed_text(batch["tokens"]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"activation": "tanh"}, "model.activation=tanh: choose one of sigmoid, softmax"),
        ({"loss": {"word_contrast": {"scope": "all"}}}, "loss.word_contrast.scope=all: choose one of caption, batch"),
        (
            {"loss": {"hierarchy": {"weight": 0.1, "ancestors": "proxies"}}},
            "loss.hierarchy.ancestors=proxies: choose one of batch, midpoint",
        ),
    ],
)
def test_unknown_choices_are_one_line(arguments, message):
    with pytest.raises(UserError, match=message):
        build(MERUPatches, **arguments)


def test_no_more_patches_are_merged_than_there_are(batch):
    with pytest.raises(UserError, match=r"model\.merge=9: the image tower gives \d × \d patches; give at most \d"):
        build(MERUPatches, merge=9)(batch)


def put_at(monkeypatch, model, image, text):
    """Puts all images, parts and patches at one radius, all captions and parts' texts at another."""
    lift = type(model).lift

    def put(features, alpha):
        points = lift(model, features, alpha)
        radius = image if alpha is model.visual_alpha else text
        return points / points.norm(dim=-1, keepdim=True) * radius

    monkeypatch.setattr(model, "lift", put)


@pytest.mark.parametrize(
    ("model", "apexes", "relations"),
    [
        (lambda: build(MERU), {"": "text"}, [""]),
        (
            lambda: build(HyCoCLIP),
            {"": "text", "_part_text": "text", "_part_image": "image"},
            ["", "/part_text_part_image", "/part_image_image", "/part_text_text"],
        ),
        (lambda: build(MERUPatches), {"": "text", "_patch": "image"}, ["", "/patch_image"]),
        (lambda: build(MERUGrid), {"": "text", "_part_image": "image"}, ["", "/part_image_image"]),
        (lambda: build(GAHR), {"": "text", "_patch": "image"}, ["", "/patch_image"]),
    ],
    ids=["MERU", "HyCoCLIP", "MERUPatches", "MERUGrid", "GAHR"],
)
def test_every_apex_of_an_entailment_term_is_watched(batch, monkeypatch, model, apexes, relations):
    built = model()
    for image, text in ((0.19, 0.5), (0.5, 0.19)):  # on either side of 2K = 0.2
        with monkeypatch.context() as patch:
            put_at(patch, built, image, text)
            logs = built(batch).logs
        radii = {"image": image, "text": text}
        found = {name: value for name, value in logs.items() if name.startswith("clamped/half_aperture")}
        assert {name.removeprefix("clamped/half_aperture"): bool(value) for name, value in found.items()} == {
            name: radii[apex] < 0.2 for name, apex in apexes.items()
        }
        shares = {name: value for name, value in logs.items() if name.startswith("share_in_cone")}
        assert set(shares) == {f"share_in_cone{relation}" for relation in relations}
        assert all(0 <= value <= 1 and not value.requires_grad for value in shares.values())


def test_shares_of_a_batch_without_parts_are_zero(batch):
    logs = build(HyCoCLIP)({**batch, "has_part": torch.zeros(4, dtype=torch.bool)}).logs
    assert logs["clamped/half_aperture_part_image"] == logs["share_in_cone/part_image_image"] == 0


@pytest.mark.parametrize(
    ("model", "term", "loss"),
    [
        (lambda loss: build(MERU, loss=loss), "entailment", "entailment"),
        (lambda loss: build(HyCoCLIP, loss=loss), "entailment", "entailment"),
        (lambda loss: build(MERUPatches, loss=loss), "part_entailment", "part_entailment"),
        (lambda loss: build(MERUGrid, loss=loss), "part_entailment", "part_entailment"),
    ],
    ids=["MERU", "HyCoCLIP", "MERUPatches", "MERUGrid"],
)
def test_the_floor_is_reached_by_its_key_and_is_not_the_default(batch, monkeypatch, model, term, loss):
    values = []
    for settings in ({}, {"apex_floor": 0.0}, {"apex_floor": 2.0}):
        built = model({loss: settings})
        with monkeypatch.context() as patch:
            put_at(patch, built, 0.1, 0.1)
            values.append(built(batch).logs[f"loss/{term}"].item())
    assert values[0] == values[1] < values[2]


@pytest.mark.parametrize("term", ["entailment", "part_entailment"])
@pytest.mark.parametrize("floor", [-1.0, 0.5, 1.0])
def test_a_floor_within_the_dead_radius_is_an_error_of_the_user(term, floor):
    with pytest.raises(UserError, match=rf"loss\.{term}\.apex_floor"):
        build(MERUPatches, loss={term: {"apex_floor": floor}})
