"""Losses of SimGCD, the parametric baseline of generalized category discovery.

Wen et al., "Parametric Classification for Generalized Category Discovery: A Baseline Study", ICCV 2023; supervised
contrastive loss: Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020, equation 2; contrastive loss of two
views: Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020; classification
with wrong labels: Zhang and Sabuncu, "Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy
Labels", NeurIPS 2018, equation 6.

The models pass in the samples of all processes, so that the number of processes changes nothing; in the released code,
each process compares only its own samples.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from meru.geometry.all_pairs import exact_product


def supervised_contrastive_loss(features: Tensor, labels: Tensor, temperature: float = 0.07) -> Tensor:
    """Contrastive loss whose positives are all other features with the same label.

        −1/n Σ_i 1/|S_i| Σ_{q ∈ S_i} log( exp(f_i·f_q/τ) / Σ_{j ≠ i} exp(f_i·f_j/τ) )

    Args:
        features: f of views of labelled images, shape `(n, D)`; normalised here.
        labels: Shape `(n,)`.
        temperature: τ.

    Returns:
        Scalar, float32; rows without another row of the same label do not count; 0 if no row counts.
    """
    return contrast_of_labels(_cosine_logits(features, temperature), labels)


def contrast_of_labels(logits: Tensor, labels: Tensor) -> Tensor:
    """`supervised_contrastive_loss` of similarities over τ, `(n, n)`, whose diagonal does not count."""
    itself = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    logits = logits.masked_fill(itself, -math.inf)
    right = (labels[:, None] == labels) & ~itself
    count = right.sum(dim=1)
    log_share = logits - logits.logsumexp(dim=1, keepdim=True)
    of_row = torch.where(right, log_share, 0).sum(dim=1) / count.clamp(min=1)
    return -of_row.sum() / (count > 0).sum().clamp(min=1)


def view_contrastive_loss(first: Tensor, second: Tensor, temperature: float = 1.0) -> Tensor:
    """Contrastive loss whose only positive, among the 2B − 1 other views, is the other view of the same image.

    Args:
        first: Features of one view of B images, shape `(B, D)`; normalised here.
        second: Features of another view of the same images, shape `(B, D)`.
        temperature: τ.

    Returns:
        Scalar, float32.
    """
    return contrast_of_views(_cosine_logits(torch.cat([first, second]), temperature))


def contrast_of_views(logits: Tensor) -> Tensor:
    """`view_contrastive_loss` of similarities over τ, `(2B, 2B)`, first views first; the diagonal does not count."""
    itself = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    other = torch.arange(len(logits), device=logits.device).roll(len(logits) // 2)
    return F.cross_entropy(logits.masked_fill(itself, -math.inf), other)


def _cosine_logits(features: Tensor, temperature: float) -> Tensor:
    """Cosines of features `(n, D)` with one another over τ, `(n, n)`, float32."""
    with torch.autocast(features.device.type, enabled=False):
        features = F.normalize(features.float(), dim=-1)
        return exact_product(features, features) / temperature


def generalized_cross_entropy(logits: Tensor, labels: Tensor, q: float) -> Tensor:
    """Cross-entropy that wrong labels pull on less, by a power of the label's probability.

        1/n Σ_i (1 − p_{i, y_i}^q) / q,   p = softmax(logits)

    Its gradient is that of the cross-entropy times p^q, so images whose label the model does not believe count little.

    Args:
        logits: Shape `(n, K)`, n ≥ 1.
        labels: y, int64 `(n,)`.
        q: In [0, 1]; 0: the cross-entropy, the limit; 1: 1 − p, half the mean absolute error.

    Returns:
        Scalar, float32 for q > 0.
    """
    if not q:
        return F.cross_entropy(logits, labels)
    with torch.autocast(logits.device.type, enabled=False):
        log_probability = -F.cross_entropy(logits.float(), labels, reduction="none")
        return -torch.expm1(q * log_probability).mean() / q  # 1 − p^q would cancel for small q


def self_distillation_loss(
    first: Tensor, second: Tensor, student_temperature: float, teacher_temperature: float | Tensor
) -> Tensor:
    """Cross-entropy of each view's prediction with the other's, which is sharpened and without gradient.

        ½ [H(q_b, p_a) + H(q_a, p_b)],   p = softmax(o/τ_s),   q = sg softmax(o/τ_t)

    Args:
        first, second: Class logits o of two views of the same images, shape `(B, K)`.
        student_temperature: τ_s.
        teacher_temperature: τ_t < τ_s.

    Returns:
        Scalar, float32.
    """
    with torch.autocast(first.device.type, enabled=False):
        first, second = first.float(), second.float()
        one, other = (
            F.cross_entropy(student / student_temperature, (teacher.detach() / teacher_temperature).softmax(dim=1))
            for student, teacher in ((first, second), (second, first))
        )
        return 0.5 * (one + other)


def mean_entropy(logits: Tensor, temperature: float) -> Tensor:
    """Entropy H(p̄) of the mean prediction, maximised so that predictions do not collapse onto a few classes.

    Computed from log p̄, so that a class without predictions has a finite gradient.

    Args:
        logits: Shape `(n, K)`.
        temperature: τ; p = softmax(o/τ).

    Returns:
        Scalar in [0, ln K], float32.
    """
    with torch.autocast(logits.device.type, enabled=False):
        log_predictions = (logits.float() / temperature).log_softmax(dim=1)
        log_mean = log_predictions.logsumexp(dim=0) - math.log(len(logits))
        return -(log_mean.exp() * log_mean).sum()


def teacher_temperature(epoch: float | Tensor, *, start: float, end: float, epochs: int) -> float | Tensor:
    """τ_t of an epoch: `epochs` values evenly spaced from `start` to `end`, then `end`; constant within an epoch.

    Equal to `numpy.linspace(start, end, epochs)` at the epoch's index, as in the released code: `end` is reached at
    index `epochs` − 1.

    Args:
        epoch: Progress of training in epochs; only the integer part counts.
        start, end: First and last temperature.
        epochs: Number of values; 0: `end` from the beginning.
    """
    if epochs <= 0:
        return end
    index = epoch.floor() if isinstance(epoch, Tensor) else math.floor(epoch)
    share = index / max(epochs - 1, 1)
    share = share.clamp(max=1) if isinstance(share, Tensor) else min(share, 1.0)
    return start + (end - start) * share
