"""Long tails and shares of old classes: the numbers of images, and which ones remain."""

import pytest
import torch

from meru.data.discovery.proportions import class_sizes, with_imbalance, with_old_share
from meru.data.discovery.splits import UNKNOWN, DiscoveryData, DiscoverySplit
from meru.errors import UserError


def data_of(old=6, new=6, images=100, unknown=0, labelled_share=0.5):
    """The pixels of an image are its number."""
    labels = torch.cat([torch.arange(old + new).repeat_interleave(images), torch.full((unknown,), UNKNOWN)])
    labelled = (labels < old) & (labels != UNKNOWN) & (torch.arange(len(labels)) % images < labelled_share * images)
    pixels = torch.arange(len(labels)).view(-1, 1, 1, 1).expand(-1, 3, 1, 1)
    names = tuple(f"class {number}" for number in range(old + new))
    train = DiscoverySplit(pixels, labels, labelled)
    return DiscoveryData(names, old, train, train.where(~labelled), tuple(f"family {n % 3}" for n in range(old + new)))


def kept(data):
    return set(data.train.images[:, 0, 0, 0].tolist())


def test_sizes_follow_the_printed_profile_and_the_ratio_is_that_of_the_extremes():
    tail = with_imbalance(data_of(), 50, seed=0)
    sizes = sorted(tail.train.labels.bincount().tolist(), reverse=True)
    assert sizes == [round(100 * 50 ** (-k / 11)) for k in range(12)]
    assert class_sizes(tail) == (2, 100)


def test_old_and_new_classes_are_mixed_and_the_test_images_stay():
    data = data_of()
    tail = with_imbalance(data, 20, seed=0)
    sizes = tail.train.labels.bincount()
    assert sizes[:6].float().mean() < 2.5 * sizes[6:].float().mean() < 6.25 * sizes[:6].float().mean()
    assert tail.test is data.test and tail.class_names == data.class_names and tail.families == data.families


def test_each_class_keeps_its_share_of_labels_and_one_image_of_each_kind():
    data = data_of(labelled_share=0.2)
    tail = with_imbalance(data, 100, seed=1)
    for label in range(6):
        of_class = tail.train.labels == label
        count, labelled = int(of_class.sum()), int((of_class & tail.train.labelled).sum())
        assert count >= 2 and 1 <= labelled < count and abs(labelled - 0.2 * count) < 1
    assert not tail.train.labelled[tail.train.labels >= 6].any()


def test_a_longer_tail_is_part_of_a_shorter_one_and_a_seed_decides():
    data = data_of(unknown=7)
    shorter, longer, again, other = (
        with_imbalance(data, ratio, seed=seed) for ratio, seed in ((5, 0), (20, 0), (20, 0), (20, 1))
    )
    assert kept(longer) < kept(shorter) < kept(data)
    assert kept(longer) == kept(again) != kept(other)
    assert (longer.train.labels == UNKNOWN).sum() == 7
    order = longer.train.images[:, 0, 0, 0]
    assert (order.diff() > 0).all()  # the data set's own order


def test_a_ratio_of_one_and_none_leave_everything():
    data = data_of()
    assert with_imbalance(data, None, seed=0) is data
    assert kept(with_imbalance(data, 1, seed=0)) == kept(data)


def test_fewer_old_classes_stay_in_order_and_the_others_lose_their_labels():
    data = data_of()
    fewer = with_old_share(data, 0.25, seed=0)
    assert fewer.num_old == 3 and len(fewer.class_names) == 12 and set(fewer.class_names) == set(data.class_names)
    numbers = [data.class_names.index(name) for name in fewer.class_names]
    assert numbers[:3] == sorted(numbers[:3]) and max(numbers[:3]) < 6 and numbers[3:] == sorted(numbers[3:])
    assert [data.families[number] for number in numbers] == list(fewer.families)
    for before, after in ((data.train, fewer.train), (data.test, fewer.test)):
        assert [numbers[label] for label in after.labels.tolist()] == before.labels.tolist()
    assert torch.equal(fewer.train.labelled, data.train.labelled & (fewer.train.labels < 3))
    assert fewer.train.labelled.sum() == 150


def test_old_classes_of_a_smaller_share_are_among_those_of_a_larger_one_and_a_seed_decides():
    data = data_of(unknown=3)
    one, two, other = (with_old_share(data, share, seed=seed) for share, seed in ((0.17, 0), (0.34, 0), (0.34, 5)))
    assert set(one.class_names[:2]) < set(two.class_names[:4]) != set(other.class_names[:4])
    assert (one.train.labels == UNKNOWN).sum() == 3
    assert with_old_share(data, None, seed=0) is data
    assert with_old_share(data, 0.5, seed=0).class_names == data.class_names


@pytest.mark.parametrize("share", [0.01, 0.75])
def test_a_share_that_leaves_no_old_class_or_needs_more_than_there_are(share):
    with pytest.raises(UserError, match=r"discovery.old_share=.*give a share from 0.0833 to 0.5") as raised:
        with_old_share(data_of(), share, seed=0)
    assert "\n" not in str(raised.value)


def test_old_classes_without_labelled_images_are_refused():
    data = data_of(labelled_share=0)
    with pytest.raises(UserError, match="no class that stays old has a labelled image"):
        with_old_share(data, 0.25, seed=0)
