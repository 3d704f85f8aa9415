"""Bidirectional attention interaction (BAI): patches of an image and words of its caption attend to each other.

From GAHR, text-based person search (IEEE TIFS 2025, doi 10.1109/TIFS.2025.3574970).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from meru.errors import UserError
from meru.geometry.all_pairs import exact_product

ACTIVATIONS = ("sigmoid", "softmax")


class Interaction(NamedTuple):
    """Results of attention in both directions.

    Attributes:
        patch_context: What each patch gathers from the words, `(B, N, D)`.
        word_context: What each word gathers from the patches, `(B, M, D)`; arbitrary at padding.
        patch_attention: Weights of the words for each patch, `(B, N, M)`, 0 at padding.
        word_attention: Weights of the patches for each word, `(B, M, N)`; arbitrary at padding.
    """

    patch_context: Tensor
    word_context: Tensor
    patch_attention: Tensor
    word_attention: Tensor


class BidirectionalAttention(nn.Module):
    """Two cross-attentions of one head, without residual, norm or dropout.

        A^{v→t} = σ(Q_v F^v (K_t F^t)ᵀ/√D),   c^v = A^{v→t} V_t F^t
        A^{t→v} = σ(Q_t F^t (K_v F^v)ᵀ/√D),   c^t = A^{t→v} V_v F^v

    σ is an element-wise sigmoid, so that a word may attend to no patch at all. The rows do not sum to 1, which does not
    matter for the losses, since they use cosines. Padding gets no attention from any patch.

    Args:
        dimension: D of patches and words.
        activation: `sigmoid`, or `softmax` over the attended side.

    Raises:
        UserError: for another activation.
    """

    def __init__(self, *, dimension: int, activation: str = "sigmoid"):
        super().__init__()
        if activation not in ACTIVATIONS:
            raise UserError(f"model.activation={activation}: choose one of {', '.join(ACTIVATIONS)}")
        self.activation = activation
        self.patch_query, self.patch_key, self.patch_value = (nn.Linear(dimension, dimension) for _ in range(3))
        self.word_query, self.word_key, self.word_value = (nn.Linear(dimension, dimension) for _ in range(3))

    def forward(self, patches: Tensor, words: Tensor, real: Tensor) -> Interaction:
        """Apply attention between each image and its own caption, in both directions.

        Args:
            patches: F^v, shape `(B, N, D)`.
            words: F^t, shape `(B, M, D)`.
            real: False at padding, bool, shape `(B, M)`; at least one word of each caption is real.
        """
        patch_attention = self._weights(self.patch_query(patches) @ self.word_key(words).mT, real[:, None])
        word_attention = self._weights(self.word_query(words) @ self.patch_key(patches).mT)
        patch_context = patch_attention @ self.word_value(words)
        return Interaction(
            patch_context, word_attention @ self.patch_value(patches), patch_attention, word_attention
        )

    def _weights(self, products: Tensor, real: Tensor | None = None) -> Tensor:
        logits = products / math.sqrt(self.word_query.out_features)
        if self.activation == "softmax":
            return (logits if real is None else logits.masked_fill(~real, -math.inf)).softmax(dim=-1)
        return logits.sigmoid() if real is None else logits.sigmoid().masked_fill(~real, 0)

    def word_logits(self, words: Tensor, keys: Tensor, scale: Tensor | float | None = None) -> Tensor:
        """Attention logits, before the activation, of words to patches of any images.

        Args:
            words: Shape `(…, M, D)`.
            keys: `patch_key` of patches, shape `(…, K, D)`.
            scale: None: products of queries and keys over √D, as in `forward`; else the factor for their cosines.

        Returns:
            Shape `(…, M, K)`, float32.
        """
        with torch.autocast(words.device.type, enabled=False):
            query = exact_product(words.float(), self.word_query.weight) + self.word_query.bias
            if scale is None:
                return exact_product(query, keys) / math.sqrt(query.shape[-1])
            return exact_product(scale * F.normalize(query, dim=-1), F.normalize(keys.float(), dim=-1))


class Predictor(nn.Sequential):
    """SimSiam's predictor, a bottleneck on one side of the comparison (Chen & He, CVPR 2021), without batch norm."""

    def __init__(self, *, dimension: int):
        super().__init__(nn.Linear(dimension, dimension // 2), nn.ReLU(), nn.Linear(dimension // 2, dimension))


class WordWindow(nn.Module):
    """Features of words from a short window of token embeddings that ends at the word.

    In a causal text tower, a token depends on the whole caption before it. In "a black woodpecker with a buff beak" the
    feature of "beak" contains the woodpecker, so that attending to any part of the bird identifies the image, and the
    word never learns to attend to the beak. With only "with a buff beak" as context, it has to.

    Args:
        width: Width of the token embeddings.
        dimension: D of the features.
        size: Tokens in the window, the word's own included.
    """

    def __init__(self, *, width: int, dimension: int, size: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)  # initial embeddings are 50 times smaller than a convolution expects
        self.mix = nn.Conv1d(width, dimension, size)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Token embeddings `(B, L, width)` → `(B, L, D)`."""
        missing = self.mix.kernel_size[0] - 1  # before the first
        return self.mix(F.pad(self.norm(embeddings).mT, (missing, 0))).mT


def real_tokens(tokens: Tensor) -> Tensor:
    """Mask of the token ids `(B, L)` that are not padding, bool `(B, L)`: all up to end-of-text, a row's largest id."""
    return torch.arange(tokens.shape[1], device=tokens.device) <= tokens.argmax(dim=-1, keepdim=True)
