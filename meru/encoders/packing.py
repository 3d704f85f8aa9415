"""Packing of captions: the text tower computes their real tokens only."""

from __future__ import annotations

import torch
from torch import Tensor


class PackedLayout:
    """The positions of the real tokens in a right-padded batch; linear layers run over these only.

    Captions differ in length: at batch size 256, three quarters of a padded batch are padding.

    Args:
        tokens: Token ids, shape `(B, L)`; the largest id of a row is its end-of-text token.
        count: T, at least the number of real tokens, if known; what is beyond stands for none and is dropped.
            Otherwise the number is read from the tokens, for which a GPU has to finish all that it was given before.
    """

    def __init__(self, tokens: Tensor, count: int | None = None):
        self.shape = tokens.shape
        lengths = tokens.argmax(dim=-1) + 1  # the first maximum: end-of-text
        ends = lengths.cumsum(0)
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        packed = torch.arange(int(lengths.sum()) if count is None else count, device=tokens.device)
        caption = torch.searchsorted(ends, packed, right=True).clamp(max=max(0, len(tokens) - 1))
        position = packed - (ends - lengths)[caption]
        self.position = position.clamp(max=tokens.shape[1] - 1)  # (T,) places in their own captions
        index = caption * tokens.shape[1] + position
        self.index = torch.where(packed < lengths.sum(), index, tokens.numel())  # (T,) places in the padded batch
        self.real = positions < lengths[:, None]  # (B, L)
        self.last = ends - 1  # (B,) rows of the end tokens among packed tokens

    def pack(self, x: Tensor) -> Tensor:
        """`(B, L, …)` → `(T, …)`; arbitrary beyond the real tokens."""
        return x.flatten(0, 1)[self.index.clamp(max=self.shape.numel() - 1)]

    def unpack(self, x: Tensor) -> Tensor:
        """`(T, W)` → `(B, L, W)`, zeros at padding."""
        padded = x.new_zeros(self.shape.numel() + 1, x.shape[-1])  # the last row is for what stands for none
        return padded.index_copy(0, self.index, x)[:-1].unflatten(0, self.shape)


def count_real(tokens: Tensor) -> int:
    """Number of real tokens in token ids `(…, L)`, padded with 0; cheap in main memory, where batches are made."""
    return int((tokens.argmax(dim=-1) + 1).sum())
