"""Semantic margin softmax (SMS), and the two terms that stand beside it in GAHR.

GAHR, text-based person search (IEEE TIFS 2025, doi 10.1109/TIFS.2025.3574970); soft targets, the reversed and the
cyclic term: Cao et al., "An Empirical Study of CLIP for Text-based Person Search" (TBPS-CLIP), AAAI 2024.

In all of these, rows are this process's images or texts and columns those of all processes, pair beside pair: the
partner of row i is column `first` + i.
"""

from __future__ import annotations

import torch
from torch import Tensor

MARGIN_SOURCES = ("intra", "cross")


def semantic_margins(similarity: Tensor, first: int = 0) -> Tensor:
    """By how much less every row is like a column than like its own.

        D_ij = S_i,own − S_ij

    From similarities within one modality, where S is minus a distance, D is that distance: to look-alikes the margin is
    small, to what looks different it is large. From similarities across modalities, as in GAHR's released code, D only
    rescales them (see `semantic_margin_loss`).

    Args:
        similarity: S, shape `(B1, B2)`, unscaled.
        first: Column of the first row's own.

    Returns:
        Shape `(B1, B2)`, without gradient, exactly 0 in each row's own column.
    """
    own = similarity.detach().diagonal(offset=first)[:, None]
    return own - similarity.detach()


def soft_targets(logits: Tensor, targets: Tensor, share: Tensor | float) -> Tensor:
    """What the model believes, mixed into what the labels say.

        T = α softmax(z) + (1 − α) Y

    Args:
        logits: z, shape `(B1, B2)`, scaled, without margins; no gradient flows into them.
        targets: Y of `contrastive_targets`, shape `(B1, B2)`.
        share: α in [0, 1].
    """
    return share * logits.detach().softmax(dim=1) + (1 - share) * targets


def semantic_margin_loss(
    similarity: Tensor, margins: Tensor, targets: Tensor, scale: Tensor | float, margin: float
) -> Tensor:
    """Cross-entropy of every row of one direction, each column closer by a share of its margin than it is.

        z_ij = s (S_ij + λ D_ij),   −Σ_j T_ij log softmax_j(z_i)

    The margin stands in the numerator, too: with several positives the probabilities would not sum to one otherwise.
    For the row's own column D is 0, so with one positive this is the printed form. With `margins` of `similarity`
    itself z is s (1 − λ) S up to a constant of the row: nothing but another temperature.

    Args:
        similarity: S, shape `(B1, B2)`.
        margins: D, shape `(B1, B2)`.
        targets: T, shape `(B1, B2)`; rows sum to 1.
        scale: s > 0.
        margin: λ ≥ 0.

    Returns:
        Shape `(B1,)`, ≥ 0, float32.
    """
    with torch.autocast(similarity.device.type, enabled=False):
        logits = scale * (similarity.float() + margin * margins.float())
        return torch.nn.functional.cross_entropy(logits, targets.float(), reduction="none")


def reverse_contrastive_loss(logits: Tensor, targets: Tensor, smoothing: float = 1e-2) -> Tensor:
    """How much of its belief every row spends where no label is (R-ITC).

        Σ_j p_ij [log p_ij − log(Y_ij + ε)],   p_i = softmax(z_i)

    The other direction of the divergence that contrast minimises. Not zero where p = Y: log(1 + ε) is missing.

    Args:
        logits: z, shape `(B1, B2)`, scaled.
        targets: Y, shape `(B1, B2)`.
        smoothing: ε > 0.

    Returns:
        Shape `(B1,)`, float32.
    """
    with torch.autocast(logits.device.type, enabled=False):
        belief = logits.float().log_softmax(dim=1)
        return (belief.exp() * (belief - (targets.float() + smoothing).log())).sum(dim=1)


def cyclic_loss(images: Tensor, texts: Tensor) -> Tensor:
    """How differently the images and the texts of the same pairs are arranged (C-ITC).

        mean_ij (a_ij − b_ij)²

    Args:
        images: a, similarities of images to images, shape `(B1, B2)`; or of images to texts.
        texts: b, of the same pairs' texts to texts; or of texts to images.

    Returns:
        Scalar ≥ 0, float32.
    """
    with torch.autocast(images.device.type, enabled=False):
        return (images.float() - texts.float()).square().mean()
