"""A tower cut in two says what the whole one says."""

import pytest
import timm
import torch
from torch import nn

from meru.encoders.frozen import FrozenPart
from meru.encoders.image import encode_image, fix_frozen_statistics, timm_image_encoder
from meru.errors import UserError


@pytest.mark.parametrize(
    ("name", "trained"),
    [("vit_tiny_patch16_224", 1), ("vit_tiny_patch16_224", 3), ("mobilenetv2_035", 1), ("mobilenetv2_035", 3)],
)
def test_both_parts_together_are_the_tower(name, trained):
    torch.manual_seed(0)
    network = timm_image_encoder(name=name, image_size=32, train_last_blocks=trained, freeze_batch_norm=True).network
    fix_frozen_statistics(network.train())
    part, images = FrozenPart(network), torch.randn(2, 3, 32, 32)
    given = part(images)
    assert not given.requires_grad
    pooled = part.rest(given)
    torch.testing.assert_close(pooled, encode_image(network, images)[0], rtol=1e-4, atol=1e-4)
    pooled.sum().backward()
    assert all(each.grad is not None for each in network.parameters() if each.requires_grad)


def test_what_cannot_be_cut():
    with pytest.raises(UserError, match="timm's Linear cannot be split"):
        FrozenPart(nn.Linear(2, 2))
    network = timm.create_model("mobilenetv2_035")
    with pytest.raises(UserError, match="train_last_blocks to a small number"):
        FrozenPart(network)
    with pytest.raises(UserError, match="train_last_blocks to a small number"):
        FrozenPart(network.requires_grad_(False))
