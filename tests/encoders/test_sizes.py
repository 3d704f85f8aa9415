"""Towers for images of any height and width: weights of squares fit them, and the grid of patches is known."""

import open_clip
import pytest
import timm
import torch
from open_clip.model import resize_pos_embed
from torch import nn

from meru.assemble import build
from meru.configuration.check import check
from meru.data.augmentation import RandomPicks
from meru.data.transforms import EvaluationTransform, discovery_transforms, training_transform
from meru.encoders.frozen import FrozenPart
from meru.encoders.image import encode_image, patch_offset, timm_image_encoder
from meru.encoders.pretrained_clip import _load, clip_image_encoder
from meru.encoders.sizes import grid_of, with_resampled_positions
from meru.encoders.weights import load_weights
from meru.errors import UserError
from meru.evaluation.pointing import _patches
from meru.reports.attention import attention_figure

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
def test_what_is_no_size_is_refused(size, compose):
    config = compose(f"encoder.image.image_size={size}")
    with pytest.raises(UserError, match="image_size") as caught:
        check(config, command="train")
    assert "\n" not in str(caught.value)


def test_the_grid_has_the_proportions_of_the_image():
    for height, width in ((384, 128), (224, 224), (128, 384), (100, 60), (70, 33), (33, 32), (96, 160)):
        for stride in (4, 8, 16, 32):
            rows, columns = -(-height // stride), -(-width // stride)
            assert grid_of(rows * columns, (height, width)) == (rows, columns)


def test_person_search_trains_on_rectangles(compose):
    words = ["encoder.image.image_size=[48,16]", "encoder.text.architecture=L1_W16_A2", "encoder.image.patch_level=2"]
    config = compose("experiment=pedestrians_gahr", *words, "model.merge=2", "encoder.embedding_dimension=16")
    model, tokenizer, transforms = build(config)
    image = torch.randint(0, 256, (3, 90, 70), dtype=torch.uint8)
    views = torch.stack([transforms.training(image), transforms.evaluation(image)])
    assert views.shape == (2, 3, 48, 16) and model.image_size == (48, 16)
    patches = encode_image(model.visual, torch.zeros(1, 3, 48, 16), patch_level=2)[1].shape[1]
    rows, columns = grid_of(patches, (48, 16))
    assert rows == 3 * columns
    tokens = tokenizer.batch(["a man in a red coat"] * 2)
    attention = model.word_attention(views, tokens, torch.tensor([0, 1]))
    assert attention.shape[-1] == (rows // 2) * (columns // 2)
    assert attention_figure(views[1], ["man"], attention[1, 2:3].detach()).axes
    batch = {"image": views, "tokens": tokens, "class_index": torch.arange(2), "image_index": torch.arange(2)}
    assert model.train()(batch).loss.isfinite()


def test_whole_images_are_squashed_and_crops_keep_their_proportions():
    torch.manual_seed(0)
    tall = torch.arange(90, dtype=torch.uint8)[None, :, None].expand(3, 90, 30).contiguous()
    resized = EvaluationTransform((60, 20))(tall)
    assert resized.shape == (3, 60, 20) and resized[0, 0, 0] < 2 and resized[0, -1, 0] > 87
    transform = EvaluationTransform((60, 20), crop_share=0.5)
    places = transform.places(torch.tensor([[15.0, 45.0], [15.0, 22.5], [7.5, 45.0]]), height=90, width=30)
    torch.testing.assert_close(places, torch.tensor([[0.5, 0.5], [0.5, 0.0], [0.0, 0.5]]))
    spans = []
    for _ in range(20):
        crop = training_transform((60, 20), scale=(0.9, 1.0), flip=False)(tall)[0, :, 0].int()
        spans.append(int(crop[-1] - crop[0]))
    assert min(spans) > 65  # nine tenths of the area, and the sides not more than 4 : 3 from the image's
    assert len(set(spans)) > 3


def test_discovery_and_grids_of_cells_take_rectangles():
    transforms = discovery_transforms((40, 16))
    image = torch.randint(0, 256, (3, 50, 70), dtype=torch.uint8)
    assert transforms.training(image).shape == transforms.evaluation(image).shape == (3, 40, 16)
    for name in ("colour", "rotation", "crop", "grey", "flip", "erasing"):
        assert RandomPicks((40, 16), pool=[name])(image).shape == (3, 40, 16)


def test_the_pointing_game_counts_patches_of_a_rectangle():
    grid = (4, 2)
    assert _patches(torch.tensor([[0.6, 0.3]]), grid, 0.0).tolist() == [3]  # second row, second column
    assert _patches(torch.tensor([[0.1, 0.99], [0.9, 0.0]]), grid, 0.0).tolist() == [1, 6]
    assert _patches(torch.tensor([[0.6, 0.3]]), grid, 0.5).tolist() == [0]


def test_the_offset_of_convolutions_is_that_of_a_square():
    network = timm_image_encoder(name="mobilenetv2_035", image_size=64, arguments={"pad_type": "same"}).network
    assert patch_offset(network, (96, 32)) == pytest.approx(patch_offset(network, 96)) != 0


def test_the_frozen_part_gives_rows_of_rectangles():
    tower = timm_image_encoder(image_size=[48, 16], train_last_blocks=0, **VIT)
    part, images = FrozenPart(tower.network.eval(), image_size=tower.image_size), torch.randn(2, 3, 48, 16)
    pooled, patches = part.rest(part(images))
    expected = encode_image(tower.network, images)
    torch.testing.assert_close(pooled, expected[0], atol=1e-2, rtol=1e-2)
    assert patches.shape == expected[1].shape == (2, 3, 32)
