"""The shared table of terms, and MERU in other spaces."""

import pytest
import torch
from every_term import ENTAILMENT

from meru.encoders.image import timm_image_encoder
from meru.encoders.text import CaptionTokenizer, text_transformer
from meru.errors import UserError
from meru.geometry.spaces import Euclidean, Hyperboloid, Sphere
from meru.losses.entailment import entailment_excess
from meru.models import dual_encoder
from meru.models.clip import CLIP
from meru.models.gahr import GAHR
from meru.models.hycoclip import HyCoCLIP
from meru.models.meru import MERU
from meru.models.meru_grid import MERUGrid
from meru.models.meru_patches import MERUPatches
from meru.models.terms import PAIR_TERMS
from meru.models.uncha import UNCHA

MODELS = [CLIP, MERU, HyCoCLIP, MERUPatches, MERUGrid, GAHR, UNCHA]
LOSS = {
    "contrastive": {"weight": 1.0, "positives": "pair"},
    "entailment": ENTAILMENT,
    "word_contrast": {"weight": 0.1, "scope": "caption", "exclude_class": True},
    "part_entailment": {"weight": 0.1, "apex_floor": 2.0},
    "toy": {"weight": 0.0},
}


def build(kind, loss=None, **arguments):
    torch.manual_seed(0)
    settings = {name: {**given, **(loss or {}).get(name, {})} for name, given in LOSS.items()}
    vit = {"patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2}
    return kind(
        image=timm_image_encoder(name="vit_tiny_patch16_224", image_size=16, arguments=vit),
        text=text_transformer(architecture="L1_W16_A2", context_length=12),
        embedding_dimension=16,
        loss=settings,
        **arguments,
    )


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    tokenizer = CaptionTokenizer(context_length=12)
    pictures = torch.randint(0, 256, (2, 4, 3, 16, 16), generator=generator, dtype=torch.uint8)
    return {
        "image": pictures[0],
        "tokens": tokenizer.batch(["a bird", "a red bird", "a blue bird", "a wing"]),
        "part_image": pictures[1],
        "part_tokens": tokenizer.batch(["wing", "red bird", "beak", ""]),
        "has_part": torch.tensor([True, True, True, False]),
        "has_part_text": torch.tensor([True, False, True, False]),
        "image_index": torch.arange(4),
        "class_index": torch.tensor([0, 0, 1, 2]),
    }


def toy(model, step):
    """Half the mean squared length of what is compared."""
    return model.loss["toy"]["half"] * (step.image.square().mean() + step.text.square().mean())


@pytest.mark.parametrize("kind", MODELS)
def test_a_term_of_the_shared_table_is_in_every_model(kind, batch, monkeypatch):
    monkeypatch.setitem(PAIR_TERMS, "toy", toy)
    model = build(kind, loss={"toy": {"weight": 3.0, "half": 0.5}})
    without = build(kind)
    output, plain = model(batch), without(batch)
    assert "loss/toy" not in plain.logs
    torch.testing.assert_close(output.loss, plain.loss + 3 * output.logs["loss/toy"])


@pytest.mark.parametrize("kind", MODELS)
def test_a_term_that_no_configuration_names_is_not_computed(kind, batch):
    model = build(kind)
    for term in ("toy", "part_entailment", "word_contrast"):
        model.loss.pop(term)
    assert {name for name in model(batch).logs if name.startswith("loss/")} <= {"loss/contrastive", "loss/entailment"}


@pytest.mark.parametrize("kind", MODELS)
def test_no_model_is_deeper_than_two_levels(kind):
    chain = kind.__mro__[: kind.__mro__.index(dual_encoder.DualEncoder)]
    assert len(chain) <= 2


@pytest.mark.parametrize("kind", [kind for kind in MODELS if kind is not CLIP])
@pytest.mark.parametrize("space", ["hyperboloid", "euclidean", "sphere"])
def test_every_space_trains_every_parameter_that_it_uses(kind, space, batch):
    cones = {} if space != "sphere" else {term: {"weight": 0.0} for term in ("entailment", "part_entailment")}
    model = build(kind, loss=cones, space=space)
    output = model(batch)
    output.loss.backward()
    assert output.loss.isfinite() and all(value.isfinite().all() for value in output.logs.values())
    for name, parameter in model.named_parameters():
        assert not parameter.requires_grad or parameter.grad.isfinite().all(), name
    fixed = {"hyperboloid": set(), "euclidean": {"curv"}, "sphere": {"curv", "visual_alpha", "textual_alpha"}}[space]
    own = {name: parameter for name, parameter in model.named_parameters(recurse=False)}
    assert {name for name in ("curv", "visual_alpha", "textual_alpha") if not own[name].requires_grad} == fixed
    model.constrain_()
    assert ("curvature" in output.logs) == (space == "hyperboloid")
    assert ("share_in_cone" in output.logs) == (space != "sphere")


def test_state_dicts_of_all_spaces_have_the_same_names():
    off = {term: {"weight": 0.0} for term in ("entailment", "part_entailment")}
    names = [build(MERU, loss=off, space=space).state_dict().keys() for space in ("hyperboloid", "euclidean", "sphere")]
    assert names[0] == names[1] == names[2]


def test_the_space_is_that_of_the_key():
    assert isinstance(build(CLIP).space, Sphere) and isinstance(build(MERU, space="euclidean").space, Euclidean)
    space = build(MERU, curvature=3.0).space
    assert isinstance(space, Hyperboloid) and space.curvature.item() == pytest.approx(3.0)


def test_meru_in_flat_space_is_compared_by_distance_and_has_its_cones(batch):
    model = build(MERU, space="euclidean").eval()
    image, text = model.embed_image(batch["image"]), model.embed_text(batch["tokens"])
    torch.testing.assert_close(image, model.image_features(batch["image"]) * model.visual_alpha.exp())
    torch.testing.assert_close(model.similarity(image, text), -(image[:, None] - text).norm(dim=-1))
    expected = entailment_excess(text, image, Euclidean()).mean()
    torch.testing.assert_close(model(batch).logs["loss/entailment"], expected.detach())


@pytest.mark.parametrize("space", ["hyperboloid", "euclidean", "sphere"])
def test_points_start_at_the_radius_where_there_is_one(space, batch):
    model = build(MERU, loss={"entailment": {"weight": 0.0}, "part_entailment": {"weight": 0.0}}, space=space,
                  initial_radius=0.1)  # fmt: skip
    assert model.initial_radius == (None if space == "sphere" else 0.1)
    if model.initial_radius:
        model.start_at_radius([batch["image"]], [batch["tokens"]])
        assert model.radius(model.eval().embed_image(batch["image"])).mean().item() == pytest.approx(0.1, rel=1e-4)


@pytest.mark.parametrize("term", ["entailment", "part_entailment"])
def test_terms_that_need_cones_are_refused_on_the_sphere(term):
    loss = {other: {"weight": 0.0} for other in {"entailment", "part_entailment"} - {term}}
    with pytest.raises(UserError, match=rf"model\.space=sphere has no cones: set loss\.{term}\.weight=0"):
        build(MERUPatches, loss=loss, space="sphere")
