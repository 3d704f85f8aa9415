"""Captions from a file: layouts, which image they are of, how often each is drawn, and what is refused."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest
import torch

from meru.data.augmentation import CaptionAugmentation
from meru.data.caption_files import Generated, read_captions_file, with_captions_of
from meru.data.pairs import CachedPairs, TrainingPairs, _drawn_caption, _values
from meru.data.records import ImageRecord, ImageTextData
from meru.errors import UserError


def records(number=3, **rest):
    return tuple(
        ImageRecord(Path(f"/data/{n % 2}/{n}.jpg"), n % 2, (f"own {n} a", f"own {n} b"), **rest) for n in range(number)
    )


def data_of(train=None, **rest):
    held_out = ImageRecord(Path("/data/0/test.jpg"), 0, ("own test",))
    return ImageTextData(("a", "b"), train or records(), (), (held_out,), **rest)


def written(tmp_path, content, name="captions.json"):
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def described(captions, *, mode="add", share=0.5, data=None, **rest):
    return with_captions_of(data or data_of(), captions, mode=mode, share=share, **rest)


ONE = {"0.jpg": (Generated("new", 1.0),)}


def test_json_and_json_lines_say_the_same(tmp_path):
    captions = ["a  bird ", {"caption": "a red bird", "weight": 2}]
    expected = {"0/0.jpg": (Generated("a bird", 1.0), Generated("a red bird", 2.0))}
    assert read_captions_file(written(tmp_path, {"0/0.jpg": captions})) == expected
    line = json.dumps({"image": "0/0.jpg", "captions": captions, "model": "m"})
    assert read_captions_file(written(tmp_path, f"{line}\n\n", "lines.jsonl")) == expected


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        ("{", "a.json", "a.json cannot be read as JSON"),
        ([1], "a.json", "a.json is no JSON object; write"),
        ({}, "a.json", "a.json has captions of no image"),
        ("", "a.jsonl", "a.jsonl has captions of no image"),
        ({"0.jpg": "a bird"}, "a.json", "the entry of the image 0.jpg is not a list of captions"),
        ({"0.jpg": {"caption": "a"}}, "a.json", "the entry of the image 0.jpg is not a list of captions"),
        ({"": ["a"]}, "a.json", "the entry is not a list of captions"),
        ('{"image": "0.jpg", "captions": ["a"]}\n{"file": "1.jpg"}', "a.jsonl", "line 2: the entry is not a list"),
        ('{"image": "0.jpg", "captions": ["a"]}\n[1', "a.jsonl", "line 2 cannot be read as JSON"),
        ({"0.jpg": [3]}, "a.json", "a caption of the image 0.jpg is not text"),
        ({"0.jpg": [{"caption": "a", "wieght": 1}]}, "a.json", "a caption of the image 0.jpg is not text"),
        ({"0.jpg": ["a", " "]}, "a.json", "a caption of the image 0.jpg is empty"),
        ({"0.jpg": []}, "a.json", "there is no caption of the image 0.jpg"),
        ({"0.jpg": [{"caption": "a", "weight": 0}]}, "a.json", "all weights are 0 of the image 0.jpg"),
        ({"0.jpg": [{"caption": "a", "weight": -1}]}, "a.json", "a weight of the image 0.jpg is -1"),
        ({"0.jpg": [{"caption": "a", "weight": True}]}, "a.json", "a weight of the image 0.jpg is True"),
        ('{"0.jpg": [{"caption": "a", "weight": Infinity}]}', "a.json", "a weight of the image 0.jpg is inf"),
        ('{"0.jpg": ["a"], "0.jpg": ["b"]}', "a.json", "the image 0.jpg is listed twice"),
    ],
)
def test_a_wrong_file_gives_one_line_that_says_where(content, name, message, tmp_path):
    with pytest.raises(UserError, match=re.escape(message)) as error:
        read_captions_file(written(tmp_path, content, name))
    assert str(error.value).startswith("data.captions_from: ") and "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="data.captions_from needs this file"):
        read_captions_file(tmp_path / "none.json")


def test_images_without_an_entry_keep_their_captions_and_are_counted():
    data, images, without, unknown = described({**ONE, "9.jpg": ONE["0.jpg"]}, mode="replace")
    assert (images, without, unknown) == (1, 2, 1)
    assert [each.captions for each in data.train] == [("new",), ("own 1 a", "own 1 b"), ("own 2 a", "own 2 b")]


def test_evaluation_keeps_the_captions_of_the_data_unless_told_otherwise():
    captions = {**ONE, "test.jpg": (Generated("new test", 1.0),)}
    assert described(captions).data.test == data_of().test
    assert described(captions, mode="replace", everywhere=True).data.test[0].captions == ("new test",)


def test_files_of_other_images_and_ambiguous_names_are_refused():
    with pytest.raises(UserError, match=r"^data.captions_from=f.json: none of its 1 images, such as owl.jpg, is a"):
        described({"owl.jpg": ONE["0.jpg"]}, path="f.json")
    twins = (*records(1), ImageRecord(Path("/data/1/0.jpg"), 1, ("own",)))
    with pytest.raises(UserError, match=r"0.jpg may be /data/0/0.jpg or /data/1/0.jpg: write the name with its"):
        described(ONE, data=data_of(twins), path="f.json")
    assert described({"1/0.jpg": ONE["0.jpg"]}, data=data_of(twins)).data.train[1].captions == ("own", "new")
    with pytest.raises(UserError, match="0.jpg and 0/0.jpg are the same image, /data/0/0.jpg: list it once"):
        described({**ONE, "0/0.jpg": ONE["0.jpg"]}, path="f.json")
    with pytest.raises(UserError, match="captions of shards are read as a stream"):
        described(ONE, data=data_of(shards=object()))


def test_equal_weights_are_no_weights_so_that_drawing_is_as_before():
    assert described(ONE).data.train[0].caption_weights == ()
    own = described(ONE, mode="mix", share=0.0).data.train[0]
    assert own == records()[0]


@pytest.mark.parametrize(
    ("mode", "share", "expected"),
    [
        ("add", 0.5, {"own 0 a": 0.2, "own 0 b": 0.2, "x": 0.2, "y": 0.4}),
        ("replace", 0.5, {"x": 1 / 3, "y": 2 / 3}),
        ("mix", 0.25, {"own 0 a": 0.375, "own 0 b": 0.375, "x": 1 / 12, "y": 1 / 6}),
        ("mix", 1.0, {"x": 1 / 3, "y": 2 / 3}),
    ],
)
def test_captions_are_drawn_by_their_weights(mode, share, expected):
    captions = {"0.jpg": (Generated("x", 1.0), Generated("y", 2.0), Generated("never", 0.0))}
    record = described(captions, mode=mode, share=share).data.train[0]
    torch.manual_seed(0)
    counts = Counter(_drawn_caption(record, None) for _ in range(3000))
    assert set(counts) == set(expected)
    for caption, probability in expected.items():
        assert counts[caption] / 3000 == pytest.approx(probability, abs=0.03)


def test_a_generated_caption_stands_for_its_missing_back_translation():
    own = records(1, back_translations=("back a", "back b"))
    record = described({"0.jpg": (Generated("x", 3.0),)}, data=data_of(own)).data.train[0]
    assert record.back_translations == ("back a", "back b", "x")
    augment = CaptionAugmentation(word_deletion=0.0, back_translation=1.0)
    assert [augment(record, number) for number in range(3)] == ["back a", "back b", "x"]


def test_a_caption_depends_on_seed_epoch_and_index_only():
    train = described({"0.jpg": (Generated("x", 1.0), Generated("y", 4.0))}).data.train

    def tokenize(caption):
        return torch.tensor(list(caption.encode()))

    cached = CachedPairs(train, views=torch.zeros(3, 2, 4), tokenize=tokenize, seed=5)
    keys = [(epoch, 0) for epoch in range(20)]
    together = [cached._caption(*key) for key in keys]
    assert together == [cached._caption(*key) for key in reversed(keys)][::-1] and len(set(together)) > 1
    images = TrainingPairs(train, transform=torch.nn.Identity(), tokenize=tokenize, seed=5)
    images.seen = lambda image, full, name="image": {}
    drawn = [images.drawn(train[0], torch.zeros(3, 1, 1), (1, 1), epoch=epoch, index=0) for epoch, _ in keys]
    assert [bytes(sample["tokens"].tolist()).decode() for sample in drawn] == together


def test_records_without_weights_name_the_files_in_the_cache_as_before_there_were_any():
    plain, weighted = records(1)[0], described({"0.jpg": (Generated("x", 3.0),)}).data.train[0]
    assert _values(plain) == tuple(vars(plain).values())[:-1]
    assert _values(weighted)[-1] == (1.0, 1.0, 3.0)
