"""The drawn persons: the folder's layout, identities and near-twins, and the truth of pictures and captions."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from meru.data.synthetic.pedestrians import captions as words
from meru.data.synthetic.pedestrians import load as pedestrians
from meru.data.synthetic.pedestrians.captions import describe
from meru.data.synthetic.pedestrians.looks import (
    COLOURS,
    HAIR_COLOURS,
    TWIN_ATTRIBUTES,
    Bag,
    Look,
    deal_looks,
    differing,
    second_colour,
)
from meru.data.synthetic.pedestrians.pictures import draw_picture
from meru.errors import UserError

FEW = {"identities": 12, "images_per_identity": 2}
THINGS = ("hair", "glasses", "hat", "upper", "lower", "shoes", "bag")
THING_WORDS = {
    "hair": r"\bhair",
    "glasses": r"\bglasses\b",
    "hat": r"\b(cap|hat)\b",
    "upper": "|".join(rf"\b{word}\b" for options in words.UPPER_WORDS.values() for word in options),
    "lower": "|".join(rf"\b{word}\b" for options in words.LOWER_WORDS.values() for word in options),
    "shoes": r"\bshoes\b",
    "bag": "|".join(rf"\b{word}\b" for options in words.BAG_WORDS.values() for word in options),
}
PERSON = Look(
    gender="woman", skin="light", hair_length="long", hair_colour="red", glasses=True, hat="blue", upper="sweater",
    upper_colour="white", pattern="plain", lower="trousers", lower_colour="green", shoes="black",
    bag=Bag("handbag", "yellow"),
)  # fmt: skip


@pytest.fixture(scope="module")
def looks():
    return deal_looks(pedestrians.split_sizes(400), seed=0)


@pytest.fixture(scope="module")
def told(looks):
    """Looks, pictures and captions of a hundred persons."""
    everyone = []
    for number, look in enumerate(looks["test"]):
        rng = np.random.default_rng(number)
        picture = draw_picture(look, rng=rng)
        seen = {"visible": picture.visible, "view": picture.view, "walking": picture.walking}
        everyone.append((look, picture, describe(look, rng=rng, **seen, count=4)))
    return everyone


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return pedestrians.draw_pedestrians(tmp_path_factory.mktemp("drawn") / "pedestrians", **FEW)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# The folder


def test_layout_is_that_of_cuhk_pedes(folder):
    entries = json.loads((folder / "reid_raw.json").read_text(encoding="utf-8"))
    assert len(entries) == 24
    assert {path.name for path in folder.iterdir()} == {"imgs", "reid_raw.json", "pedestrians.json", "heads.csv"}
    assert len({entry["file_path"] for entry in entries}) == 24
    for entry in entries:
        assert set(entry) == {"split", "captions", "id", "file_path", "processed_tokens"}
        assert len(set(entry["captions"])) == 2 and entry["processed_tokens"] == []
        with Image.open(folder / "imgs" / entry["file_path"]) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (64, 128))
    assert Counter(entry["id"] for entry in entries) == {identity: 2 for identity in range(1, 13)}
    splits = {}
    for entry in entries:
        splits.setdefault(entry["split"], set()).add(entry["id"])
    assert {split: len(identities) for split, identities in splits.items()} == {"train": 7, "val": 2, "test": 3}
    assert len(set.union(*splits.values())) == 12


def test_the_usual_splits():
    assert pedestrians.split_sizes(400) == {"train": 260, "val": 40, "test": 100}
    assert pedestrians.split_sizes(6) == {"train": 2, "val": 2, "test": 2}


def test_same_arguments_give_the_same_bytes(folder, tmp_path):
    first, again = contents(folder), contents(pedestrians.draw_pedestrians(tmp_path / "again", **FEW))
    assert first == again
    other = contents(pedestrians.draw_pedestrians(tmp_path / "other", seed=1, **FEW))
    assert all(other[name] != first[name] for name in first)


def test_load_draws_once_and_reads_as_cuhk_pedes(folder, tmp_path, monkeypatch):
    data = pedestrians.load_pedestrians(root=tmp_path / "pedestrians", **FEW)
    assert data.class_kind == "identity" and len(data.class_names) == 12
    assert [len(split) for split in (data.train, data.validation, data.test)] == [14, 4, 6]
    assert all(len(record.captions) == 2 for record in data.test)
    monkeypatch.setattr(pedestrians, "draw_picture", None)
    assert pedestrians.load_pedestrians(root=tmp_path / "pedestrians", **FEW) == data


@pytest.mark.parametrize("wrong", [{"seed": -1}, {"identities": 5}, {"images_per_identity": 0}, {"identities": None}])
def test_arguments_out_of_range_are_errors(tmp_path, wrong):
    with pytest.raises(UserError, match=f"pedestrians: {next(iter(wrong))}"):
        pedestrians.draw_pedestrians(tmp_path / "pedestrians", **{**FEW, **wrong})
    assert list(tmp_path.iterdir()) == []


def test_other_persons_in_the_folder_are_an_error(folder):
    before = contents(folder)
    with pytest.raises(UserError, match="identities 12, not 13"):
        pedestrians.draw_pedestrians(folder, **{**FEW, "identities": 13})
    assert contents(folder) == before


def test_a_foreign_folder_is_left_alone(tmp_path):
    (tmp_path / "letters.txt").write_text("dear")
    with pytest.raises(UserError, match="something other than synthetic pedestrians"):
        pedestrians.draw_pedestrians(tmp_path, **FEW)
    assert contents(tmp_path) == {"letters.txt": b"dear"}


def test_an_interrupted_drawing_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(pedestrians, "draw_picture", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pedestrians.draw_pedestrians(tmp_path / "pedestrians", **FEW)
    assert list(tmp_path.iterdir()) == []


# Identities


def test_a_third_has_a_near_twin_in_the_same_split(looks):
    place = {look: split for split, of_split in looks.items() for look in of_split}
    assert len(place) == 400
    twins = [pair for pair in combinations(place, 2) if len(differing(*pair)) == 1]
    assert all(place[one] == place[other] for one, other in twins)
    assert Counter(place[one] for one, _ in twins) == {"train": 43, "val": 7, "test": 17}
    assert max(Counter(look for pair in twins for look in pair).values()) == 1
    assert set(differing(*pair)[0] for pair in twins) == set(TWIN_ATTRIBUTES)


def test_small_splits_have_twins_as_well():
    for of_split in deal_looks(pedestrians.split_sizes(6), seed=3).values():
        assert len(differing(*of_split)) == 1


def test_all_values_occur(looks):
    everyone = [look for of_split in looks.values() for look in of_split]
    assert {look.upper for look in everyone} == set(words.UPPER_WORDS)
    assert {look.lower for look in everyone} == set(words.LOWER_WORDS)
    assert {look.bag.kind for look in everyone if look.bag} == set(words.BAG_WORDS)
    assert {look.upper_colour for look in everyone} == set(COLOURS)
    assert {look.hair_colour for look in everyone} == set(HAIR_COLOURS)


# Pictures


def test_what_is_visible_is_there(told):
    for look, picture, _ in told:
        absent = {thing for thing in ("hat", "bag", "glasses") if not getattr(look, thing)}
        assert not absent & picture.visible
        assert picture.view != "back" or "glasses" not in picture.visible
    seen = Counter(thing for _, picture, _ in told for thing in picture.visible)
    assert set(seen) == set(THINGS)
    assert 60 < seen["shoes"] < 100 and seen["upper"] > 90 and seen["hair"] > 90


def test_clothes_have_the_colours_of_the_look():
    for name, colour in (("upper_colour", "white"), ("lower_colour", "green"), ("hat", "blue")):
        height = {"upper_colour": 0.33, "lower_colour": 0.72, "hat": 0.06}[name]
        found = []
        for seed in range(24):
            image = np.asarray(draw_picture(PERSON, view="back", rng=np.random.default_rng(seed)).image, dtype=float)
            rows = image[int(128 * height) : int(128 * height) + 12, 22:42].reshape(-1, 3)
            found.append(np.linalg.norm(rows - COLOURS[colour], axis=1).min())
        assert np.median(found) < 50, name


def test_pictures_of_one_person_differ():
    pictures = [draw_picture(PERSON, rng=np.random.default_rng(seed)) for seed in range(30)]
    assert {picture.view for picture in pictures} == {"front", "back", "side"}
    assert {picture.walking for picture in pictures} == {True, False}
    assert any("glasses" in picture.visible for picture in pictures)


# Captions


def colour_of(name: str | None) -> tuple[str, ...]:
    return words.COLOUR_WORDS.get(name, (name,))


def truths(look: Look) -> dict[str, str]:
    """What may be said of each thing, as an expression that matches it whole."""
    any_of = lambda options: "(" + "|".join(map(re.escape, options)) + ")"  # noqa: E731
    hair = any_of(words.LENGTH_WORDS.get(look.hair_length, (look.hair_length,)))
    hair += " " + any_of(words.HAIR_WORDS.get(look.hair_colour, (look.hair_colour,)))
    colour, noun = any_of(colour_of(look.upper_colour)), any_of(words.UPPER_WORDS[look.upper])
    both = f"{colour}( and {second_colour(look.upper_colour)})?"
    upper = f"an? {colour} {noun}"
    if look.pattern != "plain":
        upper = f"an? {both} {any_of(words.PATTERN_WORDS[look.pattern])} {noun}"
        upper += f"|an? {both} {noun} with stripes" if look.pattern == "striped" else ""
    expressions = {
        "hair": f"{hair} hair",
        "glasses": "(a pair of |dark-rimmed )?glasses",
        "upper": upper,
        "lower": f"(an? |a pair of )?{any_of(colour_of(look.lower_colour))} {any_of(words.LOWER_WORDS[look.lower])}",
        "shoes": f"(a pair of )?{any_of(colour_of(look.shoes))} shoes",
    }
    if look.hat:
        expressions["hat"] = f"an? {any_of(colour_of(look.hat))} (baseball cap|cap|hat)"
    if look.bag:
        expressions["bag"] = f"an? {any_of(colour_of(look.bag.colour))} {any_of(words.BAG_WORDS[look.bag.kind])}"
    return expressions


def test_captions_are_true_and_tell_a_majority(told):
    for look, picture, captions in told:
        assert len(set(captions)) == len(captions)
        for caption in captions:
            rest, said = caption, 0
            for thing, expression in truths(look).items():
                # "A" may begin the sentence; what is left after all true phrases must not name a thing.
                rest, count = re.subn(rf"\b({expression})(?![\w-])", "", rest)
                said += count
                assert not count or thing in picture.visible, (caption, thing)
            assert not re.search("|".join(THING_WORDS.values()), rest), (caption, rest)
            assert not re.search("|".join(COLOURS), rest), (caption, rest)
            assert len(picture.visible) // 2 < said <= len(picture.visible), caption


def test_captions_name_the_person_and_what_they_do(told):
    other = {"man": r"\b(woman|lady|female|she|her)\b", "woman": r"\b(man|gentleman|male|he|his)\b"}
    for look, picture, captions in told:
        text = " ".join(captions).lower()
        assert not re.search(other[look.gender], text)
        assert not re.search(r"\bstanding\b" if picture.walking else r"\bwalking\b", text)
        assert picture.view == "front" or not re.search(r"towards|facing", text)
        assert picture.view == "back" or not re.search(r"away|the back to", text)


def test_captions_are_sentences_that_a_mirror_does_not_change(told):
    for _, _, captions in told:
        for caption in captions:
            assert not re.search(r"\b(left|right)\b", caption)
            assert re.fullmatch(r"([A-Z][^.]*[^ ,.]\. )*[A-Z][^.]*[^ ,.]\.", caption), caption
            assert not re.search(r"\b[Aa] [aeiou]|\b[Aa]n [^aeiou]|  | ,|and and", caption), caption


@pytest.mark.parametrize("hidden", THINGS)
def test_what_is_hidden_is_not_spoken_of(hidden):
    visible = [thing for thing in THINGS if thing != hidden]
    for seed in range(40):
        rng = np.random.default_rng(seed)
        captions = describe(PERSON, visible=visible, view="front", walking=True, rng=rng)
        assert not re.search(THING_WORDS[hidden], " ".join(captions)), captions


def test_everything_visible_is_told_at_times():
    rng = np.random.default_rng(0)
    text = " ".join(describe(PERSON, visible=THINGS, view="front", walking=False, rng=rng, count=30))
    assert all(re.search(expression, text) for expression in THING_WORDS.values())


@pytest.mark.parametrize("visible", [(), ("shoes",), ("bag",), ("hair",)])
def test_captions_of_what_is_hardly_seen(visible):
    captions = describe(PERSON, visible=visible, view="front", walking=True, rng=np.random.default_rng(0))
    assert len(set(captions)) == 2 and all(captions)
