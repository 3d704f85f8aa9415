"""Batches on their way from the loader to the device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from meru.encoders.packing import count_real


def arriving(batches: Iterable[Mapping[str, Tensor]], device: torch.device) -> Iterator[dict[str, Tensor | int]]:
    """Batches on the device; a GPU copies them beside its computations.

    Token ids `(B, L)` under a name `…tokens` get a companion `…tokens_count`, the number of real tokens as an int:
    here it is known, and a GPU would have to finish all its work first.
    """
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None
    for batch in batches:
        counts = {f"{name}_count": count_real(value) for name, value in batch.items() if _are_tokens(name, value)}
        if stream is None:
            moved = {name: value.to(device, non_blocking=True) for name, value in batch.items()}
        else:
            current = torch.cuda.current_stream(device)
            with torch.cuda.stream(stream):
                moved = {name: value.to(device, non_blocking=True) for name, value in batch.items()}
            current.wait_stream(stream)
            for value in moved.values():
                value.record_stream(current)
        yield {**moved, **counts}


def _are_tokens(name: str, value: Tensor) -> bool:
    return name.endswith("tokens") and value.dim() == 2
