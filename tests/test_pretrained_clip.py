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


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"name": "ViT-Z-99"}, "no such model"),
        ({"name": SMALL, "weights": "/nowhere/clip.pt"}, "point encoder.image.weights"),
        ({"name": SMALL, "pretrained": "no_such_tag"}, "no_such_tag"),
        ({"name": "RN50", "pretrained": None}, "only open_clip's vision transformers"),
    ],
)
def test_mistakes_are_one_clear_line(source, message):
    with pytest.raises(UserError, match=message) as caught:
        clip_image_encoder(**source)
    assert "\n" not in str(caught.value)
