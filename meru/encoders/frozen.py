"""Splits a partly frozen tower in two, so that the output of the frozen part can be cached."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from math import prod

import torch
from timm.models import EfficientNet, VisionTransformer
from torch import Tensor, nn

from meru.encoders.folding import convolved, folded_block
from meru.encoders.image import fix_frozen_statistics
from meru.encoders.sizes import ImageSize, sides
from meru.errors import UserError

# Modules after the blocks of timm's vision transformers and networks of the EfficientNet family.
_FINAL = ("norm.", "fc_norm.", "attn_pool.", "head.", "conv_head.", "bn2.", "classifier.")


class FrozenPart:
    """The leading frozen blocks of a timm tower as a function of images, and the rest as a function of their output.

    The output for an image is one row of float16 numbers: the input of the first trained block, followed by the feature
    map that patches come from, if that map lies in the frozen part and is another one.

    Args:
        network: `ImageEncoder.network`: a vision transformer, or a network of the EfficientNet family, such as
            MobileNetV2.
        image_size: Side of the images, or height and width, pixels.
        patch_level: As in `meru.encoders.image.encode_image`.

    Attributes:
        width: Numbers F in a row.

    Raises:
        UserError: for another kind of tower, or if the first block is already trained.
    """

    def __init__(self, network: nn.Module, *, image_size: ImageSize, patch_level: int | None = None):
        if not isinstance(network, (VisionTransformer, EfficientNet)):
            raise UserError(
                f"data.cached_views: {type(network).__name__} cannot be split; set it to 0, or choose a vision "
                "transformer of timm or a network of its EfficientNet family"
            )
        self.network, self.transformer = network, isinstance(network, VisionTransformer)
        stages = list(network.blocks)
        self.blocks = stages if self.transformer else [block for stage in stages for block in stage]
        trained = [any(each.requires_grad for each in block.parameters()) for block in self.blocks]
        if trained[0]:
            raise UserError(
                "data.cached_views caches the output of frozen blocks before trained ones: set "
                "encoder.image.train_last_blocks to a small number, or data.cached_views=0"
            )
        self.frozen_blocks = trained.index(True) if True in trained else len(trained)
        self.blocks_before_patches: int | None = None
        if patch_level is not None:
            level = patch_level + 1 if self.transformer else network.stage_ends[patch_level]
            self.blocks_before_patches = level if self.transformer else sum(map(len, stages[:level]))
        self.shapes = self._shapes(image_size)
        self.width = sum(map(prod, self.shapes))

    def __call__(self, images: Tensor) -> Tensor:
        """Rows `(B, F)`, float16, for normalised images `(B, 3, H, W)`."""
        return torch.cat([_channels_last(each).flatten(1) for each in self._frozen(images)], dim=1).half()

    def rest(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Pooled features `(B, W)` and patches `(B, N, W')` as those of `encode_image`, from rows `(B, F)`."""
        maps = rows.float().split([prod(shape) for shape in self.shapes], dim=1)
        given, *others = (each.unflatten(1, shape) for each, shape in zip(maps, self.shapes, strict=True))
        given, patches = _channels_first(given), _channels_first(others[0]) if others else None
        if self.blocks_before_patches == self.frozen_blocks:
            patches = given
        for number, block in enumerate(self.blocks[self.frozen_blocks :], start=self.frozen_blocks + 1):
            given = folded_block(block, given)
            if number == self.blocks_before_patches:
                patches = given
        network = self.network
        given = network.norm(given) if self.transformer else convolved(network.conv_head, network.bn2, given)
        patches = given if patches is None else patches
        pooled = network.forward_head(given, pre_logits=True)
        if patches.dim() == 4:
            return pooled, patches.flatten(2).transpose(1, 2)
        return pooled, patches[:, network.num_prefix_tokens :]

    def fingerprint(self) -> str:
        """A hash of all that the output depends on besides the images: structure, weights and buffers."""
        names = {id(module): name for name, module in self.network.named_modules()}
        later = (*(f"{names[id(block)]}." for block in self.blocks[self.frozen_blocks :]), *_FINAL)
        digest = hashlib.sha256(repr((self.network, self.frozen_blocks, self.blocks_before_patches)).encode())
        for name, value in self.network.state_dict().items():
            if not name.startswith(later):
                digest.update(name.encode())
                digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    @torch.no_grad()
    def _frozen(self, images: Tensor) -> Sequence[Tensor]:
        """The input of the first trained block, and the map of the patches if it is an earlier one."""
        network, maps = self.network, []
        if self.transformer:
            given = network.norm_pre(network.patch_drop(network._pos_embed(network.patch_embed(images))))
        else:
            given = network.bn1(network.conv_stem(images))
        for number, block in enumerate(self.blocks[: self.frozen_blocks]):
            if number == self.blocks_before_patches:
                maps = [given]
            given = block(given)
        return [given, *maps]

    def _shapes(self, image_size: ImageSize) -> list[tuple[int, ...]]:
        was_training, some = self.network.training, next(self.network.parameters())
        self.network.eval()
        maps = self._frozen(torch.zeros(1, 3, *sides(image_size), device=some.device))
        fix_frozen_statistics(self.network.train(was_training))
        return [tuple(_channels_last(each).shape[1:]) for each in maps]


def _channels_last(given: Tensor) -> Tensor:
    return given.permute(0, 2, 3, 1) if given.dim() == 4 else given


def _channels_first(given: Tensor) -> Tensor:
    """The inverse of `_channels_last`; the result keeps its place in memory, in which convolutions are fastest."""
    return given.permute(0, 3, 1, 2) if given.dim() == 4 else given
