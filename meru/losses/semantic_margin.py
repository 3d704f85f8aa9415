"""Semantic margin softmax (SMS), and the two terms that GAHR adds to it.

GAHR, text-based person search (IEEE TIFS 2025, doi 10.1109/TIFS.2025.3574970); soft targets, the reversed and the
cyclic term: Cao et al., "An Empirical Study of CLIP for Text-based Person Search" (TBPS-CLIP), AAAI 2024.

Throughout, rows are this process's images or texts, and columns those of all processes in the same order: the partner
of row i is column `first` + i.
"""

from __future__ import annotations

import torch
from torch import Tensor

from meru.losses.contrastive import row_contrast

MARGIN_SOURCES = ("intra", "cross")


def semantic_margins(similarity: Tensor, first: int = 0) -> Tensor:
    """How much less similar every row is to a column than to its own column.

        D_ij = S_i,own − S_ij

    For similarities within one modality, where S is a negative distance, D is that distance: the margin is small for
    similar items and large for different ones. For similarities across modalities, as in GAHR's released code, D only
    rescales them (see `semantic_margin_loss`).

    Args:
        similarity: S, shape `(B1, B2)`, unscaled.
        first: The first row's own column.

    Returns:
        Shape `(B1, B2)`, without gradient, exactly 0 in each row's own column.
    """
    own = similarity.detach().diagonal(offset=first)[:, None]
    return own - similarity.detach()


def soft_targets(logits: Tensor, targets: Tensor, share: Tensor | float) -> Tensor:
    """Mixture of the model's predictions and the label targets.

        T = α softmax(z) + (1 − α) Y

    Args:
        logits: z, shape `(B1, B2)`, scaled, without margins; no gradient flows into them.
        targets: Y of `contrastive_targets`, shape `(B1, B2)`.
        share: α in [0, 1].
    """
    return share * logits.detach().softmax(dim=1) + (1 - share) * targets


def semantic_margin_loss(
    similarity: Tensor,
    margins: Tensor,
    targets: Tensor,
    scale: Tensor | float,
    margin: float,
    robust_exponent: Tensor | float = 0.0,
) -> Tensor:
    """Cross-entropy of every row in one direction, with each similarity raised by a share of its margin.

        z_ij = s (S_ij + λ D_ij),   −Σ_j T_ij log softmax_j(z_i)

    The margin is in the numerator too: otherwise, with several positives, the probabilities would not sum to one. For
    the row's own column D is 0, so that with one positive this is the printed form. With `margins` of `similarity`
    itself, z is s (1 − λ) S up to a constant per row, which is only another temperature.

    Args:
        similarity: S, shape `(B1, B2)`.
        margins: D, shape `(B1, B2)`.
        targets: T, shape `(B1, B2)`; rows sum to 1.
        scale: s > 0.
        margin: λ ≥ 0.
        robust_exponent: q of `meru.losses.contrastive.row_contrast`.

    Returns:
        Shape `(B1,)`, ≥ 0, float32.
    """
    with torch.autocast(similarity.device.type, enabled=False):
        logits = scale * (similarity.float() + margin * margins.float())
        return row_contrast(logits, targets.float(), robust_exponent)


def reverse_contrastive_loss(logits: Tensor, targets: Tensor, smoothing: float = 1e-2) -> Tensor:
    """Reversed divergence between predictions and label targets of every row (R-ITC).

        Σ_j p_ij [log p_ij − log(Y_ij + ε)],   p_i = softmax(z_i)

    The contrastive loss minimises the other direction of this divergence. Its value for p = Y, with one positive, is
    −log(1 + ε).

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
    """Mean squared difference between the similarities of images and those of their texts (C-ITC).

        mean_ij (a_ij − b_ij)²

    Args:
        images: a, similarities of images to images, shape `(B1, B2)`; or of images to texts.
        texts: b, similarities of the same pairs' texts to texts; or of texts to images.

    Returns:
        Scalar ≥ 0, float32.
    """
    with torch.autocast(images.device.type, enabled=False):
        return (images.float() - texts.float()).square().mean()
