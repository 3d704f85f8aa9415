"""Which samples a training step has: a pure function of the seed and the step, whatever the number of workers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Sampler

from meru.errors import UserError


class RunBatches(Sampler[list[tuple[int, int]]]):
    """The keys `(epoch, index)` of every batch of one process, from `start_step` to the end of the run.

    One iterator runs over all epochs, so worker processes start once. The samples that do not fill a last
    batch are left out, other ones in every epoch: a loss over fewer pairs would be on another scale.

    Args:
        length: Number of training images.
        batch_size: Samples of one process in one step.
        seed: Seed of the order.
        rank, world_size: This process, and how many there are.
        start_step, total_steps: First step to give and the one to stop before, counted over the whole run.
    """

    def __init__(
        self,
        *,
        length: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        start_step: int = 0,
        total_steps: int,
    ):
        self.length = length
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.start_step = start_step
        self.total_steps = total_steps
        self.steps_per_epoch = steps_per_epoch(length, batch_size=batch_size, world_size=world_size)

    def __len__(self) -> int:
        return max(0, self.total_steps - self.start_step)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        step = self.start_step
        while step < self.total_steps:
            epoch, first = divmod(step, self.steps_per_epoch)
            order = self._order(epoch, torch.Generator().manual_seed(derived_seed(self.seed, "order", epoch)))
            last = min(self.steps_per_epoch, first + self.total_steps - step)
            for position in range(first, last):
                start = (position * self.world_size + self.rank) * self.batch_size
                yield [(epoch, *rest) for rest in order[start : start + self.batch_size].tolist()]
            step += last - first

    def _order(self, epoch: int, generator: torch.Generator) -> Tensor:
        """The keys of all processes' samples without the epoch, int64 `(n, 1)`."""
        return torch.randperm(self.length, generator=generator)[:, None]


def steps_per_epoch(length: int, *, batch_size: int, world_size: int = 1) -> int:
    """Full batches in one pass over `length` images, `batch_size` of them in each of `world_size` processes.

    Raises:
        UserError: not even one batch is full.
    """
    if batch_size < 1:
        raise UserError(f"data.batch_size={batch_size}: a batch needs at least 1 image")
    global_batch = batch_size * world_size
    if global_batch > length:
        raise UserError(
            f"a batch of {global_batch} images ({batch_size} in each of {world_size} processes) is larger than "
            f"the training set of {length}: set data.batch_size to {length // world_size} or less"
        )
    return length // global_batch


def derived_seed(*parts: int | str) -> int:
    """A seed of 63 bits for one purpose; a hash, so that neighbouring epochs and samples share no stream."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
