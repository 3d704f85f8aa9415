"""Load shards for training, and those of validation and test as files."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from torch.utils.data import DataLoader

from meru.data.pairs import TrainingPairs
from meru.data.records import ImageTextData
from meru.data.sampling import derived_seed
from meru.data.shards.extracted import extracted
from meru.data.shards.loading import ShardSource, shard_loader
from meru.data.shards.order import ShardOrder
from meru.data.shards.places import counted, shard_urls
from meru.data.shards.tars import Fields
from meru.errors import UserError
from meru.files import user_path

log = logging.getLogger("meru")

STREAMS = 4
EXAMPLES = 256  # as many as set the initial radius


@dataclass
class TrainingShards:
    """The training split as shards, whose samples are counted when they are needed.

    Attributes:
        urls, fields, sizes: As for `counted`.
        epoch: Samples per epoch; None: all.
        streams: Streams of each process; None: `STREAMS`, or as many as there are shards for.
        buffer: As for `ShardOrder`.
        on_error: `raise` or `skip`.
    """

    urls: tuple[str, ...]
    fields: Fields
    sizes: str | None
    epoch: int | None
    streams: int | None
    buffer: int
    on_error: str

    @cached_property
    def source(self) -> ShardSource:
        """The shards with the number of their samples."""
        found = counted(self.urls, self.fields, sizes=self.sizes, on_error=self.on_error, key="data.urls")
        return ShardSource(found, self.fields)

    @property
    def samples(self) -> int:
        """Samples in all shards."""
        return sum(shard.samples for shard in self.source.shards)

    def samples_per_epoch(self, *, world_size: int) -> int:
        """Samples of all processes in an epoch.

        Raises:
            UserError: if there are fewer samples than that, or fewer shards than streams of all processes.
        """
        self.streams_of_each(world_size)
        if self.epoch is not None and self.epoch > self.samples:
            raise UserError(
                f"data.samples_per_epoch={self.epoch}: the {len(self.source.shards)} shards hold {self.samples}; give "
                "at most as many"
            )
        return self.epoch or self.samples

    def streams_of_each(self, world_size: int) -> int:
        """The streams of each process."""
        shards = len(self.source.shards)
        most = shards // world_size
        if most < (self.streams or 1):
            streams = "" if self.streams is None else f" × data.streams={self.streams}"
            advice = f"set data.streams to {most} or less" if most else f"start at most {shards} processes"
            raise UserError(
                f"data.urls: {shards} shards are fewer than {world_size} processes{streams}, and each needs one of its "
                f"own: {advice}, or make more, smaller shards"
            )
        return self.streams or min(STREAMS, most)

    def check(self, config: Mapping) -> None:
        """Refuse what needs all images at hand, classes, or boxes that are not read.

        Raises:
            UserError: which names the key.
        """
        if views := config["data"].get("cached_views"):
            raise UserError(f"data.cached_views={views}: views of images in shards are not cached; set it to 0")
        if side := config["data"].get("image_cache"):
            raise UserError(f"data.image_cache={side}: images in shards are not cached; set it to null")
        if config.get("parts") and self.fields.regions is None:
            raise UserError(
                "data.boxes_field=null: this model trains on parts of images: set data.boxes_field to where they are, "
                "json.noun_chunks for GRIT or parent* for HyCoCLIP's shards, or choose model=meru"
            )
        for name in ("category", "hierarchy"):
            if (config.get("loss") or {}).get(name, {}).get("weight"):
                raise UserError(f"loss.{name}.weight: it needs classes, which shards do not have; set it to 0")

    def describe(self) -> str:
        """How many samples there are, for the log."""
        used = f", {self.epoch} of them an epoch" if self.epoch not in (None, self.samples) else ""
        return f"{self.samples} training samples in {len(self.source.shards)} shards{used}"

    def loader(
        self,
        pairs: TrainingPairs,
        *,
        state: dict,
        seed: int,
        batch_size: int,
        rank: int,
        world_size: int,
        start_step: int,
        total_steps: int,
        workers: int,
        timeout: float,
    ) -> DataLoader:
        """Batches of a process, see `shard_loader`.

        Args:
            pairs: Makes samples.
            state: Facts that a resumed run must share, kept in its checkpoints: filled, or compared.

        Raises:
            UserError: if a run is resumed with other shards or another number of processes.
        """
        shards = self.source.shards
        names = (f"{shard.url.rpartition('/')[2]} {shard.samples}" for shard in shards)
        facts = {"shards": derived_seed(*names), "shard_processes": world_size}
        changed = {name for name, value in facts.items() if int(state.setdefault(name, value)) != value}
        if "shards" in changed:
            raise UserError("resume: the shards or their samples are not those that this run began with: restore them")
        if changed:
            began = int(state["shard_processes"])
            raise UserError(f"resume: this run began with {began} processes, which divide the shards: start as many")
        order = ShardOrder(
            sizes=[shard.samples for shard in shards],
            samples_per_epoch=self.samples_per_epoch(world_size=world_size),
            batch_size=batch_size,
            seed=seed,
            streams=self.streams_of_each(world_size),
            buffer=self.buffer,
            rank=rank,
            world_size=world_size,
        )
        return shard_loader(
            self.source,
            order,
            pairs,
            start_step=start_step,
            total_steps=total_steps,
            workers=workers,
            timeout=timeout,
        )


def load_shards(
    *,
    root: str,
    urls: str,
    validation_urls: str | None = None,
    test_urls: str | None = None,
    image_field: str = "jpg;jpeg;png;webp",
    caption_field: str = "txt",
    boxes_field: str | None = None,
    box_format: str = "xywh",
    sizes: str | None = None,
    samples_per_epoch: int | None = None,
    streams: int | None = None,
    shuffle: int = 1000,
    cache: str | None = None,
    on_error: str = "raise",
) -> ImageTextData:
    """Load images and captions in tar files, as img2dataset writes them.

    The training split is streamed. Its first samples, and the other splits, are extracted into the cache folder.

    Args:
        root: The folder that relative paths start from.
        urls, validation_urls, test_urls: As for `shard_urls`.
        image_field, caption_field, boxes_field, box_format: See `Fields`; endings of images are joined by `;`.
        sizes: A JSON file with the number of samples of every shard, by its name.
        samples_per_epoch: Samples of all processes in an epoch; None: all.
        streams, shuffle: `streams` and `buffer` of `TrainingShards`.
        cache: The cache folder, see `meru.data.cached_rows.cache_folder`.
        on_error: `skip`: go on without samples that cannot be used.

    Returns:
        `train` holds only the first samples, for what needs a few of them before training.

    Raises:
        UserError: if shards are missing, damaged, or without images or captions.
    """
    fields = Fields.of(image=image_field, captions=caption_field, regions=boxes_field, box_format=box_format)
    named = {"data.urls": urls, "data.validation_urls": validation_urls, "data.test_urls": test_urls}
    root = user_path(root)
    found = {key: shard_urls(pattern, root=root, key=key) for key, pattern in named.items() if pattern}
    reading = {"cache": cache, "on_error": on_error}
    train = extracted(found["data.urls"], key="data.urls", fields=fields, most=EXAMPLES, **reading)
    # Crops are for training only, and take more room than the images.
    whole = replace(fields, regions=None) if fields.crops else fields
    others = (
        extracted(found[key], key=key, fields=whole, **reading) if key in found else ()
        for key in ("data.validation_urls", "data.test_urls")
    )
    shards = TrainingShards(
        found["data.urls"],
        fields,
        None if sizes is None else str(user_path(sizes)),
        samples_per_epoch,
        streams,
        shuffle,
        on_error,
    )
    return ImageTextData((), train, *others, class_kind="image", shards=shards)
