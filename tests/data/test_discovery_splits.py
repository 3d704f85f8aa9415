"""Category discovery's splits are the release's, index for index; mistakes of users are one line."""

import json

import numpy as np
import pytest
import torch
from discovery_reference import labelled, spelled_out

from meru.data.discovery.splits import (
    SPLITS_FOLDER,
    ClassList,
    DiscoveryData,
    DiscoverySplit,
    discovery_data,
    validation_data,
)
from meru.errors import UserError


def make(numbers, *, names=6, old=(4, 1, 2), new=(5, 0, 3), **options):
    images = torch.zeros(len(numbers), 3, 1, 1, dtype=torch.uint8)
    return discovery_data(
        source="here", names=list("abcdef")[:names], classes=ClassList(old, new), train=(images, numbers), **options
    )


def in_memory(count, share=0.3):
    images = torch.zeros(count, 3, 1, 1, dtype=torch.uint8)
    images[:, 0] = torch.arange(count)[:, None, None]
    return DiscoverySplit(images, torch.arange(count) % 6, torch.arange(count) < share * count)


class TestSplit:
    def test_labelled_half_is_the_release_s(self):
        numbers = np.random.default_rng(3).integers(0, 6, 501).tolist()
        data = make(numbers)
        assert data.num_old == 3 and data.class_names == tuple("ebcfad")
        assert labelled(data) == spelled_out(numbers, (4, 1, 2))
        assert [data.class_names[label] for label in data.train.labels] == ["abcdef"[number] for number in numbers]
        assert labelled(make(numbers, labelled_fraction=0.3)) == spelled_out(numbers, (4, 1, 2), 0.3)
        assert labelled(make(numbers, split_seed=1)) != labelled(data)

    def test_global_generator_is_left_alone(self):
        np.random.seed(5)
        expected = np.random.random()
        np.random.seed(5)
        make([0, 1, 1, 2])
        assert np.random.random() == expected

    def test_classes_without_images_are_left_out(self):
        data = make([0, 0, 1, 1, 2])
        assert data.class_names == ("b", "c", "a") and data.num_old == 2
        assert data.train.labels.tolist() == [2, 2, 0, 0, 1]

    def test_a_single_labelled_image_is_enough(self):
        assert labelled(make([0, 1, 1])) in ([1], [2])

    def test_unlabelled_part(self):
        split = in_memory(10)
        rest = split.where(~split.labelled)
        assert len(rest) == 7 and rest.images[0, 0, 0, 0] == 3 and not rest.labelled.any()

    @pytest.mark.parametrize(
        ("numbers", "options", "message"),
        [
            ([0, 1, 1], {"labelled_fraction": 0.0}, "labelled_fraction=0.0"),
            ([0, 1, 1], {"labelled_fraction": 1.0}, "labelled_fraction=1.0"),
            ([0, 1, 1], {"split_seed": -1}, "split_seed=-1"),
            ([0, 1, 1, 6], {}, "label 6 of an image is out of range"),
            ([0, 1, 1, -1], {}, "label -1 of an image is out of range"),
            ([0, 3, 5], {}, "no training image is of one of the old classes"),
            ([1, 1, 2], {}, "no training image is of one of the new classes"),
            ([0, 1, 1], {"old": (1, 8)}, "names class 8"),
            ([0, 1, 1], {"old": (1, 0)}, "class a is in the list of old classes and in that of new ones"),
            ([0, 1, 1, 3], {"new": (5, 0)}, "class d is neither"),
            ([0, 1], {}, "no image would be labelled"),
        ],
    )
    def test_what_users_get_wrong(self, numbers, options, message):
        with pytest.raises(UserError, match=message) as error:
            make(numbers, **options)
        assert "\n" not in str(error.value)

    def test_families(self):
        names = ("Black footed Albatross", "Laysan_Albatross ", "crested red woodpecker", "Ovenbird", "  ", "odd_")
        data = DiscoveryData(names, 3, in_memory(6), in_memory(0), families=tuple("abcabc"))
        expected = ("Albatross", "Albatross", "woodpecker", "Ovenbird", "  ", "odd")
        assert data.grouped("last_word").families == expected
        assert data.grouped("file") is data and data.grouped(None).families is None
        with pytest.raises(UserError, match="data.families=first_word"):
            data.grouped("first_word")

    def test_data_made_by_hand_are_checked(self):
        none = in_memory(0)
        with pytest.raises(UserError, match="label 2 of a training image is out of range"):
            DiscoveryData(("a", "b"), 1, in_memory(6), none)
        with pytest.raises(UserError, match="a labelled training image is of a new class"):
            DiscoveryData(tuple("abcdef"), 1, in_memory(6, share=1), none)
        with pytest.raises(ValueError, match="1 families of 6 classes"):
            DiscoveryData(tuple("abcdef"), 3, in_memory(6), none, families=("one",))
        with pytest.raises(ValueError, match="2 images, 1 labels"):
            DiscoverySplit(none.images.new_zeros(2, 3, 1, 1), torch.zeros(1), torch.zeros(2))



class TestValidationData:
    def test_every_second_old_class_plays_a_new_one_and_true_new_ones_stay_out(self):
        labels = torch.arange(70) % 7  # five old classes and two new ones
        images = torch.arange(70, dtype=torch.uint8).view(70, 1, 1, 1).expand(70, 3, 1, 1)
        labelled = (labels < 5) & (torch.arange(70) < 35)
        split = DiscoverySplit(images, labels, labelled)
        data = DiscoveryData(tuple("abcdefg"), 5, split, split.where(~labelled), families=tuple("ABCDEFG"))
        found = validation_data(data)
        assert found.class_names == tuple("acebd") and found.families == tuple("ACEBD") and found.num_old == 3
        assert len(found.test) == 0 and len(found.train) == 50
        seen = found.train.images[:, 0, 0, 0].long()
        assert (labels[seen] < 5).all() and seen.tolist() == (labels < 5).nonzero().flatten().tolist()
        names = [found.class_names[label] for label in found.train.labels]
        assert names == [data.class_names[label] for label in labels[seen]]
        played_old = torch.tensor([name in "ace" for name in names])
        assert torch.equal(found.train.labelled, labelled[seen] & played_old)

    def test_too_few_old_classes_or_labels(self):
        names, split = tuple("abcdef"), in_memory(6)
        with pytest.raises(UserError, match="there are 3 old classes; it needs at least 4"):
            validation_data(DiscoveryData(names, 3, split, in_memory(0)))
        unlabelled = DiscoverySplit(split.images, split.labels, torch.zeros(len(split), dtype=torch.bool))
        with pytest.raises(UserError, match="none of the classes that stay old has a labelled image"):
            validation_data(DiscoveryData(names, 4, unlabelled, in_memory(0)))


class TestClassLists:
    @pytest.mark.parametrize(
        ("name", "old", "new", "first"),
        [
            ("cub", 100, 100, "151.Black_capped_Vireo"),
            ("cars", 98, 98, 1),
            ("aircraft", 50, 50, 0),
            ("herbarium", 341, 342, 113),
        ],
    )
    def test_shipped(self, name, old, new, first):
        classes = ClassList.read(name)
        assert (len(classes.old), len(classes.new), classes.old[0]) == (old, new, first)
        assert len({*classes.old, *classes.new}) == old + new
        if name != "cub":
            assert {*classes.old, *classes.new} == set(range(old + new))
        assert "source" in json.loads((SPLITS_FOLDER / f"{name}.json").read_text())
