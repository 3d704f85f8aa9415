"""A tower in pieces of the batch, so that a batch of thousands fits into little memory with its exact gradients.

Contrastive losses need all samples of a batch at once, but only their features: the activations between can be computed
again (gradient caching: Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", 2021).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def in_pieces(
    tower: Callable[..., tuple[Tensor, ...]], *given: Tensor | None, size: int | None
) -> tuple[Tensor, ...]:
    """The outputs of a tower for a batch, computed for `size` samples at a time.

    With gradient, only the outputs are kept. The backward pass computes one piece after another again, with the random
    numbers of the first time, so that at most one piece has activations in memory.

    Args:
        tower: Takes tensors `(b, …)` and gives such tensors. Its outputs for a sample may not depend on others, as
            those of a trained batch norm do.
        *given: Tensors `(B, …)`; None is passed on.
        size: Samples in a piece; None: all.
    """
    if size is None:
        return tower(*given)
    batch = next(len(each) for each in given if each is not None)
    if batch <= size:
        return tower(*given)
    pieces = zip(*([None] * -(-batch // size) if each is None else each.split(size) for each in given), strict=True)
    if torch.is_grad_enabled():
        outputs = [checkpoint(tower, *piece, use_reentrant=False) for piece in pieces]
    else:
        outputs = [tower(*piece) for piece in pieces]
    return tuple(torch.cat(parts) for parts in zip(*outputs, strict=True))
