"""Several processes as one: start, gather with gradient, agree. Everything here also works in a single process."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from meru.errors import UserError

Result = TypeVar("Result")


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


def decided_by_main(decide: Callable[[], Result]) -> Result:
    """What `decide` gives in the main process, in every process; its `UserError` is raised in all of them alike."""
    outcome: tuple[object, UserError | None] = (None, None)
    if is_main():
        try:
            outcome = (decide(), None)
        except UserError as error:
            outcome = (None, error)
    result, error = broadcast(outcome)
    if error is not None:
        raise error
    return result


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
        x = x.contiguous()
        parts = [torch.empty_like(x) for _ in range(world_size())]
        dist.all_gather(parts, x)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous().clone()  # autograd may hand the same one to others
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


def gather_sequences(x: Tensor) -> Tensor:
    """`gather` of sequences, `(B, M, …)` → `(B · world, longest M, …)`, padded at the end with 0.

    Args:
        x: Same shape in every process but for M.
    """
    if world_size() == 1:
        return x
    longest = torch.tensor(x.shape[1], device=x.device)
    dist.all_reduce(longest, dist.ReduceOp.MAX)
    return gather(F.pad(x, (0, 0) * (x.dim() - 2) + (0, int(longest) - x.shape[1])))


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


class _WithSpare(nn.Module):
    """A model beside a parameter that it never uses.

    DDP warns about having looked for unused parameters where it finds none, which a model may have in one step only.
    """

    def __init__(self, model: nn.Module, device: torch.device):
        super().__init__()
        self.model = model
        self.spare = nn.Parameter(torch.zeros(1, device=device))

    def forward(self, *arguments):
        return self.model(*arguments)


def parallel(model: nn.Module, device: torch.device) -> DistributedDataParallel:
    """The model with its gradients averaged over the processes, also where a step leaves parameters untouched.

    What no process has touched keeps the gradient None, as in a single process.
    """
    devices = [device.index] if device.type == "cuda" else None
    return DistributedDataParallel(_WithSpare(model, device), device_ids=devices, find_unused_parameters=True)


def seed_training(model: nn.Module, seed: int) -> None:
    """Seed torch's generators before training.

    All processes draw the same, so that what a loss draws, say triplets, is one choice for the whole batch. Only with
    dropout, whose masks must differ between the samples, each draws for itself.
    """
    torch.manual_seed(seed if draw_alike(model) else seed + rank())


def draw_alike(model: nn.Module) -> bool:
    """Whether all processes draw the same random numbers, see `seed_training`."""
    return not any(_drops(module) for module in model.modules())


def _drops(module: nn.Module) -> bool:
    """Whether a layer leaves something out at random in training: `Dropout`, timm's `DropPath`, attention, …"""
    rates = [value for name, value in vars(module).items() if name in ("p", "prob") or "drop" in name]
    return any(isinstance(rate, float) and rate > 0 for rate in rates)
