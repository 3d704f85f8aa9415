"""Tables of one's own images: dialects, encodings, columns, and one line about what is wrong."""

import json

import pyarrow
import pytest
from own_images import draw, numbered, write
from pyarrow import parquet

from meru.data.datasets.own.load import load_pairs
from meru.errors import UserError

ROWS = [("0.png", "a red bird, on a branch"), ("1.png", "ein grüner Vogel"), ("2.png", "一只蓝色的鸟")]
CAPTIONS = {name: (caption,) for name, caption in ROWS}


@pytest.fixture
def folder(tmp_path):
    return draw(tmp_path, *numbered(6))


def loaded(path, **options):
    return load_pairs(path=path, **{"validation_fraction": 0, "test_fraction": 0, **options})


def captions(data):
    return {record.path.name: record.captions for record in data.train}


@pytest.mark.parametrize(
    ("name", "head", "line", "encoding"),
    [
        ("t.csv", "filepath,title", '{},"{}"', "utf-8"),
        ("t.csv", "image;caption", "{}; {}", "utf-8-sig"),
        ("t.tsv", "Image Path\tText", "{}\t{}", "utf-16"),
        ("t.txt", "image_name| comment", "{}| {}", "utf-8"),
    ],
)
def test_a_table_in_any_dialect(folder, name, head, line, encoding):
    text = "\r\n".join([head, *(line.format(*row) for row in ROWS), "", ""])
    data = loaded(write(folder / name, text, encoding))
    assert captions(data) == CAPTIONS
    assert data.class_kind == "image" and data.class_names == ()
    assert [record.class_index for record in data.train] == [0, 1, 2]


def test_quoted_line_breaks_and_tabs_with_bare_quotation_marks(folder):
    table = write(folder / "t.csv", 'image,caption\n0.png,"a ""red""\nbird"\n1.png,b\n')
    assert captions(loaded(table)) == {"0.png": ('a "red" bird',), "1.png": ("b",)}
    table = write(folder / "t.tsv", 'image\tcaption\n0.png\t"red" bird\n1.png\tsize 5"\n')
    assert captions(loaded(table)) == {"0.png": ('"red" bird',), "1.png": ('size 5"',)}


def test_an_encoding_can_be_named(folder):
    table = write(folder / "t.csv", "image,caption\n0.png,鸟\n1.png,b\n", "gb18030")
    with pytest.raises(UserError, match="not UTF-8 .*set data.encoding to its encoding, such as gb18030"):
        loaded(table)
    assert captions(loaded(table, encoding="gb18030"))["0.png"] == ("鸟",)
    with pytest.raises(UserError, match="data.encoding=base64: unknown"):
        loaded(table, encoding="base64")


def test_captions_of_several_columns_rows_and_lists_become_one_record(folder, caplog):
    table = write(folder / "t.csv", "image,caption_0,caption_1\n0.png,a,b\n0.png,c,a\n1.png,d,\n1.png,d,\n")
    with caplog.at_level("WARNING", logger="meru"):
        assert captions(loaded(table)) == {"0.png": ("a", "b", "c"), "1.png": ("d",)}
    assert "1 rows repeat an image" in caplog.text
    table = write(folder / "t.csv", 'filename,raw\n0.png,"[""a"", ""b""]"\n1.png,"[\'c\']"\n')
    assert captions(loaded(table)) == {"0.png": ("a", "b"), "1.png": ("c",)}


def test_json_lines_with_several_images_classes_splits_and_boxes(folder):
    boxes = [{"box": [1, 2, 3, 4], "phrase": "red  bill"}, [0, 0, 8, 8, ""]]
    rows = [
        {"image": ["0.png", "1.png"], "captions": ["a", "b"], "label": 7, "split": "training", "boxes": boxes},
        {"image": "2.png", "captions": ["c"], "label": "x_y", "split": "VAL"},
        {"image": "3.png", "captions": "d", "label": 7.0, "split": "test"},
    ]
    data = loaded(write(folder / "t.jsonl", "\n".join(map(json.dumps, rows))))
    assert [record.path.name for record in data.train] == ["0.png", "1.png"]
    assert data.class_names == ("7", "x y") and data.class_kind == "class"
    assert data.train[1].regions == (((1, 2, 3, 4), "red bill"), ((0, 0, 8, 8), ""))
    assert (data.validation[0].class_index, data.test[0].class_index) == (1, 0)


def test_parquet_and_a_json_list(folder):
    columns = {"image": ["0.png", "1.png"], "texts": [["a"], ["b", "c"]], "species": [0, 1]}
    parquet.write_table(pyarrow.table(columns), folder / "t.parquet")
    data = loaded(folder / "t.parquet")
    assert captions(data) == {"0.png": ("a",), "1.png": ("b", "c")} and data.class_names == ("0", "1")
    listed = {"data": [{"image": "0.png", "text": "a"}, {"image": "1.png", "text": "b"}]}
    assert captions(loaded(write(folder / "t.json", json.dumps(listed)))) == {"0.png": ("a",), "1.png": ("b",)}
    parquet.write_table(pyarrow.table({"image": [{"bytes": b"x"}], "text": ["a"]}), folder / "t.parquet")
    with pytest.raises(UserError, match="row 1: the image is stored in the table"):
        loaded(folder / "t.parquet")


def test_boxes_by_their_edges_in_a_cell(folder):
    table = write(folder / "t.csv", 'image,caption,boxes\n0.png,a,"[[1, 2, 5, 4, ""bill""]]"\n1.png,b,\n')
    data = loaded(table, box_format="xyxy")
    assert [record.regions for record in data.train] == [(((1, 2, 4, 2), "bill"),), ()]


def test_classes_alone_get_captions_from_prompts(folder):
    table = write(folder / "t.csv", "image,class\n0.png,red_bird\n1.png,owl\n")
    data = loaded(table, prompts=["a photo of a {}.", "{}"])
    assert captions(data) == {"0.png": ("a photo of a red bird.", "red bird"), "1.png": ("a photo of a owl.", "owl")}


def test_paths_with_back_slashes_spaces_other_unicode_forms_and_absolute_ones(tmp_path):
    folder = draw(tmp_path, "ein bild/vögel 1.png", "images/2.png", "3.png")
    (folder / "link.png").symlink_to(folder / "3.png")
    names = ["ein bild\\vögel 1.png", "./3.png", str(folder / "link.png")]
    rows = "\n".join(f"{name},caption {place}" for place, name in enumerate(names))
    data = loaded(write(folder / "t.csv", f"image,caption\n{rows}\n"))
    assert [record.path for record in data.train] == [
        folder / "ein bild" / "vögel 1.png", folder / "3.png", folder / "link.png",
    ]  # fmt: skip
    data = loaded(write(folder / "t.csv", "image,caption\n2.png,a\n"))
    assert data.train[0].path == folder / "images" / "2.png"
    data = loaded(write(folder / "lists" / "t.csv", "image,caption\n3.png,a\n"), images=folder)
    assert data.train[0].path == folder / "3.png"


def test_columns_can_be_named(folder):
    table = write(folder / "t.csv", "a,b,c,d\n0.png,x,y,u\n1.png,z,,v\n")
    data = loaded(table, columns={"image": "a", "caption": ["b", "c"], "class": "d", "split": None})
    assert captions(data) == {"0.png": ("x", "y"), "1.png": ("z",)} and data.class_names == ("u", "v")


def test_the_log_says_what_columns_are_used_for_and_which_are_not(folder, caplog):
    rows = "image,title,caption,kind,split\n0.png,x,y,u,train\n1.png,z,a,v,train\n"
    with caplog.at_level("INFO", logger="meru"):
        loaded(write(folder / "t.csv", rows))
        write(folder / "splits" / "train.csv", rows)
        loaded(folder / "splits", images=str(folder))
    assert "2 rows; image from image; captions from title; split from split; not used: caption, kind (" in caplog.text
    assert "2 rows; image from image; captions from title; not used: caption, kind, split (" in caplog.text
    assert "splits (given): 2 train, 0 validation, 0 test images" in caplog.text


HEAD = "image,caption\n"


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("a,b\n0.png,x\n", {}, "has no column of images; it has a, b: set data.columns.image"),
        ("image,b\n0.png,x\n", {}, "has no column of captions; it has image, b"),
        (HEAD + "0.png,x\n", {"columns": {"caption": "title"}}, "data.columns.caption=title: .* has no such column"),
        (HEAD + ",x\n", {}, "line 2: the image is empty"),
        (HEAD + "0.png,x\n1.png,  \n", {}, "line 3: the caption is empty"),
        (HEAD + "../0.png,x\n", {}, r"line 2: the image path '../0.png' is outside"),
        (HEAD + "/etc/passwd,x\n", {}, "is outside"),
        (HEAD + "C:\\0.png,x\n", {}, "is outside"),
        (HEAD + "https://a.b/0.png,x\n", {}, "the image is an address, 'https://a.b/0.png': download"),
        (HEAD + "0.png,x\n8.png,x\n9.png,x\n", {}, r"2 of 3 images are not in .*, the first is 8.png \(.*line 3\)"),
        (HEAD + "0.png,a, b\n", {}, "line 2 has 3 cells, but there are 2 columns"),
        (HEAD, {}, "has no rows"),
        ("", {}, "is empty"),
        ("image,image\n0.png,x\n", {}, "two columns image"),
        (HEAD + '0.png,"x\n', {}, "is not CSV"),
        ("image,caption,class\n0.png,a,x\n1.png,b,\n", {}, "line 3: 1 of 2 images have no class"),
        ("image,caption,class\n0.png,a,x\n0.png,b,y\n", {}, "line 3: 0.png has the class y, but x at .*line 2"),
        ("image,class\n0.png,x\n1.png,x\n", {}, "all images are of one class, x"),
        ("image,caption,split\n0.png,a,train\n1.png,b,holdout\n", {}, "line 3: unknown split holdout"),
        ("image,caption,split\n0.png,a,train\n1.png,b,\n", {}, "line 3: the column split is empty"),
        ("image,caption,split\n0.png,a,test\n", {}, "no image is in the split train"),
        ('image,caption,boxes\n0.png,a,"[[0,0,1]]"\n', {}, r"line 2: the box \[0, 0, 1\] is not of the form"),
        ('image,caption,boxes\n0.png,a,"[[5,5,2,9,""x""]]"\n', {"box_format": "xyxy"}, "has no area"),
        ('image,caption,boxes\n0.png,a,"[[0,0,0.5,1,""x""]]"\n', {}, "looks like shares of the image"),
        ("image,caption,boxes\n0.png,a,5;6\n", {}, "the boxes are not JSON"),
        (
            'image,caption,boxes\n0.png,a,"[[1,1,7,9,""x""]]"\n1.png,b,"[[0,5,8,7,""x""]]"\n',
            {},
            r"line 3 \(1.png\): the box \[0, 5, 8, 7\] .* lies outside its image of 8 × 8 pixels",
        ),
        (HEAD + "0.png,x\n", {"kind": "text_files"}, "data.kind=text_files needs a folder"),
        (HEAD + "0.png,x\n", {"images": "/nowhere"}, "data.images=/nowhere: there is no such folder"),
    ],
)
def test_what_makes_no_sense_is_one_line(folder, text, options, message):
    with pytest.raises(UserError, match=message) as caught:
        loaded(write(folder / "t.csv", text), **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.jsonl", '{"image": "0.png", "caption": 5}', "line 1: the caption is 5, not text"),
        ("t.jsonl", '{"image": "0.png", "caption": NaN}', "line 1: the caption is empty"),
        ("t.jsonl", '{"image": 0, "caption": "a"}', "line 1: the image is 0, not a path"),
        ("t.jsonl", '{"image": "0.png", "caption": "a", "label": [1]}', r"line 1: the class is \[1\]"),
        ("t.jsonl", '{"image": "0.png", "caption": "a"}\n{"image"', "line 2 is not JSON"),
        ("t.jsonl", '["0.png", "a"]', "line 1 is .*, not an object"),
        ("t.json", '{"a": 1}', "is not a list of images but an object with a"),
        ("t.parquet", "PAR1", "cannot be read as Parquet"),
        ("t.xlsx", "PK", "a table must end in .csv"),
    ],
)
def test_other_files_that_make_no_sense_are_one_line(folder, name, text, message):
    with pytest.raises(UserError, match=message) as caught:
        loaded(write(folder / name, text))
    assert "\n" not in str(caught.value)


def test_one_class_beside_captions_is_not_used(folder, caplog):
    table = write(folder / "t.csv", "image,caption,class\n0.png,a,x\n1.png,b,x\n")
    with caplog.at_level("WARNING", logger="meru"):
        assert loaded(table).class_kind == "image"
    assert "all images are of one class, x, so classes are not used" in caplog.text
