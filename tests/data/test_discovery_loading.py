"""Two views of every training image, in batches that resume anywhere, and evaluation in order."""

import pickle
from itertools import pairwise

import pytest
import torch

from meru.data.datasets.fine_grained import load_cub_discovery
from meru.data.discovery.loading import (
    TrainingViews,
    discovery_evaluation_loader,
    discovery_training_loader,
    weighted_view_loader,
)
from meru.data.discovery.splits import DiscoverySplit
from meru.data.images import read_image
from meru.data.transforms import EvaluationTransform, discovery_transforms
from meru.errors import UserError


def in_memory(count=60, share=0.3):
    """Images whose first pixel is their index; the first `share` of them labelled."""
    images = torch.zeros(count, 3, 8, 8, dtype=torch.uint8)
    images[:, 0] = torch.arange(count)[:, None, None]
    return DiscoverySplit(images, torch.arange(count) % 6, torch.arange(count) < share * count)


class TestTransforms:
    def test_crops(self):
        picture = torch.randint(0, 256, (3, 60, 80), dtype=torch.uint8)
        transforms = pickle.loads(pickle.dumps(discovery_transforms(56)))
        views = [transforms.training(picture) for _ in range(8)]
        assert all(view.shape == (3, 56, 56) and view.dtype == torch.uint8 for view in views)
        assert any(not torch.equal(*pair) for pair in pairwise(views))
        assert transforms.evaluation.resize_to == 64
        assert torch.equal(transforms.evaluation(picture), transforms.evaluation(picture))

    def test_places_follow_a_smaller_crop(self):
        picture = torch.zeros(3, 128, 192, dtype=torch.uint8)
        picture[:, 60:68, 100:108] = 255
        transform = EvaluationTransform(56, crop_share=0.875)
        x, y = transform.places(torch.tensor([[104.0, 64.0]]), height=128, width=192)[0] * 56
        assert transform(picture)[0, int(y), int(x)] > 200

    def test_share_out_of_range(self):
        with pytest.raises(UserError, match="crop_share=0"):
            discovery_transforms(32, crop_share=0)


def identity(image):
    return image


def batches(split, **options):
    options = {"sampler": "weighted", "batch_size": 12, "seed": 0, "total_steps": 10, "workers": 0} | options
    return discovery_training_loader(split, transform=identity, **options)


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def ring(count, k=4):
    """The neighbours of an image are those of the next indices."""
    return lambda epoch: (torch.arange(count)[:, None] + torch.arange(k)) % count


SAMPLERS = {
    "weighted": {"sampler": "weighted"},
    "uniform": {"sampler": "uniform"},
    "neighbours": {"sampler": "neighbours", "neighbours": ring(60)},
}


class TestTraining:
    def test_batch(self):
        split = in_memory()
        batch = next(iter(batches(split)))
        assert batch["image"].shape == (12, 2, 3, 8, 8) and batch["image"].dtype == torch.uint8
        assert batch["label"].dtype == batch["image_index"].dtype == torch.int64
        assert batch["labelled"].dtype == torch.bool
        index = batch["image_index"]
        assert torch.equal(batch["image"][:, 0, 0, 0, 0], index.to(torch.uint8))
        assert torch.equal(batch["labelled"], split.labelled[index])
        assert torch.equal(batch["label"], torch.where(split.labelled, split.labels, -1)[index])

    def test_views_differ_and_depend_on_the_key_alone(self, cub_folder):
        split = load_cub_discovery(root=cub_folder, old_classes=["002.Red_bird_0"]).train
        data = TrainingViews(split, transform=discovery_transforms(32).training, seed=0)
        state = torch.get_rng_state()
        sample = data[2, 5, 0]
        assert torch.equal(state, torch.get_rng_state())
        assert sample["image"].shape == (2, 3, 32, 32) and not torch.equal(*sample["image"])
        assert same(sample, TrainingViews(split, transform=discovery_transforms(32).training, seed=0)[2, 5, 0])
        assert not any(torch.equal(sample["image"], data[key]["image"]) for key in [(2, 5, 1), (3, 5, 0), (2, 5)])

    def test_weighted_is_half_labelled(self):
        split = in_memory(share=0.1)
        seen = torch.cat([batch["labelled"] for batch in batches(split, total_steps=400)])
        assert abs(seen.float().mean() - 0.5) < 0.03  # 4800 draws

    def test_uniform_shows_every_image_once_an_epoch(self):
        seen = [batch["image_index"] for batch in batches(in_memory(), sampler="uniform")]
        for epoch in (seen[:5], seen[5:]):
            assert sorted(torch.cat(epoch).tolist()) == list(range(60))

    def test_neighbours_stand_together(self):
        for batch in batches(in_memory(), sampler="neighbours", neighbours=ring(60), batch_size=14):
            groups = batch["image_index"].view(-1, 4)  # 12 of the 14
            assert len(groups) == 3
            assert torch.equal(groups, (groups[:, :1] + torch.arange(4)) % 60)

    def test_independent_queries_come_back_before_all_others_came(self):
        options = {"sampler": "neighbours", "neighbours": ring(60), "batch_size": 40, "total_steps": 12}
        queries = {
            independent: [each["image_index"][::4] for each in batches(in_memory(), independent=independent, **options)]
            for independent in (False, True)
        }
        for each in (*queries[False], *queries[True]):
            assert len(each.unique()) == len(each) == 10
        assert len(torch.cat(queries[True][:2]).unique()) < 20 or len(torch.cat(queries[True][2:4]).unique()) < 20

    def test_views_in_the_order_of_weighted_draws(self):
        split = in_memory(share=0.1)
        options = {"transform": identity, "seed": 0, "workers": 0, "on_error": "raise", "batch_size": 7}
        epochs = [list(weighted_view_loader(split, epoch=epoch, **options)) for epoch in (0, 1)]
        drawn = [torch.cat([batch["image_index"] for batch in batches_]) for batches_ in epochs]
        assert all(len(each) == 60 and len(each.unique()) < 60 for each in drawn)
        assert not torch.equal(*drawn)
        trained = [batch["image_index"] for batch in batches(split, batch_size=60, total_steps=2)]
        assert all(map(torch.equal, drawn, trained))

    @pytest.mark.parametrize("workers", [0, 2])
    def test_neighbours_are_asked_for_between_epochs(self, workers):
        events = []

        def neighbours(epoch):
            events.append("asked")
            return ring(60)(epoch)

        loader = batches(in_memory(), sampler="neighbours", neighbours=neighbours, workers=workers)
        assert len(loader) == 10
        for _ in loader:
            events.append("used")
        assert events == (["asked"] + ["used"] * 5) * 2

    @pytest.mark.parametrize("options", SAMPLERS.values(), ids=SAMPLERS)
    @pytest.mark.parametrize("start", [1, 5, 7, 10])
    def test_resumes_anywhere(self, options, start):
        whole = list(batches(in_memory(), **options))
        rest = list(batches(in_memory(), start_step=start, **options))
        assert len(rest) == 10 - start and all(map(same, rest, whole[start:]))

    @pytest.mark.parametrize("options", SAMPLERS.values(), ids=SAMPLERS)
    def test_processes_share_out_the_batch_of_one(self, options):
        whole = batches(in_memory(), batch_size=16, **options)
        halves = [batches(in_memory(), batch_size=8, rank=rank, world_size=2, **options) for rank in (0, 1)]
        for batch, first, second in zip(whole, *halves, strict=True):
            assert same({name: torch.cat([first[name], second[name]]) for name in first if name != "skipped"},
                        {name: batch[name] for name in batch if name != "skipped"})

    def test_processes_share_out_neighbours_that_do_not_divide(self):
        """Five queries with four neighbours each: 20 images, of which three processes have six each."""
        options = SAMPLERS["neighbours"]
        whole = batches(in_memory(), batch_size=21, total_steps=2, **options)
        parts = [
            batches(in_memory(), batch_size=7, rank=rank, world_size=3, total_steps=2, **options) for rank in range(3)
        ]
        for batch, *shares in zip(whole, *parts, strict=True):
            assert torch.equal(torch.cat([share["image_index"] for share in shares]), batch["image_index"][:18])

    def test_workers_change_nothing(self):
        assert all(map(same, batches(in_memory()), batches(in_memory(), workers=2)))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"batch_size": 61}, "larger than the training set of 60"),
            ({"batch_size": 31, "world_size": 2}, "larger than the training set of 60"),
            ({"sampler": "random"}, "discovery.sampler=random"),
            ({"sampler": "neighbours", "neighbours": ring(60), "batch_size": 3}, "at least discovery.neighbours=4"),
        ],
    )
    def test_what_users_get_wrong(self, options, message):
        with pytest.raises(UserError, match=message):
            list(batches(in_memory(), **options))

    def test_more_processes_than_a_batch_of_neighbours_has_images(self):
        options = {"sampler": "neighbours", "neighbours": ring(60, k=5), "batch_size": 1, "world_size": 8}
        with pytest.raises(UserError, match="leaves some of 8 processes without an image"):
            list(batches(in_memory(), **options))

    @pytest.mark.parametrize("table", [torch.zeros(59, 4), torch.zeros(60), torch.full((60, 4), 60)])
    def test_neighbours_of_other_images(self, table):
        with pytest.raises(ValueError, match="neighbour"):
            list(batches(in_memory(), sampler="neighbours", neighbours=lambda epoch: table.long()))


class TestFiles:
    @pytest.fixture
    def split(self, make_cub_folder):
        split = load_cub_discovery(root=make_cub_folder(), old_classes=["002.Red_bird_0", "005.Green_bird_1"]).train
        split.images[3].write_bytes(b"")
        return split

    def test_skip_takes_the_next_image_and_its_label(self, split):
        data = TrainingViews(split, transform=discovery_transforms(32).training, seed=0, on_error="skip")
        sample = data[0, 3]
        assert int(sample["image_index"]) == 4 and sample["labelled"] == split.labelled[4] and sample["skipped"] == 1
        with pytest.raises(UserError, match=str(split.images[3])):
            TrainingViews(split, transform=discovery_transforms(32).training, seed=0)[0, 3]

    @pytest.mark.parametrize("workers", [0, 2])
    def test_evaluation_in_order_with_true_labels(self, split, workers):
        transform = EvaluationTransform(32)
        options = {"transform": transform, "batch_size": 5, "workers": workers}
        read = list(discovery_evaluation_loader(split, on_error="skip", **options))
        assert [len(batch["image"]) for batch in read] == [4, 5, 2] and int(read[0]["skipped"]) == 1
        index = torch.cat([batch["image_index"] for batch in read])
        assert index.tolist() == [0, 1, 2, *range(4, 12)]
        assert torch.equal(torch.cat([batch["label"] for batch in read]), split.labels[index])
        assert torch.equal(torch.cat([batch["labelled"] for batch in read]), split.labelled[index])
        assert torch.equal(read[1]["image"][0], transform(read_image(split.images[5])))
        with pytest.raises(UserError, match="does not decode"):
            list(discovery_evaluation_loader(split, **options))
