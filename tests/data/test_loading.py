import logging
import multiprocessing
import os
import sys
import time
from collections import Counter
from dataclasses import replace

import pytest
import torch

from meru.data.augmentation import CaptionAugmentation
from meru.data.datasets.cub import load_cub
from meru.data.images import read_image
from meru.data.loading import check_decoding, collate
from meru.data.pairs import TrainingPairs, evaluation_loader, training_loader
from meru.data.sampling import derived_seed
from meru.data.transforms import EvaluationTransform, training_transform
from meru.errors import UserError


def tokenize(caption):
    return torch.tensor([1, *(2 + sum(map(ord, word)) % 90 for word in caption.split()), 99])


@pytest.fixture(scope="module")
def records(cub_folder):
    data = load_cub(root=cub_folder, validation_fraction=0)
    return data.train  # 12


@pytest.fixture
def damaged(make_cub_folder):
    """Twelve training records, of which number 2, 3 and 11 do not decode."""
    records = load_cub(root=make_cub_folder(), validation_fraction=0).train
    whole = records[2].path.read_bytes()
    records[2].path.write_bytes(whole[: len(whole) // 2])
    records[3].path.write_bytes(b"")
    records[11].path.write_bytes(b"<html>not found</html>")
    return records


def pairs(records, **options):
    return TrainingPairs(
        records, transform=training_transform(32), tokenize=tokenize, **{"seed": 0, "on_error": "raise"} | options
    )


def loader(records, **options):
    options = {"batch_size": 4, "seed": 0, "total_steps": 6, "workers": 0} | options
    return training_loader(records, transform=training_transform(32), tokenize=tokenize, **options)


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


class TestTrainingPairs:
    def test_sample(self, records):
        sample = pairs(records)[0, 7]
        assert sample["image"].shape == (3, 32, 32) and sample["image"].dtype == torch.uint8
        assert sample["image"].is_contiguous()
        assert any(torch.equal(sample["tokens"], tokenize(caption)) for caption in records[7].captions)
        assert [int(sample[name]) for name in ("class_index", "image_index", "skipped")] == [1, 7, 0]

    def test_sample_depends_on_seed_epoch_and_index_alone(self, records):
        data = pairs(records)
        expected = data[3, 5]
        torch.manual_seed(123)
        state = torch.get_rng_state()
        data[0, 0]
        assert same(data[3, 5], expected)
        assert same(pairs(records)[3, 5], expected)
        assert torch.equal(torch.get_rng_state(), state)
        assert not same(data[4, 5], expected)
        assert not same(pairs(records, seed=1)[3, 5], expected)

    def test_neighbours_share_no_stream(self, records):
        data = pairs([records[0]] * 6)
        images = {data[epoch, index]["image"].numpy().tobytes() for epoch in range(6) for index in range(6)}
        assert len(images) == 36

    def test_every_caption_is_drawn(self, records):
        data = pairs(records)
        drawn = Counter(tuple(data[epoch, 0]["tokens"].tolist()) for epoch in range(200))
        assert len(drawn) == 10
        assert min(drawn.values()) >= 5  # 20 expected

    def test_order_of_the_draws_without_augmented_captions(self, records):
        sample = pairs(records)[2, 4]
        torch.manual_seed(derived_seed(0, "sample", 2, 4))
        caption = records[4].captions[int(torch.randint(len(records[4].captions), ()))]
        image = training_transform(32)(read_image(records[4].path))
        assert torch.equal(sample["tokens"], tokenize(caption)) and torch.equal(sample["image"], image)

    def test_captions_can_be_augmented(self, records):
        plain, short = pairs(records), pairs(records, augment_text=CaptionAugmentation(word_deletion=0.5))
        lengths = [(len(plain[0, i]["tokens"]), len(short[0, i]["tokens"])) for i in range(len(records))]
        assert all(less <= full for full, less in lengths) and sum(less < full for full, less in lengths) > 6
        assert same(short[1, 3], short[1, 3]) and not same(short[1, 3], short[2, 3])

    def test_unreadable_image_stops_by_default(self, damaged):
        with pytest.raises(UserError, match=str(damaged[2].path)):
            pairs(damaged)[0, 2]

    def test_skip_takes_the_next_readable_record(self, damaged):
        data = pairs(damaged, on_error="skip")
        for index, expected, skipped in [(1, 1, 0), (2, 4, 2), (3, 4, 1), (11, 0, 1)]:
            sample = data[0, index]
            assert (int(sample["image_index"]), int(sample["skipped"])) == (expected, skipped)
            assert sample["class_index"] == damaged[expected].class_index

    def test_nothing_readable(self, damaged):
        with pytest.raises(UserError, match="none of the 2 training images decodes"):
            pairs(damaged[2:4], on_error="skip")[0, 1]

    def test_unknown_policy(self, records):
        with pytest.raises(UserError, match=r"data\.on_error=ignore"):
            pairs(records, on_error="ignore")


class TestLoaders:
    def test_collate_pads_to_the_longest_caption(self, records):
        samples = [pairs(records)[0, index] for index in range(3)]
        for sample, length in zip(samples, (2, 5, 3), strict=True):
            sample["tokens"] = torch.arange(1, length + 1)
        batch = collate(samples)
        assert batch["tokens"].tolist() == [[1, 2, 0, 0, 0], [1, 2, 3, 4, 5], [1, 2, 3, 0, 0]]
        assert batch["image"].shape == (3, 3, 32, 32) and batch["image"].dtype == torch.uint8
        assert batch["image"].is_contiguous()
        assert batch["class_index"].shape == batch["image_index"].shape == (3,)
        assert batch["skipped"].shape == ()
        assert {batch[name].dtype for name in batch if name != "image"} == {torch.int64}

    def test_workers_change_nothing(self, records):
        alone, helped = (list(loader(records, workers=workers)) for workers in (0, 2))
        assert len(alone) == len(helped) == 6
        assert all(same(first, second) for first, second in zip(alone, helped, strict=True))

    def test_workers_augment_captions_alike(self, records):
        options = {"total_steps": 3, "augment_text": CaptionAugmentation(word_deletion=0.3)}
        alone, helped = (list(loader(records, workers=workers, **options)) for workers in (0, 2))
        assert all(same(first, second) for first, second in zip(alone, helped, strict=True))
        assert not all(same(a, b) for a, b in zip(alone, loader(records, total_steps=3), strict=True))

    def test_resumed_in_mid_epoch(self, records):
        whole = list(loader(records))
        assert all(same(a, b) for a, b in zip(loader(records, start_step=4), whole[4:], strict=True))

    def test_processes_together_are_one(self, records):
        whole = list(loader(records))
        parts = [list(loader(records, batch_size=2, rank=rank, world_size=2)) for rank in (0, 1)]
        for batch, first, second in zip(whole, *parts, strict=True):
            for name in ("image", "image_index", "class_index"):
                assert torch.equal(batch[name], torch.cat([first[name], second[name]]))

    @pytest.mark.parametrize("workers", [0, 1])
    def test_the_default_generator_is_left_alone(self, records, workers):
        state = torch.get_rng_state()
        next(iter(loader(records, workers=workers)))
        assert torch.equal(torch.get_rng_state(), state)

    @pytest.mark.parametrize("workers", [0, 2])
    def test_an_unreadable_image_is_one_line(self, damaged, workers):
        for batches in (
            loader(damaged, workers=workers),
            evaluation_loader(damaged, transform=EvaluationTransform(32), batch_size=4, workers=workers),
        ):
            with pytest.raises(UserError) as error:
                list(batches)
            assert any(str(damaged[index].path) in str(error.value) for index in (2, 3, 11))
            assert "\n" not in str(error.value)
            assert error.value.exit_code == 1

    def test_skipping_keeps_the_size_of_training_batches_and_counts(self, damaged):
        batches = list(loader(damaged, total_steps=3, on_error="skip"))
        assert [len(batch["image"]) for batch in batches] == [4, 4, 4]
        assert sum(int(batch["skipped"]) for batch in batches) == 4  # 2 and 3, 3, 11
        assert not {2, 3, 11} & {int(index) for batch in batches for index in batch["image_index"]}

    @pytest.mark.parametrize("workers", [0, 2])
    def test_evaluation_reads_every_record_once_in_order(self, records, workers):
        transform = EvaluationTransform(32)
        batches = list(evaluation_loader(records, transform=transform, batch_size=5, workers=workers))
        assert [len(batch["image"]) for batch in batches] == [5, 5, 2]
        assert torch.cat([batch["image_index"] for batch in batches]).tolist() == list(range(12))
        assert torch.equal(
            torch.cat([batch["class_index"] for batch in batches]),
            torch.tensor([record.class_index for record in records]),
        )
        assert torch.equal(batches[1]["image"][2], transform(read_image(records[7].path)))

    def test_evaluation_leaves_out_what_does_not_decode(self, damaged):
        batches = list(
            evaluation_loader(damaged, transform=EvaluationTransform(32), batch_size=2, workers=0, on_error="skip")
        )
        assert [len(batch["image"]) for batch in batches] == [2, 0, 2, 2, 2, 1]
        assert batches[1]["image"].shape == (0, 3, 32, 32)
        assert torch.cat([batch["image_index"] for batch in batches]).tolist() == [0, 1, 4, 5, 6, 7, 8, 9, 10]
        assert [int(batch["skipped"]) for batch in batches] == [0, 2, 0, 0, 0, 1]

    def test_evaluation_data_set_is_deterministic(self, records):
        data = evaluation_loader(records, transform=EvaluationTransform(32), batch_size=4).dataset
        assert len(data) == 12
        assert same(data[3], data[3])

    def test_tokens_come_from_the_captions_of_the_image_shown(self, records):
        own = [replace(record, captions=(f"only {number}",)) for number, record in enumerate(records)]
        for batch in loader(own):
            for tokens, index in zip(batch["tokens"], batch["image_index"], strict=True):
                assert torch.equal(tokens, tokenize(f"only {int(index)}"))


def _read_on_while_signalled(records, progress):
    batches = iter(loader(records, workers=2, total_steps=60))
    for _ in range(2):
        next(batches)  # the workers take turns: now both have begun
    # A shell stands for the terminal or batch system: a signal of this process's own is one to obey.
    workers = " ".join(str(worker.pid) for worker in multiprocessing.active_children())
    for name in ("TERM", "TERM", "INT"):
        os.system(f"kill -{name} {workers}")
        time.sleep(0.05)
    rest = sum(1 for _ in batches)
    unfinished = iter(loader(records, workers=2, total_steps=60))
    next(unfinished)
    progress.put((rest, len(multiprocessing.active_children())))
    progress.unfinished = unfinished  # still alive when the process ends, and must not keep it from ending


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell who sent a signal")
def test_workers_outlive_signals_but_not_the_main_process(records):
    context = multiprocessing.get_context("fork")
    progress = context.SimpleQueue()
    process = context.Process(target=_read_on_while_signalled, args=(records, progress))
    process.start()
    process.join(timeout=60)
    process.kill()
    assert process.exitcode == 0
    assert progress.get() == (58, 2)


def test_before_a_run_an_image_of_each_split_has_to_decode(damaged, caplog):
    paths = [record.path for record in damaged]
    good, broken = paths[4:6], [paths[2], paths[3]]
    check_decoding({"training": [*broken, *good], "test": good, "validation": []}, on_error="skip")
    assert not caplog.messages
    with pytest.raises(UserError, match=r"none of the 2 training images decodes, .*_0002_") as error:
        check_decoding({"training": broken}, on_error="skip")
    assert error.value.exit_code == 1
    with caplog.at_level(logging.WARNING, logger="meru"):
        check_decoding({"training": good, "test": broken}, on_error="skip")
    assert "none of the 2 test images decodes" in caplog.text
    with pytest.raises(UserError, match="does not decode"):
        check_decoding({"training": good, "test": broken}, on_error="raise")
