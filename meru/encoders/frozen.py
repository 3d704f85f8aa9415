"""Splits a partly frozen tower in two, so that the output of the frozen part can be cached."""

from __future__ import annotations

import torch
from timm.models import EfficientNet, VisionTransformer
from torch import Tensor, nn

from meru.errors import UserError


class FrozenPart:
    """The leading frozen blocks of a timm tower, as a function of images, and the rest, as a function of their output.

    Args:
        network: `ImageEncoder.network`: a vision transformer, or a network of the EfficientNet family, such as
            MobileNetV2.

    Raises:
        UserError: for another kind of tower, or if the first block is already trained.
    """

    def __init__(self, network: nn.Module):
        if not isinstance(network, (VisionTransformer, EfficientNet)):
            raise UserError(
                f"discovery.cached_views: timm's {type(network).__name__} cannot be split; set it to 0, or "
                "choose a vision transformer or a network of the EfficientNet family"
            )
        trained = [any(each.requires_grad for each in block.parameters()) for block in network.blocks]
        if trained[0] or True not in trained:
            raise UserError(
                "discovery.cached_views caches the output of frozen blocks before trained ones: set "
                "encoder.image.train_last_blocks to a small number, or discovery.cached_views=0"
            )
        self.network, self.first_trained = network, trained.index(True)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """The input of the first trained block for normalised images `(B, 3, S, S)`."""
        network = self.network
        if isinstance(network, VisionTransformer):
            given = network.norm_pre(network.patch_drop(network._pos_embed(network.patch_embed(images))))
        else:
            given = network.bn1(network.conv_stem(images))
        return network.blocks[: self.first_trained](given)

    def rest(self, given: Tensor) -> Tensor:
        """Pooled features `(B, W)` from the result of `__call__`."""
        network = self.network
        given = network.blocks[self.first_trained :](given)
        transformer = isinstance(network, VisionTransformer)
        given = network.norm(given) if transformer else network.bn2(network.conv_head(given))
        return network.forward_head(given, pre_logits=True)
