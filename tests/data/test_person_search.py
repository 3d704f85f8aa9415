"""Tiny folders in the layouts of three releases, and every way in which an annotation can be wrong."""

import json
import logging

import numpy as np
import pytest
from PIL import Image

from meru.data.datasets.person_search import clean_caption, load_person_search
from meru.errors import UserError

NAMES = {"cuhk_pedes": "reid_raw.json", "icfg_pedes": "ICFG-PEDES.json", "rstpreid": "data_captions.json"}


def entries(path_field="file_path", *, validation=True, translated=False):
    """Identities 7 and 9 (two images) for training, 3 for validation, 12 and 4 for the test."""
    listed = []
    for split, identity in (("train", 7), ("train", 9), ("val", 3), ("test", 12), ("test", 4)):
        if split == "val" and not validation:
            continue
        for number in range(2 if identity != 4 else 1):
            entry = {
                "split": split,
                "captions": [f"A man (no. {identity}) wears red.", f"Person {identity};  from behind!"],
                "id": identity,
                path_field: f"cam_a/{identity}_{number}.jpg",
                "processed_tokens": [["a"]],
            }
            if translated:
                entry["captions_bt"] = ["A man in red.", "Seen from behind."]
            listed.append(entry)
    return listed


def write(root, listed, name):
    for entry in listed:
        if isinstance(entry, dict) and isinstance(file := entry.get("file_path", entry.get("img_path")), str):
            path = root / "imgs" / file
            if file.startswith("cam_a/"):
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.full((16, 8, 3), 90, np.uint8)).save(path)
    root.mkdir(exist_ok=True)
    (root / name).write_text(json.dumps(listed), encoding="utf-8")
    return root


@pytest.mark.parametrize("layout", NAMES)
def test_layouts_of_the_releases(layout, tmp_path):
    listed = entries("img_path" if layout == "rstpreid" else "file_path", validation=layout != "icfg_pedes")
    root = write(tmp_path / "data", listed, NAMES[layout])
    data = load_person_search(root=root, layout=layout)
    assert data.class_kind == "identity"
    assert data.class_names == (("7", "9", "12", "4") if layout == "icfg_pedes" else ("7", "9", "3", "12", "4"))
    assert [len(split) for split in (data.train, data.validation, data.test)] == [4, 2 * (layout != "icfg_pedes"), 3]
    assert [record.class_index for record in data.train] == [0, 0, 1, 1]
    first = data.train[0]
    assert first.path == root / "imgs" / "cam_a" / "7_0.jpg"
    assert first.captions == ("a man no 7 wears red", "person 7 from behind")
    assert first.back_translations == () and first.box is None


def test_folder_that_holds_the_release_and_its_misspelt_name_are_found(tmp_path):
    (tmp_path / "ICFG-PEDES").mkdir()
    write(tmp_path / "ICFG-PEDES", entries(), "ICFG_PEDES.json")
    assert len(load_person_search(root=tmp_path, layout="icfg_pedes").train) == 4


def test_converted_files_bring_back_translations(tmp_path):
    listed = entries(translated=True)
    root = write(tmp_path, listed, "reid_raw.json")
    for split in ("train", "val", "test"):
        of_split = [{key: entry[key] for key in entry if key != "split"} for entry in listed if entry["split"] == split]
        (root / f"{split}_reid.json").write_text(json.dumps(of_split), encoding="utf-8")
    (root / "reid_raw.json").unlink()
    data = load_person_search(root=root, layout="cuhk_pedes")
    assert [len(split) for split in (data.train, data.validation, data.test)] == [4, 2, 3]
    assert data.train[0].back_translations == ("a man in red", "seen from behind")


def test_identities_are_numbered_split_by_split_whatever_the_order_of_the_annotation(tmp_path):
    data = load_person_search(root=write(tmp_path, entries()[::-1], "reid_raw.json"), layout="cuhk_pedes")
    assert data.class_names == ("9", "7", "3", "4", "12")
    assert [record.class_index for record in data.train] == [0, 0, 1, 1]


def test_back_translations_may_be_null(tmp_path):
    listed = [{**entry, "captions_bt": None} for entry in entries()]
    data = load_person_search(root=write(tmp_path, listed, "reid_raw.json"), layout="cuhk_pedes")
    assert all(record.back_translations == () for record in data.train)


def test_identities_with_one_image_are_counted(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="meru"):
        load_person_search(root=write(tmp_path, entries(), "reid_raw.json"), layout="cuhk_pedes")
    assert "1 of 5 identities have a single image" in caplog.text


def test_captions_are_cleaned_as_in_tbps_clip():
    assert clean_caption('The "man" (30?)  wears:\nred; blue~#*! ') == "the man 30? wears red blue"


def change(listed, place, **changes):
    listed[place] = {key: value for key, value in {**listed[place], **changes}.items() if value is not ...}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda e: change(e, 1, id=...), "entry 2 has no field id"),
        (lambda e: change(e, 2, captions=...), "entry 3 has no field captions"),
        (lambda e: change(e, 0, file_path=...), "entry 1 has no field file_path"),
        (lambda e: change(e, 0, split=...), "entry 1 has no field split"),
        (lambda e: change(e, 1, id="seven"), "entry 2: id is 'seven', it must be a whole number"),
        (lambda e: change(e, 1, id=7.0), "entry 2: id is 7.0, it must be a whole number"),
        (lambda e: change(e, 1, id=float("nan")), "entry 2: id is nan"),
        (lambda e: change(e, 1, id=True), "entry 2: id is True"),
        (lambda e: change(e, 1, split="dev"), "entry 2: split is 'dev', it must be one of train, val, test"),
        (lambda e: change(e, 1, file_path="../../secret.jpg"), "is outside the folder imgs"),
        (lambda e: change(e, 1, file_path="/etc/passwd"), "is outside the folder imgs"),
        (lambda e: change(e, 1, file_path="C:\\secret.jpg"), "is outside the folder imgs"),
        (lambda e: change(e, 1, file_path=""), "is outside the folder imgs"),
        (lambda e: change(e, 1, file_path=7), "entry 2: file_path is 7, it must be text"),
        (lambda e: change(e, 3, captions=7), "entry 4: captions is 7, it must be a list"),
        (lambda e: change(e, 3, captions=[]), "entry 4: captions must be a list of sentences"),
        (lambda e: change(e, 3, captions=["a man", 3]), "entry 4: captions must be a list of sentences"),
        (lambda e: change(e, 3, captions_bt=["one"]), "2 captions but 1 back-translations"),
        (lambda e: change(e, 3, captions_bt=[]), "entry 4: captions_bt must be a list of sentences"),
        (lambda e: change(e, 3, captions_bt="one"), "2 captions but 1 back-translations"),
        (lambda e: change(e, 1, file_path="cam_a/7_0.jpg"), "identity 7) and cam_a/7_0.jpg (train"),
        (lambda e: change(e, 1, file_path="cam_a\\x\\..\\7_0.jpg"), "(train, identity 7) are the same"),
        (lambda e: change(e, 8, file_path="./cam_a/7_0.jpg"), "identity 7) and cam_a/7_0.jpg (test, identity 4)"),
        (lambda e: change(e, 1, file_path="a\0.jpg"), "is outside the folder imgs"),
        (lambda e: change(e, 4, id=7), "identity 7 is in train and in val"),
        (lambda e: change(e, 7, id=9), "identity 9 is in train and in test"),
        (lambda e: e.__setitem__(5, "text"), "entry 6 is 'text', not an object"),
        (lambda e: e.clear(), "is not a list of images"),
        (lambda e: e.__delitem__(slice(0, 4)), "no image is in the split train"),
    ],
)
def test_wrong_annotations_are_named(spoil, message, tmp_path):
    listed = entries()
    spoil(listed)
    root = write(tmp_path / "data", listed, "reid_raw.json")
    with pytest.raises(UserError) as error:
        load_person_search(root=root, layout="cuhk_pedes")
    assert message in str(error.value) and "reid_raw.json" in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def spelt(name, change_text):
    """The annotation as text, as another system or program would have written it."""
    return pytest.param(change_text, id=name)


@pytest.mark.parametrize(
    "text_of",
    [
        spelt("with a byte order mark", lambda e: b"\xef\xbb\xbf" + json.dumps(e).encode()),
        spelt("UTF-16", lambda e: json.dumps(e).encode("utf-16")),
        spelt("JSON Lines", lambda e: "".join(json.dumps(each) + "\r\n" for each in e).encode()),
        spelt("under a key", lambda e: json.dumps({"info": "v1", "annotations": e}).encode()),
        spelt("a list a split", lambda e: json.dumps(
            {split: [each for each in e if each["split"] == split] for split in ("train", "val", "test")}
        ).encode()),
        spelt("ids as text", lambda e: json.dumps([{**each, "id": f"{each['id']:04d}"} for each in e]).encode()),
        spelt("backslashes", lambda e: json.dumps(e).replace("cam_a/", "cam_a\\\\").encode()),
        spelt("imgs in front", lambda e: json.dumps(e).replace("cam_a/", "imgs/cam_a/").encode()),
        spelt("other case", lambda e: json.dumps(e).replace("cam_a/", "CAM_A/").replace(".jpg", ".JPG").encode()),
        spelt("other words for splits", lambda e: json.dumps(e).replace('"val"', '"Validation"').encode()),
    ],
)  # fmt: skip
def test_other_spellings_are_read_alike(text_of, tmp_path):
    root = write(tmp_path / "data", entries(), "reid_raw.json")
    expected = load_person_search(root=root, layout="cuhk_pedes")
    (root / "reid_raw.json").write_bytes(text_of(entries()))
    assert load_person_search(root=root, layout="cuhk_pedes") == expected


def test_a_leak_in_another_spelling_is_named(tmp_path):
    listed = entries()
    root = write(tmp_path, listed, "reid_raw.json")
    change(listed, 8, file_path="imgs/Cam_A/7_0.JPG")
    (root / "reid_raw.json").write_text(json.dumps(listed))
    with pytest.raises(UserError, match=r"\(train, identity 7\) and Cam_A/7_0.JPG \(test, identity 4\) are the"):
        load_person_search(root=root, layout="cuhk_pedes")


def test_one_sentence_may_stand_without_a_list(tmp_path):
    listed = [{**entry, "captions": entry["captions"][0]} for entry in entries()]
    data = load_person_search(root=write(tmp_path, listed, "reid_raw.json"), layout="cuhk_pedes")
    assert data.train[0].captions == ("a man no 7 wears red",)


def test_names_of_macs_are_found_whatever_their_unicode_form(tmp_path):
    listed = entries()
    root = write(tmp_path / "data", listed, "reid_raw.json")
    (root / "imgs" / "cam_a" / "7_0.jpg").rename(root / "imgs" / "cam_a" / "e\u0301.jpg")
    listed[0]["file_path"] = "cam_a/\u00e9.jpg"
    (root / "reid_raw.json").write_text(json.dumps(listed))
    data = load_person_search(root=root, layout="cuhk_pedes")
    assert data.train[0].path.is_file() and data.train[0].path.name == "e\u0301.jpg"


def test_captions_without_a_word_are_left_out_and_counted(tmp_path, caplog):
    listed = entries(translated=True)
    listed[0]["captions"][1] = "..."
    listed[1]["captions"] = ["", " ! "]
    listed[2]["captions_bt"][0] = "."
    with caplog.at_level(logging.WARNING, logger="meru"):
        data = load_person_search(root=write(tmp_path, listed, "reid_raw.json"), layout="cuhk_pedes")
    assert "3 captions without a word are left out, and 1 images that have no other" in caplog.text
    assert data.train[0].captions == ("a man no 7 wears red",)
    assert data.train[0].back_translations == ("a man in red",)
    assert data.train[1].path.name == "9_0.jpg" and len(data.train) == 3
    assert data.train[1].back_translations == ("a man no 9 wears red", "seen from behind")


def test_a_copy_without_test_is_read_and_it_is_said(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="meru"):
        data = load_person_search(root=write(tmp_path, entries()[:4], "reid_raw.json"), layout="cuhk_pedes")
    assert len(data.train) == 4 and data.test == data.validation == ()
    assert "no image is in the split test" in caplog.text and "no image is in the split val" in caplog.text


def test_caption_all_has_no_splits_and_it_is_said_where_those_are(tmp_path):
    listed = [{key: value for key, value in entry.items() if key != "split"} for entry in entries()]
    root = write(tmp_path, listed, "caption_all.json")
    message = r"caption_all.json does not assign .* put reid_raw.json, which does, beside it"
    with pytest.raises(UserError, match=message) as error:
        load_person_search(root=root, layout="cuhk_pedes")
    assert "\n" not in str(error.value)
    (root / "caption_all.json").write_text(json.dumps(entries()))  # where somebody put them in
    assert len(load_person_search(root=root, layout="cuhk_pedes").train) == 4


def test_a_folder_of_its_own_name_within_and_another_name_of_the_annotation(tmp_path):
    write(tmp_path / "CUHK-PEDES" / "CUHK-PEDES", entries(), "CUHK-PEDES.json")
    for root in (tmp_path, tmp_path / "CUHK-PEDES", tmp_path / "CUHK-PEDES" / "CUHK-PEDES"):
        assert len(load_person_search(root=root, layout="cuhk_pedes").train) == 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 100_000, "too deep"),
        (b'[{"id": ' + b"9" * 5000 + b"}]", "cannot be read as JSON"),
        (b'{"images": [{"a": 1}], "annotations": [{"b": 2}]}', "is not a list of images"),
        ("[{'captions': 'caf\u00e9'}]".encode("latin-1"), "is not UTF-8 (byte 18)"),
        ("[]".encode("utf-16-le"), "UTF-16 without a byte order mark"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "is a Git LFS pointer"),
    ],
)
def test_an_annotation_that_does_not_read_is_one_line(content, message, tmp_path):
    (tmp_path / "reid_raw.json").write_bytes(content)
    with pytest.raises(UserError) as error:
        load_person_search(root=tmp_path, layout="cuhk_pedes")
    assert message in str(error.value) and "reid_raw.json" in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_missing_files_are_named_with_the_way_to_get_them(tmp_path):
    with pytest.raises(UserError, match=r"no CUHK-PEDES: .*nowhere is no folder; .*github.com/ShuangLI59"):
        load_person_search(root=tmp_path / "nowhere", layout="cuhk_pedes")
    with pytest.raises(UserError, match=r"holds no data_captions.json, nor both .*; .*data=pedestrians"):
        load_person_search(root=tmp_path, layout="rstpreid")
    root = write(tmp_path / "data", entries(), "reid_raw.json")
    (root / "imgs" / "cam_a" / "9_1.jpg").unlink()
    with pytest.raises(UserError, match=r"9_1.jpg is listed .* absent \(1 of 9 images are\): .*github.com/Shua"):
        load_person_search(root=root, layout="cuhk_pedes")
    (root / "reid_raw.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="cannot be read as JSON"):
        load_person_search(root=root, layout="cuhk_pedes")
    with pytest.raises(UserError, match="layout=market: choose one of"):
        load_person_search(root=root, layout="market")
