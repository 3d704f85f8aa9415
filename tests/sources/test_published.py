"""Checkpoints in the published formats, written by hand, embed as the published formulas say, and evaluate."""

import json
import math

import pytest
import torch
from torch.nn import functional as F

import meru
from meru.data.datasets.cub import load_cub
from meru.errors import UserError
from meru.runs.evaluate import evaluate_run
from meru.sources.opening import open_source

WIDTH, DEPTH, PATCH, SIZE, TEXT, LAYERS, CONTEXT, D = 64, 2, 16, 32, 64, 1, 24, 8
CAPTIONS = ["a red bird", "a bird with a long bill and green wings"]


def written(**changes):
    """A state dict with the names and shapes that facebookresearch/meru publishes, of small towers."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape, scale=0.2):
        return torch.randn(*shape, generator=generator) * scale

    weights = {
        "logit_scale": torch.tensor(1 / 0.07).log(),
        "pixel_mean": torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1),
        "pixel_std": torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1),
        "visual.cls_token": random(1, 1, WIDTH),
        "visual.pos_embed": random(1, (SIZE // PATCH) ** 2 + 1, WIDTH),
        "visual.patch_embed.proj.weight": random(WIDTH, 3, PATCH, PATCH, scale=0.05),
        "visual.patch_embed.proj.bias": random(WIDTH),
        "visual.norm.weight": 1 + random(WIDTH),
        "visual.norm.bias": random(WIDTH),
        "textual.token_embed.weight": random(49408, TEXT),
        "textual.posit_embed": random(CONTEXT, TEXT),
        "textual.ln_final.weight": 1 + random(TEXT),
        "textual.ln_final.bias": random(TEXT),
        "textual.attn_mask": torch.ones(CONTEXT, CONTEXT, dtype=torch.bool).triu(1),
        "visual_proj.weight": random(D, WIDTH),
        "textual_proj.weight": random(D, TEXT),
    }
    for block in range(DEPTH):
        for name, rows in (("attn.qkv", 3 * WIDTH), ("attn.proj", WIDTH), ("mlp.fc1", 4 * WIDTH), ("mlp.fc2", WIDTH)):
            columns = 4 * WIDTH if name == "mlp.fc2" else WIDTH
            weights[f"visual.blocks.{block}.{name}.weight"] = random(rows, columns, scale=0.1)
            weights[f"visual.blocks.{block}.{name}.bias"] = random(rows)
        for name in ("norm1", "norm2"):
            weights[f"visual.blocks.{block}.{name}.weight"] = 1 + random(WIDTH)
            weights[f"visual.blocks.{block}.{name}.bias"] = random(WIDTH)
    for block in range(LAYERS):
        start = f"textual.resblocks.{block}"
        weights[f"{start}.attn.in_proj_weight"] = random(3 * TEXT, TEXT, scale=0.1)
        weights[f"{start}.attn.in_proj_bias"] = random(3 * TEXT)
        for name, rows, columns in (
            ("attn.out_proj", TEXT, TEXT), ("mlp.c_fc", 4 * TEXT, TEXT), ("mlp.c_proj", TEXT, 4 * TEXT),
        ):  # fmt: skip
            weights[f"{start}.{name}.weight"] = random(rows, columns, scale=0.1)
            weights[f"{start}.{name}.bias"] = random(rows)
        for name in ("ln_1", "ln_2"):
            weights[f"{start}.{name}.weight"] = 1 + random(TEXT)
            weights[f"{start}.{name}.bias"] = random(TEXT)
    return weights | changes


HYPERBOLIC = {
    "curv": torch.tensor(0.7).log(),
    "visual_alpha": torch.tensor(0.3).log(),
    "textual_alpha": torch.tensor(0.4).log(),
}
OF_UNCHA = {
    "global_logit_scale": torch.tensor(2.5),
    "local_logit_scale": torch.tensor(3.0),
    "global_local_logit_scale": torch.tensor(2.8),
}


def save(path, weights, **beside):
    torch.save({"model": weights, **beside}, path)
    return path


def norm(x, weights, name):
    return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-5)


def linear(x, weights, name):
    return x @ weights[f"{name}.weight"].t() + weights[f"{name}.bias"]


def attention(x, projected, mask=None):
    """Attention with one head, as towers 64 wide have."""
    query, key, value = projected.chunk(3, dim=-1)
    scores = query @ key.transpose(-1, -2) / math.sqrt(x.shape[-1])
    return (scores if mask is None else scores.masked_fill(mask, -math.inf)).softmax(dim=-1) @ value


def image_by_hand(weights, images):
    """Projected features of uint8 images from the weights alone, patch by patch."""
    x = (images.double() / 255 - weights["pixel_mean"]) / weights["pixel_std"]
    kernel = weights["visual.patch_embed.proj.weight"].flatten(1)
    patches = [
        x[:, :, row : row + PATCH, column : column + PATCH].flatten(1) @ kernel.t()
        for row in range(0, SIZE, PATCH)
        for column in range(0, SIZE, PATCH)
    ]
    x = torch.stack(patches, dim=1) + weights["visual.patch_embed.proj.bias"]
    x = torch.cat([weights["visual.cls_token"].expand(len(x), -1, -1), x], dim=1) + weights["visual.pos_embed"]
    for block in range(DEPTH):
        name = f"visual.blocks.{block}"
        inner = norm(x, weights, f"{name}.norm1")
        x = x + linear(attention(inner, linear(inner, weights, f"{name}.attn.qkv")), weights, f"{name}.attn.proj")
        hidden = F.gelu(linear(norm(x, weights, f"{name}.norm2"), weights, f"{name}.mlp.fc1"))
        x = x + linear(hidden, weights, f"{name}.mlp.fc2")
    return norm(x, weights, "visual.norm")[:, 0] @ weights["visual_proj.weight"].t()


def text_by_hand(weights, tokens):
    """Projected features of one caption's token ids, without padding."""
    x = weights["textual.token_embed.weight"][tokens] + weights["textual.posit_embed"][: len(tokens)]
    mask = weights["textual.attn_mask"][: len(tokens), : len(tokens)]
    for block in range(LAYERS):
        name = f"textual.resblocks.{block}"
        inner = norm(x, weights, f"{name}.ln_1")
        projected = inner @ weights[f"{name}.attn.in_proj_weight"].t() + weights[f"{name}.attn.in_proj_bias"]
        x = x + linear(attention(inner, projected, mask), weights, f"{name}.attn.out_proj")
        hidden = F.gelu(linear(norm(x, weights, f"{name}.ln_2"), weights, f"{name}.mlp.c_fc"))
        x = x + linear(hidden, weights, f"{name}.mlp.c_proj")
    return norm(x, weights, "textual.ln_final")[-1] @ weights["textual_proj.weight"].t()


def exponential_map(features, alpha, curvature):
    """sinh(√c‖u‖) / (√c‖u‖) · u of u = exp(α) features."""
    tangent = features * alpha.exp()
    scaled = curvature.exp().sqrt() * tangent.norm(dim=-1, keepdim=True)
    return scaled.sinh() / scaled * tangent


def in_double(weights):
    return {name: value if value.dtype == torch.bool else value.double() for name, value in weights.items()}


@pytest.fixture(scope="module")
def images():
    return torch.randint(256, (3, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("kind", "more"), [("MERU", HYPERBOLIC), ("UNCHA", HYPERBOLIC | OF_UNCHA)])
def test_a_published_hyperbolic_checkpoint_embeds_as_its_formulas(kind, more, images, tmp_path):
    weights = written(**more)
    loaded = meru.load(save(tmp_path / "published.pth", weights, iteration=120_000, optimizer={}))
    assert type(loaded.model).__name__ == kind and not loaded.model.training
    weights = in_double(weights)
    expected = exponential_map(image_by_hand(weights, images), weights["visual_alpha"], weights["curv"])
    with torch.no_grad():
        points, texts = loaded.encode_image(images), loaded.encode_text(CAPTIONS)
    torch.testing.assert_close(points.double(), expected, rtol=1e-4, atol=1e-5)
    for caption, text in zip(CAPTIONS, texts, strict=True):
        by_hand = text_by_hand(weights, loaded.tokenizer(caption))
        by_hand = exponential_map(by_hand, weights["textual_alpha"], weights["curv"])
        torch.testing.assert_close(text.double(), by_hand, rtol=1e-4, atol=1e-5)
    # −d = −acosh(c (x_t y_t − ⟨x, y⟩)) / √c
    c, x, y = weights["curv"].exp(), texts[0].double(), points[2].double()
    inner = (1 / c + x @ x).sqrt() * (1 / c + y @ y).sqrt() - x @ y
    similarity = loaded.similarity(texts, points)
    assert similarity.shape == (2, 3)
    assert similarity[0, 2].item() == pytest.approx(-((c * inner).acosh() / c.sqrt()).item(), rel=1e-4)


def test_unchas_scales_are_taken_by_their_names(tmp_path):
    model = meru.load(save(tmp_path / "uncha.pth", written(**HYPERBOLIC, **OF_UNCHA))).model
    assert [model.logit_scale.item(), model.part_logit_scale.item()] == [2.5, 3.0]
    assert model.part_whole_logit_scale.item() == pytest.approx(2.8)


def test_a_published_clip_compares_by_cosines_and_may_have_a_prefix_and_lack_constants(images, tmp_path):
    weights = written()
    for name in ("pixel_mean", "pixel_std", "textual.attn_mask"):
        weights.pop(name)
    torch.save({f"module.{name}": value for name, value in weights.items()}, tmp_path / "clip.pth")
    loaded = meru.from_pretrained(tmp_path / "clip.pth")
    whole = in_double(written())
    expected = F.normalize(image_by_hand(whole, images), dim=-1)
    with torch.no_grad():
        torch.testing.assert_close(loaded.encode_image(images).double(), expected, rtol=1e-4, atol=1e-5)
        text = loaded.encode_text(CAPTIONS[0])
        cosines = F.normalize(text_by_hand(whole, loaded.tokenizer(CAPTIONS[0])), dim=-1) @ expected.t()
        similarity = loaded.similarity(text, loaded.encode_image(images))
        torch.testing.assert_close(similarity[0].double(), cosines, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("suite", [None, "geometry"])
def test_a_checkpoint_in_hycoclips_format_evaluates_without_a_run(suite, compose, cub_folder, tmp_path):
    path = save(tmp_path / "hycoclip_vit_s.pth", written(**HYPERBOLIC), scheduler={"last_epoch": 3})
    words = ["workers=0", "data=cub", f"root={cub_folder}", f"output={tmp_path / 'figures.json'}"]
    figures = evaluate_run(compose(f"run={path}", *words, *([f"suite={suite}"] if suite else []), name="evaluate"))
    assert figures == json.loads((tmp_path / "figures.json").read_text())
    if suite is None:
        assert figures["text_to_image/image/recall@1"] == pytest.approx(recall_by_hand(path, cub_folder))
    else:
        assert figures["curvature"] == pytest.approx(0.7) and figures["dimension"] == 8


def recall_by_hand(path, cub_folder):
    """The share of captions of the test images whose own image is the nearest on the hyperboloid."""
    weights = in_double(written(**HYPERBOLIC))
    loaded, curvature = meru.load(path), weights["curv"].exp()
    records = load_cub(root=cub_folder).test
    images = torch.stack([loaded.transform(record.path) for record in records])
    points = exponential_map(image_by_hand(weights, images), weights["visual_alpha"], weights["curv"])
    hits = []
    for index, record in enumerate(records):
        for caption in record.captions:
            text = text_by_hand(weights, loaded.tokenizer(caption))
            text = exponential_map(text, weights["textual_alpha"], weights["curv"])
            times = [(1 / curvature + each.square().sum(-1)).sqrt() for each in (text, points)]
            hits.append((points @ text - times[0] * times[1]).argmax().item() == index)
    return sum(hits) / len(hits)


def test_a_checkpoint_says_nothing_of_data(compose, tmp_path):
    path = save(tmp_path / "meru.pth", written(**HYPERBOLIC))
    with pytest.raises(UserError, match=r"run=meru.pth says nothing of its data: name some to evaluate it on, data="):
        evaluate_run(compose(f"run={path}", name="evaluate"))


def without(name, weights):
    return {key: value for key, value in weights.items() if not key.startswith(name)}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (without("textual", written()), r"part of a published checkpoint: it lacks 4 names \(textual.token_embed"),
        (without("visual.", written()), r"it lacks 3 names \(visual.patch_embed.proj.weight, visual.pos_embed"),
        (without("textual.resblocks.0.ln", written()), r"of CLIP: it lacks 4 names \(textual.resblocks.0.ln_1.weight"),
        (written(curv=torch.tensor(0.0)), r"of MERU: it lacks 2 names \(visual_alpha, textual_alpha\)$"),
        (written(head=torch.zeros(3)), r"whole checkpoint of CLIP: it also has 1 name \(head\)$"),
        (
            without("logit_scale", written(**{f"extra.{number}": torch.zeros(1) for number in range(9)})),
            r"lacks 1 name \(logit_scale\) and also has 9 names \(extra.0, extra.1, extra.2, extra.3, …\)$",
        ),
        (written(**{"textual_proj.weight": torch.zeros(4, TEXT)}), r"its textual_proj.weight has shape \(4, 64\) inst"),
        (written(**{"visual.norm.weight": torch.ones(128)}), r"its visual.norm.weight has shape \(128,\) instead of"),
        (written(**{"visual.pos_embed": torch.zeros(1, 7, WIDTH)}), "positions for 6 patches, which are no square"),
        (written(**{"visual.pos_embed": torch.zeros(5)}), "has the names of a published checkpoint, but not its shape"),
        (written(**{"textual.token_embed.weight": torch.zeros(9, TEXT)}), "knows 9 tokens, but CLIP's tokenizer has"),
        (written(**{"textual.token_embed.weight": torch.zeros(49408, 8)}), "a text tower of width 8, no multiple"),
        (written(logit_scale=torch.tensor(math.nan)), "holds 1 values of logit_scale that are not finite"),
    ],
)  # fmt: skip
def test_wrong_and_partial_checkpoints_say_which_names(weights, message, tmp_path):
    path = save(tmp_path / "wrong.pth", weights)
    with pytest.raises(UserError, match=message) as caught:
        _ = open_source(path).pretrained
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
