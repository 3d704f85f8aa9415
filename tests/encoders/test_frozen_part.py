"""A tower cut in two says what the whole one says."""

import pytest
import timm
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from meru.encoders.folding import convolved, folded_block
from meru.encoders.frozen import FrozenPart
from meru.encoders.image import encode_image, fix_frozen_statistics, timm_image_encoder
from meru.errors import UserError


def tower(name, trained):
    torch.manual_seed(0)
    network = timm_image_encoder(name=name, image_size=32, train_last_blocks=trained, freeze_batch_norm=True).network
    fix_frozen_statistics(network.train())
    return network


@pytest.mark.parametrize("level", [None, 1, 3])  # before the cut, and behind it
@pytest.mark.parametrize(
    ("name", "trained"),
    [("vit_tiny_patch16_224", 1), ("vit_tiny_patch16_224", 9), ("mobilenetv2_035", 1), ("mobilenetv2_035", 12)],
)
def test_both_parts_together_are_the_tower(name, trained, level):
    network, images = tower(name, trained), torch.randn(2, 3, 32, 32)
    part = FrozenPart(network, image_size=32, patch_level=level)
    rows = part(images)
    assert rows.shape == (2, part.width) and rows.dtype == torch.float16 and not rows.requires_grad
    pooled, patches = part.rest(rows)
    of_tower = encode_image(network, images, patch_level=level)
    torch.testing.assert_close((pooled, patches), of_tower, rtol=1e-2, atol=1e-2)  # the rounding of half precision
    pooled.sum().backward()
    assert all(each.grad is not None for each in network.parameters() if each.requires_grad)


@pytest.mark.parametrize("padding", ["", "same"])
def test_folded_batch_norms_give_the_values_and_gradients_of_the_blocks(padding):
    torch.manual_seed(0)
    network = timm.create_model("mobilenetv2_035", num_classes=0, pad_type=padding).double()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value in (module.weight, module.bias, module.running_mean, module.running_var):
                nn.init.uniform_(value, 0.5, 1.5)
            module.requires_grad_(False)
    fix_frozen_statistics(network.train())
    blocks = [block for stage in network.blocks[1:] for block in stage]
    given = torch.rand(2, network.blocks[1][0].conv_pw.in_channels, 16, 16).double()
    results = []
    for apply in (folded_block, lambda block, x: block(x)):
        network.zero_grad()
        x = given
        for block in blocks:
            x = apply(block, x)
        x.square().mean().backward()
        results.append([x, *(each.grad for each in network.blocks[1:].parameters() if each.requires_grad)])
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-9)


def test_trained_batch_norms_are_not_folded():
    convolution, norm = nn.Conv2d(3, 4, 1, bias=False), BatchNormAct2d(4)
    x = torch.rand(8, 3, 2, 2)
    once = convolved(convolution, norm, x)
    assert norm.num_batches_tracked == 1
    torch.testing.assert_close(once, norm(convolution(x)))


def test_the_cut_leaves_no_frozen_block_behind_it():
    part = FrozenPart(tower("mobilenetv2_035", 2), image_size=32)
    assert part.frozen_blocks == len(part.blocks) - 2
    assert FrozenPart(tower("mobilenetv2_035", 0), image_size=32).frozen_blocks == len(part.blocks)


def test_the_fingerprint_follows_frozen_weights_and_buffers_only():
    network = tower("mobilenetv2_035", 2)
    before = FrozenPart(network, image_size=32).fingerprint()
    assert FrozenPart(tower("mobilenetv2_035", 2), image_size=32).fingerprint() == before
    with torch.no_grad():
        network.conv_head.weight.add_(1)
        next(FrozenPart(network, image_size=32).blocks[-1].parameters()).add_(1)
    assert FrozenPart(network, image_size=32).fingerprint() == before
    for change in (network.blocks[1][0].conv_pw.weight, network.bn1.running_mean):
        with torch.no_grad():
            change.add_(1)
        assert FrozenPart(network, image_size=32).fingerprint() != before
        with torch.no_grad():
            change.sub_(1)
    assert FrozenPart(tower("mobilenetv2_035", 3), image_size=32).fingerprint() != before


def test_what_cannot_be_cut():
    with pytest.raises(UserError, match="Linear cannot be split"):
        FrozenPart(nn.Linear(2, 2), image_size=32)
    network = timm.create_model("mobilenetv2_035")
    with pytest.raises(UserError, match="train_last_blocks to a small number"):
        FrozenPart(network, image_size=32)
