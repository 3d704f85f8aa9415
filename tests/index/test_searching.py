"""`scripts/search.py`: a ranking and its images, or one line about what is wrong."""

import csv
import json
import subprocess
import sys

import pytest
import torch
from PIL import Image

import meru
from meru.data.images import read_image
from meru.errors import UserError
from meru.files import PROJECT
from meru.index import searching
from meru.index.building import Wanted, build_index
from meru.index.folder import open_index
from meru.index.searching import Query, queries_of, search, search_index

SCRIPT = PROJECT / "scripts" / "search.py"
COLOURS = ["red", "blue", "green"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Six photographs in a folder with a space, half of them in a folder inside, and what is no photograph."""
    folder = tmp_path_factory.mktemp("my photos")
    for number in range(6):
        path = folder / ("deep" if number % 2 else "") / f"{COLOURS[number % 3]}_{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 30 + number), COLOURS[number % 3]).save(path)
    (folder / "notes.txt").write_text("mine")
    return folder


@pytest.fixture(scope="module")
def index(cub_run, photos, tmp_path_factory):
    """An index of the photographs, of which two are labelled, and one text too."""
    folder = tmp_path_factory.mktemp("index")
    labels, texts = folder / "labels.csv", folder / "texts.txt"
    labels.write_text("image,label\nred_0.png,A\ndeep/blue_1.png,B\ngreen_2.png,A\n")
    texts.write_text("a red bird\n")
    wanted = Wanted(
        str(cub_run), str(photos), output=str(folder / "index"), labels=str(labels), texts=str(texts), workers=0
    )
    build_index(wanted)
    return folder / "index"


def expected_scores(run, photos, text):
    pretrained = meru.load(run)
    paths = sorted(photos.rglob("*.png"))
    with torch.no_grad():
        scores = pretrained.similarity(pretrained.encode_text([text]), pretrained.encode_image(paths))[0]
    return dict(zip((path.relative_to(photos).as_posix() for path in paths), scores.tolist(), strict=True))


def test_images_are_ranked_by_their_similarity(cub_run, index, photos, tmp_path):
    scores = expected_scores(cub_run, photos, "a red bird")
    (hits,) = search_index(open_index(index), [Query("a red bird")], top=4)
    assert [hit.score for hit in hits] == pytest.approx(sorted(scores.values(), reverse=True)[:4], abs=1e-5)
    assert all(scores[hit.image] == pytest.approx(hit.score, abs=1e-5) for hit in hits)
    said = search(index=str(index), text="a red bird", top=4, output=str(tmp_path / "found.png"))
    assert said.splitlines()[1].split()[-1] == hits[0].image and "found.png" in said
    assert Image.open(tmp_path / "found.png").width > 300


def test_a_folder_is_searched_without_an_index(cub_run, photos):
    scores = expected_scores(cub_run, photos, "a bird")
    said = search(run=str(cub_run), images=str(photos), text="a bird", top=2, workers=0)
    assert said.splitlines()[1].split()[-1] == max(scores, key=scores.get) and "deep/" in search(
        run=str(cub_run), images=str(photos), text="a bird", workers=0
    )


def test_an_image_finds_itself_and_marks_its_label(index, photos, tmp_path):
    opened = open_index(index)
    queries = queries_of(opened, text=None, image=str(photos / "red_0.png"), queries=None)
    (hits,) = search_index(opened, queries, top=6)
    # The other red image has the same pixels after the transform.
    assert {hits[0].image, hits[1].image} == {"red_0.png", "deep/red_3.png"}
    assert hits[0].score == pytest.approx(0, abs=1e-3)
    matches = {hit.image: hit.match for hit in hits}
    assert matches == {
        "red_0.png": True, "green_2.png": True, "deep/blue_1.png": False, "deep/green_5.png": None, "blue_4.png": None,
        "deep/red_3.png": None,
    }  # fmt: skip
    said = search(index=str(index), image=str(photos / "red_0.png"), output=str(tmp_path / "list.png"))
    assert said.count("✓") == 2 and said.count("✗") == 1 and (tmp_path / "list.png").stat().st_size > 5000


def test_many_queries_give_a_rank_list_and_tables(index, tmp_path):
    (tmp_path / "queries.txt").write_text("a red bird\n\n一只红色的鸟\n")
    given = {"index": str(index), "queries": str(tmp_path / "queries.txt"), "top": 3}
    said = search(**given, output=str(tmp_path / "hits.csv"))
    assert said.count("score  image") == 2 and "一只红色的鸟" in said
    rows = list(csv.DictReader((tmp_path / "hits.csv").read_text().splitlines()))
    assert len(rows) == 6 and rows[0]["query"] == "a red bird" and rows[3]["rank"] == "1"
    search(**given, output=str(tmp_path / "hits.json"))
    assert [row["image"] for row in json.loads((tmp_path / "hits.json").read_text())] == [row["image"] for row in rows]
    search(**given, output=str(tmp_path / "hits.png"))
    assert read_image(tmp_path / "hits.png").shape[1] > 400


def test_an_image_that_is_gone_is_a_line_in_the_picture(cub_run, tmp_path):
    (tmp_path / "images").mkdir()
    for name in "ab":
        Image.new("RGB", (40, 40)).save(tmp_path / "images" / f"{name}.png")
    wanted = Wanted(str(cub_run), str(tmp_path / "images"), output=str(tmp_path / "index"), workers=0)
    build_index(wanted)
    (tmp_path / "images" / "a.png").unlink()
    assert "a.png" in search(index=str(tmp_path / "index"), text="a", output=str(tmp_path / "hits.png"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["text=a"], "give index=<index folder>, or run=<run folder> images=<folder>"),
        (["run=x", "text=a"], "give index=<index folder>, or run=<run folder> images=<folder>"),
        (["index=x", "run=x", "images=.", "a"], "give index=<index folder>, or run=<run folder> images=<folder>"),
        (["index=x", "run=x", "a"], "give index=<index folder>, or run=<run folder> images=<folder>"),
        (["index=x", "a", "red", "bird"], 'write the sentence in quotes: "a red bird"'),
        (["run=x", "images=x"], "images=x: there is no such folder"),
        (["run=x", "images=x", "text= "], "text=: give a sentence"),
        (["run=x", "images=x", "text=a", "top=0"], "top=0: give a whole number from 1"),
        (["run=x", "images=x", "text=a", "top=many"], "top=many: give a whole number from 1"),
        (["index=x", "a red bird"], "no such folder; make one with scripts/index.py"),
        (["index=.", "a red bird"], "no index: index.json is missing"),
        (["run=x", "images=.", "text=a", "output=found.xyz"], "output=found.xyz: the file is written as PNG"),
        (["run=x", "images=x", "text=a", "size=3"], "'size=3': expected key=value with one of index"),
    ],
)
def test_wrong_words_are_one_line(words, message, warm_python, tmp_path):
    done = subprocess.run([warm_python, SCRIPT, *words], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "nothing to search for: give a sentence"),
        ({"text": "a", "image": "x.png"}, "text and image together"),
        ({"image": "nowhere.png"}, "image=nowhere.png: there is no such file"),
        ({"text": ""}, "the query holds no word"),
    ],
)
def test_other_mistakes_are_one_line(index, given, message):
    with pytest.raises(UserError, match=message):
        search(index=str(index), **given)


def test_endings_in_capitals_are_the_same_formats(index, tmp_path):
    for name in ("hits.CSV", "hits.JSON"):
        search(index=str(index), text="a bird", top=2, output=str(tmp_path / name))
    assert len(json.loads((tmp_path / "hits.JSON").read_text())) == 2
    assert (tmp_path / "hits.CSV").read_text().count("\n") == 3


def test_pictures_have_a_largest_size(index, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(searching, "MOST_IMAGES", 10)
    monkeypatch.setattr(searching, "LONGEST_LIST", 5)
    drawn = {}
    monkeypatch.setattr(searching, "save_figure", lambda figure, file: drawn.update({file.name: figure}))
    (tmp_path / "queries.txt").write_text("a\nb\nc\n")
    search(index=str(index), queries=str(tmp_path / "queries.txt"), top=6, output=str(tmp_path / "several.png"))
    assert len(drawn["several.png"].subfigs) == 2
    assert "shows 5 images of 2 of 3 queries; for all of them, name a .csv" in caplog.text
    caplog.clear()
    search(index=str(index), text="a", top=6, output=str(tmp_path / "one.png"))
    assert not caplog.text
    monkeypatch.setattr(searching, "MOST_IMAGES", 2)
    search(index=str(index), text="a", top=6, output=str(tmp_path / "one.png"))
    assert "the picture shows 2 images; for all" in caplog.text


def test_words_beyond_the_context_are_counted_and_line_ends_in_names_are_escaped(cub_run, tmp_path, caplog):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (30, 30), "red").save(tmp_path / "images" / "two\nlines.png")
    build_index(Wanted(str(cub_run), str(tmp_path / "images"), output=str(tmp_path / "index"), texts="none", workers=0))
    found = search(index=str(tmp_path / "index"), text="red " * 500)
    assert found.endswith("two\\nlines.png") and len(found.splitlines()) == 2
    assert "words are beyond what the model reads" in caplog.text


def test_help_needs_no_model():
    done = subprocess.run([sys.executable, SCRIPT, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "top=10" in done.stdout
