"""The samples of a training step: a pure function of the seed and the step, for any number of workers.

Several processes divide one batch between them, see `BatchPlan`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Sampler

from meru.errors import UserError


class RunBatches(Sampler[list[tuple[int, int]]]):
    """The keys `(epoch, index)` of every batch of one process, from `start_step` to the end of the run.

    One iterator runs over all epochs, so worker processes start once. The samples that do not fill a last
    batch are left out, different ones in every epoch, because a loss over fewer pairs would have another scale.

    Args:
        length: Number of training images.
        batch_size: Samples per process and step.
        seed: Seed of the order.
        rank, world_size: Rank of this process, and the number of processes.
        start_step, total_steps: The first step and the end (exclusive), counted over the whole run.
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


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """The division of a step's images between processes and accumulated batches.

    Attributes:
        batch_size: Images per process and batch.
        world_size: Number of processes.
        accumulate: Batches whose gradients are summed for one step.
        batches_per_epoch: Full batches in one pass over the training images.
        asked: Requested images of all processes in one batch.
    """

    batch_size: int
    world_size: int
    accumulate: int
    batches_per_epoch: int
    asked: int

    @classmethod
    def of(cls, section: Mapping, *, images: int, world_size: int, accumulate: int = 1) -> BatchPlan:
        """The plan of the configuration's section `data`.

        `batch_size` counts the images of all processes; `batch_size_per_gpu`, if given, those of each. Runs that began
        before there was a `batch_size_per_gpu` counted the images of each process in `batch_size`, and still do.

        Args:
            section: The configuration's `data`, with these keys.
            images: Size of the training set.
            world_size: Number of processes.
            accumulate: Batches whose gradients are summed for one step.

        Raises:
            UserError: if a process has no image in a batch, or an epoch has too few full batches for one step.
        """
        older = "batch_size_per_gpu" not in section
        each = section["batch_size" if older else "batch_size_per_gpu"]
        key = "data.batch_size" if older or each is None else "data.batch_size_per_gpu"
        asked = section["batch_size"] if each is None else each * world_size
        batch_size = asked // world_size
        if batch_size < 1:
            least = world_size if each is None else 1
            raise UserError(f"{key}={section[key[5:]]}: every process needs an image, so give at least {least}")
        largest = images if each is None else images // world_size
        batches = steps_per_epoch(
            images, batch_size=batch_size, world_size=world_size, advice=f"set {key} to {largest} or less"
        )
        if accumulate > batches:
            raise UserError(
                f"trainer.accumulate={accumulate}: an epoch has {batches} batches of {batch_size * world_size} images; "
                "accumulate at most as many, or make the batch smaller"
            )
        return cls(
            batch_size=batch_size,
            world_size=world_size,
            accumulate=accumulate,
            batches_per_epoch=batches,
            asked=asked,
        )

    @property
    def images_per_step(self) -> int:
        """Images of all processes and accumulated batches in one step of the optimizer."""
        return self.world_size * self.batch_size * self.accumulate

    def describe(self, *, learning_rate: float) -> str:
        """The size of a step, as the line that every run begins with; a second line says if the batch does not divide.

        Args:
            learning_rate: The highest learning rate.
        """
        processes = f"{self.world_size} process{'es' if self.world_size > 1 else ''}"
        steps = self.batches_per_epoch // self.accumulate
        text = (
            f"{processes} × {self.batch_size} images × {self.accumulate} accumulated = {self.images_per_step} images a "
            f"step; {steps} steps an epoch, highest learning rate {learning_rate:g}"
        )
        used = self.world_size * self.batch_size
        if used == self.asked:
            return text
        return f"{self.asked} images do not divide by {processes}: {used} are used, {self.batch_size} in each\n{text}"


def steps_per_epoch(length: int, *, batch_size: int, world_size: int = 1, advice: str | None = None) -> int:
    """Full batches in one pass over `length` images, `batch_size` of them in each of `world_size` processes.

    Raises:
        UserError: if not even one batch is full; `advice` says what to do, by default to lower `data.batch_size`.
    """
    if batch_size < 1:
        raise UserError(f"data.batch_size={batch_size}: a batch needs at least 1 image")
    global_batch = batch_size * world_size
    if global_batch > length:
        shares = f" ({batch_size} in each of {world_size} processes)" if world_size > 1 else ""
        raise UserError(
            f"a batch of {global_batch} images{shares} is larger than "
            f"the training set of {length}: {advice or f'set data.batch_size to {length} or less'}"
        )
    return length // global_batch


def derived_seed(*parts: int | str) -> int:
    """A 63-bit seed for one purpose: a hash, so that neighbouring epochs and samples get unrelated random numbers."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def evenly_spread(length: int, count: int) -> list[int]:
    """At most `count` indices, evenly spread over `length`."""
    return list(range(0, length, max(1, length // count)))[:count]
