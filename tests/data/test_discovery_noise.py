"""Wrong labels in category discovery: how many, which, and that evaluation does not see them."""

import pytest
import torch

from meru.data.discovery.loading import discovery_evaluation_loader, discovery_training_loader
from meru.data.discovery.noise import nearest_class, with_wrong_labels
from meru.data.discovery.splits import DiscoveryData, DiscoverySplit
from meru.errors import UserError


def data_of(old=4, new=2, images=10):
    """Half of the images of each old class are labelled."""
    labels = torch.arange(old + new).repeat_interleave(images)
    labelled = (labels < old) & (torch.arange(len(labels)) % 2 == 0)
    pixels = torch.zeros(len(labels), 3, 8, 8, dtype=torch.uint8)
    names = tuple(f"class {number}" for number in range(old + new))
    nothing = DiscoverySplit(pixels[:0], labels[:0], labelled[:0])
    return DiscoveryData(names, old, DiscoverySplit(pixels, labels, labelled), nothing)


def wrong(data):
    return (data.train.training_labels != data.train.labels) & data.train.labelled


@pytest.mark.parametrize("share", [0.1, 0.4, 1.0])
def test_that_share_of_labelled_images_gets_another_old_class(share):
    data = data_of()
    noisy = with_wrong_labels(data, share=share, kind="symmetric", seed=0)
    assert wrong(noisy).sum() == round(share * 20)
    assert torch.equal(noisy.train.labels, data.train.labels)
    given = noisy.train.given
    assert (given[wrong(noisy)] < 4).all()
    assert torch.equal(given[~data.train.labelled], data.train.labels[~data.train.labelled])


def test_without_noise_the_data_are_the_same_object():
    data = data_of()
    assert with_wrong_labels(data, share=0.0, kind="nearest", seed=0) is data
    assert data.train.training_labels is data.train.labels


def test_a_seed_decides_and_less_noise_is_part_of_more():
    data = data_of(images=40)
    less, more, again, other = (
        with_wrong_labels(data, share=share, kind="symmetric", seed=seed)
        for share, seed in ((0.2, 0), (0.5, 0), (0.5, 0), (0.5, 1))
    )
    assert torch.equal(more.train.given, again.train.given)
    assert not torch.equal(more.train.given, other.train.given)
    assert (wrong(more) | ~wrong(less)).all()
    assert torch.equal(less.train.given[wrong(less)], more.train.given[wrong(less)])


def test_symmetric_noise_is_uniform_over_the_other_old_classes():
    data = data_of(images=2000)
    noisy = with_wrong_labels(data, share=1.0, kind="symmetric", seed=3)
    pairs = 4 * noisy.train.labels + noisy.train.given
    counts = pairs[data.train.labelled].bincount(minlength=16).reshape(4, 4)
    assert (counts.diagonal() == 0).all()
    assert (counts[~torch.eye(4, dtype=torch.bool)] - 1000 / 3).abs().max() < 90  # six standard deviations


def test_nearest_noise_goes_to_the_class_with_the_nearest_mean():
    data = data_of()
    centres = torch.tensor([0.0, 1.0, 5.0, 5.5, 0.9, 5.1])  # the new classes 4 and 5 are nearer still
    features = torch.stack([centres[data.train.labels], torch.zeros(60)], dim=1)
    noisy = with_wrong_labels(data, share=1.0, kind="nearest", seed=0, features=features)
    labelled = data.train.labelled
    assert torch.equal(noisy.train.given[labelled], torch.tensor([1, 0, 3, 2])[data.train.labels[labelled]])
    symmetric = with_wrong_labels(data, share=0.3, kind="symmetric", seed=0)
    partly = with_wrong_labels(data, share=0.3, kind="nearest", seed=0, features=features)
    assert torch.equal(wrong(symmetric), wrong(partly))


def test_a_class_without_rows_is_never_nearest():
    features, labels = torch.tensor([[0.0], [10.0], [11.0]]), torch.tensor([0, 2, 4])
    assert nearest_class(features, labels).tolist() == [2, -1, 4, -1, 2]


@pytest.mark.parametrize("kind", ["symmetric", "nearest"])
def test_one_old_class_cannot_be_taken_for_another(kind):
    data = data_of(old=1)
    with pytest.raises(UserError, match="data.label_noise=0.5: .* only one has") as raised:
        with_wrong_labels(data, share=0.5, kind=kind, seed=0, features=torch.zeros(30, 2))
    assert "\n" not in str(raised.value)


def test_training_sees_the_wrong_labels_and_evaluation_the_true_ones():
    noisy = with_wrong_labels(data_of(), share=0.5, kind="symmetric", seed=0)
    options = {"batch_size": 60, "workers": 0, "on_error": "raise"}
    identity = torch.nn.Identity()
    trained = next(
        iter(discovery_training_loader(
            noisy.train, transform=identity, sampler="uniform", seed=0, total_steps=1, **options
        ))
    )  # fmt: skip
    order = trained["image_index"].argsort()
    expected = torch.where(noisy.train.labelled, noisy.train.given, -1)
    assert torch.equal(trained["label"][order], expected)
    cached = discovery_training_loader(
        noisy.train,
        transform=identity,
        sampler="uniform",
        seed=0,
        total_steps=1,
        views=torch.zeros(60, 2, 4),
        **options,
    )
    rows = next(iter(cached))
    assert torch.equal(rows["label"][rows["image_index"].argsort()], expected)
    evaluated = next(iter(discovery_evaluation_loader(noisy.train, transform=identity, **options)))
    assert torch.equal(evaluated["label"], noisy.train.labels)


def test_a_part_of_the_images_keeps_its_wrong_labels():
    noisy = with_wrong_labels(data_of(), share=0.5, kind="symmetric", seed=0).train
    part = noisy.where(noisy.labelled)
    assert torch.equal(part.given, noisy.given[noisy.labelled])
