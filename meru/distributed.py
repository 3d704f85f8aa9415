"""Several processes as one: start, gather with gradient, agree. Everything here also works in a single process."""

from __future__ import annotations

import os
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor


def start() -> torch.device:
    """Join the process group that `torchrun` describes, if it does; returns this process's device."""
    cuda = torch.cuda.is_available()
    if "WORLD_SIZE" in os.environ and not dist.is_initialized():
        # Only rank 0 evaluates, and the others wait for it: longer than the default ten minutes.
        dist.init_process_group("nccl" if cuda else "gloo", timeout=timedelta(hours=2))
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    return device


def stop() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """True in the one process that prints, logs and saves."""
    return rank() == 0


def barrier() -> None:
    """Wait until every process is here."""
    if world_size() > 1:
        dist.barrier()


def broadcast(value: object) -> object:
    """The main process's value, in every process; any picklable object."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def collect(value: object) -> list:
    """Every process's value, by rank, in every process; any picklable object."""
    if world_size() == 1:
        return [value]
    values = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient.chunk(world_size())[rank()]


def gather(x: Tensor) -> Tensor:
    """Rows of all processes in rank order, `(B, …)` → `(B · world, …)`, gradients included.

    The backward pass sums over processes what each one's loss says about the rows. With a loss that averages over
    this process's own rows and DDP's averaging of parameter gradients, W processes give the gradient of one process
    with the whole batch.

    Args:
        x: Same shape in every process.
    """
    return x if world_size() == 1 else _Gather.apply(x)


def total(x: Tensor) -> Tensor:
    """Sum over all processes, without gradient."""
    x = x.detach().clone()
    if world_size() > 1:
        dist.all_reduce(x)
    return x


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean along the last dimension where `mask` is True, over all processes.

    Each process gives its own sum over the count that falls to one process on average. So, with DDP's averaging of
    gradients, every value counts the same, however unevenly they are spread, and one process has the same gradient.

    Args:
        values: Shape `(…, n)`; may be anything where the mask is False.
        mask: bool, same shape; n may differ between processes.

    Returns:
        Shape `(…)`; 0 where no process has a True.
    """
    count = total(mask.sum(dim=-1)).to(values.dtype) / world_size()
    return torch.where(mask, values, 0).sum(dim=-1) / torch.where(count == 0, 1, count)
