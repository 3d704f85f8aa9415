"""Indexes are made, brought up to date and taken up again; no image is embedded twice, and what is left out is said."""

import csv
import json
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import meru
from meru.data.images import read_image
from meru.errors import UserError
from meru.index import building
from meru.index.asking import Asker
from meru.index.building import Wanted, build_index, format_made
from meru.index.folder import open_index
from meru.index.journal import Journal


@pytest.fixture
def photos(tmp_path):
    """Six images in a folder with a space, two of them in a folder inside."""
    folder = tmp_path / "my photos"
    for number in range(6):
        path = folder / ("deep" if number > 3 else "") / f"{number}.png"
        path.parent.mkdir(exist_ok=True, parents=True)
        colour = (40 * number, 200 - 30 * number, 10 * number)
        Image.new("RGB", (40 + number, 30), colour).save(path)
    (folder / "notes.txt").write_text("mine")
    return folder


@pytest.fixture
def embedded(monkeypatch):
    """Names of the images that are embedded, in order."""
    names = []
    entries = building._entries

    def recorded(given, *rest):
        names.extend(given)
        return entries(given, *rest)

    monkeypatch.setattr(building, "_entries", recorded)
    return names


def wanted(run, photos, folder, **options):
    return Wanted(str(run), str(photos), output=str(folder), workers=0, batch_size=2, **options)


def test_points_are_those_of_the_model(cub_run, photos, tmp_path):
    made = build_index(wanted(cub_run, photos, tmp_path / "index"))
    index = open_index(tmp_path / "index")
    assert index.names == ["0.png", "1.png", "2.png", "3.png", "deep/4.png", "deep/5.png"]
    pretrained = meru.load(cub_run)
    with torch.no_grad():
        expected = pretrained.encode_image([photos / name for name in index.names])
        text = pretrained.encode_text(["a red bird"])
    torch.testing.assert_close(index.points(range(6)), expected)
    scores, places = index.search(text, 3)
    right = pretrained.similarity(text, expected).topk(3)
    torch.testing.assert_close(scores, right.values)
    assert torch.equal(places, right.indices)
    assert index.facts.model == "MERU" and index.facts.space == "hyperboloid" and index.facts.count == 6
    assert format_made(made).startswith("6 images (6 embedded) in ")


def test_only_new_and_changed_images_are_embedded_again(cub_run, photos, tmp_path, embedded):
    build_index(wanted(cub_run, photos, tmp_path / "index"))
    old = open_index(tmp_path / "index")
    before = old.points(range(6)).clone()
    embedded.clear()
    Image.new("RGB", (33, 33), "white").save(photos / "1.png")
    (photos / "3.png").unlink()
    shutil.copy(photos / "0.png", photos / "a new one.png")
    made = build_index(wanted(cub_run, photos, tmp_path / "index"))
    assert embedded == ["1.png", "a new one.png"]
    index = made.index
    assert index.names == ["0.png", "1.png", "2.png", "a new one.png", "deep/4.png", "deep/5.png"]
    assert (made.embedded, made.kept, made.removed) == (2, 4, 2)
    points = index.points(range(6))
    assert torch.equal(points[[0, 2, 4, 5]], before[[0, 2, 4, 5]]) and torch.allclose(points[3], before[0])
    assert not torch.allclose(points[1], before[1])
    assert torch.equal(old.points(range(6)), before)  # who has the old one open goes on
    embedded.clear()
    build_index(wanted(cub_run, photos, tmp_path / "index"))
    assert embedded == [] and len(list((tmp_path / "index").glob("points.*"))) == 1


def test_texts_are_embedded_once(cub_run, photos, tmp_path, monkeypatch):
    (tmp_path / "texts.txt").write_text("a cat\na dog\n")
    options = {"texts": str(tmp_path / "texts.txt"), "labels": "none"}
    before = build_index(wanted(cub_run, photos, tmp_path / "index", **options)).index.text_points.clone()
    with monkeypatch.context() as patched:
        patched.setattr(building.Embedding, "texts", None)
        again = build_index(wanted(cub_run, photos, tmp_path / "index", **options)).index
    assert torch.equal(again.text_points, before) and len(before) == 2
    (tmp_path / "texts.txt").write_text("a cat\na mouse\n")
    changed = build_index(wanted(cub_run, photos, tmp_path / "index", **options)).index
    assert torch.equal(changed.text_points[0], before[0]) and not torch.equal(changed.text_points[1], before[1])


def test_a_stopped_command_is_taken_up_again(cub_run, photos, tmp_path, embedded, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        calls = iter([None, None, stop])
        original = building._require_finite
        patched.setattr(building, "_require_finite", lambda points: (next(calls) or original)(points))
        build_index(wanted(cub_run, photos, tmp_path / "index"))
    assert embedded == ["0.png", "1.png", "2.png", "3.png"]
    with pytest.raises(UserError, match="no index: index.json is missing"):
        open_index(tmp_path / "index")
    # Killed while it wrote: half a line, and half a point.
    with open(tmp_path / "index" / "building.jsonl", "a") as file:
        file.write('{"name": "deep/')
    with open(tmp_path / "index" / "building.f32", "ab") as file:
        file.write(b"\0" * 10)
    embedded.clear()
    made = build_index(wanted(cub_run, photos, tmp_path / "index"))
    assert embedded == ["deep/4.png", "deep/5.png"] and made.embedded == 6
    with torch.no_grad():
        expected = meru.load(cub_run).encode_image([photos / name for name in made.index.names])
    torch.testing.assert_close(made.index.points(range(6)), expected)
    assert not list((tmp_path / "index").glob("building.*"))


def test_an_image_that_changed_after_a_command_was_stopped_has_its_new_point(
    cub_run, photos, tmp_path, monkeypatch
):
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(building, "write_index", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        build_index(wanted(cub_run, photos, tmp_path / "index"))
    for name, colour in (("0.png", "yellow"), ("1.png", "pink")):
        Image.new("RGB", (50, 50), colour).save(photos / name)
    made = build_index(wanted(cub_run, photos, tmp_path / "index"))
    with torch.no_grad():
        expected = meru.load(cub_run).encode_image([photos / name for name in made.index.names])
    torch.testing.assert_close(made.index.points(range(6)), expected)


@pytest.mark.parametrize("line", ["null", '"0.png"', '{"size": 1}', '{"name": "lost'])
def test_a_damaged_line_of_the_journal_ends_it(tmp_path, line):
    options = {"fingerprint": "x", "dimension": 2}
    Journal(tmp_path, **options).append([{"name": "a", "size": 1, "time": 1}], torch.ones(1, 2))
    with open(tmp_path / "building.jsonl", "a") as file:
        file.write(f"{line}\n" + json.dumps({"name": "b", "size": 1, "time": 1}) + "\n")
    with open(tmp_path / "building.f32", "ab") as file:
        file.write(b"\0" * 16)
    journal = Journal(tmp_path, **options)
    assert journal.entries.keys() == {"a"}
    journal.append([{"name": name, "size": 1, "time": 1} for name in "ca"], torch.tensor([[3.0, 3], [4, 4]]))
    for again in (journal, Journal(tmp_path, **options)):
        points = {name: again.points()[entry["row"]].tolist() for name, entry in again.entries.items()}
        assert points == {"a": [4, 4], "c": [3, 3]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,label\n", "holds no label"),
        ("image;label\n0.png;A\n", "must name the columns image and label"),
        ("image,label\nnowhere.png,A\n", "1 of 1 images are not in .*: write paths inside that folder"),
        ("image,label\n0.png,A\n0.png,B\n", "0.png has the labels A and B: keep one"),
        ('image,label\n0.png,"A\n', "is no CSV file"),
    ],
)
def test_labels_that_say_nothing_are_refused(cub_run, photos, tmp_path, text, message):
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        build_index(wanted(cub_run, photos, tmp_path / "index", labels=str(tmp_path / "labels.csv")))
    assert not (tmp_path / "index").exists()


def test_labels_as_spreadsheets_write_them(cub_run, photos, tmp_path, caplog):
    lines = ["image,label", '0.png,"large\nbird"', '1.png,"a, ""b"""', "0.png,large bird", "nowhere.png,c", ",", "2"]
    (tmp_path / "labels.csv").write_bytes("\r\n".join(lines).encode("utf-8-sig"))
    index = build_index(wanted(cub_run, photos, tmp_path / "index", labels=str(tmp_path / "labels.csv"))).index
    names = [None if label is None else index.label_names[label] for label in index.labels]
    assert names == ["large bird", 'a, "b"', None, None, None, None]
    assert "1 of 3 images are not in" in caplog.text


def test_unreadable_images_are_listed_with_the_reason(cub_run, photos, tmp_path, caplog):
    (photos / "b,roken.png").write_bytes(b"nothing")
    with caplog.at_level("WARNING", logger="meru"):
        made = build_index(wanted(cub_run, photos, tmp_path / "index"))
    assert len(made.index) == 6 and made.skipped == 1 and "1 images cannot be read" in caplog.text
    (row,) = csv.DictReader((tmp_path / "index" / "skipped.csv").read_text().splitlines())
    assert row["image"] == "b,roken.png" and "is not an image" in row["reason"] and "data." not in row["reason"]
    (photos / "b,roken.png").unlink()
    build_index(wanted(cub_run, photos, tmp_path / "index"))
    assert not (tmp_path / "index" / "skipped.csv").exists()


def test_a_folder_of_unreadable_images_makes_no_index(cub_run, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"nothing")
    with pytest.raises(UserError, match="none of the 1 images in .* can be read: see .*skipped.csv"):
        build_index(wanted(cub_run, tmp_path / "images", tmp_path / "index"))
    assert not (tmp_path / "index" / "index.json").exists()


def test_images_of_the_run_have_labels_and_its_captions_are_texts(cub_run, cub_folder):
    made = build_index(Wanted(str(cub_run), split="test", workers=0))
    index = made.index
    assert index.folder == cub_run / "index" and len(index) == 6
    assert [index.label_names[label] for label in index.labels] == [
        name for name in ("Red bird 0", "Green bird 1", "Blue bird 2") for _ in range(2)
    ]
    assert index.facts.class_kind == "class" and "red bird number 1" in " ".join(index.texts)
    assert index.label_names[index.label_of_text("a blue bird number 5")] == "Blue bird 2"  # of a test image
    assert index.label_of_text("another text") is None
    averages = [text for text, kind in zip(index.texts, index.text_kinds, strict=True) if kind != "caption"]
    assert set(index.facts.label_names) <= {*averages} and averages[-1] == "all captions"
    whole = build_index(Wanted(str(cub_run), str(cub_folder / "images"), output=str(cub_run / "other"), workers=0))
    assert len(whole.index) == 18 and None not in whole.index.labels
    shutil.rmtree(cub_run / "index")
    shutil.rmtree(cub_run / "other")


def test_own_labels_and_texts(cub_run, photos, tmp_path):
    (tmp_path / "labels.csv").write_text("image,label\n0.png,cat\ndeep/5.png,dog\n")
    (tmp_path / "texts.txt").write_text("a cat\n\na dog\na cat\n")
    files = {"labels": str(tmp_path / "labels.csv"), "texts": str(tmp_path / "texts.txt")}
    index = build_index(wanted(cub_run, photos, tmp_path / "index", **files)).index
    assert index.labels == [0, None, None, None, None, 1] and index.label_names == ["cat", "dog"]
    assert index.texts == ["a cat", "a dog"] and index.label_of_caption == {}
    assert index.text_kinds == ["caption", "caption"]
    # Own labels of images beside the captions of the run, whose averages keep the names of the run's classes.
    mixed = build_index(wanted(cub_run, photos, tmp_path / "mixed", labels=files["labels"])).index
    assert mixed.label_names == ["cat", "dog"] and "Blue bird 2" in mixed.texts and mixed.label_of_caption == {}
    plain = build_index(wanted(cub_run, photos, tmp_path / "plain", labels="none", texts="none")).index
    assert plain.labels is None and plain.texts == [] and plain.text_points.shape == (0, index.facts.dimension)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": "nowhere"}, "images=nowhere: there is no such folder"),
        ({"split": "test"}, "give images= or split=, not both"),
        ({"images": None, "split": "tests"}, "split=tests: the run's data have no such images; choose train or"),
        ({"kind": "flat"}, "kind=flat: choose one of exact, ivf, hnsw"),
        ({"texts": "missing.txt"}, "missing.txt"),
        ({"labels": "texts.txt"}, "its first line must name the columns image and label"),
        ({"output": "my photos"}, "is not empty and holds no index: name another folder"),
        ({"output": "texts.txt"}, "is a file: name a folder"),
        ({"run": "./runs/none"}, "run=./runs/none is not a run folder"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(cub_run, photos, tmp_path, monkeypatch, changes, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts.txt").write_text("a cat\n")
    given = {"run": str(cub_run), "images": str(photos), "output": "index", "workers": 0} | changes
    with pytest.raises(UserError) as caught:
        build_index(Wanted(**given))
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "index").exists()


def test_an_index_of_other_images_is_not_overwritten(cub_run, photos, tmp_path):
    build_index(wanted(cub_run, photos, tmp_path / "index"))
    with pytest.raises(UserError, match="is an index of .*my photos: name another folder for .*deep"):
        build_index(wanted(cub_run, photos / "deep", tmp_path / "index"))
    assert len(open_index(tmp_path / "index")) == 6


def test_an_index_of_another_model_is_made_anew_and_not_asked(cub_run, photos, tmp_path, embedded, caplog):
    build_index(wanted(cub_run, photos, tmp_path / "index"))
    other = shutil.copytree(cub_run, tmp_path / "other")
    weights = safetensors(other / "model.safetensors")
    weights["visual_proj.weight"] += 0.1
    torch_save(weights, other / "model.safetensors")
    embedded.clear()
    with caplog.at_level("INFO", logger="meru"):
        build_index(wanted(other, photos, tmp_path / "index"))
    assert len(embedded) == 6 and "made by another model" in caplog.text
    shutil.copy(cub_run / "model.safetensors", other / "model.safetensors")
    with pytest.raises(UserError, match="was made by another model than .*other is now: make it again"):
        Asker(open_index(tmp_path / "index")).embed_text("a bird")


def safetensors(path):

    return load_file(path)


def torch_save(weights, path):
    from safetensors.torch import save_file

    save_file(weights, path)


def test_an_image_that_is_gone_or_replaced_is_not_opened(cub_run, photos, tmp_path):
    index = build_index(wanted(cub_run, photos, tmp_path / "index")).index
    assert read_image(index.path(0)).shape == (3, 30, 40)
    (tmp_path / "secret.png").write_bytes(b"secret")
    (photos / "0.png").unlink()
    with pytest.raises(UserError, match=r"image 0\.png: No such file or directory"):
        index.path(0)
    (photos / "0.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(UserError, match=r"image 0\.png has changed since it was indexed"):
        index.path(0)
    for place in (-1, 6, 10**30):
        with pytest.raises(UserError, match="the index has 6 images"):
            index.path(place)


def test_faiss_finds_what_the_facts_say(cub_run, photos, tmp_path):
    pytest.importorskip("faiss", reason="faiss-cpu is not installed")
    made = build_index(wanted(cub_run, photos, tmp_path / "index", kind="hnsw"))
    index = open_index(tmp_path / "index")
    assert index.facts.kind == "hnsw" and index.facts.recall == 1.0
    assert "hnsw finds 100.0 % of the 10 most similar" in format_made(made)
    exact, found = index.exact.search(index.points([2]), 6), index.search(index.points([2]), 6)
    assert torch.equal(exact[1], found[1])
    assert json.loads((tmp_path / "index" / "index.json").read_text())["recall"] == 1.0
