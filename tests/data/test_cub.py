import logging
import shutil

import pytest

from meru.data.datasets.cub import class_prompts, find_captions, load_cub
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
    "outside": (lambda f: replace_line(f / "images.txt", 2, "10 ../../secret.jpg"), "image 10 is '../../secret.jpg'"),
    "absolute": (lambda f: replace_line(f / "images.txt", 2, "10 /etc/a.jpg"), "which is outside the folder images"),
    "drive": (lambda f: replace_line(f / "images.txt", 2, "10 C:\\a.jpg"), "which is outside the folder images"),
    "twice": (
        lambda f: replace_line(f / "images.txt", 2, f"10 {RED}/Red_Bird_0000_3.jpg"),
        "images 3 and 10 are the same file",
    ),
    "leak in another spelling": (
        lambda f: replace_line(f / "images.txt", 5, f"31 x/..\\{RED.upper()}\\RED_Bird_0000_3.JPG"),
        "images 3 and 31 are the same file, " + RED + "/Red_Bird_0000_3.jpg, one for training and one for the test",
    ),
    "class twice": (lambda f: replace_line(f / "classes.txt", 2, f"5 {RED}"), f"class ids 2 and 5 both name {RED}"),
    "no width": (lambda f: replace_line(f / "bounding_boxes.txt", 3, "17 1 2 0 5"), "the box of image 17 is 1 2 0 5"),
    "negative height": (lambda f: replace_line(f / "bounding_boxes.txt", 3, "17 1 2 3 -5"), "the box of image 17"),
    "box of NaN": (lambda f: replace_line(f / "bounding_boxes.txt", 3, "17 nan 2 3 5"), "the box of image 17 is nan"),
    "endless box": (lambda f: replace_line(f / "bounding_boxes.txt", 3, "17 1 2 1e999 5"), "the box of image 17"),
    "two boxes": (lambda f: replace_line(f / "bounding_boxes.txt", 3, "10 1 2 3 5"), "two boxes for image 10"),
    "part of NaN": (lambda f: replace_line(f / "parts" / "part_locs.txt", 5, "3 5 nan 1 1"), "part 5 of image 3 is at"),
    "part twice": (lambda f: replace_line(f / "parts" / "part_locs.txt", 5, "3 4 1 1 1"), "part 4 of image 3 twice"),
    "huge number": (lambda f: replace_line(f / "images.txt", 2, "9" * 5000 + " a.jpg"), "images.txt, line 2: expected"),
    "pointer": (
        lambda f: (f / "images.txt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
        "images.txt is a Git LFS pointer",
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


def edit(path, change):
    path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize(
    "change",
    [
        lambda text: b"\xef\xbb\xbf" + text,
        lambda text: text.decode().encode("utf-16"),
        lambda text: text.replace(b"\n", b"\r\n"),
        lambda text: text.replace(b"\n", b"\r"),
        lambda text: text.replace(b"\n", b" \t\n\n"),
    ],
    ids=["byte order mark", "UTF-16", "CRLF", "CR", "blanks"],
)
def test_lists_and_captions_of_other_systems_are_read_alike(make_cub_folder, change):
    folder = make_cub_folder()
    expected = load_cub(root=folder)
    for path in folder.rglob("*.txt"):
        edit(path, change)
    assert load_cub(root=folder) == expected


def test_backslashes_and_letter_case_are_read_alike(make_cub_folder):
    folder = make_cub_folder()
    expected = load_cub(root=folder)
    edit(folder / "images.txt", lambda text: text.replace(b"/", b"\\"))
    assert load_cub(root=folder) == expected
    for path in sorted((folder / "images" / RED).iterdir()):
        path.rename(path.with_suffix(".JPG"))
    (folder / "text_c10" / RED).rename(folder / "text_c10" / RED.lower())
    data = load_cub(root=folder)
    for split in ("train", "validation", "test"):
        found, before = getattr(data, split), getattr(expected, split)
        assert [each.path.stem for each in found] == [each.path.stem for each in before]  # the same are for validation
        assert [each.captions for each in found] == [each.captions for each in before]
        assert all(each.path.is_file() for each in found)


def test_of_two_files_that_differ_in_case_the_listed_one_counts(make_cub_folder):
    folder = make_cub_folder()
    own = folder / "images" / RED / "Red_Bird_0000_3.jpg"
    own.with_suffix(".JPG").write_bytes(b"another")
    records = load_cub(root=folder, validation_fraction=0).train
    assert own in [record.path for record in records]
    own.rename(own.with_suffix(".Jpg"))  # now two are alike, and none is the listed one
    with pytest.raises(UserError, match="Red_Bird_0000_3.jpg is listed in images.txt but absent"):
        load_cub(root=folder)


def test_pictures_behind_symbolic_links_are_read(make_cub_folder, tmp_path):
    folder = make_cub_folder()
    expected = load_cub(root=folder)
    (folder / "images").rename(tmp_path / "pictures")
    (folder / "images").symlink_to(tmp_path / "pictures")
    assert load_cub(root=folder) == expected


@pytest.mark.parametrize("place", ["archive/CUB_200_2011", "CUB_200_2011/CUB_200_2011", "birds/cub"])
def test_a_folder_further_down_is_found(make_cub_folder, tmp_path, place):
    folder = make_cub_folder(f"data/{place}")
    assert load_cub(root=tmp_path / "data") == load_cub(root=folder)


def test_of_two_folders_further_down_the_user_chooses(make_cub_folder, tmp_path):
    for name in ("data/first", "data/second"):
        make_cub_folder(name, classes=1)
    with pytest.raises(UserError, match=r"data/first and .*data/second both hold images.txt; set data.root="):
        load_cub(root=tmp_path / "data")


@pytest.mark.parametrize(
    "place", ["text_c10/text_c10", "../cvpr2016_cub/text_c10", "cvpr2016_cub/text_c10", "text", "../birds/text_c10"]
)
def test_captions_lie_where_copies_have_them(make_cub_folder, place):
    folder = make_cub_folder("data/CUB_200_2011", classes=1)
    expected = load_cub(root=folder)
    (folder / "text_c10").rename(folder / "moved")
    (folder / place).parent.mkdir(parents=True, exist_ok=True)
    (folder / "moved").rename(folder / place)
    assert load_cub(root=folder) == expected
    assert load_cub(root=folder, captions=(folder / place).parent if "/" in place else folder / place) == expected


def test_a_folder_of_other_texts_is_not_taken_for_captions(make_cub_folder):
    folder = make_cub_folder(classes=1, captions=False)
    (folder / "text" / "thesis").mkdir(parents=True)
    assert find_captions(folder) is None
    with pytest.raises(UserError, match=r"data.captions=.*nowhere is no folder"):
        load_cub(root=folder, captions=folder / "nowhere")


def test_all_for_training_is_said_and_read(make_cub_folder, caplog):
    folder = make_cub_folder(train=1, test=1)
    edit(folder / "train_test_split.txt", lambda text: text.replace(b" 0\n", b" 1\n"))
    with caplog.at_level(logging.WARNING, logger="meru"):
        data = load_cub(root=folder)
    assert data.test == () and len(data.train) == len(data.validation) == 3
    assert "has no test image" in caplog.text and "validation" not in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="meru"):
        assert load_cub(root=make_cub_folder("other", train=1)).validation == ()
    assert "no validation split" in caplog.text


def test_boxes_and_parts_of_other_images_are_left_out(make_cub_folder):
    folder = make_cub_folder()
    expected = load_cub(root=folder)
    edit(folder / "bounding_boxes.txt", lambda text: text + b"9999 1 1 0 0\n")
    edit(folder / "parts" / "part_locs.txt", lambda text: text + b"9999 1 nan nan 1\n")
    assert load_cub(root=folder) == expected


def test_validation_fraction_out_of_range(cub_folder):
    for fraction in (-0.1, 1.0):
        with pytest.raises(UserError, match="validation_fraction"):
            load_cub(root=cub_folder, validation_fraction=fraction)
