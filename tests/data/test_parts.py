"""Words for parts, windows around them, and what is there where something is missing."""

from pathlib import Path

import pytest
import torch
import yaml

from meru.data.parts import CropParts, PartWords, part_places
from meru.data.records import ImageRecord, Region
from meru.data.transforms import EvaluationTransform
from meru.errors import UserError
from meru.files import PROJECT

BIRDS = PartWords.of(yaml.safe_load((PROJECT / "configs" / "data" / "_birds.yaml").read_text(encoding="utf-8")))


def record(path="bird.jpg", **known):
    known = {"captions": ("a bird",), "box": None, "parts": {}, **known}
    return ImageRecord(path=Path(path), class_index=0, **known)


@pytest.mark.parametrize(
    ("caption", "phrases"),
    [
        (
            "this bird has a long orange bill and its throat is red.",
            {"bird": "bird", "beak": "long orange bill", "throat": "throat is red"},
        ),
        (
            "A Small Brown Bird with black wings, tail and beak",
            {"bird": "small brown bird", "wing": "black wings", "tail": "tail", "beak": "beak"},
        ),
        ("white-breasted, with a red-brown crown", {"crown": "red brown crown"}),
        ("a red bill and a black bill", {"beak": "red bill"}),  # the first
        ("a large finch in flight", {}),
        ("", {}),
    ],
)  # fmt: skip
def test_noun_phrases_of_a_caption(caption, phrases):
    assert BIRDS.phrases(caption) == phrases


def test_words_of_other_data_sets():
    words = PartWords("car", {"door": ["door", "doors"]})
    caption = "a red car with a dented left door, the car's door is green, a bird"
    assert words.phrases(caption) == {"car": "red car", "door": "dented left door"}
    assert PartWords("", {}).phrases(caption) == {}
    crop = CropParts(PartWords("", {}))
    part = crop(record(box=(0.0, 0.0, 5.0, 5.0)), height=10, width=10, caption=caption)
    assert part == ((0, 0, 5, 5), "")


def test_every_window_lies_inside_the_image():
    torch.manual_seed(0)
    corners = {"beak": (0.0, 0.0), "tail": (79.9, 59.9), "left wing": (40.0, 2.0), "back": (200.0, 300.0)}
    crop = CropParts(BIRDS)
    for box in ((-5.0, 10.0, 300.0, 30.0), (79.0, 59.0, 1.0, 1.0), None):
        for _ in range(100):
            left, top, width, height = crop(record(box=box, parts=corners), height=60, width=80, caption="").window
            assert left >= 0 and top >= 0 and width >= 1 and height >= 1
            assert left + width <= 80 and top + height <= 60


def test_a_window_is_centred_on_its_part_and_as_large_as_asked():
    crop = CropParts(BIRDS, crops=["parts"], window=[0.5, 0.5])
    bird = record(box=(0.0, 0.0, 40.0, 20.0), parts={"crown": (50.0, 50.0)})
    assert crop(bird, height=100, width=100, caption="").window == (40, 40, 20, 20)
    assert CropParts(BIRDS, crops=["box"])(bird, height=100, width=100, caption="").window == (0, 0, 40, 20)


def test_the_phrase_comes_from_the_caption_then_from_others_then_from_the_class():
    crop = CropParts(BIRDS, crops=["parts"])
    bird = record(parts={"left wing": (5.0, 5.0)}, captions=("a bird", "it has white wings"))
    size = {"height": 10, "width": 10}
    assert crop(bird, **size, caption="a bird with black wings").phrase == "black wings"
    assert crop(bird, **size, caption="a bird").phrase == "white wings"
    plain = record(parts={"beak": (5.0, 5.0)}, colours={"bill": "red", "wing": "blue"})
    assert crop(plain, **size, caption="a bird").phrase == "red bill"
    assert crop(record(parts={"nape": (5.0, 5.0)}), **size, caption="a bird").phrase == ""


def test_boxes_with_phrases_are_drawn_with_their_own_words():
    regions = (Region((1.0, 2.0, 30.0, 4.0), "a red bill"), Region((0.0, 0.0, 5.0, 5.0), ""))
    torch.manual_seed(0)
    bird = record(box=(2.0, 2.0, 6.0, 6.0), regions=regions)
    drawn = {CropParts(BIRDS)(bird, height=10, width=10, caption="a bird") for _ in range(50)}
    assert drawn == {((1, 2, 9, 4), "a red bill"), ((0, 0, 5, 5), ""), ((2, 2, 6, 6), "bird")}
    assert CropParts(BIRDS, crops=["parts"])(bird, height=10, width=10, caption="a bird") is None
    CropParts(BIRDS).check([record(), bird], "some/root")
    with pytest.raises(UserError, match="needs parts/part_locs.txt"):
        CropParts(BIRDS, crops=["parts"]).check([bird], "some/root")


def test_a_picture_without_anything_to_draw_from_has_no_part():
    size = {"height": 10, "width": 10, "caption": "a red beak"}
    assert CropParts(BIRDS)(record(), **size) is None
    assert CropParts(BIRDS, crops=["parts"])(record(box=(0.0, 0.0, 5.0, 5.0)), **size) is None
    assert CropParts(BIRDS)(record(box=(0.0, 0.0, 5.0, 5.0)), **size).window == (0, 0, 5, 5)


@pytest.mark.parametrize(
    ("records", "crops", "message"),
    [
        ([record(parts={"beak": (1.0, 1.0)})], ["box", "parts"], r"needs bounding_boxes.txt.*parts.crops=\[parts\]"),
        ([record(box=(0.0, 0.0, 1.0, 1.0))], ["parts"], r"needs parts/part_locs.txt, which some/root lacks"),
        ([record()], ["box"], "choose model=meru_patches"),
    ],
)
def test_a_missing_file_is_named(records, crops, message):
    with pytest.raises(UserError, match=message):
        CropParts(BIRDS, crops=crops).check(records, "some/root")


def test_files_that_are_not_needed_may_be_missing():
    CropParts(BIRDS, crops=["box"]).check([record(), record(box=(0.0, 0.0, 1.0, 1.0))], "some/root")


@pytest.mark.parametrize("wrong", [{"crops": ["wings"]}, {"crops": []}, {"window": [0, 0.5]}, {"window": [0.5, 0.3]}])
def test_wrong_arguments_are_one_line(wrong):
    with pytest.raises(UserError, match=r"^parts\."):
        CropParts(BIRDS, **wrong)


def test_places_in_the_picture_that_the_model_sees(cub_folder):
    """The pictures are 64 × 48: the middle 48 columns are kept, so 8 to 56 become 0 to 1."""
    path = next((cub_folder / "images").rglob("*.jpg"))
    parts = {"beak": (20.0, 12.0), "left eye": (56.5, 3.0), "right eye": (8.0, 24.0)}
    bird = record(path, box=(8.0, 0.0, 48.0, 24.0), parts=parts)
    (places,), (centre,) = part_places([bird], EvaluationTransform(24))
    assert places["beak"].tolist() == [[0.25, 0.25]]
    assert places["eye"].tolist() == [[0.0, 0.5]]  # the other one is cut off
    assert centre == (0.5, 0.25)
    cornered = record(path, parts={"eye": (63.0, 47.0)})
    (places,), (centre,) = part_places([cornered], EvaluationTransform(24, squash=True))
    torch.testing.assert_close(places["eye"], torch.tensor([[63 / 64, 47 / 48]]))
    assert centre == (0.5, 0.5)


def test_an_unreadable_image_has_no_places(tmp_path):
    (tmp_path / "bird.jpg").write_bytes(b"not a picture")
    for path in (tmp_path / "bird.jpg", tmp_path / "missing.jpg"):
        assert part_places([record(path, parts={"beak": (1.0, 1.0)})], EvaluationTransform(24)) == ([{}], [(0.5, 0.5)])
