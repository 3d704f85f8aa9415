"""Which samples a step has: a pure function of seed and step, shared out over processes and accumulated batches."""

import pytest

from meru.data.sampling import BatchPlan, RunBatches, steps_per_epoch
from meru.errors import UserError


class TestRunBatches:
    def test_an_epoch_shows_every_image_at_most_once_in_a_new_order(self):
        batches = list(RunBatches(length=11, batch_size=3, seed=0, total_steps=9))
        assert len(batches) == 9
        orders = []
        for epoch in range(3):
            keys = [key for batch in batches[3 * epoch : 3 * epoch + 3] for key in batch]
            assert {key[0] for key in keys} == {epoch}
            assert len({key[1] for key in keys}) == 9
            orders.append(tuple(keys))
        assert len({tuple(index for _, index in order) for order in orders}) == 3

    def test_seed_changes_the_order(self):
        first, second = (list(RunBatches(length=50, batch_size=10, seed=seed, total_steps=5)) for seed in (0, 1))
        assert first != second

    @pytest.mark.parametrize("start", range(10))
    def test_starts_anywhere(self, start):
        options = {"length": 11, "batch_size": 3, "seed": 4, "total_steps": 8}
        resumed = RunBatches(**options, start_step=start)
        assert list(resumed) == list(RunBatches(**options))[start:]
        assert len(resumed) == max(0, 8 - start)

    def test_processes_share_out_the_batches_of_one(self):
        alone = RunBatches(length=26, batch_size=6, seed=1, total_steps=9)
        ranks = [RunBatches(length=26, batch_size=2, seed=1, rank=r, world_size=3, total_steps=9) for r in range(3)]
        assert [[*a, *b, *c] for a, b, c in zip(*ranks, strict=True)] == list(alone)

    def test_batch_larger_than_the_training_set(self):
        assert steps_per_epoch(10, batch_size=5, world_size=2) == 1
        with pytest.raises(UserError) as error:
            steps_per_epoch(10, batch_size=6, world_size=2)
        for part in ("12", "10", "data.batch_size to 10"):
            assert part in str(error.value)
        with pytest.raises(UserError, match="batch_size=0"):
            steps_per_epoch(10, batch_size=0)


class TestBatchPlan:
    @pytest.mark.parametrize("processes", [1, 2, 4])
    def test_the_batch_is_that_of_all_processes(self, processes):
        section = {"batch_size": 64, "batch_size_per_gpu": None}
        plan = BatchPlan.of(section, images=1000, world_size=processes, accumulate=2)
        assert plan.batch_size == 64 // processes
        assert (plan.batches_per_epoch, plan.images_per_step) == (15, 128)
        line = plan.describe(learning_rate=0.1)
        assert f" × {64 // processes} images × 2 accumulated = 128 images a step" in line
        assert line.endswith("7 steps an epoch, highest learning rate 0.1")

    def test_what_does_not_divide_is_said(self):
        plan = BatchPlan.of({"batch_size": 64, "batch_size_per_gpu": None}, images=126, world_size=3)
        assert (plan.batch_size, plan.batches_per_epoch) == (21, 2)
        first, _ = plan.describe(learning_rate=0.1).split("\n")
        assert first == "64 images do not divide by 3 processes: 63 are used, 21 in each"

    def test_more_batches_are_accumulated_than_an_epoch_has(self):
        with pytest.raises(UserError, match="trainer.accumulate=5: an epoch has 4 batches of 24 images"):
            BatchPlan.of({"batch_size": 24, "batch_size_per_gpu": None}, images=100, world_size=1, accumulate=5)

    @pytest.mark.parametrize("section", [{"batch_size": 16}, {"batch_size": 64, "batch_size_per_gpu": 16}])
    def test_images_of_each_process_as_asked_and_in_older_runs(self, section):
        plan = BatchPlan.of(section, images=1000, world_size=4)
        assert (plan.batch_size, plan.images_per_step) == (16, 64)

    @pytest.mark.parametrize(
        ("section", "message"),
        [
            ({"batch_size": 3, "batch_size_per_gpu": None}, "data.batch_size=3: .* give at least 4"),
            ({"batch_size": 64, "batch_size_per_gpu": 0}, "data.batch_size_per_gpu=0: .* give at least 1"),
            ({"batch_size": 64, "batch_size_per_gpu": None}, "set data.batch_size to 50 or less"),
            ({"batch_size": 8, "batch_size_per_gpu": 16}, "set data.batch_size_per_gpu to 12 or less"),
            ({"batch_size": 16}, "set data.batch_size to 12 or less"),
        ],
    )
    def test_mistakes_name_the_key(self, section, message):
        with pytest.raises(UserError, match=message):
            BatchPlan.of(section, images=50, world_size=4)
