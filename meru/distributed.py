"""Distributed training: start, gather with gradient, agree. Everything here also works in a single process.

Processes wait for the main one by asking the group's store, without a limit of time: it may draw plots or unpack data
for an hour. `meru.heartbeat` ends the wait if that process is gone. Collectives, in which all work alike, have a limit
of minutes.
"""

from __future__ import annotations

import itertools
import logging
import os
import pickle
import socket
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from meru import failures, stopping
from meru.cluster import Group, described_group, hint
from meru.errors import UserError
from meru.heartbeat import Heartbeat, own_name
from meru.rendezvous import meet

COLLECTIVE = 1200.0  # seconds that processes may differ in a step: longer than data.timeout, which names the cause
STORE = timedelta(seconds=30)  # for an answer from the store
Result = TypeVar("Result")


class _Joined:
    """The group of this process."""

    store: dist.Store | None = None
    heartbeat: Heartbeat | None = None
    said = itertools.count()  # values that the main process has given to the others


def start(*, patience: float = 0.0) -> torch.device:
    """Join the process group that torchrun or SLURM describes, if one does; returns this process's device.

    From then on only the main process reports progress, and error messages name the process.

    Args:
        patience: Seconds that one process may wait for a batch, see `data.timeout`; collectives wait longer.

    Raises:
        UserError: if the variables describe no group, other processes do not join, or this one has no GPU.
    """
    group = described_group()
    cuda = torch.cuda.is_available()
    local = group.local if group else 0  # a leftover without a group: CUDA_VISIBLE_DEVICES decides
    if cuda and group and group.by_slurm and torch.cuda.device_count() == 1:
        local = 0  # SLURM shows each task its own GPU only (--gpus-per-task)
    if cuda and local >= torch.cuda.device_count():
        raise UserError(
            f"LOCAL_RANK={local}: {torch.cuda.device_count()} GPUs are available, and each process needs its own: "
            "start no more processes than GPUs, or hide the GPUs with CUDA_VISIBLE_DEVICES= to train on the CPU"
        )
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if group and not dist.is_initialized():
        _join(group, backend="nccl" if cuda else "gloo", timeout=max(COLLECTIVE, patience + COLLECTIVE / 2))
        failures.joined(rank(), world_size())
        if not is_main():
            logging.getLogger("meru").setLevel(logging.ERROR)
        if "TORCHELASTIC_RUN_ID" in os.environ:
            stopping.follow_parent()
    elif not group and (advice := hint()):
        logging.getLogger("meru").info("note: %s", advice)
    return device


def _join(group: Group, *, backend: str, timeout: float) -> None:
    """Wait for the other processes, form the group, and begin to watch over it."""
    if group.size == 1:
        join(dist.HashStore(), 0, 1, backend=backend, timeout=timeout)
        return
    store, number, size = meet(group)
    join(store, number, size, backend=backend, timeout=timeout)
    own = dist.PrefixStore("alive", store.clone())
    own.set_timeout(STORE)
    _Joined.heartbeat = Heartbeat(
        own,
        rank=number,
        size=size,
        name=own_name(number, socket.gethostname()),
        holder="torchrun" if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" else "rank 0",
        end=stopping.end_without_group,
    )
    wait_for_all()
    _Joined.heartbeat.start()
    alone_on_machine = os.environ.get("LOCAL_WORLD_SIZE") != os.environ["WORLD_SIZE"]
    failures.in_group(_Joined.heartbeat.say, _Joined.heartbeat.lost if alone_on_machine else None)


def join(store: dist.Store, number: int, size: int, *, backend: str = "gloo", timeout: float = COLLECTIVE) -> None:
    """Form the group over a store that all processes have in common."""
    dist.init_process_group(
        backend,
        store=dist.PrefixStore("collectives", store),
        rank=number,
        world_size=size,
        timeout=timedelta(seconds=timeout),
    )
    _Joined.store, _Joined.said = dist.PrefixStore("said", store), itertools.count()


def stop() -> None:
    """Leave the process group, if there is one, without a word to the others."""
    if _Joined.heartbeat:
        _Joined.heartbeat.stop()
        failures.in_group(None, None)
    if dist.is_initialized():
        dist.destroy_process_group()
    _Joined.store = _Joined.heartbeat = None


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """True in the one process that prints, logs and saves."""
    return rank() == 0


def wait_for_all() -> None:
    """Wait until every process is here, however long that takes."""
    if world_size() > 1:
        number = next(_Joined.said)
        _store().set(f"{number}/{rank()}", "")
        _wait_for([f"{number}/{other}" for other in range(world_size())])


def wait_for_main() -> None:
    """Wait until the main process is here, however long that takes."""
    broadcast(None)


def broadcast(value: object) -> object:
    """Return the main process's value in every process, however late; it may be any picklable object."""
    if world_size() == 1:
        return value
    key = str(next(_Joined.said))
    if is_main():
        _store().set(key, pickle.dumps(value))
        return value
    _wait_for([key])
    return pickle.loads(_store().get(key))


def broadcast_large(value: object) -> object:
    """As `broadcast`, for gigabytes of tensors on the CPU, and with the limit of time of collectives."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def _wait_for(keys: list[str]) -> None:
    pause = 0.001
    while not _store().check(keys):
        time.sleep(pause)
        pause = min(2 * pause, 0.2)


def _store() -> dist.Store:
    if _Joined.store is None:
        raise RuntimeError("the process group was not formed by meru.distributed")
    return _Joined.store


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
    parts = _WithSpare(model, device)
    divided = [name for name, parameter in parts.named_parameters() if hasattr(parameter, "placements")]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(parts, divided)  # FSDP averages these
    return DistributedDataParallel(parts, device_ids=devices, find_unused_parameters=True)


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
