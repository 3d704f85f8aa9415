"""The order of samples in shards: a pure function of the seed and the step, for any number of workers.

In every pass the shards are put into another order, and their samples are numbered through. Each epoch takes the next
`samples_per_epoch` of these numbers and divides them between the streams of all processes: each stream gets a range of
its own, just as long as the batches it has to make. So every sample is used at most once in a pass, and all processes
make the same number of batches. A stream shuffles its range in a buffer. Batch t of a process comes from its stream
t mod S, and a worker runs one or several whole streams; so the batches are the same for 0, 1, … S workers.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import torch

from meru.data.sampling import derived_seed
from meru.data.shards.tars import webdataset


class Piece(NamedTuple):
    """Consecutive samples of a shard: from number `start` to `stop` (exclusive)."""

    shard: int
    start: int
    stop: int


@dataclass(frozen=True, kw_only=True)
class ShardOrder:
    """The samples of every batch of one process.

    Attributes:
        sizes: Samples of every shard.
        samples_per_epoch: At most their sum.
        batch_size: Samples per process and batch.
        seed: Seed of all orders.
        streams: Streams of each process, S.
        buffer: Samples among which a stream draws the next one; 0 or 1: the order in the shards.
        rank, world_size: Rank of this process, and the number of processes.
    """

    sizes: Sequence[int]
    samples_per_epoch: int
    batch_size: int
    seed: int
    streams: int
    buffer: int
    rank: int = 0
    world_size: int = 1

    @property
    def batches_per_epoch(self) -> int:
        """Batches of each process in an epoch; what does not fill a batch of every process is left out."""
        return self.samples_per_epoch // (self.batch_size * self.world_size)

    def quota(self, epoch: int, stream: int) -> int:
        """Batches that a stream makes in an epoch."""
        first = epoch * self.batches_per_epoch
        return self._before(first + self.batches_per_epoch, stream) - self._before(first, stream)

    def _before(self, step: int, stream: int) -> int:
        """Batches of a stream before a step."""
        return (step - stream + self.streams - 1) // self.streams

    def done(self, step: int, stream: int) -> tuple[int, int]:
        """The epoch of a step, and the batches that a stream has made in it before the step."""
        epoch = step // self.batches_per_epoch
        return epoch, self._before(step, stream) - self._before(epoch * self.batches_per_epoch, stream)

    def pieces(self, epoch: int, stream: int) -> list[Piece]:
        """The range of a stream of this process in an epoch."""
        quotas = [self.quota(epoch, each) * self.batch_size for each in range(self.streams)]
        per_pass = sum(self.sizes) // self.samples_per_epoch
        number, part = divmod(epoch, per_pass)
        before = part * self.samples_per_epoch + self.world_size * sum(quotas[:stream])
        first = before + self.rank * quotas[stream]
        return self._pieces(number, first, first + quotas[stream])

    def _pieces(self, number: int, first: int, last: int) -> list[Piece]:
        """Samples `first` to `last` (exclusive) of a pass."""
        generator = torch.Generator().manual_seed(derived_seed(self.seed, "shards", number))
        order = torch.randperm(len(self.sizes), generator=generator).tolist()
        ends = accumulate(self.sizes[shard] for shard in order)
        found = []
        for shard, end in zip(order, ends, strict=True):
            begin = end - self.sizes[shard]
            start, stop = max(first, begin), min(last, end)
            if start < stop:
                found.append(Piece(shard, start - begin, stop - begin))
        return found

    def shuffled(self, epoch: int, stream: int) -> Iterator[int]:
        """Positions in the range of a stream, in the order of their use.

        A position is used when at most `buffer` later ones have been read.
        """
        positions = iter(range(self.quota(epoch, stream) * self.batch_size))
        if self.buffer < 2:
            return positions
        generator = random.Random(derived_seed(self.seed, "buffer", epoch, stream, self.rank))
        return webdataset().shuffle(self.buffer, initial=self.buffer, rng=generator)(positions)
