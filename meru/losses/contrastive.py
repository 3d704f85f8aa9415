"""Contrastive losses with one or several positives per row.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021, section 2.3;
several positives as normalised targets: Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020, equation 2;
every pair judged by itself: Zhai et al., "Sigmoid Loss for Language Image Pre-Training", ICCV 2023, equation 1.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

POSITIVES = ("pair", "image", "class")  # captions of a batch that are positives of an image: those with an equal label
CONTRASTS = ("softmax", "sigmoid")  # by `row_contrast`, by `sigmoid_row_contrast`


def contrastive_targets(rows: Tensor, columns: Tensor) -> Tensor:
    """Target distribution of every row over the columns: uniform over those with an equal label.

    Args:
        rows: Labels, int64, shape `(B1,)`.
        columns: Labels, shape `(B2,)`; every row's label is among them.

    Returns:
        float32, shape `(B1, B2)`; rows sum to 1.
    """
    positive = (rows[:, None] == columns).float()
    return positive / positive.sum(dim=1, keepdim=True)


def contrastive_loss(row_logits: Tensor, column_logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of both directions, image → text and text → image.

        ½ mean_i [ −Σ_j Y_ij log softmax_j(z_i) − Σ_j Y_ij log softmax_j(z'_i) ]

    Args:
        row_logits: This process's images against all texts, shape `(B1, B2)`, scaled.
        column_logits: This process's texts against all images, shape `(B1, B2)`, scaled.
        targets: Y of `contrastive_targets`, the same for both directions.

    Returns:
        Scalar ≥ 0, float32.
    """
    return 0.5 * (row_contrast(row_logits, targets).mean() + row_contrast(column_logits, targets).mean())


def row_contrast(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of every row, one direction of `contrastive_loss`.

    Args:
        logits: Shape `(B1, B2)`, scaled.
        targets: Y, shape `(B1, B2)`.

    Returns:
        Shape `(B1,)`, ≥ 0, float32.
    """
    with torch.autocast(logits.device.type, enabled=False):
        return F.cross_entropy(logits.float(), targets, reduction="none")


def sigmoid_row_contrast(logits: Tensor, positive: Tensor) -> Tensor:
    """Loss of every row if each pair is judged by itself: Σ_j softplus(−y_ij z_ij), y = 1 for positives, else −1.

    Args:
        logits: z, shape `(B1, B2)`, scaled and shifted by the learned bias: −s·d + b.
        positive: bool, shape `(B1, B2)`.

    Returns:
        Shape `(B1,)`, ≥ 0, float32. The mean over the images of all processes is the loss of Zhai et al.
    """
    with torch.autocast(logits.device.type, enabled=False):
        return F.softplus(torch.where(positive, -logits.float(), logits.float())).sum(dim=1)
