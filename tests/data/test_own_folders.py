"""Folders of one's own images: text files, class folders, names, Karpathy's lists; and how splits are cut."""

import json
import shutil

import pytest
from own_images import draw, numbered, write

from meru.data.datasets.own.folders import described, plain_class
from meru.data.datasets.own.load import load_pairs
from meru.errors import UserError

CUT = {"validation_fraction": 0.25, "test_fraction": 0.25}


def names(records):
    return [record.path.name for record in records]


def test_text_files_beside_images(tmp_path, caplog):
    folder = draw(tmp_path, "a b.jpg", "deep/C.PNG")
    write(folder / "a b.txt", "\ufeffone bird\r\n\r\n two  birds \r\n")
    write(folder / "deep" / "C.txt", "three")
    write(folder / "notes.txt", "of mine")
    write(folder / ".hidden.jpg", "no image")
    with caplog.at_level("INFO", logger="meru"):
        data = load_pairs(path=folder, validation_fraction=0, test_fraction=0)
    assert [record.captions for record in data.train] == [("one bird", "two birds"), ("three",)]
    assert "data.kind=text_files" in caplog.text and "1 text files have no image beside them" in caplog.text
    write(folder / "deep" / "C.txt", "\n \n")
    with pytest.raises(UserError, match="C.txt is empty: write one caption a line"):
        load_pairs(path=folder)
    (folder / "deep" / "C.txt").unlink()
    with pytest.raises(UserError, match="1 of 2 images have no text file beside them, the first is .*C.PNG"):
        load_pairs(path=folder)


def test_class_folders(tmp_path):
    files = [f"{name}/{number}.png" for name in ("001.Red_bird", "002.owl") for number in range(8)]
    data = load_pairs(path=draw(tmp_path, *files), **CUT)
    assert data.class_names == ("Red bird", "owl") and data.class_kind == "class"
    assert data.train[0].captions == ("a photo of a Red bird.",)
    for split, count in ((data.train, 9), (data.validation, 3), (data.test, 4)):
        assert len(split) == count
        assert abs(2 * sum(record.class_index for record in split) - count) <= 1  # both classes alike
    draw(tmp_path, "loose.png")
    with pytest.raises(UserError, match="1 of 17 images are in no class folder, the first is .*loose.png"):
        load_pairs(path=tmp_path, kind="class_folders")


def test_class_folders_below_folders_of_splits(tmp_path):
    files = [f"{split}/{name}/{split}.png" for split in ("train", "val", "test") for name in ("owl", "tern")]
    data = load_pairs(path=draw(tmp_path, *files), **CUT)
    assert [names(split) for split in (data.train, data.validation, data.test)] == [
        ["train.png"] * 2, ["val.png"] * 2, ["test.png"] * 2,
    ]  # fmt: skip
    for gone in ("train/tern", "val/tern", "test/tern"):
        shutil.rmtree(tmp_path / gone)
    with pytest.raises(UserError, match="all images are of one class, owl"):
        load_pairs(path=tmp_path)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("black_footed-albatross_01", "black footed albatross"),
        ("RedBird (2)", "red bird"),
        ("红色的鸟03", "红色的鸟"),
        ("2024-01-01", ""),
    ],
)
def test_words_of_a_file_name(name, words):
    assert described(name) == words


def test_plain_class_names():
    assert [plain_class(name) for name in ("001.Red_bird", "n02085620-Chihuahua", "n01440764", "12.", "3-toed")] == [
        "Red bird", "Chihuahua", "n01440764", "12.", "3-toed",
    ]  # fmt: skip


def test_file_names_that_say_what_is_seen(tmp_path):
    distinct = load_pairs(path=draw(tmp_path / "a", "red_bird.jpg", "blue_bird_2.jpg", "owl.jpg"), test_fraction=0)
    assert distinct.class_kind == "image" and {record.captions for record in distinct.train} <= {
        ("red bird",), ("blue bird",), ("owl",),
    }  # fmt: skip
    alike = load_pairs(path=draw(tmp_path / "b", *(f"{name}_{n}.jpg" for name in ("owl", "tern") for n in range(3))))
    assert alike.class_names == ("owl", "tern") and alike.class_kind == "class"
    with pytest.raises(UserError, match="2 of 3 file names have no words, the first is .*1.jpg"):
        load_pairs(path=draw(tmp_path / "c", "1.jpg", "2.jpg", "x.jpg"))
    with pytest.raises(UserError, match="all 2 file names say 'img'"):
        load_pairs(path=draw(tmp_path / "d", "IMG_1.jpg", "IMG_2.jpg"))


def karpathy(folder, *, splits=("train", "restval", "val", "test"), raw="a bird"):
    images = [
        {"filepath": "val2014", "filename": f"{place}.png", "split": split, "sentences": [{"raw": raw}, {"raw": "b"}]}
        for place, split in enumerate(splits)
    ]
    draw(folder / "photos" / "val2014", *numbered(len(splits)))
    return write(folder / "dataset_coco.json", json.dumps({"images": images, "dataset": "coco"}))


def test_karpathys_list(tmp_path):
    data = load_pairs(path=karpathy(tmp_path), images=tmp_path / "photos")
    assert [names(split) for split in (data.train, data.validation, data.test)] == [
        ["0.png", "1.png"], ["2.png"], ["3.png"],
    ]  # fmt: skip
    assert data.train[0].captions == ("a bird", "b") and data.class_kind == "image"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"splits": ("train", "extra")}, "image 2: unknown split extra"),
        ({"splits": ("train", None)}, "image 2 has no split"),
        ({"raw": 5}, "image 1: the caption is 5, not text"),
    ],
)
def test_karpathys_list_with_mistakes(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        load_pairs(path=karpathy(tmp_path, **changes), images=tmp_path / "photos")


def test_tables_of_splits_and_metadata_in_a_folder(tmp_path):
    draw(tmp_path, *numbered(4))
    write(tmp_path / "train.csv", "file_name,text\n0.png,a\n1.png,b\n")
    write(tmp_path / "test.csv", "file_name,text\n2.png,c\n")
    data = load_pairs(path=tmp_path, validation_fraction=0)
    assert (names(data.train), names(data.test)) == (["0.png", "1.png"], ["2.png"])
    write(tmp_path / "metadata.csv", "file_name,text\n3.png,d\n0.png,e\n")
    assert len(load_pairs(path=tmp_path, validation_fraction=0, test_fraction=0).train) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": None}, "data.path is missing"),
        ({"path": "nowhere"}, "data.path=.*nowhere: there is no such file or folder"),
        ({"kind": "photos"}, "data.kind=photos: choose one of table"),
        ({"kind": "karpathy"}, "data.kind=karpathy needs a file"),
        ({"kind": "table"}, "has neither metadata.csv nor train.csv"),
        ({"columns": {"caption": "x"}, "kind": "file_names"}, "data.columns are for tables"),
        ({}, "holds no images"),
    ],
)
def test_what_makes_no_sense_is_one_line(tmp_path, options, message):
    with pytest.raises(UserError, match=message) as caught:
        load_pairs(**{"path": tmp_path, **options})
    assert "\n" not in str(caught.value)


def test_the_cut_is_by_seed_and_not_by_the_order_or_place_of_the_list(tmp_path):
    draw(tmp_path / "a", *numbered(40))
    rows = [f"{name},caption of {name}" for name in numbered(40)]
    first = load_pairs(path=write(tmp_path / "a" / "t.csv", "\n".join(["image,caption", *rows])))
    again = load_pairs(path=write(tmp_path / "a" / "t.csv", "\n".join(["image,caption", *reversed(rows)])))
    (tmp_path / "a").rename(tmp_path / "b")
    moved = load_pairs(path=tmp_path / "b" / "t.csv")
    other = load_pairs(path=tmp_path / "b" / "t.csv", seed=1)
    assert [len(split) for split in (first.train, first.validation, first.test)] == [32, 4, 4]
    assert set(names(first.test)) == set(names(again.test)) == set(names(moved.test)) != set(names(other.test))
    paths = [path for split in first.paths().values() for path in split]
    assert len(set(paths)) == 40


def test_copies_of_a_file_stay_in_one_split_and_every_class_keeps_a_training_image(tmp_path):
    files = [f"{name}/{n}.png" for name in ("owl", "tern", "wren") for n in range(1 if name == "wren" else 6)]
    draw(tmp_path, *files)
    for n in range(3):
        shutil.copy(tmp_path / "owl" / "0.png", tmp_path / "owl" / f"copy{n}.png")
    for seed in range(6):
        data = load_pairs(path=tmp_path, seed=seed, validation_fraction=0.4, test_fraction=0.4)
        of_owl = {
            path.name: split for split, paths in data.paths().items() for path in paths if path.parent.name == "owl"
        }
        assert len({of_owl[name] for name in ("0.png", "copy0.png", "copy1.png", "copy2.png")}) == 1
        assert {record.class_index for record in data.train} == {0, 1, 2}
        assert data.validation and data.test


def test_a_small_share_still_gives_one_image(tmp_path):
    draw(tmp_path, "a.png", "b.png", "c.png", "d.png")
    data = load_pairs(path=tmp_path, validation_fraction=0.01, test_fraction=0.01)
    assert [len(split) for split in (data.train, data.validation, data.test)] == [2, 1, 1]
