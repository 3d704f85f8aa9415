"""GAHR: its terms, what switches them off, and the same on the sphere."""

import pytest
import torch
from torch.nn import functional as F

from meru.encoders.image import timm_image_encoder
from meru.encoders.text import CaptionTokenizer, text_transformer
from meru.errors import UserError
from meru.geometry import lorentz
from meru.losses.contrastive import row_contrast
from meru.losses.semantic_margin import reverse_contrastive_loss
from meru.models.clip import CLIP
from meru.models.gahr import GAHR
from meru.models.meru import MERU
from meru.models.terms import Step, semantic_margin

VIT = {"patch_size": 8, "embed_dim": 64, "depth": 1, "num_heads": 4}
LOSS = {
    "contrastive": {"weight": 0.0, "positives": "class"},
    "semantic_margin": {
        "weight": 1.0, "margin": 0.2, "margin_source": "intra", "soft_label": 0.4, "soft_label_epochs": 1.0
    },
    "reverse_contrastive": {"weight": 1.0, "smoothing": 0.01},
    "cyclic": {"weight": 0.1, "within": 20.0, "across": 0.0},
    "entailment": {"weight": 0.0, "minimum_radius": 0.1, "across_aperture": 0.7, "within_aperture": 1.2},
    "word_grounding": {"weight": 0.0, "exclude_class": True},
    "word_contrast": {"weight": 0.03, "scope": "caption", "exclude_class": True},
    "patch_agreement": {"weight": 0.03},
    "part_entailment": {"weight": 0.0},
    "late_interaction": {"weight": 0.0},
}


CONVOLUTIONAL = {"name": "test_resnet", "image_size": 32}


def build(kind=GAHR, loss=None, image=None, **arguments):
    torch.manual_seed(0)
    settings = {name: {**settings, **(loss or {}).get(name, {})} for name, settings in LOSS.items()}
    if kind is GAHR:
        arguments = {"word_window": None, **arguments}
    return kind(
        image=timm_image_encoder(**(image or {"name": "vit_tiny_patch16_224", "image_size": 32, "arguments": VIT})),
        text=text_transformer(architecture="L1_W16_A4", context_length=16),
        embedding_dimension=32,
        loss=settings,
        **arguments,
    )


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    tokenizer = CaptionTokenizer(context_length=16)
    return {
        "image": torch.randint(0, 256, (4, 3, 32, 32), generator=generator, dtype=torch.uint8),
        "tokens": tokenizer.batch(["a man in red", "a woman with a blue bag", "a tall man", "black shoes"]),
        "image_index": torch.arange(4),
        "class_index": torch.tensor([0, 1, 0, 2]),
    }


def test_loss_is_the_weighted_sum_of_the_papers_terms(batch):
    output = build()(batch)
    terms = {name.removeprefix("loss/"): value for name, value in output.logs.items() if name.startswith("loss/")}
    assert set(terms) == {"semantic_margin", "reverse_contrastive", "cyclic", "word_contrast", "patch_agreement"}
    expected = sum(LOSS[name]["weight"] * value for name, value in terms.items())
    torch.testing.assert_close(output.loss.detach(), expected)


def step_of(model, batch, points=None):
    image, text = points or (model.embed_image(batch["image"]), model.embed_text(batch["tokens"]))
    return Step(batch=batch, image=image, text=text)


@pytest.mark.parametrize("space", ["hyperboloid", "sphere"])
def test_terms_beside_the_margins(space, batch):
    model = build(space=space).eval()
    step = step_of(model, batch)
    image, text = step.image, step.text
    terms = {name: model.terms[name](model, step) for name in ("reverse_contrastive", "cyclic")}
    if space == "hyperboloid":
        scores = -lorentz.pairwise_distance(image, text, model.curvature)
        inner = [lorentz.pairwise_inner(x, x, model.curvature) for x in (image, text)]
    else:
        scores, inner = image @ text.T, [image @ image.T, text @ text.T]
        torch.testing.assert_close(image.norm(dim=1), torch.ones(4))
    logits, targets = model.logit_scale.exp() * scores, model.positive_targets(batch)
    both = [reverse_contrastive_loss(each, targets, 0.01).mean() for each in (logits, logits.T)]
    torch.testing.assert_close(terms["reverse_contrastive"], sum(both) / 2)
    torch.testing.assert_close(terms["cyclic"], 20 * (inner[0] - inner[1]).square().mean())


def test_persons_with_several_images_are_positives_and_belief_grows_in_the_first_epoch(batch):
    model = build().eval()
    points = model.embed_image(batch["image"]), model.embed_text(batch["tokens"])

    def at(epoch, model=model):
        return semantic_margin(model, step_of(model, {**batch, "epoch": torch.tensor(epoch)}, points))

    assert at(0.0) != at(1.0) and at(1.0) == at(3.0) == semantic_margin(model, step_of(model, batch, points))
    plain = build(loss={"semantic_margin": {"margin": 0.0}}).eval()
    scores = plain.logit_scale.exp() * plain.similarity(*points)
    targets = plain.positive_targets(batch)
    assert targets[0].tolist() == [0.5, 0, 0.5, 0]
    expected = (row_contrast(scores, targets).mean() + row_contrast(scores.T, targets).mean()) / 2
    torch.testing.assert_close(at(0.0, plain), expected)


def test_belief_grows_over_as_many_epochs_as_asked_for(batch):
    """A run of an older version, which has no such number, goes on as it began: over one epoch."""
    points = build().embed_image(batch["image"]).detach(), build().embed_text(batch["tokens"]).detach()
    at = {}
    for epochs in (None, 1.0, 2.0):
        model = build(loss={"semantic_margin": {"soft_label_epochs": epochs or 1.0}})
        if epochs is None:
            del model.loss["semantic_margin"]["soft_label_epochs"]
        for epoch in (0.0, 0.5, 1.0, 2.0, 3.0):
            step = step_of(model, {**batch, "epoch": torch.tensor(epoch)}, points)
            at[epochs, epoch] = semantic_margin(model, step).item()
    assert all(at[None, epoch] == at[1.0, epoch] == at[2.0, min(2 * epoch, 3)] for epoch in (0.0, 0.5, 1.0, 3.0))
    assert at[2.0, 0.0] != at[2.0, 1.0] != at[2.0, 2.0] == at[2.0, 3.0]


@pytest.mark.parametrize("space", ["hyperboloid", "sphere"])
def test_the_cycle_across_modalities_is_of_plain_dot_products(space, batch):
    model = build(space=space, loss={"cyclic": {"within": 0.0, "across": 3.0}}).eval()
    image, text = model.embed_image(batch["image"]), model.embed_text(batch["tokens"])
    if space == "hyperboloid":  # at different radii the time components would add to the difference
        text = 3 * text
    v, t = image.double().tolist(), text.double().tolist()
    differences = [
        sum(a * b for a, b in zip(v[i], t[j], strict=True)) - sum(a * b for a, b in zip(t[i], v[j], strict=True))
        for i in range(4)
        for j in range(4)
    ]
    expected = 3 * sum(difference**2 for difference in differences) / 16
    found = model.terms["cyclic"](model, step_of(model, batch, (image, text)))
    assert found.item() == pytest.approx(expected, rel=1e-4)


def test_every_term_switches_off_and_leaves_no_parameter_without_gradient(batch):
    for off in ("semantic_margin", "reverse_contrastive", "cyclic", "word_contrast", "patch_agreement"):
        model = build(loss={off: {"weight": 0.0}})
        output = model(batch)
        assert f"loss/{off}" not in output.logs
        output.loss.backward()
        without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
        assert without == [], off


def test_search_needs_no_attention(batch):
    """Without BAI the embeddings are the same, and nothing of it is built."""
    bare = build(loss={"word_contrast": {"weight": 0.0}, "patch_agreement": {"weight": 0.0}})
    assert not any(name.startswith("local.") for name, _ in bare.named_parameters())
    full = build()
    full.load_state_dict(bare.state_dict(), strict=False)
    torch.testing.assert_close(full.eval().embed_image(batch["image"]), bare.eval().embed_image(batch["image"]))


def test_on_the_sphere_it_is_clip_and_on_the_hyperboloid_meru(batch):
    for space, kind in (("sphere", CLIP), ("hyperboloid", MERU)):
        gahr, other = build(space=space).eval(), build(kind).eval()
        gahr.load_state_dict(other.state_dict(), strict=False)
        ours, theirs = gahr.embed_image(batch["image"]), other.embed_image(batch["image"])
        torch.testing.assert_close(ours, theirs)
        torch.testing.assert_close(gahr.similarity(ours, ours), other.similarity(theirs, theirs))
        torch.testing.assert_close(gahr.radius(ours), other.radius(theirs))
        torch.testing.assert_close(gahr.average(ours[None]), other.average(theirs[None]))
    frozen = {name for name, p in build(space="sphere").named_parameters() if not p.requires_grad}
    assert {"curv", "visual_alpha", "textual_alpha"} <= frozen


@pytest.mark.parametrize("kind", [CLIP, MERU])
def test_semantic_margins_work_in_other_models(kind, batch):
    output = build(kind, loss={"contrastive": {"weight": 1.0}})(batch)
    assert {"loss/semantic_margin", "loss/contrastive"} <= set(output.logs)
    output.loss.backward()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"space": "cosine"}, "model.space=cosine: choose one of hyperboloid, euclidean, sphere"),
        ({"space": "sphere", "loss": {"entailment": {"weight": 0.1}}}, "model.space=sphere has no cones"),
        ({"loss": {"semantic_margin": {"margin_source": "both"}}}, "margin_source=both: choose one of intra, cross"),
        ({"loss": {"semantic_margin": {"soft_label_epochs": 0.0}}}, "soft_label_epochs=0.0: it must be above 0"),
        ({"image": CONVOLUTIONAL, "class_token": True}, "model.class_token=true: this image tower has no class token"),
    ],
)
def test_settings_that_cannot_be(arguments, message):
    with pytest.raises(UserError, match=message):
        build(**arguments)


def test_bidirectional_attention_is_the_printed_one(batch):
    """One of its losses, from the maps of the attention itself."""
    model = build().eval()
    _, patches = model.image_and_patch_features(batch["image"])
    _, words = model.text_and_word_features(batch["tokens"])
    attention = model.local.interaction
    weights = torch.sigmoid(attention.word_query(words) @ attention.patch_key(patches).mT / 32**0.5)
    context = weights @ attention.patch_value(patches)
    losses = []
    for row in range(4):
        length = int(batch["tokens"][row].argmax()) + 1
        f, c = (F.normalize(each[row, :length], dim=-1) for each in (words, context))
        losses += F.cross_entropy(10 * f @ c.T, torch.arange(length), reduction="none").tolist()
    expected = sum(losses) / len(losses)
    assert model(batch).logs["loss/word_contrast"].item() == pytest.approx(expected, rel=1e-4)
