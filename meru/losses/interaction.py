"""Losses between patches of images and words of captions.

The two local losses of BAI: GAHR (IEEE TIFS 2025, doi 10.1109/TIFS.2025.3574970), released code. Late
interaction: Yao et al., "FILIP: Fine-grained Interactive Language-Image Pre-Training", ICLR 2022, section 3.1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from meru.geometry.all_pairs import exact_product

SCOPES = ("caption", "batch")


def word_contrast(
    words: Tensor,
    contexts: Tensor,
    real: Tensor,
    scale: Tensor | float,
    *,
    scope: str = "caption",
    labels: Tensor | None = None,
) -> Tensor:
    """Contrastive loss of each word: matches it with its own context from the patches among those of other words.

        caption:  −log softmax_k(s cos(f_m, c_k))_m                                          k in the same caption
        batch:    ½ [−log softmax_k(s cos(f_m, c_k))_m − log softmax_k(s cos(c_m, f_k))_m]   k in the whole batch

    `caption` takes B·M² numbers, `batch` the square of the number of words in the batch.

    Args:
        words: f, shape `(B, M, D)`.
        contexts: c, shape `(B, M, D)`.
        real: False at padding, bool, shape `(B, M)`.
        scale: s > 0.
        scope: Where the other words come from.
        labels: Shape `(B,)`; in scope `batch`, words of other captions with an equal label are left out, since they may
            describe this image too.

    Returns:
        Losses ≥ 0 of the words, float32, shape `(B, M)`, 0 at padding.
    """
    with torch.autocast(words.device.type, enabled=False):
        words, contexts = F.normalize(words.float(), dim=-1), F.normalize(contexts.float(), dim=-1)
        if scope == "caption":
            logits = exact_product(scale * words, contexts)
            logits = logits.masked_fill(~real[:, None], -math.inf)
            losses = logits.logsumexp(dim=-1) - logits.diagonal(dim1=1, dim2=2)
            return torch.where(real, losses, 0)
        caption, _ = real.nonzero(as_tuple=True)
        logits = exact_product(scale * words[real], contexts[real])
        if labels is not None:
            alike = (labels[caption][:, None] == labels[caption]) & (caption[:, None] != caption)
            logits = logits.masked_fill(alike, -math.inf)
        both = logits.logsumexp(dim=1) + logits.logsumexp(dim=0)
        return words.new_zeros(real.shape).masked_scatter(real, 0.5 * both - logits.diagonal())


def word_grounding(attention: Tensor, own: Tensor, allowed: Tensor | None = None) -> Tensor:
    """Negative log of the share of attention that a word, attending to all images of the batch, gives to its own image.

        −log ( Σ_n exp a_m,own,n / Σ_j Σ_n exp a_mjn )

    The same word attends to every image, so that the loss cannot be lowered by the word alone: the attended patch has
    to show what the word describes. Contrasts between words do not require this: they are satisfied by any consistent
    difference in attention between words. The sum leaves open which patches of an image are attended to (MIL-NCE: Miech
    et al., "End-to-End Learning of Visual Representations from Uncurated Instructional Videos", CVPR 2020).

    Args:
        attention: a, logits of all images' patches for each of T words, shape `(T, B, N)`.
        own: Index of each word's own image, shape `(T,)`.
        allowed: Images that count, bool, shape `(T, B)`, each word's own among them; None: all.

    Returns:
        Losses ≥ 0, float32, shape `(T,)`.
    """
    with torch.autocast(attention.device.type, enabled=False):
        logits = attention.float().logsumexp(dim=-1)
        if allowed is not None:
            logits = logits.masked_fill(~allowed, -math.inf)
        return F.cross_entropy(logits, own, reduction="none")


def patch_agreement(
    patches: Tensor, contexts: Tensor, predicted_patches: Tensor, predicted_contexts: Tensor
) -> Tensor:
    """Negative cosine similarity of each patch and its context from the words, each predicted from the other (SimSiam).

        −½ [cos(h(f), sg(c)) + cos(h(c), sg(f))]

    Args:
        patches: f, shape `(B, N, D)`; no gradient flows into it here (sg).
        contexts: c, likewise.
        predicted_patches: h(f) of a predictor h.
        predicted_contexts: h(c).

    Returns:
        Losses in [−1, 1], float32, shape `(B, N)`.
    """
    with torch.autocast(patches.device.type, enabled=False):
        towards_context = F.cosine_similarity(predicted_patches.float(), contexts.detach().float(), dim=-1)
        towards_patch = F.cosine_similarity(predicted_contexts.float(), patches.detach().float(), dim=-1)
        return -0.5 * (towards_context + towards_patch)


def late_interaction(similarity: Tensor, real: Tensor) -> Tensor:
    """Similarity of every caption and every image: each word is compared with its best patch.

        S_ij = mean_m max_n s(t_im, p_jn)

    Args:
        similarity: s of the batch's T real words, caption after caption, and all patches, shape `(T, B', N)`.
        real: False at padding, bool, shape `(B, M)`, with T True values.

    Returns:
        Shape `(B, B')`.
    """
    best = similarity.amax(dim=-1)
    caption, _ = real.nonzero(as_tuple=True)
    total = best.new_zeros(len(real), best.shape[1]).index_add(0, caption, best)
    return total / real.sum(dim=1, keepdim=True)
