"""Batches for training, read from shards as a stream."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from meru.data.images import decode
from meru.data.loading import Batch, collate
from meru.data.pairs import TrainingPairs
from meru.data.shards.order import Piece, ShardOrder
from meru.data.shards.places import Shard
from meru.data.shards.records import record_of
from meru.data.shards.tars import Fields, RawSample, samples_in
from meru.data.workers import TIMEOUT, Loader, loader_options
from meru.errors import UserError
from meru.files import os_error_message

log = logging.getLogger("meru")


class Drawn(NamedTuple):
    """A sample whose turn it is.

    Attributes:
        epoch: The epoch.
        index: Number of the sample among those of all shards.
        content: The sample, or why it cannot be read.
    """

    epoch: int
    index: int
    content: RawSample | UserError


class ShardSource(NamedTuple):
    """Shards, and how they are read.

    Attributes:
        shards: The tar files.
        fields: Which files of a sample hold what.
    """

    shards: Sequence[Shard]
    fields: Fields


class StreamedBatches(IterableDataset):
    """The batches of one process, from `start_step` to `total_steps`; a worker makes every W-th of them.

    Args:
        source: The shards.
        order: The samples of every batch.
        pairs: Makes samples from records and images; its `on_error` says what to do with a sample that cannot be
            used. With `skip`, one of the next batch of its stream takes its place, so that batches keep their size.
        start_step, total_steps: The first batch and the end (exclusive), counted over the whole run.
    """

    def __init__(
        self, source: ShardSource, order: ShardOrder, pairs: TrainingPairs, *, start_step: int, total_steps: int
    ):
        if pairs.parts is None:  # then boxes and crops are neither kept in memory nor read
            source = source._replace(fields=replace(source.fields, regions=None))
        self.source, self.order, self.pairs = source, order, pairs
        self.start_step, self.total_steps = start_step, total_steps
        sizes = [shard.samples for shard in source.shards]
        self.firsts = [end - size for end, size in zip(itertools.accumulate(sizes), sizes, strict=True)]

    def __iter__(self) -> Iterator[Batch | UserError]:
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        streams: dict[int, _Lookahead] = {}
        try:
            for step in range(self.start_step + number, self.total_steps, workers):
                stream = step % self.order.streams
                if stream not in streams:
                    streams[stream] = _Lookahead(self._drawn_batches(stream, step))
                yield self._batch(streams[stream])
        except UserError as error:  # raised in a worker, it would reach the user wrapped in a traceback
            yield error
        except OSError as error:
            if error.errno is None:
                raise
            yield UserError(os_error_message(error), exit_code=1)

    # ---------------------------------------------------------------- which samples

    def _drawn_batches(self, stream: int, step: int) -> Iterator[list[Drawn]]:
        """The batches of a stream from a step on, through all epochs and further."""
        epoch, done = self.order.done(step, stream)
        for each in itertools.count(epoch):
            drawn = self._drawn(each, stream, used=done * self.order.batch_size)
            while batch := list(itertools.islice(drawn, self.order.batch_size)):
                yield batch
            done = 0

    def _drawn(self, epoch: int, stream: int, *, used: int) -> Iterator[Drawn]:
        """The samples of a stream in an epoch without the first `used` ones, which are not read if possible."""
        order = self.order.shuffled(epoch, stream)
        past = set(itertools.islice(order, used))
        held: dict[int, Drawn] = {}
        reader = self._read(epoch, self.order.pieces(epoch, stream), past)
        for position in order:
            while position not in held:
                at, drawn = next(reader)
                held[at] = drawn
            yield held.pop(position)

    def _read(self, epoch: int, pieces: Sequence[Piece], past: set[int]) -> Iterator[tuple[int, Drawn]]:
        """Positions and samples of a range in the order of the shards, without positions that were used before."""
        begin = 0
        for piece in pieces:
            positions = range(begin, begin + piece.stop - piece.start)
            begin = positions.stop
            if past.issuperset(positions):
                continue
            first = self.firsts[piece.shard] + piece.start
            for number, content in enumerate(self._contents(piece)):
                if positions[number] not in past:
                    yield positions[number], Drawn(epoch, first + number, content)

    def _contents(self, piece: Piece) -> Iterator[RawSample | UserError]:
        """Exactly the samples of a piece; those that a damaged shard lacks are errors."""
        shard = self.source.shards[piece.shard]
        samples, given = samples_in(shard.url, self.source.fields), 0
        error = UserError(
            f"shard {shard.url} holds fewer than the {shard.samples} samples that its sizes file says: correct "
            "data.sizes or the file beside the shard, or remove it and the samples are counted",
            exit_code=1,
        )
        try:
            for raw in itertools.islice(samples, piece.start, piece.stop):
                yield raw
                given += 1
        except UserError as found:
            error = found
        finally:
            samples.close()
        for _ in range(piece.stop - piece.start - given):
            yield error

    # ---------------------------------------------------------------- what they are

    def _batch(self, drawn: _Lookahead) -> Batch:
        """The next batch of a stream."""
        batch = next(drawn)
        samples = [self._sample(each) for each in batch]
        missing = [place for place, sample in enumerate(samples) if sample is None]
        if missing:
            spare = (sample for each in drawn.following if (sample := self._sample(each)) is not None)
            own = itertools.cycle([sample for sample in samples if sample is not None])
            for place, sample in zip(missing, itertools.chain(spare, own), strict=False):
                samples[place] = sample
            if None in samples:
                raise UserError(
                    f"none of {len(batch) + len(drawn.following)} samples in a row can be used, the first is "
                    f"{self._place(batch[0])}: mend the shards",
                    exit_code=1,
                )
        return {**collate(samples), "skipped": torch.tensor(len(missing))}

    def _sample(self, drawn: Drawn) -> Batch | None:
        """A sample of a batch; None if it cannot be used and is skipped."""
        try:
            if isinstance(drawn.content, UserError):
                raise drawn.content
            raw, fields = drawn.content, self.source.fields
            content, limit = bytearray(fields.image_of(raw)), self.pairs.maximum_pixels
            decoded = decode(content, raw.place, maximum_pixels=limit, spare=self.pairs.spare)
            record = record_of(raw, fields, index=drawn.index, size=decoded.full)
            sample = self.pairs.drawn(record, *decoded, epoch=drawn.epoch, index=drawn.index)
            facts = {"class_index": drawn.index, "image_index": drawn.index, "skipped": 0}
            return sample | {name: torch.tensor(value) for name, value in facts.items()}
        except UserError:
            if self.pairs.on_error == "raise":
                raise
            return None

    def _place(self, drawn: Drawn) -> str:
        return str(drawn.content) if isinstance(drawn.content, UserError) else drawn.content.place


class _Lookahead:
    """An iterator over batches that shows the next one without taking it."""

    def __init__(self, batches: Iterator[list[Drawn]]):
        self._batches, self._held = batches, None

    def __next__(self) -> list[Drawn]:
        batch, self._held = self.following, None
        return batch

    @property
    def following(self) -> list[Drawn]:
        """The next batch."""
        if self._held is None:
            self._held = next(self._batches)
        return self._held


def shard_loader(
    source: ShardSource,
    order: ShardOrder,
    pairs: TrainingPairs,
    *,
    start_step: int = 0,
    total_steps: int,
    workers: int = 2,
    timeout: float = TIMEOUT,
) -> DataLoader:
    """Batches of this process from `start_step` to `total_steps`, as those of `meru.data.pairs.training_loader`.

    Args:
        source, order, pairs, start_step, total_steps: As for `StreamedBatches`.
        workers: At most this many processes, as many as divide the streams evenly.
        timeout: As for `meru.data.workers.loader_options`.
    """
    used = max((each for each in range(1, workers + 1) if order.streams % each == 0), default=0)
    if used < workers:
        log.info("data.workers=%d: %d are used, which divide data.streams=%d evenly", workers, used, order.streams)
    data = StreamedBatches(source, order, pairs, start_step=start_step, total_steps=total_steps)
    return Loader(data, batch_size=None, **loader_options(used, timeout))
