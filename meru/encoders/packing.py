"""Packing of captions: the text tower computes their real tokens only."""

from __future__ import annotations

import torch
from torch import Tensor


class PackedLayout:
    """The positions of the real tokens in a right-padded batch; linear layers run over these only.

    Captions differ in length: at batch size 256, three quarters of a padded batch are padding.

    Args:
        tokens: Token ids, shape `(B, L)`; the largest id of a row is its end-of-text token.
        count: T, the number of real tokens, if known. Otherwise it is read from the tokens, for which a GPU has to
            finish all that it was given before.
    """

    def __init__(self, tokens: Tensor, count: int | None = None):
        self.shape = tokens.shape
        lengths = tokens.argmax(dim=-1) + 1  # the first maximum: end-of-text
        ends = lengths.cumsum(0)
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        packed = torch.arange(int(lengths.sum()) if count is None else count, device=tokens.device)
        caption = torch.searchsorted(ends, packed, right=True)
        self.position = packed - (ends - lengths)[caption]  # (T,) places in their own captions
        self.index = caption * tokens.shape[1] + self.position  # (T,) places in the padded batch
        self.real = positions < lengths[:, None]  # (B, L)
        self.last = ends - 1  # (B,) rows of the end tokens among packed tokens

    def pack(self, x: Tensor) -> Tensor:
        """`(B, L, …)` → `(T, …)`."""
        return x.flatten(0, 1)[self.index]

    def unpack(self, x: Tensor) -> Tensor:
        """`(T, W)` → `(B, L, W)`, zeros at padding."""
        padded = x.new_zeros(self.shape.numel(), x.shape[-1])
        return padded.index_copy(0, self.index, x).unflatten(0, self.shape)


def count_real(tokens: Tensor) -> int:
    """Number of real tokens in token ids `(…, L)`, padded with 0; cheap in main memory, where batches are made."""
    return int((tokens.argmax(dim=-1) + 1).sum())
