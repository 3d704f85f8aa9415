"""Shards: every sample once, the same batches for any number of workers and after resuming, and what may be wrong."""

import json
import logging

import pytest
import torch
from shard_files import SIZES, picture, write_shards, write_tar
from torch import nn

from meru.data.pairs import TrainingPairs
from meru.data.records import Region
from meru.data.shards.load import load_shards
from meru.data.shards.loading import ShardSource, shard_loader
from meru.data.shards.order import ShardOrder
from meru.data.shards.places import Shard, counted, shard_urls
from meru.data.shards.records import record_of, regions_of
from meru.data.shards.tars import Fields, RawSample, samples_in
from meru.errors import UserError


@pytest.fixture(scope="module")
def pattern(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def order_of(sizes=SIZES, **options):
    options = {"batch_size": 2, "seed": 3, "streams": 2, "buffer": 5, "samples_per_epoch": sum(sizes)} | options
    return ShardOrder(sizes=sizes, **options)


def batches(pattern, *, start=0, total=24, workers=0, on_error="raise", sizes=None, **order):
    """Captions of every batch as numbers, its indices and how many were skipped."""
    urls, fields = shard_urls(pattern, root="/", key="data.urls"), Fields()
    shards = (
        [Shard(url, size) for url, size in zip(urls, sizes, strict=True)]
        if sizes
        else counted(urls, fields, sizes=None, on_error=on_error, key="data.urls")
    )
    pairs = TrainingPairs(
        (), transform=nn.Identity(), tokenize=lambda text: torch.tensor([int(text)]), seed=3, on_error=on_error
    )
    loader = shard_loader(
        ShardSource(shards, fields),
        order_of([shard.samples for shard in shards], **order),
        pairs,
        start_step=start,
        total_steps=total,
        workers=workers,
    )
    return [(b["tokens"][:, 0].tolist(), b["image_index"].tolist(), int(b["skipped"])) for b in loader]


# ---------------------------------------------------------------- which samples, and when


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("streams", [1, 2, 3])
def test_every_sample_comes_once_an_epoch_and_processes_share_them(pattern, world_size, streams):
    options = {"streams": streams, "world_size": world_size, "total": 2 * (39 // (2 * world_size))}
    by_rank = [batches(pattern, rank=rank, **options) for rank in range(world_size)]
    half = options["total"] // 2
    epochs = []
    for epoch in range(2):
        of_epoch = [batch for run in by_rank for batch in run[epoch * half : (epoch + 1) * half]]
        seen = [index for _, indices, _ in of_epoch for index in indices]
        assert len(seen) == len(set(seen)) == half * 2 * world_size
        assert set(seen) <= set(range(39))
        epochs.append(seen)
    assert epochs[0] != epochs[1]
    assert all(captions == indices for run in by_rank for captions, indices, _ in run)  # the caption is the number


def test_the_number_of_workers_changes_nothing(pattern):
    alone = batches(pattern, streams=4)
    assert batches(pattern, streams=4, workers=2) == alone


def test_workers_that_do_not_divide_the_streams_are_not_used(pattern, caplog):
    with caplog.at_level(logging.INFO, "meru"):
        assert batches(pattern, streams=4, workers=3, total=4) == batches(pattern, streams=4, total=4)
    assert "data.workers=3: 2 are used" in caplog.text


@pytest.mark.parametrize(("start", "workers"), [(1, 0), (7, 0), (19, 0), (20, 0), (7, 2), (30, 2)])
def test_a_resumed_run_sees_the_batches_that_were_left(pattern, start, workers):
    whole = batches(pattern, total=40)
    assert batches(pattern, start=start, total=40, workers=workers) == whole[start:]


def test_used_shards_are_not_opened_again(pattern, monkeypatch):
    opened = []
    from meru.data.shards import loading

    def watched(url, fields):
        opened.append(url)
        return samples_in(url, fields)

    monkeypatch.setattr(loading, "samples_in", watched)
    batches(pattern, streams=1, start=17, total=19)
    assert len(opened) < len(SIZES) / 2


def test_samples_are_mixed_and_depend_on_the_seed(pattern):
    one, other, plain = (batches(pattern, total=19, **change) for change in ({}, {"seed": 4}, {"buffer": 0}))
    assert one != other
    assert one != plain


def test_shorter_epochs_pass_through_all_samples(pattern):
    options = {"samples_per_epoch": 13, "total": 18}  # 6 batches an epoch, 3 epochs a pass
    seen = [index for _, indices, _ in batches(pattern, **options) for index in indices]
    assert len(seen) == len(set(seen)) == 36


def test_streams_make_as_many_batches_as_their_turns():
    order = order_of(streams=3, world_size=2)
    for epoch in range(4):
        turns = [step % 3 for step in range(epoch * order.batches_per_epoch, (epoch + 1) * order.batches_per_epoch)]
        assert [order.quota(epoch, stream) for stream in range(3)] == [turns.count(stream) for stream in range(3)]


# ---------------------------------------------------------------- samples


def damaged(folder):
    """Ten samples, of which one has no caption, one no JSON and one a damaged image."""
    samples = {f"{n:03d}": {"png": picture(n), "txt": n, "json": '{"caption": "c"}'} for n in range(10)}
    samples["002"]["txt"] = " \n"
    samples["005"]["png"] = b"no image"
    return str(write_tar(folder / "a.tar", samples))


def test_skipped_samples_are_replaced_and_counted(tmp_path):
    seen = batches(damaged(tmp_path), on_error="skip", streams=1, total=5)
    assert all(len(captions) == 2 for captions, _, _ in seen)
    assert sum(skipped for _, _, skipped in seen) == 2
    assert {2, 5}.isdisjoint(index for _, indices, _ in seen for index in indices)
    assert batches(damaged(tmp_path), on_error="skip", streams=1, start=3, total=5) == seen[3:]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_names_the_tar_file_and_the_key(tmp_path, workers):
    path = damaged(tmp_path)
    with pytest.raises(UserError, match=r"a\.tar, sample 00[25]") as error:
        batches(path, streams=1, total=5, workers=workers)
    assert "\n" not in str(error.value)


def test_a_run_of_useless_samples_is_an_error(tmp_path):
    write_tar(tmp_path / "a.tar", {f"{n}": {"png": b"x", "txt": n} for n in range(8)})
    with pytest.raises(UserError, match="none of 4 samples in a row"):
        batches(f"{tmp_path}/a.tar", on_error="skip", streams=1, total=4)


def test_captions_from_json_may_be_several(pattern):
    (url, *_) = shard_urls(pattern, root="/", key="data.urls")
    fields = Fields.of(image="png", captions="json.caption", regions=None)
    raw = next(samples_in(url, fields))
    assert fields.captions_of(raw) == ("c 0", "other")


def raw_sample(**files):
    return RawSample("shard a.tar, sample 7", {name: value.encode() for name, value in files.items()})


@pytest.mark.parametrize(
    ("files", "captions", "message"),
    [
        ({"jpg": "", "json": '{"caption": "a", "url": "b"}'}, "txt", "has no txt, it has jpg, json: set data.caption"),
        ({"json": '{"caption": "a", "url": "b"}'}, "json.title", "has no json.title; json has caption, url"),
        ({"json": '{"caption": 7}'}, "json.caption", "json.caption is 7, not a text"),
        ({"json": '{"caption": ["a", {}]}'}, "json.caption", "json.caption is {}, not a text"),
        ({"json": '{"caption": null}'}, "json.caption", "caption .json.caption. is empty"),
        ({"json": '{"caption": []}'}, "json.caption", "caption .json.caption. is empty"),
        ({"json": "[1"}, "json.caption", "json cannot be read"),
        ({"txt": " \n "}, "txt", "caption .txt. is empty"),
        ({"txt": "a"}, "txt.caption", "has no txt.caption, it has txt"),
    ],
)
def test_wrong_captions_are_named(files, captions, message):
    fields = Fields(captions=captions)
    with pytest.raises(UserError, match=message) as error:
        fields.captions_of(raw_sample(**files))
    assert "shard a.tar, sample 7" in str(error.value)
    assert "\n" not in str(error.value)


def test_boxes_as_in_grit_and_as_in_tables():
    fields = Fields(regions="json.noun_chunks")
    chunks = [[2, 8, 0.25, 0.0, 0.75, 0.5, 0.9], [0, 1, 0.5, 0.5, 0.5, 0.9, 0.9]]
    raw = raw_sample(json=json.dumps({"caption": "a  bird  sits", "noun_chunks": chunks}))
    assert regions_of(raw, fields, 40, 80) == (Region((20.0, 0.0, 40.0, 20.0), "bird"),)
    raw = raw_sample(json=json.dumps({"noun_chunks": [{"box": [1, 2, 3, 4], "phrase": "a wing"}]}))
    assert regions_of(raw, fields, 40, 80) == (Region((1.0, 2.0, 3.0, 4.0), "a wing"),)
    with pytest.raises(UserError, match="sample 7"):
        regions_of(raw_sample(json=json.dumps({"caption": "", "noun_chunks": [*chunks, "x"]})), fields, 4, 4)


@pytest.mark.parametrize(
    "boxes", [[{"box": [90, 2, 30, 20], "phrase": "a wing"}], [[0, 1, 20.0, 2.0, 40.0, 30.0, 0.9]]]
)
def test_boxes_outside_their_image_are_named(boxes):
    fields, raw = Fields(regions="json.boxes"), raw_sample(json=json.dumps({"caption": "a", "boxes": boxes}), txt="a")
    with pytest.raises(UserError, match="shard a.tar, sample 7: the box .* outside its image of 80 × 40 pixels"):
        record_of(raw, fields, index=0, size=(40, 80))
    assert record_of(raw, fields, index=0, size=None).regions == ()


def test_edges_slightly_outside_are_accepted():
    raw = raw_sample(json=json.dumps({"caption": "a", "boxes": [[0, 1, -0.1, 0.5, 1.1, 1.01, 0.9]]}))
    assert regions_of(raw, Fields(regions="json.boxes"), 40, 80) == (Region((0.0, 20.0, 80.0, 20.0), "a"),)


def test_a_shard_with_fewer_samples_than_its_sizes_file_says(tmp_path):
    path = str(write_tar(tmp_path / "a.tar", {"1": {"jpg": picture(), "txt": "1"}}))
    with pytest.raises(UserError, match="fewer than the 4 samples that its sizes file says"):
        batches(path, sizes=[4], streams=1, buffer=0, total=2)


# ---------------------------------------------------------------- the splits


def test_other_splits_are_extracted_once(tmp_path, pattern, monkeypatch):
    folder = pattern.partition("{")[0]
    data = load_shards(root=folder, urls="0000[0-3].tar", validation_urls="00004.tar", test_urls="00005.tar")
    assert (data.class_kind, data.class_names) == ("image", ())
    assert [len(each) for each in (data.train, data.validation, data.test)] == [27, 8, 4]
    assert data.validation[1].captions == ("28",)
    assert data.validation[1].path.read_bytes() == picture(28)
    assert data.shards.samples == sum(SIZES[:4])
    from meru.data.shards import extracted

    monkeypatch.setattr(extracted, "samples_in", None)  # not called again
    again = load_shards(root=folder, urls="0000[0-3].tar", validation_urls="00004.tar", test_urls="00005.tar")
    assert again.validation == data.validation


def test_samples_without_captions_are_left_out_of_other_splits(tmp_path):
    path = damaged(tmp_path)
    with pytest.raises(UserError, match="sample 002"):
        load_shards(root=tmp_path, urls="a.tar", validation_urls=path)
    data = load_shards(root=tmp_path, urls="a.tar", validation_urls=path, on_error="skip")
    assert [record.captions[0] for record in data.validation] == [str(n) for n in range(10) if n != 2]


def test_too_few_shards_and_too_long_epochs(pattern):
    data = load_shards(root="/", urls=pattern)
    assert [data.shards.streams_of_each(world_size) for world_size in (1, 2, 6)] == [4, 3, 1]
    with pytest.raises(UserError, match="6 shards are fewer than 7 processes"):
        data.shards.samples_per_epoch(world_size=7)
    with pytest.raises(UserError, match="2 processes × data.streams=4.*data.streams to 3 or less"):
        load_shards(root="/", urls=pattern, streams=4).shards.samples_per_epoch(world_size=2)
    with pytest.raises(UserError, match="data.samples_per_epoch=40: the 6 shards hold 39"):
        load_shards(root="/", urls=pattern, samples_per_epoch=40).shards.samples_per_epoch(world_size=1)
