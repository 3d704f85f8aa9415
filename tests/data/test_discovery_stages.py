"""Which classes and images arrive in which stage, and the batches that are made of them."""

from dataclasses import replace

import pytest
import torch

from meru.data.discovery.sampling import WeightedBatches
from meru.data.discovery.splits import UNKNOWN, DiscoveryData, DiscoverySplit
from meru.data.discovery.staged_loading import staged_training_loader
from meru.data.discovery.stages import stages_of
from meru.errors import UserError

OLD, NEW, EACH = 4, 7, 12


def data(each=EACH):
    """Four old and seven new classes of twelve images, half of the old ones' labelled."""
    labels = torch.arange(OLD + NEW).repeat_interleave(each)
    labelled = (labels < OLD) & (torch.arange(len(labels)) % 2 == 0)
    images = torch.zeros(len(labels), 3, 4, 4, dtype=torch.uint8)
    train = DiscoverySplit(images, labels, labelled)
    test = DiscoverySplit(images[:11], torch.arange(11), torch.zeros(11, dtype=torch.bool))
    return DiscoveryData(tuple(f"class {number}" for number in range(OLD + NEW)), OLD, train, test)


def drawn(given=None, **options):
    usual = {"stages": 3, "first_share": 0.5, "earlier_images": "all", "kept_share": 0.1, "seed": 0}
    return stages_of(given or data(), **(usual | options))


def arrivals(stages, given, number):
    """How many of the unlabelled images of a class arrive in each stage."""
    chosen = (given.train.labels == number) & ~given.train.labelled
    return [int((stages.image_stage[chosen] == stage).sum()) for stage in range(len(stages))]


def test_every_stage_brings_a_share_of_the_new_classes_in_random_order():
    stages, other = drawn(), drawn(seed=1)
    assert stages.class_stage[:OLD].tolist() == [0] * OLD
    new = stages.class_stage[OLD:]
    assert [int((new == stage).sum()) for stage in range(3)] == [2, 2, 3]
    assert torch.equal(new, drawn().class_stage[OLD:]) and not torch.equal(new, other.class_stage[OLD:])
    assert new.tolist() != sorted(new.tolist()) or other.class_stage[OLD:].tolist() != sorted(new.tolist())
    assert [stages.open_classes(stage, OLD + NEW) for stage in range(3)] == [6, 8, 11]
    assert [stages.open_classes(stage, 20) for stage in range(3)] == [9, 14, 20]


def test_labels_come_once_and_a_class_returns_in_later_stages():
    given = data()
    stages = drawn(given)
    assert stages.image_stage[given.train.labelled].eq(0).all()
    assert arrivals(stages, given, 0) == [3, 2, 1]  # 6 unlabelled images of an old class
    for number in range(OLD, OLD + NEW):
        expected = [[6, 3, 3], [0, 6, 6], [0, 0, 12]][int(stages.class_stage[number])]
        assert arrivals(stages, given, number) == expected
    at_once = drawn(given, first_share=1.0)
    assert torch.equal(at_once.image_stage, at_once.class_stage[given.train.labels])


def test_a_class_whose_share_rounds_to_nothing_arrives_with_one_image():
    given = data(each=2)
    stages = drawn(given, first_share=0.01)
    for number in range(OLD, OLD + NEW):
        assert arrivals(stages, given, number)[int(stages.class_stage[number])] >= 1


def test_what_remains_of_earlier_images():
    kept, none, sample = (drawn(earlier_images=name, kept_share=0.25) for name in ("all", "none", "sample"))
    every = kept.image_stage
    for stage in range(3):
        assert torch.equal(kept.images[stage], (every <= stage).nonzero().flatten())
        assert torch.equal(none.images[stage], (every == stage).nonzero().flatten())
        earlier = sample.images[stage][every[sample.images[stage]] < stage]
        assert (every[sample.images[stage]] == stage).sum() == (every == stage).sum()
        assert len(earlier) == sum(round(0.25 * int((every == before).sum())) for before in range(stage))
    first = sample.images[1][every[sample.images[1]] == 0]
    assert torch.equal(first, sample.images[2][every[sample.images[2]] == 0])  # the same memory in all later stages
    assert 0 < data().train.labelled[first].sum() < data().train.labelled.sum()
    assert not data().train.labelled[none.images[1]].any()


def test_a_stage_is_measured_on_the_classes_that_have_arrived():
    given = data()
    stages = drawn(given)
    for stage, classes in enumerate((6, 8, 11)):
        seen = given.test.labels[stages.measured(given.test, stage)]
        assert len(seen) == classes and (stages.class_stage[seen] <= stage).all()
        unlabelled = stages.unlabelled(given.train, stage)
        assert not given.train.labelled[unlabelled].any() and (stages.image_stage[unlabelled] <= stage).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stages": 8}, "stages=8: every stage brings new classes, and the data have 7 of them: set it to 7"),
        ({"earlier_images": "some"}, "discovery.earlier_images=some: choose one of all, sample, none"),
    ],
)
def test_stages_that_cannot_be(options, message):
    with pytest.raises(UserError, match=message):
        drawn(**options)


def test_images_of_unknown_classes_and_stages_without_images_are_refused():
    given = data()
    unknown = replace(given.train, labels=torch.where(given.train.labels == 9, UNKNOWN, given.train.labels))
    with pytest.raises(UserError, match="of unknown classes, which cannot arrive in turn"):
        drawn(replace(given, train=unknown))
    lacking = int(drawn(given, stages=7).class_stage.argmax())  # the only class of the last stage
    with pytest.raises(UserError, match="stage 7 has no training image of its new classes"):
        drawn(replace(given, train=given.train.where(given.train.labels != lacking)), stages=7)


def batches(given, stages, **options):
    usual = {"num_classes": 11, "stage_steps": 5, "start_step": 0, "total_steps": 15, "batch_size": 12, "seed": 3}
    usual |= {"sampler": "weighted", "transform": lambda image: image, "workers": 0}
    return list(staged_training_loader(given.train, stages, **(usual | options)))


def neighbours(passes, images):
    return (torch.arange(len(images))[:, None] + torch.arange(3)) % len(images)


@pytest.mark.parametrize("sampler", ["weighted", "uniform", "neighbours"])
@pytest.mark.parametrize("earlier", ["all", "none"])
def test_every_sampler_gives_the_images_of_the_stage_and_goes_on_anywhere(sampler, earlier):
    given = data()
    stages = drawn(given, earlier_images=earlier)
    options = {"sampler": sampler, "neighbours": neighbours}
    whole = batches(given, stages, **options)
    assert len(whole) == 15
    for step, batch in enumerate(whole):
        stage = step // 5
        assert torch.isin(batch["image_index"], stages.images[stage]).all()
        assert batch["classes"] == (6, 8, 11)[stage]
        assert torch.equal(batch["label"] >= 0, given.train.labelled[batch["image_index"]])
    for start in (4, 5, 7, 10):
        later = batches(given, stages, start_step=start, **options)
        assert [batch["image_index"].tolist() for batch in later] == [
            batch["image_index"].tolist() for batch in whole[start:]
        ]
    ranks = [batches(given, stages, batch_size=6, rank=rank, world_size=2, **options) for rank in range(2)]
    for batch, *parts in zip(whole, *ranks, strict=True):
        assert batch["image_index"].tolist() == [index for part in parts for index in part["image_index"].tolist()]


def test_passes_are_counted_over_all_stages():
    given, asked = data(), []
    stages = drawn(given, earlier_images="none")

    def watched(passes, images):
        asked.append((passes, len(images)))
        return neighbours(passes, images)

    batches(given, stages, sampler="neighbours", neighbours=watched)
    sizes = [len(images) for images in stages.images]
    expected, begun = [], 0
    for size in sizes:
        passes = -(-5 // (size // 12))
        expected += [(begun + each, size) for each in range(passes)]
        begun += passes
    assert asked == expected and len({passes for passes, _ in asked}) == len(asked)


def test_without_labelled_images_all_are_drawn_alike():
    drawing = WeightedBatches(
        labelled=torch.zeros(6, dtype=torch.bool), batch_size=6, seed=0, total_steps=400
    )
    counts = torch.bincount(torch.tensor([key[1] for batch in drawing for key in batch]), minlength=6)
    assert counts.min() > 300 and counts.sum() == 2400
