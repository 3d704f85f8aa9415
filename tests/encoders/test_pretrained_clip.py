"""Towers of open_clip: the same embeddings as open_clip's own model, from a file made on the spot."""

import open_clip
import pytest
import torch

from meru.encoders.image import encode_image
from meru.encoders.pretrained_clip import _load, clip_image_encoder, clip_text_encoder
from meru.errors import UserError

SMALL = "ViT-S-32-alt"
CAPTIONS = ["a red bird", "this bird has a long black beak and a white belly"]


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """open_clip's model with OpenAI's activation, and its weights in a file."""
    torch.manual_seed(0)
    model = open_clip.create_model(SMALL, force_quick_gelu=True).eval()
    path = tmp_path_factory.mktemp("weights") / "clip.pt"
    torch.save(model.state_dict(), path)
    yield model, {"name": SMALL, "pretrained": "openai", "weights": str(path)}
    _load.cache_clear()


def test_image_tower_gives_open_clips_embeddings(original):
    model, source = original
    encoder = clip_image_encoder(**source)
    images = torch.randn(2, 3, encoder.image_size, encoder.image_size)
    with torch.no_grad():
        pooled, tokens = encode_image(encoder.network.eval(), images)
        torch.testing.assert_close(pooled @ encoder.projection.t(), model.encode_image(images), atol=1e-5, rtol=1e-4)
    assert tokens.shape == (2, (encoder.image_size // 32) ** 2, encoder.width)


def test_text_tower_gives_open_clips_embeddings(original):
    model, source = original
    encoder = clip_text_encoder(**source)
    padded = open_clip.get_tokenizer(SMALL)(CAPTIONS)
    tokens = encoder.tokenizer.batch(CAPTIONS)
    assert torch.equal(padded[:, : tokens.shape[1]], tokens)
    with torch.no_grad():
        embedded = encoder.network.eval()(tokens) @ encoder.projection.t()
        torch.testing.assert_close(embedded, model.encode_text(padded), atol=1e-5, rtol=1e-4)


def test_pooled_features_are_the_class_token_behind_the_same_norm_as_the_patches(original):
    _, source = original
    encoder = clip_image_encoder(**source)
    tokens = []
    encoder.network.ln_post.register_forward_hook(lambda module, inputs, output: tokens.append(output))
    pooled, patches = encode_image(encoder.network, torch.randn(2, 3, encoder.image_size, encoder.image_size))
    assert encoder.class_token and torch.equal(tokens[0], torch.cat([pooled[:, None], patches], dim=1))


def test_pixel_statistics_are_the_weights_own_or_those_asked_for(original):
    _, source = original
    own = clip_image_encoder(**source)
    assert (own.pixel_mean, own.pixel_std) == (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    asked = clip_image_encoder(**source, pixel_mean=[0.485, 0.456, 0.406], pixel_std=[0.229, 0.224, 0.225])
    assert (asked.pixel_mean, asked.pixel_std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_text_tower_drops_attention_in_training_alone(original):
    _, source = original
    plain, dropping = clip_text_encoder(**source), clip_text_encoder(**source, dropout=0.3)
    tokens = plain.tokenizer.batch(CAPTIONS)
    with torch.no_grad():
        expected = plain.network.train()(tokens)
        assert torch.equal(dropping.network.eval()(tokens), expected)
        assert not torch.allclose(dropping.network.train()(tokens), expected, atol=1e-3)


def test_the_temperature_comes_with_the_weights_and_with_them_only(original):
    model, source = original
    scale = pytest.approx(model.logit_scale.exp().item())
    assert clip_image_encoder(**source).logit_scale == scale
    assert clip_text_encoder(**source).logit_scale == scale
    for empty in ({**source, "random_weights": True}, {"name": SMALL, "pretrained": None}):
        assert clip_image_encoder(**empty).logit_scale is None
        assert clip_text_encoder(**empty).logit_scale is None


def test_two_models_share_no_tower(original):
    _, source = original
    first, second = clip_image_encoder(**source), clip_image_encoder(**source)
    with torch.no_grad():
        first.network.class_embedding.add_(1)
    assert not torch.equal(first.network.class_embedding, second.network.class_embedding)


def test_only_the_last_blocks_are_trained(original):
    _, source = original
    network = clip_image_encoder(**source, train_last_blocks=1).network
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert {name.split(".")[2] for name in trained if name.startswith("transformer")} == {"11"}
    assert "ln_post.weight" in trained and "conv1.weight" not in trained
    frozen = clip_image_encoder(**source, train_last_blocks=0).network
    assert not any(parameter.requires_grad for parameter in frozen.parameters())


def test_random_weights_need_no_file(original):
    encoder = clip_image_encoder(name=SMALL, pretrained="openai", weights="/nowhere", random_weights=True)
    assert type(encoder.network.transformer.resblocks[0].mlp.gelu).__name__ == "QuickGELU"


def test_a_tag_that_cannot_be_fetched_says_where_it_looked_and_what_to_do(monkeypatch):
    def offline(*_, **__):
        raise RuntimeError("no network")

    monkeypatch.setattr(open_clip, "create_model", offline)
    expected = "tag 'openai': looked for timm/vit_base_patch16_clip_224.openai on the model hub.*encoder.image.weights"
    with pytest.raises(UserError, match=expected) as caught:
        clip_text_encoder(name="ViT-B-16", pretrained="openai")
    assert "\n" not in str(caught.value)


def test_a_truncated_file_is_named(tmp_path):
    path = tmp_path / "clip.pt"
    path.write_bytes(b"PK")
    with pytest.raises(UserError, match=rf"encoder.image.weights: {path} is truncated \(2 bytes\)"):
        clip_image_encoder(name=SMALL, pretrained=None, weights=str(path))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"name": "ViT-Z-99"}, "no such model"),
        ({"name": "ViT-B-16", "weights": "/nowhere/clip.pt"}, "no file /nowhere/clip.pt"),
        ({"name": "ViT-B-16", "pretrained": "no_such_tag"}, "no_such_tag: open_clip has openai, "),
        ({"name": "RN50", "pretrained": None}, "only open_clip's vision transformers"),
    ],
)
def test_mistakes_are_one_clear_line(source, message):
    with pytest.raises(UserError, match=message) as caught:
        clip_image_encoder(**source)
    assert "\n" not in str(caught.value)
