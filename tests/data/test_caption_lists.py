"""HierarCaps' own layout, the other forms of the same table, and what is wrong with a file in one line."""

import json

import pytest
from PIL import Image

from meru.data.datasets.caption_lists import load_caption_lists
from meru.errors import UserError

NAMES = ["COCO_val2014_000000301718.jpg", "COCO_val2014_000000100489.jpg"]
LISTS = [
    ["table", "table with plates", "A table with three plates, and a man."],
    ["bird", "blue bird", "A blue bird on a branch"],
]


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "coco" / "val2014"
    folder.mkdir(parents=True)
    for name in NAMES:
        Image.new("RGB", (8, 8)).save(folder / name)
    return folder


def release(folder, rows=None):
    """The release's own form of the test file."""
    lines = ["id,captions,image_url"]
    for number, (name, captions) in enumerate(rows or zip(NAMES, LISTS, strict=True)):
        joined = " => ".join(captions)
        lines.append(f'{number},"{joined}",http://images.cocodataset.org/val2014/{name}')
    path = folder / "hierarcaps_test.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_the_release_with_the_images_in_their_folder_or_in_cocos(images, tmp_path):
    for folder in (images, images.parent):
        data = load_caption_lists(root=tmp_path, path=release(tmp_path), images=folder)
        assert [record.captions for record in data.test] == [tuple(each) for each in LISTS]
        assert [record.path.name for record in data.test] == NAMES
        assert not data.train and not data.validation


def test_json_jsonl_and_tsv_with_other_columns_say_the_same(images, tmp_path):
    rows = [{"file_name": name, "positive_captions": captions} for name, captions in zip(NAMES, LISTS, strict=True)]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    table = [
        "path\tcaption_hierarchy",
        *(f"{row['file_name']}\t{json.dumps(row['positive_captions'])}" for row in rows),
    ]
    (tmp_path / "a.tsv").write_text(
        "\n".join(line.replace('"', '""').replace("[", '"[').replace("]", ']"') for line in table)
    )
    expected = load_caption_lists(root=tmp_path, path=release(tmp_path), images=images)
    for ending in ("json", "jsonl", "tsv"):
        assert load_caption_lists(root=tmp_path, path=tmp_path / f"a.{ending}", images=images) == expected


def test_rows_of_one_image_are_of_one_class(images, tmp_path):
    rows = [(NAMES[0], LISTS[0]), (NAMES[1], LISTS[1]), (NAMES[0], ["furniture", "a laid table"])]
    data = load_caption_lists(root=tmp_path, path=release(tmp_path, rows), images=images)
    assert [record.class_index for record in data.test] == [0, 1, 0]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "id,text,image_url\n0,x => y,a.jpg\n", "has no column for captions .*there are id, text, image_url"),
        ("a.csv", "id,captions\n0,x => y\n", "line 2 has no column for the image"),
        ("a.csv", "id,captions,image_url\n", "has no row"),
        ("a.csv", "captions,image\n => ,a.jpg\n", "line 2: no captions"),
        ("a.csv", "captions,image\nonly one,COCO_val2014_000000301718.jpg\n", "single caption.*' => '"),
        ("a.csv", "captions,image\nx => y,../a.jpg\n", "no path inside data.images"),
        ("a.csv", "captions,image\nx => y,\n", "no path inside data.images"),
        ("a.csv", "captions,image\nx => y,missing.jpg\n", "missing.jpg is listed in .* but absent .1 of 1 images"),
        ("a.csv", "captions,image\nx => y,http://host/\n", "no path inside data.images"),
        ("a.jsonl", '{"image": "a.jpg", "captions": ["x", 3]}\n', "entry 1: no captions"),
        ("a.jsonl", '{"image": 3, "captions": ["x", "y"]}\n', "the image 3 is no path"),
        ("a.json", "[3]", "entry 1 is 3, not an object"),
        ("a.json", "{", "cannot be read as JSON"),
        ("a.json", "[]", "has no row"),
        ("a.txt", "x", "must end in .csv"),
        ("missing.csv", None, "does not exist"),
    ],
)
def test_a_wrong_file_is_one_line(images, tmp_path, name, content, said):
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=said) as error:
        load_caption_lists(root=tmp_path, path=path, images=images)
    assert "\n" not in str(error.value)


def test_a_missing_folder_of_images_is_named(tmp_path):
    with pytest.raises(UserError, match="data.images=.*is no folder"):
        load_caption_lists(root=tmp_path, path=release(tmp_path), images=tmp_path / "missing")
