"""docs/your-data.md to the letter: its first commands run one after the other, and every source of it is read."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest
from pages import FILE, blocks, commands, read
from PIL import Image
from test_commands import execute, trained_with

from meru.data.caption_files import read_captions_file, with_captions_of
from meru.data.datasets.own.load import load_pairs
from meru.tasks.data import load_data

DOCUMENT = "docs/your-data.md"
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 50, 220), "grey": (120, 120, 120)}
QUICK = ("trainer.epochs=2", "data.batch_size=8", "data.workers=0", "encoder.text.architecture=L1_W16_A2")


def draw(path: Path, colour: str, shade: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 32), tuple(value + shade for value in COLOURS[colour])).save(path)
    return path


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    """A folder with all data that the guide names."""
    folder = tmp_path_factory.mktemp("guide")
    rows = []
    for shade in range(6):
        for colour in COLOURS:
            draw(folder / "photos" / f"{colour}_bird_{shade:02d}.jpg", colour, shade)
            draw(folder / "species" / f"{colour}_bird" / f"{shade}.jpg", colour, shade)
            image = draw(folder / "birds" / f"{colour}{shade}.jpg", colour, shade)
            image.with_suffix(".txt").write_text(f"a {colour} bird\nnumber {shade}\n", encoding="utf-8")
            shutil.copy(image, draw(folder / "images" / image.name, colour, shade))
            shutil.copy(image, draw(folder / "flickr30k-images" / image.name, colour, shade))
            rows.append((image.name, f"a {colour} bird, number {shade}"))
    region = [{"box": [2, 3, 8, 9], "phrase": "a red bill"}]
    texts = {
        "birds.csv": ["filepath,title", *(f'images/{name},"{caption}"' for name, caption in rows)],
        "birds.jsonl": [json.dumps({"photo": name, "words": caption}) for name, caption in rows],
        "boxes.jsonl": [json.dumps({"image": name, "caption": words, "boxes": region}) for name, words in rows],
        "dataset_flickr30k.json": [json.dumps({"images": [
            {"filename": name, "split": "test" if place > 20 else "train", "sentences": [{"raw": caption}]}
            for place, (name, caption) in enumerate(rows)
        ]})],
    }  # fmt: skip
    for name, lines in texts.items():
        (folder / name).write_text("\n".join(lines), encoding="utf-8")
    return folder


def test_a_folder_of_photographs_becomes_a_model_that_is_searched(here, warm_python):
    install_and_train, search, check, *_ = commands(DOCUMENT)
    said, _ = execute([*shlex.split(install_and_train), *QUICK], here=here, python=warm_python)
    assert "20 training, 0 validation and 4 test images of 4 classes" in said
    assert (here / "runs" / "photos" / "test.json").is_file()
    said, _ = execute([*shlex.split(search), "workers=0"], here=here, python=warm_python)
    *lines, written = said.splitlines()
    assert written.endswith("found.png")
    ranking = [line.split() for line in lines[-5:]]
    assert [place for place, _, _ in ranking] == list("12345")
    scores = [float(score) for _, score, _ in ranking]
    assert scores == sorted(scores, reverse=True)
    assert all((here / "photos" / name).is_file() for _, _, name in ranking)
    assert Image.open(here / "found.png").width > 500
    said, _ = execute(shlex.split(check), here=here, python=warm_python)
    assert "ready" in said


PAIRS = [
    command
    for command in commands(DOCUMENT)
    if "train.py" in command and "data.path=" in command and FILE not in command and "gahr" not in command
]


@pytest.mark.parametrize("command", PAIRS)
def test_every_source_is_read(command, here, compose, tmp_path, monkeypatch):
    (overrides,) = trained_with(command, tmp_path)
    monkeypatch.chdir(here)
    data = load_data(compose(*overrides))
    count = sum(len(records) for records in data.paths().values())
    assert count == 24 and all(record.captions for record in data.train)
    assert (data.class_kind == "class") == ("species" in command)
    assert bool(data.train[0].regions) == ("boxes" in command)


def test_the_sources_are_those_of_the_guide():
    assert {command.partition("data.path=")[2].split()[0] for command in PAIRS} == {
        "birds", "birds.csv", "birds.jsonl", "boxes.jsonl", "species", "dataset_flickr30k.json",
    }  # fmt: skip


def test_the_example_of_a_table_and_of_boxes_is_read(tmp_path):
    (table,) = blocks(DOCUMENT, "csv")
    (tmp_path / "table.csv").write_text(table, encoding="utf-8")
    (tmp_path / "images").mkdir()
    for name in ("owl", "tern"):
        Image.new("RGB", (80, 64)).save(tmp_path / "images" / f"{name}.jpg")
    data = load_pairs(path=tmp_path / "table.csv", test_fraction=0, validation_fraction=0)
    assert [record.captions for record in data.train] == [("a brown owl, asleep",), ("a tern above the sea",)]
    (generated,) = [each for each in blocks(DOCUMENT, "json") if "weight" in each]
    (tmp_path / "captions.json").write_text(generated, encoding="utf-8")
    captions = read_captions_file(tmp_path / "captions.json")
    described = with_captions_of(data, captions, mode="add", share=0.5)
    assert (described.images, described.unknown) == (2, 0)
    assert described.data.train[0].caption_weights == (1, 1, 2)
    (boxes,) = [part for part in read(DOCUMENT).split("`") if part.startswith('[{"box"')]
    row = {"image": "images/owl.jpg", "caption": "an owl", "boxes": json.loads(boxes)}
    (tmp_path / "boxes.jsonl").write_text(json.dumps(row), encoding="utf-8")
    (record,) = load_pairs(path=tmp_path / "boxes.jsonl", test_fraction=0, validation_fraction=0).train
    assert record.regions == (((10, 20, 50, 40), "a red bill"),)
