"""`scripts/prepare_data.py check`: what it reports of each kind of data, and its exit codes."""

import json
import shlex
import shutil
from functools import partial

import numpy as np
import pytest
from PIL import Image

from meru.data.inspection import caption_lengths, decode_all, equal_files, foreign_scripts


@pytest.fixture
def run(prepare_data):
    """`run("data=cub", …)`: exit code, standard output, standard error."""
    return partial(prepare_data, "check")


def draw(path, value, size=(24, 20)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), value, np.uint8)).save(path)
    return path


@pytest.fixture
def photos(tmp_path):
    """Class folders of 3 × 16 images of three sizes."""
    root = tmp_path / "my photos"
    for number, name in enumerate(("ant", "bee", "cat")):
        for image in range(16):
            draw(root / name / f"{image}.png", 60 * number + image, size=(20 + 10 * number, 30))
    return root


def write_persons(folder, captions, split=None):
    rows = []
    for person in range(40):
        image = draw(folder / "imgs" / f"{person}.png", 5 * person)
        given = {"split": split(person)} if split else {}
        rows.append({"image": f"imgs/{image.name}", "pid": f"p{person}", "captions": captions(person), **given})
    path = folder / "persons.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def test_images_and_captions(run, make_cub_folder):
    folder = make_cub_folder(classes=4, train=24)
    code, out, err = run("data=cub", f"data.root={folder}")
    assert (code, err) == (0, "")
    for text in (
        "training    88 images, 4 classes, 880 captions",
        "test        8 images, 4 classes, 80 captions",
        "balance     22 training images in each of 4 classes",
        "smallest 64 × 48, median 64 × 48, largest 64 × 48",
        "every image decodes",
        "tokens, median",
        "none is cut",
    ):
        assert text in out
    assert out.splitlines()[-1].endswith(f"train.py experiment=cub_meru data=cub data.root={folder}")


def test_boxes_outside_their_images_are_a_problem(run, make_cub_folder):
    boxes = make_cub_folder(classes=4, train=24) / "bounding_boxes.txt"
    first, *others = boxes.read_text().splitlines()
    boxes.write_text("\n".join([f"{first.split()[0]} 640 480 30 20", *others]) + "\n")
    code, out, _ = run("data=cub", f"data.root={boxes.parent}")
    assert code == 1 and " of 64 × 48: [640, 480, 30, 20]" in out and "1 boxes (left, top" in out


def test_pairs(run, photos):
    code, out, _ = run("data=pairs", f"data.path={photos}", "data.validation_fraction=0.1")
    assert code == 0
    assert "smallest 30 × 20, median 30 × 30, largest 30 × 40" in out
    command = out.splitlines()[-1].partition("train with: python ")[2]
    assert shlex.split(command)[1:] == [
        "experiment=own_meru", "data=pairs", f"data.path={photos}", "data.validation_fraction=0.1"
    ]  # fmt: skip


def test_discovery(run, photos, tmp_path):
    for number in range(4):
        draw(tmp_path / "pile" / f"{number}.png", 200 + number)
    (photos / "dog").mkdir()
    shutil.copy(photos / "ant" / "0.png", photos / "dog" / "same.png")
    words = ("data=folder_discovery", f"data.root={photos}", f"data.unlabelled={tmp_path / 'pile'}")
    code, out, err = run(*words)
    assert code == 1 and "discovery.num_classes: some training images are of unknown classes" in out
    assert err == "error: data=folder_discovery: 1 of the lines above to see to\n"
    code, out, _ = run(*words, "discovery.num_classes=5")
    assert code == 0
    for text in (
        "classes     4 old, 0 new",
        "labelled    49 training images",
        "unknown     4 training images",
        "balance     1 to 16 training images in each of 4 classes",
        "1 classes with one image: dog",
        "uneven: ant has 16 images, dog 1",
        "1 images lie in a split more than once",
        "experiment=own_hypgcd data=folder_discovery",
    ):
        assert text in out


def test_persons_whose_captions_the_tokenizer_does_not_reach(run, tmp_path):
    path = write_persons(tmp_path, lambda person: "一个穿红衣服的男人" if person % 2 else "a man in red " * 30)
    code, out, _ = run("data=person_list", f"data.path={path}")
    assert code == 0
    assert "splits (cut with data.split_seed=0): train 32 identities" in out
    assert "20 of 40 are longer than 77 and are cut" in out
    assert "50% of the captions" in out and "not in Latin script (cjk)" in out
    assert "32 identities with one image: p" in out


def test_copies_in_two_splits_and_files_that_do_not_decode_are_problems(run, tmp_path):
    path = write_persons(tmp_path, lambda person: "a man", lambda person: "test" if person == 39 else "train")
    shutil.copy(tmp_path / "imgs" / "3.png", tmp_path / "imgs" / "39.png")
    (tmp_path / "imgs" / "5.png").write_bytes(b"no picture")
    words = ("data=person_list", f"data.path={path}", "data.validation_fraction=0")
    code, out, err = run(*words)
    assert code == 1 and err.count("\n") == 1
    assert f"test: {tmp_path / 'imgs' / '39.png'}" in out and "2 files are copies of images of another split" in out
    assert f"unreadable  {tmp_path / 'imgs' / '5.png'}" in out and "1 of 40 images do not decode: replace" in out
    assert "ready" not in out
    shutil.copy(tmp_path / "imgs" / "38.png", tmp_path / "imgs" / "40.png")
    draw(tmp_path / "imgs" / "39.png", 7)
    code, out, _ = run(*words, "data.on_error=skip")
    assert code == 0 and "1 of 40 images do not decode and are skipped" in out


def test_too_few_images_for_a_batch_are_a_problem(run, photos):
    code, out, _ = run("data=folder_discovery", f"data.root={photos}", "data.old_share=0.5", "data.batch_size=49")
    assert code == 1 and "set data.batch_size to 48 or less" in out


def test_exit_codes_and_one_line_for_each_mistake(run, photos, tmp_path):
    (empty := tmp_path / "empty").mkdir()
    for code, words, message in (
        (2, (), "usage"),
        (2, ("data=nothing",), "Could not find 'data/nothing'"),
        (2, ("data.root=photos",), "which data? Give data=<name>, one of aircraft, birds"),
        (2, ("data=pairs", "data.pth=x"), "data.pth: no such key; did you mean data.path"),
        (2, ("data=pairs", "data.batch_size=none"), "data.batch_size=none: give a whole number"),
        (2, ("photos",), "is not an override"),
        (2, ("data=pairs",), "data.path"),
        (2, ("data=cub", f"data.root={tmp_path / 'none'}"), "no CUB data"),
        (1, ("data=cub", f"data.root={photos}"), "no CUB data"),
        (2, ("data=folder_discovery", f"data.root={photos}"), "which images are labelled?"),
        (2, ("data=person_list", f"data.path={photos}"), "is a folder: give a list"),
        (2, ("data=pairs", f"data.path={tmp_path / 'none'}"), "there is no such file or folder"),
        (1, ("data=pairs", f"data.path={empty}"), "holds no images"),
    ):
        found, _, err = run(*words)
        assert found == code and message in err, (words, err)
        assert not words or err.count("\n") == 1


def test_measures(tmp_path):
    first, second = draw(tmp_path / "1.png", 1), draw(tmp_path / "2.png", 2)
    shutil.copy(first, tmp_path / "3.png")
    (tmp_path / "4.png").symlink_to(second)
    paths = [first, second, tmp_path / "3.png", tmp_path / "4.png", tmp_path / "none.png", first]
    assert equal_files(paths) == [[first, tmp_path / "3.png"], [second, tmp_path / "4.png"]]
    decoded = decode_all(paths, 24 * 20)
    assert decoded.sizes[first] == (20, 24) and list(decoded.unreadable) == [tmp_path / "none.png"]
    assert len(decode_all(paths, 24 * 20 - 1).unreadable) == 5
    assert caption_lengths(["a bird", "bird", "a red bird"], context_length=4) == (3, 4, 5, 1, 3)
    found = foreign_scripts(["a bird", "鸟", "ein Mädchen", "птица !"])
    assert found.captions == 0.5 and found.scripts == ["cyrillic", "cjk"] and found.letters == pytest.approx(6 / 21)
