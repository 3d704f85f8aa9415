import logging
import shutil

import pytest

from meru.data.cub import class_prompts, find_captions, load_cub
from meru.errors import UserError


def names(records):
    return {record.path.name for record in records}


def test_reads_the_official_layout(cub_folder):
    data = load_cub(root=cub_folder)
    assert data.class_names == ("Red bird 0", "Green bird 1", "Blue bird 2")
    assert [len(split) for split in (data.train, data.validation, data.test)] == [9, 3, 6]
    record = data.test[-1]
    assert record.class_index == 2
    assert record.path == cub_folder / "images" / "008.Blue_bird_2" / "Blue_Bird_0005_122.jpg"
    assert record.path.is_file()
    assert record.captions[:2] == ("a blue bird number 5", "bird 0 is blue")
    assert len(record.captions) == 10
    assert record.box == (4.0, 6.5, 30.0, 20.0)
    assert len(record.parts) == 14  # the fifteenth is not visible
    assert record.parts["left eye"] == (10.5, 2.0)


def test_root_may_be_the_parent(cub_folder):
    assert load_cub(root=cub_folder.parent) == load_cub(root=str(cub_folder))


def test_splits_are_disjoint_and_the_test_split_is_the_official_one(cub_folder):
    data = load_cub(root=cub_folder)
    train, validation, test = names(data.train), names(data.validation), names(data.test)
    assert len(train | validation | test) == 18
    official = dict(line.split() for line in (cub_folder / "train_test_split.txt").read_text().splitlines())
    assert {name.removesuffix(".jpg").split("_")[-1] for name in test} == {
        image_id for image_id, training in official.items() if training == "0"
    }


def test_validation_split_is_seeded_and_per_class(make_cub_folder):
    folder = make_cub_folder(train=8)
    data = load_cub(root=folder, validation_fraction=0.25)
    assert sorted(record.class_index for record in data.validation) == [0, 0, 1, 1, 2, 2]
    assert data == load_cub(root=folder, validation_fraction=0.25)
    splits = {frozenset(names(load_cub(root=folder, validation_fraction=0.25, seed=s).validation)) for s in range(5)}
    assert len(splits) > 1
    assert load_cub(root=folder, validation_fraction=0).validation == ()


@pytest.mark.parametrize(("train", "expected"), [(1, 0), (2, 1), (3, 1)])
def test_small_classes_keep_a_training_image(make_cub_folder, train, expected):
    for fraction in (0.01, 0.99):
        data = load_cub(root=make_cub_folder(f"cub{fraction}", classes=1, train=train), validation_fraction=fraction)
        assert len(data.validation) == (expected if fraction == 0.01 else train - 1)
        assert len(data.train) == train - len(data.validation)


def test_a_subset_of_the_classes_cuts_the_same_validation_images(make_cub_folder):
    folder = make_cub_folder(classes=4, train=6)
    before = load_cub(root=folder)
    for file in ("images.txt", "classes.txt"):
        lines = (folder / file).read_text().splitlines()
        kept = [line for line in lines if "002.Red" not in line]
        (folder / file).write_text("\n".join(reversed(kept)))
    after = load_cub(root=folder)
    assert after.class_names == before.class_names[1:]
    assert names(after.validation) == names(r for r in before.validation if r.class_index > 0)
    assert {r.path.name: r.class_index + 1 for r in after.train} == {
        r.path.name: r.class_index for r in before.train if r.class_index > 0
    }


def test_captions_beside_the_folder_or_anywhere(make_cub_folder, tmp_path):
    folder = make_cub_folder()
    expected = load_cub(root=folder)
    (folder / "text_c10").rename(tmp_path / "text_c10")
    assert find_captions(folder) == tmp_path / "text_c10"
    assert load_cub(root=folder) == expected
    (tmp_path / "text_c10").rename(tmp_path / "elsewhere")
    assert find_captions(folder) is None
    assert load_cub(root=folder, captions=tmp_path / "elsewhere") == expected


def test_captions_are_cleaned(make_cub_folder):
    folder = make_cub_folder()
    path = folder / "text_c10" / "002.Red_bird_0" / "Red_Bird_0005_38.txt"
    path.write_bytes("\ufeffa bird\r\n\r\n  \nits beak\ufffdis red \n".encode())
    record = next(r for r in load_cub(root=folder).test if r.path.stem == path.stem)
    assert record.captions == ("a bird", "its beak is red")


def test_without_captions_prompts_are_made_and_it_is_said_once(make_cub_folder, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("meru"), "propagate", True)
    folder = make_cub_folder(captions=False)
    with caplog.at_level(logging.WARNING, logger="meru"):
        data = load_cub(root=folder)
    assert len(caplog.messages) == 1
    assert "text_c10" in caplog.messages[0]
    record = data.train[0]
    assert "a photo of a Red bird 0" in record.captions
    assert "a red bird with a red wing and a red upper tail" in record.captions
    assert all(r.captions == record.captions for r in data.train if r.class_index == 0)


def test_attributes_of_a_subset_may_keep_the_rows_of_all_classes(make_cub_folder):
    folder = make_cub_folder(captions=False)
    path = folder / "attributes" / "class_attribute_labels_continuous.txt"
    rows = path.read_text().splitlines()
    blank = " ".join(["0.0"] * len(rows[0].split()))
    path.write_text("\n".join([blank, rows[0], blank, blank, rows[1], blank, blank, rows[2]]))
    assert "a red bird with a red wing and a red upper tail" in load_cub(root=folder).train[0].captions


def test_attributes_beside_the_folder_as_in_the_official_archive(make_cub_folder, tmp_path):
    folder = make_cub_folder(captions=False)
    expected = load_cub(root=folder)
    (folder / "attributes" / "attributes.txt").rename(tmp_path / "attributes.txt")
    assert load_cub(root=folder) == expected


def test_prompts_without_attributes():
    prompts = class_prompts("Eared Grebe", {})
    assert "a photo of an Eared Grebe" in prompts
    assert not any("with" in prompt for prompt in prompts)


def test_boxes_parts_and_attributes_may_be_missing(make_cub_folder):
    folder = make_cub_folder(captions=False)
    (folder / "bounding_boxes.txt").unlink()
    shutil.rmtree(folder / "parts")
    shutil.rmtree(folder / "attributes")
    record = load_cub(root=folder).train[0]
    assert record.box is None
    assert record.parts == {}
    assert record.captions


def test_missing_folder_names_the_ways_on(tmp_path):
    with pytest.raises(UserError) as error:
        load_cub(root=tmp_path / "nowhere")
    for part in (str(tmp_path / "nowhere"), "https://www.vision.caltech.edu", "data.root=<folder>", "data=birds"):
        assert part in str(error.value)


def test_empty_folder(tmp_path):
    with pytest.raises(UserError, match=r"holds no images\.txt.*data=birds"):
        load_cub(root=tmp_path)


def replace_line(path, number, text):
    lines = path.read_text().splitlines()
    lines[number - 1] = text
    path.write_text("\n".join(lines))


RED = "002.Red_bird_0"
DAMAGES = {
    "no lines": (lambda f: (f / "images.txt").write_text(""), "images.txt lists 0"),
    "missing file": (lambda f: (f / "classes.txt").unlink(), "classes.txt cannot be read"),
    "malformed id": (lambda f: replace_line(f / "images.txt", 2, "x a.jpg"), "images.txt, line 2: expected"),
    "missing column": (lambda f: replace_line(f / "image_class_labels.txt", 4, "24"), "line 4: expected"),
    "malformed box": (lambda f: replace_line(f / "bounding_boxes.txt", 3, "17 1 2 3 wide"), "line 3: expected"),
    "malformed part": (lambda f: replace_line(f / "parts" / "part_locs.txt", 5, "3 5 1.0 1"), "line 5: expected"),
    "unknown part": (lambda f: replace_line(f / "parts" / "part_locs.txt", 5, "3 99 1 1 1"), "part id 99"),
    "neither train nor test": (lambda f: replace_line(f / "train_test_split.txt", 1, "3 2"), "line 1: expected"),
    "double id": (lambda f: replace_line(f / "images.txt", 2, "3 a.jpg"), "two lines for id 3"),
    "image without label": (lambda f: replace_line(f / "image_class_labels.txt", 2, "999 2"), "first image id 10"),
    "unknown class": (lambda f: replace_line(f / "image_class_labels.txt", 2, "10 77"), "class id 77"),
    "absent images": (
        lambda f: [path.unlink() for path in (f / "images" / RED).glob("*_000[12]_*.jpg")],
        "Red_Bird_0001_10.jpg is listed in images.txt but absent (2 of 18",
    ),
    "absent class folder": (lambda f: shutil.rmtree(f / "images" / RED), "absent (6 of 18"),
    "absent caption": (
        lambda f: (f / "text_c10" / RED / "Red_Bird_0000_3.txt").unlink(),
        "Red_Bird_0000_3.txt cannot be read",
    ),
    "empty caption": (
        lambda f: (f / "text_c10" / RED / "Red_Bird_0000_3.txt").write_text(" \n"),
        "Red_Bird_0000_3.txt is empty",
    ),
    "caption not UTF-8": (
        lambda f: (f / "text_c10" / RED / "Red_Bird_0000_3.txt").write_bytes(b"a caf\xe9 bird\n"),
        "Red_Bird_0000_3.txt is not UTF-8 (byte 5)",
    ),
    "all test": (
        lambda f: (f / "train_test_split.txt").write_text((f / "train_test_split.txt").read_text().replace(" 1", " 0")),
        "no training image",
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_folder_is_one_clear_line(make_cub_folder, damage):
    do_damage, expected = DAMAGES[damage]
    folder = make_cub_folder()
    do_damage(folder)
    with pytest.raises(UserError) as error:
        load_cub(root=folder)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_validation_fraction_out_of_range(cub_folder):
    for fraction in (-0.1, 1.0):
        with pytest.raises(UserError, match="validation_fraction"):
            load_cub(root=cub_folder, validation_fraction=fraction)
