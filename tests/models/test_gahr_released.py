"""GAHR in the released settings against its formulas, written out in float64; and the recipes' settings."""

import pytest
import torch
import yaml
from torch.nn import functional as F

from meru.encoders.image import timm_image_encoder
from meru.encoders.text import CaptionTokenizer, text_transformer
from meru.files import PROJECT
from meru.models.gahr import GAHR
from meru.training.optimizer import parameter_groups

SOFT_LABEL, LAMBDA, EPSILON, WITHIN, ACROSS = 0.4, 0.2, 0.01, 20.0, 3.0
RELEASED = {
    "contrastive": {"weight": 0.0, "positives": "class"},
    "semantic_margin": {
        "weight": 1.0, "margin": LAMBDA, "margin_source": "cross", "soft_label": SOFT_LABEL, "soft_label_epochs": 2.0
    },
    "reverse_contrastive": {"weight": 1.0, "smoothing": EPSILON},
    "cyclic": {"weight": 0.1, "within": WITHIN, "across": ACROSS},
    "entailment": {"weight": 0.0, "minimum_radius": 0.1},
    "word_contrast": {"weight": 0.03, "scope": "batch", "exclude_class": False},
    "patch_agreement": {"weight": 0.03},
}  # fmt: skip
RECIPES = ("cub_gahr", "cuhk_pedes_gahr", "icfg_pedes_gahr", "rstpreid_gahr")
VARIANTS = yaml.safe_load((PROJECT / "configs" / "ablation" / "gahr.yaml").read_text("utf-8"))["variants"]


def build(loss, **arguments):
    """Small towers, with a class token."""
    torch.manual_seed(0)
    vit = {"patch_size": 8, "embed_dim": 64, "depth": 1, "num_heads": 4}
    return GAHR(
        image=timm_image_encoder(name="vit_tiny_patch16_224", image_size=32, arguments=vit),
        text=text_transformer(architecture="L1_W16_A4", context_length=16),
        embedding_dimension=32,
        loss=loss,
        **{"word_window": None, "class_token": True, **arguments},
    )


@pytest.fixture
def batch():
    tokenizer = CaptionTokenizer(context_length=16)
    return {
        "image": torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1)),
        "tokens": tokenizer.batch(["a man in red", "a woman with a blue bag", "a tall man", "black shoes"]),
        "image_index": torch.arange(4),
        "class_index": torch.tensor([0, 1, 0, 2]),
        "epoch": torch.tensor(0.6),
    }


def lorentz_product(x, y, c):
    x_time, y_time = ((1 / c + each.square().sum(dim=1)).sqrt() for each in (x, y))
    return x @ y.T - x_time[:, None] * y_time


def lifted(features, alpha, c):
    tangent = alpha.double().exp() * features.double()
    length = c.sqrt() * tangent.norm(dim=1, keepdim=True)
    return torch.sinh(length) / length * tangent


def released_terms(model, batch):
    """The terms from the towers' features on: float64, every formula as it is printed or released."""
    features, patches = model.image_and_patch_features(batch["image"])
    caption, words = model.text_and_word_features(batch["tokens"])
    scale, c = model.logit_scale.double().exp(), model.curv.double().exp()
    image, text = lifted(features, model.visual_alpha, c), lifted(caption, model.textual_alpha, c)
    same = batch["class_index"][:, None] == batch["class_index"]
    targets = same.double() / same.sum(dim=1, keepdim=True)
    share = SOFT_LABEL * min(1.0, batch["epoch"].item() / 2.0)

    margin_terms, reverse_terms = [], []
    for x, y in ((image, text), (text, image)):
        scores = -torch.acosh(-c * lorentz_product(x, y, c)) / c.sqrt()
        margins = (scores.diagonal()[:, None] - scores).detach()
        mixed = share * (scale * scores).detach().softmax(dim=1) + (1 - share) * targets
        margin_terms.append(-(mixed * (scale * (scores + LAMBDA * margins)).log_softmax(dim=1)).sum(dim=1).mean())
        belief = (scale * scores).softmax(dim=1)
        reverse_terms.append((belief * (belief.log() - (targets + EPSILON).log())).sum(dim=1).mean())

    # As released, with a factor of the logit scale that cancels.
    within = [scale * lorentz_product(points, points, c) for points in (image, text)]
    across = [scale * image @ text.T, scale * text @ image.T]
    cyclic = sum(
        weight * (one - other).square().mean() / scale**2
        for weight, (one, other) in ((WITHIN, within), (ACROSS, across))
    )

    attention, predictor = model.local.interaction.double(), model.local.predictor.double()
    f_v = torch.cat([features[:, None], patches], dim=1).double()  # the class token and the patches
    predicted, seen_words, contexts = [], [], []
    for row in range(len(f_v)):
        f_t = words[row, : int(batch["tokens"][row].argmax()) + 1].double()
        to_words = torch.sigmoid(attention.patch_query(f_v[row]) @ attention.word_key(f_t).T / 32**0.5)
        c_v = to_words @ attention.word_value(f_t)
        predicted += F.cosine_similarity(predictor(f_v[row]), c_v.detach(), dim=1)
        predicted += F.cosine_similarity(predictor(c_v), f_v[row].detach(), dim=1)
        to_patches = torch.sigmoid(attention.word_query(f_t) @ attention.patch_key(f_v[row]).T / 32**0.5)
        seen_words.append(f_t)
        contexts.append(to_patches @ attention.patch_value(f_v[row]))
    seen_words, contexts = (F.normalize(torch.cat(each), dim=1) for each in (seen_words, contexts))
    logits = model.local_logit_scale.double().exp() * seen_words @ contexts.T
    own = torch.arange(len(logits))
    return {
        "semantic_margin": sum(margin_terms) / 2,
        "reverse_contrastive": sum(reverse_terms) / 2,
        "cyclic": cyclic,
        "word_contrast": (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2,
        "patch_agreement": -torch.stack(predicted).mean(),
    }


def test_a_step_in_released_settings_equals_the_formulas_in_value_and_gradient(batch):
    model = build(RELEASED)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    output = model(batch)
    ours = torch.autograd.grad(output.loss, list(trained.values()))

    reference = build(RELEASED)
    terms = released_terms(reference, batch)
    for name, value in terms.items():
        assert output.logs[f"loss/{name}"].item() == pytest.approx(value.item(), rel=1e-5), name
    parameters = dict(reference.named_parameters())
    loss = sum(RELEASED[name]["weight"] * value for name, value in terms.items())
    theirs = torch.autograd.grad(loss, [parameters[name] for name in trained])
    for name, mine, other in zip(trained, ours, theirs, strict=True):
        error = (mine - other).abs().max() / other.abs().max()
        assert error < 1e-4, (name, error)


def test_only_the_two_local_losses_see_the_class_token(batch):
    loss = {**RELEASED, "word_grounding": {"weight": 1.0, "exclude_class": False}}
    logs = {with_token: build(loss, class_token=with_token)(batch).logs for with_token in (False, True)}
    changed = {name for name in logs[True] if not torch.equal(logs[True][name], logs[False][name])}
    assert changed == {"loss/word_contrast", "loss/patch_agreement"}
    model = build(loss)
    assert model.word_attention(batch["image"], batch["tokens"], torch.arange(4)).shape[2] == 16
    assert model.image_and_patch_features(batch["image"])[1].shape[1] == 16


@pytest.mark.parametrize("experiment", RECIPES)
def test_recipes_from_clip_are_the_released_one(experiment, compose):
    config = compose(f"experiment={experiment}")
    assert (config.encoder.text.dropout, config.model.class_token) == (0.05, True)
    assert list(config.encoder.image.pixel_mean) == [0.485, 0.456, 0.406]  # ImageNet's
    assert list(config.encoder.image.pixel_std) == [0.229, 0.224, 0.225]
    assert config.trainer.clip_gradient_norm is None
    # So many epochs with one caption of every image make one with all captions.
    captions = {"cuhk_pedes_gahr": 2, "rstpreid_gahr": 2}.get(experiment, 1)
    assert config.loss.semantic_margin.soft_label_epochs == captions


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_row_of_the_ablation_trains_with_the_rates_of_the_recipe(variant, compose, batch):
    """Only the attention of BAI learns five times as fast; a row without it names modules that are not there."""
    config = compose(f"experiment={RECIPES[1]}", *VARIANTS[variant])
    model = build(config.loss, space=config.model.space, class_token=config.model.class_token)
    model(batch).loss.backward()
    groups = parameter_groups(
        model, learning_rate=1.0, weight_decay=0.02, multipliers={"local": 5.0, "local.predictor": 1.0}
    )
    assert config.optim.multipliers["local"] == 5.0 and config.optim.multipliers["local.predictor"] == 1.0
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            fast = name.startswith("local.interaction.")
            assert rates[id(parameter)] == (5.0 if fast else 1.0), name


def test_the_ablation_has_the_released_margins(compose):
    configs = [compose(f"experiment={RECIPES[1]}", *overrides) for overrides in VARIANTS.values()]
    assert {config.loss.semantic_margin.margin_source for config in configs} == {"intra", "cross"}
