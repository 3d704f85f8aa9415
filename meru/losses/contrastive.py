"""Contrastive losses with one or several positives per row.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021, section 2.3;
several positives as normalised targets: Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020, equation 2;
every pair judged by itself: Zhai et al., "Sigmoid Loss for Language Image Pre-Training", ICCV 2023, equation 1;
robust to wrong labels: Zhang and Sabuncu, "Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy
Labels", NeurIPS 2018, equation 6.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

POSITIVES = ("pair", "image", "class")  # captions of a batch that are positives of an image: those with an equal label
LEAST_EXPONENT = 1e-6  # of a growing q, whose first value would divide by 0: the cross-entropy to float32's precision
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


def contrastive_loss(
    row_logits: Tensor, column_logits: Tensor, targets: Tensor, robust_exponent: Tensor | float = 0.0
) -> Tensor:
    """Mean cross-entropy of both directions, image → text and text → image.

        ½ mean_i [ −Σ_j Y_ij log softmax_j(z_i) − Σ_j Y_ij log softmax_j(z'_i) ]

    Args:
        row_logits: This process's images against all texts, shape `(B1, B2)`, scaled.
        column_logits: This process's texts against all images, shape `(B1, B2)`, scaled.
        targets: Y of `contrastive_targets`, the same for both directions.
        robust_exponent: q of `row_contrast`.

    Returns:
        Scalar ≥ 0, float32.
    """
    rows, columns = (row_contrast(each, targets, robust_exponent) for each in (row_logits, column_logits))
    return 0.5 * (rows.mean() + columns.mean())


def row_contrast(logits: Tensor, targets: Tensor, robust_exponent: Tensor | float = 0.0) -> Tensor:
    """Cross-entropy of every row, one direction of `contrastive_loss`; or its generalization for wrong positives.

        Σ_j Y_ij (1 − p_ij^q)/q,   p_i = softmax(z_i)

    Its limit for q → 0 is the cross-entropy, its value for q → 1 the error 1 − p. A pair's gradient is that of the
    cross-entropy times p^q, so pairs that the model finds impossible, as wrong ones are, hardly count. Every positive
    of a row is judged by itself: a wrong one takes no weight from the others.

    Args:
        logits: z, shape `(B1, B2)`, scaled; float64 stays float64 with q > 0.
        targets: Y, shape `(B1, B2)`; rows sum to 1.
        robust_exponent: q in [0, 1); a tensor, without gradient, is at least `LEAST_EXPONENT`.

    Returns:
        Shape `(B1,)`, ≥ 0, float32.
    """
    with torch.autocast(logits.device.type, enabled=False):
        if not isinstance(robust_exponent, Tensor) and robust_exponent == 0:
            return F.cross_entropy(logits.float(), targets, reduction="none")
        logits = logits if logits.dtype == torch.float64 else logits.float()
        losses = -torch.expm1(robust_exponent * logits.log_softmax(dim=1)) / robust_exponent
        return (targets.to(losses) * losses).sum(dim=1)


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
