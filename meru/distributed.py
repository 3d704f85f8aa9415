"""Distributed training: start, gather with gradient, agree. Everything here also works in a single process."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from meru import failures, stopping
from meru.errors import UserError

COLLECTIVE = timedelta(hours=2)  # only rank 0 evaluates, and the others wait for it: longer than the default
RENDEZVOUS = timedelta(minutes=10)
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
Result = TypeVar("Result")


def start() -> torch.device:
    """Join the process group that `torchrun` describes, if it does; returns this process's device.

    From then on only the main process reports progress, and error messages name the process.

    Raises:
        UserError: if the variables describe no group, other processes do not join, or this one has no GPU.
    """
    group = _described_group()
    cuda = torch.cuda.is_available()
    local = _number("LOCAL_RANK", 0) if group else 0  # a leftover without a group: CUDA_VISIBLE_DEVICES decides
    if cuda and local >= torch.cuda.device_count():
        raise UserError(
            f"LOCAL_RANK={local}: {torch.cuda.device_count()} GPUs are available, and each process needs its own: "
            "start no more processes than GPUs, or hide the GPUs with CUDA_VISIBLE_DEVICES= to train on the CPU"
        )
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if group and not dist.is_initialized():
        _join(*group, backend="nccl" if cuda else "gloo")
        failures.joined(rank(), world_size())
        if not is_main():
            logging.getLogger("meru").setLevel(logging.ERROR)
        if "TORCHELASTIC_RUN_ID" in os.environ:
            stopping.follow_parent()
    return device


def _described_group() -> tuple[int, int] | None:
    """Rank and size of the group in the environment; None for a single process.

    Clusters and earlier commands leave some of the variables behind, without a group to join.
    """
    size = _number("WORLD_SIZE", 1)
    if size < 1:
        raise UserError(f"WORLD_SIZE={size} is not a number of processes: {_ALONE}")
    if size == 1 and not os.environ.get("MASTER_ADDR"):
        return None
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing and size > 1:
        raise UserError(
            f"WORLD_SIZE={size} asks for {size} processes, but {' and '.join(missing)} {_are(missing)} not set: start "
            f"them with torchrun or `NGPU={size} bash train_cub.sh`; {_ALONE}"
        )
    number = _number("RANK", 0) if size > 1 else 0
    if not 0 <= number < size:
        raise UserError(f"RANK={number}: with WORLD_SIZE={size} it must be from 0 to {size - 1}; {_ALONE}")
    if size > 1:
        _number("MASTER_PORT", 0)
    return number, size


_ALONE = f"to train in one process: unset {' '.join(VARIABLES)}"


def _are(names: list[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _number(name: str, default: int) -> int:
    """An integer from the environment."""
    text = os.environ.get(name, "").strip() or str(default)
    if not text.isascii() or not text.isdigit():
        raise UserError(f"{name}={text} is not an integer; {_ALONE}")
    return int(text)


def _join(number: int, size: int, *, backend: str) -> None:
    """Wait for the other processes, at most `RENDEZVOUS`, and form the group."""
    if size == 1:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1, timeout=COLLECTIVE)
        return
    where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    try:
        store, number, size = next(iter(dist.rendezvous("env://", timeout=RENDEZVOUS)))
        store.set_timeout(RENDEZVOUS)
        store.set(f"meru/here/{number}", "")
        store.wait([f"meru/here/{other}" for other in range(size)], RENDEZVOUS)
    except (RuntimeError, ValueError) as error:
        if "EADDRINUSE" in str(error) or "already in use" in str(error):
            raise UserError(
                f"MASTER_PORT={os.environ['MASTER_PORT']} is in use on this machine, perhaps by another run: choose "
                "another port (torchrun --master-port=29501)",
                exit_code=1,
            ) from error
        raise UserError(
            f"not all of the {size} processes met at {where} (MASTER_ADDR, MASTER_PORT) within "
            f"{RENDEZVOUS.total_seconds() / 60:g} minutes: check that each was started and can reach that address; "
            f"{_ALONE}",
            exit_code=1,
        ) from error
    dist.init_process_group(
        backend, store=dist.PrefixStore("meru", store), rank=number, world_size=size, timeout=COLLECTIVE
    )


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
    """Return the main process's value in every process; it may be any picklable object."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def decided_by_main(decide: Callable[[], Result]) -> Result:
    """Call `decide` in the main process and return its result, or raise its `UserError`, in every process."""
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
    """Return the values of all processes, by rank, in every process; they may be any picklable objects."""
    if world_size() == 1:
        return [value]
    values = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


@torch.no_grad()
def broadcast_weights(model: nn.Module) -> None:
    """Give all processes the main process's parameters and buffers; each has the model on its own device."""
    if world_size() > 1:
        for tensor in model.state_dict().values():
            sent = tensor.contiguous()  # another layout in memory cannot be sent
            dist.broadcast(sent, src=0)
            tensor.copy_(sent)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        x = x.contiguous()
        parts = [torch.empty_like(x) for _ in range(world_size())]
        dist.all_gather(parts, x)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous().clone()  # autograd may pass the same tensor to other functions
        dist.all_reduce(gradient)
        return gradient.chunk(world_size())[rank()]


def gather(x: Tensor) -> Tensor:
    """Gather the rows of all processes in rank order, `(B, …)` → `(B · world, …)`, with gradients.

    The backward pass sums the rows' gradients from the losses of all processes. If each loss averages over its
    process's own rows, and DDP averages the parameter gradients, then W processes compute the same gradient as one
    process with the whole batch.

    Args:
        x: Same shape in every process.
    """
    return x if world_size() == 1 else _Gather.apply(x)


def gather_sequences(x: Tensor) -> Tensor:
    """`gather` of sequences, `(B, M, …)` → `(B · world, longest M, …)`, padded at the end with 0.

    Args:
        x: Same shape in every process except M.
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

    Each process divides its own sum by the average count per process. With DDP's averaging of gradients, every value
    then has the same weight, however unevenly the values are spread, as in a single process.

    Args:
        values: Shape `(…, n)`; arbitrary where the mask is False.
        mask: bool, same shape; n may differ between processes.

    Returns:
        Shape `(…)`; 0 where the mask is False in all processes.
    """
    count = total(mask.sum(dim=-1)).to(values.dtype) / world_size()
    return torch.where(mask, values, 0).sum(dim=-1) / torch.where(count == 0, 1, count)


class _WithSpare(nn.Module):
    """A model with an additional parameter that it never uses.

    DDP warns if it searches for unused parameters and finds none, but some models have them only in certain steps.
    """

    def __init__(self, model: nn.Module, device: torch.device):
        super().__init__()
        self.model = model
        self.spare = nn.Parameter(torch.zeros(1, device=device))

    def forward(self, *arguments):
        return self.model(*arguments)


def parallel(model: nn.Module, device: torch.device) -> DistributedDataParallel:
    """Wrap the model in DDP, which averages gradients over processes; a step may leave parameters unused.

    Parameters that no process used keep the gradient None, as in a single process.
    """
    devices = [device.index] if device.type == "cuda" else None
    return DistributedDataParallel(_WithSpare(model, device), device_ids=devices, find_unused_parameters=True)


def seed_training(model: nn.Module, seed: int) -> None:
    """Seed torch's generators before training.

    All processes draw the same random numbers, so that a loss that samples, such as one with triplets, makes one choice
    for the whole batch. With dropout, whose masks must differ between samples, each process has its own seed.
    """
    torch.manual_seed(seed if draw_alike(model) else seed + rank())


def draw_alike(model: nn.Module) -> bool:
    """Whether all processes draw the same random numbers, see `seed_training`."""
    return not any(_drops(module) for module in model.modules())


def _drops(module: nn.Module) -> bool:
    """Whether a layer drops values at random in training: `Dropout`, timm's `DropPath`, attention, …"""
    rates = [value for name, value in vars(module).items() if name in ("p", "prob") or "drop" in name]
    return any(isinstance(rate, float) and rate > 0 for rate in rates)
