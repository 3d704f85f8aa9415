"""Wrong captions of training pairs: how many, whose, and that nothing else changes."""

import dataclasses
from collections import Counter
from pathlib import Path

import pytest

from meru.data.caption_noise import nearest_classes, with_wrong_captions
from meru.data.records import Crop, ImageRecord, ImageTextData, Region
from meru.errors import UserError

CLASSES, IMAGES, CAPTIONS = 5, 8, 3


def record(class_index, image, **rest):
    captions = tuple(f"class {class_index} image {image} caption {n}" for n in range(CAPTIONS))
    return ImageRecord(Path(f"{class_index}_{image}.jpg"), class_index, captions, **rest)


def data_of(records, **rest):
    held_out = (record(0, 90), record(1, 91))
    names = tuple(str(number) for number in range(CLASSES))
    return ImageTextData(names, tuple(records), held_out[:1], held_out[1:], **rest)


@pytest.fixture
def data():
    return data_of(record(number, image) for number in range(CLASSES) for image in range(IMAGES))


def wrong_places(data, changed):
    return [
        (image, number)
        for image, (before, after) in enumerate(zip(data.train, changed.train, strict=True))
        for number in range(len(before.captions))
        if before.captions[number] != after.captions[number]
    ]


@pytest.mark.parametrize("kind", ["symmetric", "nearest"])
@pytest.mark.parametrize("share", [0.2, 0.5, 1.0])
def test_exactly_the_share_of_the_pairs_has_a_caption_of_another_class(data, kind, share):
    changed, wrong, pairs = with_wrong_captions(data, share=share, kind=kind, seed=0)
    places = wrong_places(data, changed)
    assert len(places) == wrong == int(share * pairs) and pairs == CLASSES * IMAGES * CAPTIONS
    for image, number in places:
        assert f"class {data.train[image].class_index} " not in changed.train[image].captions[number]


def test_the_share_is_that_of_the_decimal_number():
    """0.29 · 100 is below 29 in floating point."""
    data = data_of(ImageRecord(Path(f"{n}.jpg"), n % CLASSES, (f"caption {n}",)) for n in range(100))
    assert with_wrong_captions(data, share=0.29, kind="symmetric", seed=0).wrong == 29
    assert with_wrong_captions(data, share=0.2999, kind="symmetric", seed=0).wrong == 29


def test_symmetric_noise_shuffles_the_captions_of_the_chosen_pairs(data):
    changed = with_wrong_captions(data, share=0.5, kind="symmetric", seed=3).data

    def captions(data):
        return Counter(caption for each in data.train for caption in each.captions)

    assert captions(changed) == captions(data)
    givers = Counter(changed.train[i].captions[n].split()[1] for i, n in wrong_places(data, changed))
    assert len(givers) == CLASSES  # any class


def test_images_classes_and_the_other_splits_stay_as_they_were(data):
    changed = with_wrong_captions(data, share=1.0, kind="symmetric", seed=0).data
    assert [(each.path, each.class_index) for each in changed.train] == [
        (each.path, each.class_index) for each in data.train
    ]
    assert changed.validation == data.validation and changed.test == data.test


def test_the_seed_alone_decides(data):
    first, again, other = (with_wrong_captions(data, share=0.3, kind="symmetric", seed=seed) for seed in (1, 1, 2))
    assert first == again and first.data.train != other.data.train


def test_no_noise_leaves_the_very_same_data(data):
    assert with_wrong_captions(data, share=0.0, kind="symmetric", seed=0).data is data
    assert with_wrong_captions(data, share=0.001, kind="nearest", seed=0).data is data  # less than one pair


def test_a_class_with_most_of_the_captions_takes_those_that_there_are():
    data = data_of([*(record(0, image) for image in range(9)), record(1, 50)])
    changed, wrong, _ = with_wrong_captions(data, share=1.0, kind="symmetric", seed=0)
    assert wrong == 30
    for image, number in wrong_places(data, changed):
        assert f"class {data.train[image].class_index} " not in changed.train[image].captions[number]
    assert len(wrong_places(data, changed)) == 30


def test_the_nearest_class_is_that_with_the_most_similar_words():
    words = ["a red bird with a long bill", "a green frog", "a red bird with a short bill", "a green toad"]
    records = [ImageRecord(Path(f"{number}.jpg"), 10 * number, (text, text)) for number, text in enumerate(words)]
    assert nearest_classes(records) == {0: 20, 10: 30, 20: 0, 30: 10}
    data = ImageTextData((), tuple(records), (), ())
    changed = with_wrong_captions(data, share=1.0, kind="nearest", seed=0).data
    assert [each.captions[0] for each in changed.train] == [words[2], words[3], words[0], words[1]]


def test_captions_without_words_have_a_nearest_class_too():
    records = [ImageRecord(Path(f"{number}.jpg"), number, ("!",)) for number in range(3)]
    assert nearest_classes(records) == {0: 1, 1: 0, 2: 0}


def test_back_translations_phrases_and_colours_go_along():
    def rich(number):
        regions = (Region((0, 0, 9, 9), f"phrase {number}"), Crop(b"", f"crop {number}", "crop"))
        return dataclasses.replace(
            record(number, 0),
            captions=(f"caption {number}",),
            back_translations=(f"translation {number}",),
            regions=regions,
            colours={"bill": f"colour {number}"},
            box=(0, 0, number, 1),
        )

    data = ImageTextData((), tuple(rich(number) for number in range(4)), (), ())
    changed = with_wrong_captions(data, share=1.0, kind="symmetric", seed=0).data
    for number, each in enumerate(changed.train):
        giver = each.captions[0].split()[1]
        assert giver != str(number) and each.box == (0, 0, number, 1)
        assert each.back_translations == (f"translation {giver}",) and each.colours == {"bill": f"colour {giver}"}
        assert [region.phrase for region in each.regions] == [f"phrase {giver}", f"crop {giver}"]


def test_one_class_and_shards_are_refused_in_one_line(data):
    with pytest.raises(UserError, match=r"^data.caption_noise=0.5: all training images are of one class; set it to 0$"):
        with_wrong_captions(data_of(data.train[:IMAGES]), share=0.5, kind="symmetric", seed=0)
    with pytest.raises(UserError, match=r"^data.caption_noise=0.5: captions of shards are read as a stream"):
        with_wrong_captions(data_of(data.train, shards=object()), share=0.5, kind="symmetric", seed=0)
