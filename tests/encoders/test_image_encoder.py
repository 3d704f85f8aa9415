"""Image towers: features and tokens, files, freezing, and the mistakes users make."""

import pytest
import timm
import torch
from safetensors.torch import save_file

from meru.encoders.image import encode_image, fix_frozen_statistics, patch_offset, timm_image_encoder
from meru.errors import UserError

TINY_VIT = {"patch_size": 16, "embed_dim": 64, "depth": 3, "num_heads": 4}


def tiny_vit(**arguments):
    return timm_image_encoder(name="vit_tiny_patch16_224", image_size=32, arguments=TINY_VIT, **arguments)


def tiny_cnn(**arguments):
    return timm_image_encoder(name="test_resnet", image_size=64, **arguments)


def test_vision_transformer_gives_pooled_features_and_patch_tokens():
    encoder = tiny_vit()
    images = torch.randn(2, 3, 32, 32)
    pooled, tokens = encode_image(encoder.network, images)
    assert pooled.shape == (2, encoder.width) and tokens.shape == (2, 4, encoder.width)
    torch.testing.assert_close(pooled, encoder.network(images))
    torch.testing.assert_close(tokens, encoder.network.forward_features(images)[:, 1:])


def test_tokens_of_a_convolutional_network_are_its_feature_map_row_by_row():
    encoder = tiny_cnn()
    encoder.network.eval()
    images = torch.randn(1, 3, 64, 64)
    pooled, tokens = encode_image(encoder.network, images)
    features = encoder.network.forward_features(images)
    assert tokens.shape == (1, features.shape[2] * features.shape[3], encoder.width)
    torch.testing.assert_close(tokens[0, 1], features[0, :, 0, 1])
    torch.testing.assert_close(pooled, encoder.network(images))


def test_channels_last_changes_no_feature():
    torch.manual_seed(0)
    encoder = tiny_cnn()
    plain = timm.create_model("test_resnet", num_classes=0).eval()
    plain.load_state_dict(encoder.network.state_dict())
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(encoder.network.eval()(images), plain(images), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_weights_come_from_a_local_file(tmp_path, suffix):
    weights = {name: tensor.contiguous() for name, tensor in tiny_vit().network.state_dict().items()}
    path = tmp_path / f"tower.{suffix}"
    save_file(weights, path) if suffix == "safetensors" else torch.save({"model": weights}, path)
    loaded = tiny_vit(weights=str(path)).network.state_dict()
    assert all(torch.equal(loaded[name], weights[name]) for name in weights)
    ignored = tiny_vit(weights=str(path), random_weights=True).network.state_dict()
    assert not torch.equal(ignored["blocks.0.attn.qkv.weight"], weights["blocks.0.attn.qkv.weight"])


def test_fixed_positions_are_the_sines_and_cosines_of_row_and_column():
    network = tiny_vit(fixed_positions=True).network
    assert not network.pos_embed.requires_grad
    assert not network.pos_embed[0, 0].any()  # the class token has no place
    row, column, frequency = 1, 0, 3
    angle = torch.tensor(10000.0 ** (-frequency / 16))
    token = network.pos_embed[0, 1 + row * 2 + column]
    torch.testing.assert_close(token[frequency], torch.sin(row * angle))
    torch.testing.assert_close(token[16 + frequency], torch.cos(row * angle))
    torch.testing.assert_close(token[32 + frequency], torch.sin(column * angle))
    torch.testing.assert_close(token[48 + frequency], torch.cos(column * angle))


def test_only_the_last_blocks_are_trained():
    def trained(blocks):
        return {name for name, p in tiny_vit(train_last_blocks=blocks).network.named_parameters() if p.requires_grad}

    assert trained(0) == set()
    assert {name.split(".")[1] for name in trained(1) if name.startswith("blocks")} == {"2"}
    assert "norm.weight" in trained(1) and "pos_embed" not in trained(2)
    assert trained(None) >= trained(3) > trained(2) > trained(1)


@pytest.mark.parametrize("frozen", [{"freeze_batch_norm": True}, {"train_last_blocks": 0}])
def test_frozen_batch_norm_stays_as_it_is_in_training(frozen):
    encoder = tiny_cnn(**frozen)
    before = {name: tensor.clone() for name, tensor in encoder.network.state_dict().items()}
    fix_frozen_statistics(encoder.network.train())
    images = torch.randn(4, 3, 64, 64)
    alone = encoder.network(images[:1])
    torch.testing.assert_close(encoder.network(images)[:1], alone, atol=1e-5, rtol=1e-4)  # no batch statistics
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.network.state_dict().items())


def test_batch_norm_that_is_trained_follows_the_batch():
    network = tiny_cnn().network.train()
    fix_frozen_statistics(network)
    before = network.bn1.running_mean.clone()
    network(torch.randn(4, 3, 64, 64) + 1)
    assert not torch.equal(network.bn1.running_mean, before)


def test_norm_epsilon_reaches_every_layer_norm():
    norms = [m for m in tiny_vit(norm_epsilon=1e-3).network.modules() if isinstance(m, torch.nn.LayerNorm)]
    assert norms and all(norm.eps == 1e-3 for norm in norms)


def test_normalisation_is_the_one_timm_states_unless_given():
    assert tiny_vit().pixel_mean == (0.5, 0.5, 0.5)  # what timm states for this model
    assert tiny_vit(pixel_mean=[0.1, 0.2, 0.3]).pixel_mean == (0.1, 0.2, 0.3)


def broken(tmp_path, content):
    path = tmp_path / "broken.safetensors"
    path.write_bytes(content)
    return str(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (lambda t: {"name": "resnet_eighteen"}, "timm has no such model"),
        (lambda t: {"name": "test_resnet", "arguments": {"colour": 3}}, "does not accept"),
        (lambda t: {"name": "test_resnet", "weights": str(t / "none.pth")}, "no file"),
        (lambda t: {"name": "test_resnet", "weights": broken(t, b"\x10\0\0\0\0\0\0\0{")}, "truncated"),
        (lambda t: {"name": "test_resnet", "fixed_positions": True}, "no position embedding"),
    ],
)
def test_mistakes_are_one_clear_line(tmp_path, arguments, message):
    with pytest.raises(UserError, match=message) as caught:
        timm_image_encoder(image_size=64, **arguments(tmp_path))
    assert "\n" not in str(caught.value)


def test_weights_of_another_architecture_name_what_differs(tmp_path):
    path = tmp_path / "other.pth"
    torch.save(tiny_cnn().network.state_dict(), path)
    with pytest.raises(UserError, match="another architecture: it lacks"):
        tiny_vit(weights=str(path))


@pytest.mark.parametrize(
    ("arguments", "offset"),
    [
        # Padded on both sides, k strided convolutions look at pixels 0, 2^k, …: 2^(k−1) − 1/2 before the centres.
        ({"name": "mobilenetv2_100"}, -15.5 / 32),
        ({"name": "mobilenetv2_100", "patch_level": 3}, -7.5 / 16),
        ({"name": "mobilenetv2_100", "arguments": {"pad_type": "same"}}, 15.5 / 32),  # padded on one side
        ({"name": "test_resnet", "patch_level": 2}, -3.5 / 8),
        ({"name": "test_convnext"}, 0.0),  # its strided convolutions do not overlap
        ({"name": "vit_tiny_patch16_224"}, 0.0),
    ],
)
def test_offset_of_patches_is_that_of_receptive_field_arithmetic(arguments, offset):
    level = arguments.get("patch_level")
    encoder = timm_image_encoder(image_size=64, **arguments)
    assert patch_offset(encoder.network, 64, patch_level=level) == pytest.approx(offset)


def test_patch_offset_says_where_a_position_looks():
    """In a network of averages the gradient of a position has its centre where the arithmetic says."""
    encoder = timm_image_encoder(name="mobilenetv2_100", image_size=256, arguments={"pad_type": "same"}, patch_level=2)
    network = encoder.network
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(1e-3)
    picture = torch.full((1, 3, 256, 256), 0.1, requires_grad=True)
    _, patches = encode_image(network.eval(), picture, patch_level=2)
    side = round(patches.shape[1] ** 0.5)
    middle = side // 2
    (seen,) = torch.autograd.grad(patches.unflatten(1, (side, side))[0, middle, middle].sum(), picture)
    weights = seen[0].sum(dim=(0, 1)).double()
    centre = float((weights * (torch.arange(256) + 0.5)).sum() / weights.sum())
    offset = patch_offset(network, 256, patch_level=2)
    assert centre == pytest.approx((middle + 0.5 + offset) * 256 / side, abs=0.6)


@pytest.mark.parametrize("name", ["test_resnet", "vit_tiny_patch16_224"])
def test_patches_of_an_earlier_level_leave_the_pooled_features_as_they_are(name):
    encoder = timm_image_encoder(name=name, image_size=64, patch_level=1)
    network = encoder.network.eval()
    pictures = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    pooled, patches = encode_image(network, pictures, patch_level=1)
    torch.testing.assert_close(pooled, encode_image(network, pictures)[0])
    assert patches.shape[0] == 2 and patches.shape[2] == encoder.patch_width


def test_a_level_that_there_is_not_is_one_line():
    with pytest.raises(UserError, match=r"encoder.image.patch_level=9: test_resnet has the feature maps 0 to 4"):
        timm_image_encoder(name="test_resnet", image_size=64, patch_level=9)


@pytest.mark.parametrize("arguments", [{"embed_dim": 100}, {"num_heads": 7}, {"num_heads": 0}])
def test_a_width_that_the_heads_do_not_divide_is_one_line(arguments):
    with pytest.raises(UserError, match="encoder.image.arguments=.* does not accept them"):
        timm_image_encoder(name="vit_small_patch16_224", image_size=32, arguments={"depth": 1, **arguments})
