"""The synthetic birds: layout, the truth of boxes, parts and captions, and what must not give a class away."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from meru.data.datasets.cub import load_cub
from meru.data.synthetic.birds import load as birds
from meru.data.synthetic.birds.captions import describe
from meru.data.synthetic.birds.pictures import draw_picture
from meru.data.synthetic.birds.species import COLOURS, CUB_PARTS, FAMILIES, SPECIES

IMAGES = 10
PART_WORDS = {
    "back": r"\bback\b",
    "beak": r"\b(beak|bill|billed)\b",
    "belly": r"\b(belly|bellied)\b",
    "breast": r"\b(breast|breasted)\b",
    "crown": r"\b(crown|crowned|crest|crested|headed)\b",
    "eye": r"\beyes?\b",
    "forehead": r"\bforehead\b",
    "leg": r"\b(legs?|legged)\b",
    "nape": r"\b(nape|naped)\b",
    "tail": r"\b(tail|tailed)\b",
    "throat": r"\b(throat|throated)\b",
    "wing": r"\b(wings?|winged)\b",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return birds.draw_birds(tmp_path_factory.mktemp("all") / "birds", images_per_species=IMAGES, image_size=64)


@pytest.fixture(scope="module")
def records(folder):
    data = load_cub(root=folder, validation_fraction=0.0)
    return data.train, data.test


def table(folder: Path, name: str) -> list[list[str]]:
    return [line.split() for line in (folder / name).read_text(encoding="utf-8").splitlines()]


# The folder


def test_layout_is_cubs_and_counts_agree(folder):
    images, count = table(folder, "images.txt"), len(SPECIES) * IMAGES
    ids = [str(k) for k in range(1, count + 1)]
    for name, columns in (("image_class_labels", 2), ("train_test_split", 2), ("bounding_boxes", 5), ("images", 2)):
        rows = table(folder, f"{name}.txt")
        assert [row[0] for row in rows] == ids, name
        assert {len(row) for row in rows} == {columns}, name
    classes = dict(table(folder, "classes.txt"))
    assert len(classes) == len(SPECIES)
    for (_, file), (_, class_id) in zip(images, table(folder, "image_class_labels.txt"), strict=True):
        assert file.startswith(classes[class_id] + "/")
        with Image.open(folder / "images" / file) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (64, 64))
    assert len(list((folder / "images").rglob("*.jpg"))) == count
    assert len(list((folder / "text_c10").rglob("*.txt"))) == count
    assert table(folder, "parts/parts.txt") == [f"{k} {part}".split() for k, part in enumerate(CUB_PARTS, start=1)]
    places = table(folder, "parts/part_locs.txt")
    assert [row[:2] for row in places] == [[image, str(part)] for image in ids for part in range(1, 16)]
    assert all(row[2:4] == ["0.0", "0.0"] for row in places if row[4] == "0")


def test_split_is_made_by_lot_within_each_species(folder):
    label = dict(table(folder, "image_class_labels.txt"))
    trains = [image for image, train in table(folder, "train_test_split.txt") if train == "1"]
    assert set(Counter(label[image] for image in trains).values()) == {6}
    assert len({int(image) % IMAGES for image in trains}) == IMAGES


def test_attributes_are_those_of_the_species(folder):
    names = [name for _, name in table(folder, "attributes/attributes.txt")]
    rows = table(folder, "attributes/class_attribute_labels_continuous.txt")
    assert {"has_bill_shape::cone", "has_wing_color::black", "has_tail_shape::forked_tail"} < set(names)
    for species, row in zip(SPECIES, rows, strict=True):
        true = {name for name, share in zip(names, row, strict=True) if share == "100.0"}
        assert true == species.attributes()


# What can go wrong


# The species


def test_enough_families_and_species_all_different():
    of_family = Counter(species.family for species in SPECIES)
    assert set(of_family) == set(FAMILIES)
    assert len(of_family) >= 5 and min(of_family.values()) >= 5
    assert len({species.name for species in SPECIES}) == len(SPECIES)
    assert len({(species.family, *sorted(species.attributes())) for species in SPECIES}) == len(SPECIES)


@pytest.mark.parametrize("species", SPECIES, ids=lambda species: species.name)
def test_names_say_what_is_seen(species):
    word, _, _ = species.mark.partition("-")
    part = "head" if species.mark.endswith("headed") else species.mark_part
    if word == "crested":
        assert species.crest
    elif word in ("bar", "spot"):
        assert species.pattern(part).startswith(word)
    else:
        assert species.colour(part) == word
        assert word != species.colours["back"]


# Parts and boxes


def test_visible_parts_lie_in_the_box_and_the_box_in_the_picture(records):
    for record in (*records[0], *records[1]):
        x, y, width, height = record.box
        assert x >= 0 and y >= 0 and x + width <= 64 and y + height <= 64
        assert max(width, height) > 20
        for part, (px, py) in record.parts.items():
            assert x - 0.1 <= px <= x + width + 0.1 and y - 0.1 <= py <= y + height + 0.1, part
    seen = Counter(part for split in records for record in split for part in record.parts)
    assert set(seen) == set(CUB_PARTS)


def test_parts_have_the_colours_of_the_species():
    species = next(species for species in SPECIES if species.name == "White-bellied Blue Finch")
    colours = {part: [] for part in ("belly", "throat", "crown", "tail", "wing")}
    for seed in range(20):
        picture = draw_picture(species, rng=np.random.default_rng(seed), image_size=96)
        for part, (x, y) in picture.parts.items():
            if part.split()[-1] in colours:
                colours[part.split()[-1]].append(picture.image.getpixel((int(x), int(y))))
    for part, seen in colours.items():
        assert len(seen) >= 10, part
        distance = {name: np.linalg.norm(np.median(seen, axis=0) - colour) for name, colour in COLOURS.items()}
        assert min(distance, key=distance.get) == species.colour(part), part


def test_left_and_right_are_the_birds_own():
    finch = next(species for species in SPECIES if species.family == "finch")
    pictures = [draw_picture(finch, rng=np.random.default_rng(seed), image_size=64) for seed in range(30)]
    assert {picture.facing for picture in pictures} == {"left", "right"}
    for picture in pictures:
        far = {"left": "right", "right": "left"}[picture.facing]
        assert f"{far} eye" not in picture.parts
        assert picture.wings_raised or f"{far} wing" not in picture.parts
        if {"beak", "tail"} <= set(picture.parts):
            assert (picture.parts["beak"][0] > picture.parts["tail"][0]) == (picture.facing == "right")
    assert sum(f"{picture.facing} eye" in picture.parts for picture in pictures) > 25


# Captions


def test_ten_captions_from_detailed_to_general(records):
    for record in (*records[0], *records[1]):
        species = SPECIES[record.class_index]
        assert len(record.captions) == 10
        first, last = record.captions[0], record.captions[-1]
        assert species.family in first and species.colours["back"] in first and " with " in first
        assert sum(bool(re.search(words, first)) for words in PART_WORDS.values()) >= 2
        assert last in ("a bird.", "a photo of a bird.", "this is a bird.")
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]|  |\bwith and\b", " ".join(record.captions))


def test_names_can_be_learnt_from_captions(records):
    named = Counter()
    for record in records[0]:
        name = SPECIES[record.class_index].name.lower().replace("-", " ")
        named[name] += any(name in caption.replace("-", " ") for caption in record.captions)
    assert len(named) == len(SPECIES)
    assert min(named.values()) >= 3


def test_no_hidden_part_is_spoken_of(records):
    hidden_marks = 0
    for record in (*records[0], *records[1]):
        visible = {part.split()[-1] for part in record.parts}
        hidden_marks += SPECIES[record.class_index].mark_part not in visible
        for part, words in PART_WORDS.items():
            if part not in visible:
                assert not re.search(words, " ".join(record.captions)), (record.path.name, part)
    assert hidden_marks > 0


@pytest.mark.parametrize("hidden", PART_WORDS)
def test_captions_without_a_part(hidden):
    visible = [part for part in CUB_PARTS if part.split()[-1] != hidden]
    for seed, species in enumerate(SPECIES):
        view = {"scene": "on a rock", "facing": "left", "wings_raised": seed % 2 == 0}
        captions = describe(species, parts=visible, rng=np.random.default_rng(seed), **view)
        assert not re.search(PART_WORDS[hidden], " ".join(captions)), captions


# Hardness


def nearest_centroid_accuracy(records, feature) -> float:
    train, test = ([(feature(record), record.class_index) for record in split] for split in records)
    features, classes = (np.array(column) for column in zip(*train, strict=True))
    spread = features.std(axis=0) + 1e-6
    centroids = np.stack([features[classes == index].mean(axis=0) for index in range(len(SPECIES))])
    hits = [np.square((feature - centroids) / spread).sum(axis=1).argmin() == index for feature, index in test]
    return float(np.mean(hits))


def pixels(record) -> np.ndarray:
    with Image.open(record.path) as image:
        return np.asarray(image, dtype=np.float32) / 255


def border(record) -> np.ndarray:
    image = pixels(record)
    sides = (image[:2], image[-2:], image[:, :2], image[:, -2:])
    return np.concatenate([side.mean(axis=(0, 1)) for side in sides])


def around_the_box(record) -> np.ndarray:
    image, (x, y, width, height) = pixels(record), map(int, record.box)
    outside = np.ones(image.shape[:2], dtype=bool)
    outside[y : y + height + 1, x : x + width + 1] = False
    return np.concatenate([image[outside].mean(axis=0), image[outside].std(axis=0)])


def file_size(record) -> np.ndarray:
    return np.array([record.path.stat().st_size])


def colours_in_the_box(record) -> np.ndarray:
    image, (x, y, width, height) = pixels(record), map(int, record.box)
    bins = (image[y : y + height, x : x + width] * 3.999).astype(int) @ (16, 4, 1)
    return np.bincount(bins.ravel(), minlength=64) / bins.size


@pytest.mark.parametrize("feature", [border, around_the_box, file_size])
def test_a_blind_model_stays_at_chance(records, feature):
    assert nearest_centroid_accuracy(records, feature) < 2.5 / len(SPECIES)


def test_the_colours_of_the_bird_tell_its_species(records):
    assert nearest_centroid_accuracy(records, colours_in_the_box) > 8 / len(SPECIES)
