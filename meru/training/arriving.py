"""Batches on their way from the loader to the device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from meru.data.device_views import waiting_views, with_views_taken
from meru.encoders.packing import count_real


def arriving(
    batches: Iterable[Mapping[str, Tensor | int]],
    device: torch.device,
    *,
    few_shapes: bool = False,
) -> Iterator[dict[str, Tensor | int]]:
    """Batches on the device; a GPU copies them beside its computations.

    Token ids `(B, L)` under a name `…tokens` get a companion `…tokens_count`, the number of real tokens as an int:
    here it is known, and a GPU would have to finish all its work first. Views of images that the loader left to the
    device are taken there.

    Args:
        batches: Tensors by name, in main memory, and whole numbers, which stay as they are.
        device: Where they go.
        few_shapes: Whether to round L and the number up to multiples of 8 and 128, so that few different shapes occur,
            each of which a CUDA graph is recorded for.
    """
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None
    for batch in batches:
        counts = {f"{name}_count": count_real(value) for name, value in batch.items() if _are_tokens(name, value)}
        if few_shapes:
            counts = {name: -(-count // 128) * 128 for name, count in counts.items()}
            batch = {name: _longer(value) if _are_tokens(name, value) else value for name, value in batch.items()}
        if stream is None:
            moved = _moved(batch, device)
        else:
            current = torch.cuda.current_stream(device)
            with torch.cuda.stream(stream):
                moved = _moved(batch, device)
            current.wait_stream(stream)
            for value in moved.values():
                if isinstance(value, Tensor):
                    value.record_stream(current)
        yield {**moved, **counts}


def _moved(batch: Mapping[str, Tensor | int], device: torch.device) -> dict[str, Tensor | int]:
    tensors = {name: value for name, value in batch.items() if isinstance(value, Tensor)}
    waiting = waiting_views(tensors)
    moved = {name: value.to(device, non_blocking=True) for name, value in tensors.items()}
    numbers = {name: value for name, value in batch.items() if name not in tensors}
    return {**(with_views_taken(moved, waiting) if waiting else moved), **numbers}


def _longer(tokens: Tensor) -> Tensor:
    return F.pad(tokens, (0, -tokens.shape[1] % 8))


def _are_tokens(name: str, value: Tensor | int) -> bool:
    return name.endswith("tokens") and value.dim() == 2
