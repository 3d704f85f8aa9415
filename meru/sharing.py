"""Work that the processes divide batch by batch, with the results of a single process.

An evaluation of W processes has the batches of one process: rank r reads and embeds the batches r, r + W, r + 2W, …,
and every process gets all results in the order of the batches. So nothing is counted twice or left out, and rounding
is that of one process, because it depends on the rows that are computed together.

Outside `together` a process works alone: the main process can draw a plot while the others wait for it.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from meru import distributed

Batch = TypeVar("Batch")
Result = TypeVar("Result")
Rows = Mapping[str, Tensor]

_state = {"together": False}


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Divide the batches in this block, which all processes enter and in which all call the same functions."""
    before, _state["together"] = _state["together"], True
    try:
        yield
    finally:
        _state["together"] = before


def share() -> tuple[int, int]:
    """Number of this process among those that work together, and how many these are; (0, 1) outside `together`."""
    return (distributed.rank(), distributed.world_size()) if _state["together"] else (0, 1)


def leads() -> bool:
    """Whether this process computes what is computed once: the main one in `together`, and every one outside it."""
    return share()[0] == 0


def own_part(batches: Iterable[Batch]) -> Iterable[Batch]:
    """The batches of this process; a loader that has `part`, such as `OrderedLoader`, reads nothing of the others."""
    rank, size = share()
    if size == 1:
        return batches
    if hasattr(batches, "part"):
        return batches.part(rank, size)
    return itertools.islice(batches, rank, None, size)


def results_of(batches: Iterable[Batch], compute: Callable[[Batch], Result]) -> list[Result]:
    """`compute` of every batch in order, in every process; the results must be picklable."""
    own = [compute(batch) for batch in own_part(batches)]
    return _in_turn(distributed.collect(own)) if share()[1] > 1 else own


def rows_of(
    batches: Iterable[Batch], compute: Callable[[Batch], Rows | None], *, device: torch.device
) -> dict[str, Tensor]:
    """The rows of all batches, concatenated in order, in every process.

    Args:
        batches: All batches.
        compute: A batch → tensors `(b, …)` by name, the same names, dtypes and shapes but for b for every batch; None:
            no rows.
        device: Device of the rows.

    Returns:
        Tensors `(n, …)` by name; empty if no batch has rows.
    """
    parts = [compute(batch) for batch in own_part(batches)]
    if share()[1] == 1:
        return _joined([part for part in parts if part is not None])
    sizes = distributed.collect([0 if part is None else len(next(iter(part.values()))) for part in parts])
    own = _joined([part for part in parts if part is not None])
    kinds = next(filter(None, distributed.collect({name: (x.dtype, x.shape[1:]) for name, x in own.items()})), {})
    most = max(sum(each) for each in sizes)
    gathered = {}
    for name, (dtype, shape) in kinds.items():
        rows = own[name] if own else torch.empty(0, *shape, dtype=dtype, device=device)
        columns = _everyone(rows, most)
        cut = [column[: sum(each)].split(each) for column, each in zip(columns, sizes, strict=True)]
        gathered[name] = torch.cat(_in_turn(cut))
    return gathered


def _joined(parts: Sequence[Rows]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]} if parts else {}


def _in_turn(of_ranks: Sequence[Sequence[Any]]) -> list[Any]:
    """The first batch of each rank, then the second ones, …: the order that `own_part` has divided."""
    rounds = itertools.zip_longest(*of_ranks, fillvalue=_state)  # a value that no batch is
    return [each for row in rounds for each in row if each is not _state]


def _everyone(rows: Tensor, most: int) -> list[Tensor]:
    """The rows of every rank, each padded to `most` rows. They travel as bytes, which every backend knows."""
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
    flat = rows.reshape(len(rows), rows.shape[1:].numel()).contiguous()
    width = flat.shape[1] * flat.element_size()
    sent = torch.zeros(most, width, dtype=torch.uint8, device=device)
    if len(rows):
        sent[: len(rows)] = flat.view(torch.uint8).to(device)
    received = [torch.empty_like(sent) for _ in range(distributed.world_size())]
    dist.all_gather(received, sent)
    return [each.to(rows.device).view(rows.dtype).reshape(most, *rows.shape[1:]) for each in received]
