"""Towers for images of any height and width: weights of squares fit them, and the grid of patches is known."""

import open_clip
import pytest
import timm
import torch
from open_clip.model import resize_pos_embed
from torch import nn

from meru.configuration.check import check
from meru.configuration.composing import compose
from meru.encoders.image import encode_image, timm_image_encoder
from meru.encoders.pretrained_clip import _load, clip_image_encoder
from meru.encoders.sizes import grid_of, with_resampled_positions
from meru.encoders.weights import load_weights
from meru.errors import UserError

VIT = {"name": "vit_tiny_patch16_224", "arguments": {"embed_dim": 32, "depth": 1, "num_heads": 2}}
CLIP = "ViT-S-32-alt"


@pytest.fixture(scope="module")
def square(tmp_path_factory):
    """A file of a small transformer for squares of 64 pixels."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("square") / "w.pth"
    torch.save(timm_image_encoder(image_size=64, **VIT).network.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """The state dict of a small model of open_clip, and its file."""
    torch.manual_seed(0)
    state = open_clip.create_model(CLIP).state_dict()
    path = tmp_path_factory.mktemp("clip") / "clip.pt"
    torch.save(state, path)
    yield state, path
    _load.cache_clear()


@pytest.mark.parametrize("size", [(96, 32), (48, 80), (128, 32), (32, 32)])  # 128 × 32 has as many patches as 64 × 64
def test_positions_of_a_square_are_resampled_as_timm_does(square, size):
    tower = timm_image_encoder(image_size=list(size), weights=str(square), **VIT)
    expected = timm.create_model(VIT["name"], img_size=64, num_classes=0, **VIT["arguments"])
    expected.load_state_dict(torch.load(square))
    expected.set_input_size(img_size=size)
    images = torch.randn(2, 3, *size)
    assert torch.equal(tower.network.pos_embed, expected.pos_embed)
    with torch.no_grad():
        pooled, patches = encode_image(tower.network.eval(), images)
        torch.testing.assert_close(pooled, expected.eval()(images), atol=1e-5, rtol=1e-5)
    assert grid_of(patches.shape[1], size) == (size[0] // 16, size[1] // 16)
    assert tower.image_size == (size if size[0] != size[1] else size[0])


@pytest.mark.parametrize("size", [[384, 128], 64, None])
def test_positions_of_clip_are_resampled_as_open_clip_does(clip, size):
    state, path = clip
    tower = clip_image_encoder(name=CLIP, pretrained=None, weights=str(path), image_size=size)
    other = open_clip.create_model(CLIP, force_image_size=tuple(size) if isinstance(size, list) else size)
    expected = dict(state)
    resize_pos_embed(expected, other)
    torch.testing.assert_close(tower.network.positional_embedding, expected["visual.positional_embedding"])
    other.load_state_dict(expected)
    height, width = other.visual.image_size
    images = torch.randn(1, 3, height, width)
    with torch.no_grad():
        pooled, patches = encode_image(tower.network.eval(), images)
        torch.testing.assert_close(
            pooled @ tower.projection.t(), other.eval().encode_image(images), atol=1e-5, rtol=1e-4
        )
    assert grid_of(patches.shape[1], (height, width)) == (height // 32, width // 32)


def test_clip_takes_a_grid_of_as_many_patches_and_a_file_of_its_own_size(clip, tmp_path):
    state, path = clip
    positions = state["visual.positional_embedding"]
    assert positions.shape[0] == 50  # 7 × 7
    tall = clip_image_encoder(name=CLIP, pretrained=None, weights=str(path), image_size=[49 * 32, 32])
    tall = tall.network.positional_embedding
    assert tall.shape == positions.shape and not torch.allclose(tall, positions, atol=1e-3)
    changed = {**state, "visual.positional_embedding": torch.randn(1 + 6 * 2, positions.shape[1])}
    torch.save(changed, tmp_path / "tall.pt")
    arguments = {"name": CLIP, "pretrained": None, "weights": str(tmp_path / "tall.pt")}
    own = clip_image_encoder(image_size=[192, 64], **arguments).network.positional_embedding
    assert torch.equal(own, changed["visual.positional_embedding"])
    with pytest.raises(UserError, match="positions for 12 patches, neither a square nor 7 × 7"):
        clip_image_encoder(**arguments)


def test_a_whole_model_takes_weights_of_another_size(square, tmp_path):
    class Model(nn.Module):
        def __init__(self, size):
            super().__init__()
            self.visual = timm_image_encoder(image_size=size, **VIT).network

    before, model = Model([96, 32]), Model([32, 96])
    turned = with_resampled_positions(model, before.state_dict(), what="encoder.init", trained_for=(96, 32))
    assert not torch.equal(turned["visual.pos_embed"], before.visual.pos_embed)
    as_it_is = with_resampled_positions(model, before.state_dict(), what="encoder.init")  # 12 patches are no square
    assert torch.equal(as_it_is["visual.pos_embed"], before.visual.pos_embed)
    torch.save({f"visual.{name}": tensor for name, tensor in torch.load(square).items()}, tmp_path / "whole.pth")
    load_weights(model, tmp_path / "whole.pth", what="encoder.init", resample=True)
    expected = timm_image_encoder(image_size=[32, 96], weights=str(square), **VIT).network.pos_embed
    assert torch.equal(model.visual.pos_embed, expected)


@pytest.mark.parametrize("size", [[100, 32], [96, 20], 40])
def test_patches_that_do_not_cover_the_image_are_refused(size, square):
    with pytest.raises(UserError, match="16 pixels wide; give multiples of 16, such as") as caught:
        timm_image_encoder(image_size=size, weights=str(square), **VIT)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="give multiples of 32"):
        clip_image_encoder(name=CLIP, pretrained=None, image_size=size)


@pytest.mark.parametrize("size", ["[384,128,3]", "[384]", "[]", "0", "[0,128]", "[384.0,128]", "tall", "true", "-32"])
def test_what_is_no_size_is_refused(size):
    config, _ = compose([f"encoder.image.image_size={size}"])
    with pytest.raises(UserError, match="image_size") as caught:
        check(config, command="train")
    assert "\n" not in str(caught.value)


def test_the_grid_has_the_proportions_of_the_image():
    for height, width in ((384, 128), (224, 224), (128, 384), (100, 60), (70, 33), (33, 32), (96, 160)):
        for stride in (4, 8, 16, 32):
            rows, columns = -(-height // stride), -(-width // stride)
            assert grid_of(rows * columns, (height, width)) == (rows, columns)
