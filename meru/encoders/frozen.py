"""A partly frozen tower cut in two, so that what its frozen part says of an image need not be worked out again."""

from __future__ import annotations

import torch
from timm.models import EfficientNet, VisionTransformer
from torch import Tensor, nn

from meru.errors import UserError


class FrozenPart:
    """The frozen blocks of a timm tower that others follow, as a function of images, and what is left, of its results.

    Args:
        network: `ImageEncoder.network`: a vision transformer, or one of the EfficientNet family (MobileNetV2 is).

    Raises:
        UserError: for another kind of tower, or where the first block is trained already.
    """

    def __init__(self, network: nn.Module):
        if not isinstance(network, (VisionTransformer, EfficientNet)):
            raise UserError(
                f"discovery.cached_views: a {type(network).__name__} of timm cannot be cut in two; set it to 0, or "
                "choose a vision transformer or a network of the EfficientNet family"
            )
        trained = [any(each.requires_grad for each in block.parameters()) for block in network.blocks]
        if trained[0] or True not in trained:
            raise UserError(
                "discovery.cached_views keeps what frozen blocks say before trained ones: set "
                "encoder.image.train_last_blocks to a small number, or discovery.cached_views=0"
            )
        self.network, self.first_trained = network, trained.index(True)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """What the first trained block is given for normalised images `(B, 3, S, S)`."""
        network = self.network
        if isinstance(network, VisionTransformer):
            given = network.norm_pre(network.patch_drop(network._pos_embed(network.patch_embed(images))))
        else:
            given = network.bn1(network.conv_stem(images))
        return network.blocks[: self.first_trained](given)

    def rest(self, given: Tensor) -> Tensor:
        """Pooled features `(B, W)` of what `__call__` returned."""
        network = self.network
        given = network.blocks[self.first_trained :](given)
        transformer = isinstance(network, VisionTransformer)
        given = network.norm(given) if transformer else network.bn2(network.conv_head(given))
        return network.forward_head(given, pre_logits=True)
