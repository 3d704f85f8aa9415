"""The drawn birds: the folder's layout, the truth of boxes, parts and captions, and what must not give a class away."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
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
from meru.data.synthetic.folder import scratch_folder
from meru.errors import UserError
from meru.files import PROJECT

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


@pytest.fixture
def few(monkeypatch):
    """Four species only, for tests that draw several times."""
    monkeypatch.setattr(birds, "SPECIES", SPECIES[::12])


def table(folder: Path, name: str) -> list[list[str]]:
    return [line.split() for line in (folder / name).read_text(encoding="utf-8").splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def draw(folder: Path, **arguments) -> Path:
    return birds.draw_birds(folder, **{"images_per_species": 2, "image_size": 32, **arguments})


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


def test_same_arguments_give_the_same_bytes(tmp_path, few):
    first, second = draw(tmp_path / "a"), draw(tmp_path / "b")
    assert contents(first) == contents(second)
    other = contents(draw(tmp_path / "c", seed=1))
    pictures = [name for name in other if name.endswith(".jpg")]
    assert len(pictures) == 8
    assert all(other[name] != (first / name).read_bytes() for name in pictures)


def test_a_picture_does_not_depend_on_how_many_are_drawn(tmp_path, few):
    small, large = contents(draw(tmp_path / "a")), contents(draw(tmp_path / "b", images_per_species=3))
    pictures = [name for name in small if name.endswith(".jpg")]
    assert all(small[name] == large[name] for name in pictures)


def test_load_draws_once_and_reads_as_cub(tmp_path, few, monkeypatch):
    arguments = {"root": tmp_path / "birds", "images_per_species": 5, "image_size": 32, "validation_fraction": 0.34}
    data = birds.load_birds(**arguments)
    assert data.class_names[0] == "Green headed Grey Duck"
    assert [len(split) for split in (data.train, data.validation, data.test)] == [8, 4, 8]
    monkeypatch.setattr(birds, "draw_picture", None)
    assert birds.load_birds(**arguments) == data


# What can go wrong


def test_an_interrupted_drawing_leaves_nothing(tmp_path, few, monkeypatch):
    drawn = []

    def interrupted(*arguments, **options):
        drawn.append(1)
        if len(drawn) == 5:
            raise KeyboardInterrupt
        assert not (tmp_path / "birds").exists()
        return draw_picture(*arguments, **options)

    monkeypatch.setattr(birds, "draw_picture", interrupted)
    with pytest.raises(KeyboardInterrupt):
        draw(tmp_path / "birds")
    assert len(drawn) == 5
    assert list(tmp_path.iterdir()) == []


def test_what_killed_drawings_left_behind_goes_with_the_next_one(tmp_path, few):
    program = (
        "import os, signal, sys; from pathlib import Path; from meru.data.synthetic.folder import scratch_folder\n"
        "with scratch_folder(Path(sys.argv[1])) as scratch: (scratch / 'half').touch(); os.kill(os.getpid(), 9)"
    )
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    subprocess.run([sys.executable, "-c", program, tmp_path / "birds"], env=environment)
    (left,) = tmp_path.iterdir()
    assert (left / "half").exists() and left.name.startswith(".birds-")
    host, _, rest = left.name.removeprefix(".birds-").partition("-")
    kept = {
        f".birds-another_{host}-{rest}",  # of another machine
        f".birds-{host}-{os.getpid()}-{rest.partition('-')[2]}",  # its maker lives
        ".birds-x8wpa3qk",  # not made here
        f".pedestrians-{host}-{rest}",
    }
    for name in kept:
        (tmp_path / name).mkdir()
    draw(tmp_path / "birds")
    assert {path.name for path in tmp_path.iterdir()} == {"birds", *kept}


def test_a_maker_in_another_container_keeps_its_folder(tmp_path, few):
    """Its number may be that of no process here; its lock tells."""
    with scratch_folder(tmp_path / "birds") as scratch:
        strange = scratch.with_name(scratch.name.replace(f"-{os.getpid()}-", "-999999999-"))
        scratch.rename(strange)
        draw(tmp_path / "birds")
        assert strange.exists()
        strange.rename(scratch)
    assert [path.name for path in tmp_path.iterdir()] == ["birds"]


def test_a_root_in_the_home_folder_and_of_any_letters(tmp_path, few, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert draw("~/鸟类 (1)") == tmp_path / "鸟类 (1)"
    assert [path.name for path in tmp_path.iterdir()] == ["鸟类 (1)"]


def test_of_two_at_once_the_second_takes_what_the_first_made(tmp_path, few, monkeypatch):
    root, write = tmp_path / "birds", birds._write_folder

    def overtaken(target, **arguments):
        write(target, **arguments)
        shutil.copytree(target, root)
        (root / "first").touch()

    monkeypatch.setattr(birds, "_write_folder", overtaken)
    assert draw(root) == root
    assert (root / "first").exists()
    assert list(tmp_path.iterdir()) == [root]


@pytest.mark.parametrize("change", [{"seed": 1}, {"images_per_species": 3}, {"image_size": 48}])
def test_other_birds_in_the_folder_are_an_error(tmp_path, few, change):
    before = contents(draw(tmp_path / "birds"))
    with pytest.raises(UserError, match=next(iter(change))) as error:
        draw(tmp_path / "birds", **change)
    assert str(tmp_path / "birds") in str(error.value) and "\n" not in str(error.value)
    assert contents(tmp_path / "birds") == before


def test_a_foreign_folder_is_left_alone(tmp_path, few):
    (tmp_path / "letters.txt").write_text("dear")
    with pytest.raises(UserError, match="something other than drawn birds"):
        draw(tmp_path)
    assert contents(tmp_path) == {"letters.txt": b"dear"}


def test_a_place_that_cannot_be_written_is_an_error(tmp_path, few):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot draw into"):
        draw(tmp_path / "file" / "birds")


@pytest.mark.parametrize("wrong", [{"seed": -1}, {"images_per_species": 1}, {"image_size": 31}, {"seed": 0.5}])
def test_arguments_out_of_range_are_errors(tmp_path, wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        draw(tmp_path / "birds", **wrong)
    assert list(tmp_path.iterdir()) == []


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
