"""A user's own list of persons: columns, identities, splits, and what can be wrong with them."""

import csv
import json
import logging

import numpy as np
import pytest
import torch
from PIL import Image

from meru.data.datasets.person_list import load_person_list
from meru.errors import UserError
from meru.runs.train import train


def rows(*, split=False):
    """Six persons with two images each, the last two for validation and test."""
    listed = []
    for person in range(6):
        for image in range(2):
            row = {
                "file_path": f"cam a/{person}_{image}.png",
                "id": f"张{person}" if person else 0,
                "captions": [f"A man in {person}.", f"Seen from {image}!"],
            }
            given = {"split": ("train", "train", "train", "train", "val", "Test")[person]} if split else {}
            listed.append({**row, **given})
    return listed


@pytest.fixture
def write(tmp_path):
    """`write(rows, name)`: the list with its images, in a folder."""

    def make(listed, name="persons.jsonl"):
        for row in rows():
            path = tmp_path / row["file_path"]
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(np.full((16, 8, 3), 30, np.uint8)).save(path)
        path = tmp_path / name
        if path.suffix == ".csv":
            with open(path, "w", encoding="utf-8", newline="") as file:
                table = csv.DictWriter(file, list(listed[0]))
                table.writeheader()
                table.writerows(listed)
        elif path.suffix == ".json":
            path.write_text(json.dumps(listed, ensure_ascii=False), encoding="utf-8")
        else:
            path.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in listed), encoding="utf-8")
        return path

    return make


def identities(records):
    return {record.class_index for record in records}


@pytest.mark.parametrize("name", ["persons.jsonl", "persons.json", "persons.csv"])
def test_given_splits(write, tmp_path, name):
    data = load_person_list(path=write(rows(split=True), name))
    assert data.class_kind == "identity" and data.class_names == ("0", "张1", "张2", "张3", "张4", "张5")
    assert [len(split) for split in (data.train, data.validation, data.test)] == [8, 2, 2]
    assert data.train[0].path == tmp_path / "cam a" / "0_0.png"
    assert data.train[0].captions == ("a man in 0", "seen from 0")


def test_splits_are_cut_by_identity_and_printed(write, caplog):
    path = write(rows())
    with caplog.at_level(logging.INFO, logger="meru"):
        data = load_person_list(path=path, validation_fraction=0.2, test_fraction=0.3)
    assert "train 3 identities, 6 images; validation 1 identities, 2 images; test 2 identities, 4 images" in caplog.text
    assert not identities(data.train) & identities(data.test) | identities(data.validation) & identities(data.test)
    again = load_person_list(path=write(rows()[::-1]), validation_fraction=0.2, test_fraction=0.3)
    assert {each.path for each in again.test} == {each.path for each in data.test}
    others = [load_person_list(path=path, seed=seed).test[0].path for seed in range(8)]
    assert len(set(others)) > 1
    assert not load_person_list(path=path, validation_fraction=0).validation


def test_without_given_validation_identities_of_training_are_set_aside(write):
    listed = [{**row, "split": "train" if row["split"] == "val" else row["split"]} for row in rows(split=True)]
    data = load_person_list(path=write(listed))
    assert [len(split) for split in (data.train, data.validation, data.test)] == [8, 2, 2]


def test_columns_by_name_and_one_caption_a_row(write):
    listed = [
        {"where": row["file_path"], "who": f"p{row['id']}", "id": number, "words": caption}
        for number, row in enumerate(rows())
        for caption in row["captions"]
    ]
    data = load_person_list(
        path=write(listed, "persons.csv"), columns={"image": "where", "identity": "who", "caption": "words"}
    )
    assert len(data.class_names) == 6 and all(len(record.captions) == 2 for record in data.train)


def change(place, **changes):
    listed = rows(split=True)
    listed[place] = {key: value for key, value in {**listed[place], **changes}.items() if value is not ...}
    return listed


def without(name):
    return [{key: value for key, value in row.items() if key != name} for row in rows()]


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        (change(1, id="张5"), "identity 张5 is in test and, at .*line 2, in train; a person may be in only one split"),
        (change(2, id=""), "line 3: the identity is empty"),
        (change(2, id=[1]), r"line 3: the identity is \[1\]"),
        (change(2, file_path=...), "line 3: the image is empty"),
        (change(2, file_path="../secret.png"), "'../secret.png' is outside"),
        (change(2, file_path="cam a/none.png"), "1 of 12 images are not in"),
        (change(2, captions=[]), "line 3: the caption is empty"),
        (change(2, captions=["...", "!"]), "line 3: the caption has no words"),
        (change(2, captions=7), "line 3: the caption is 7, not text"),
        (change(2, split="dev set"), "line 3: unknown split dev set"),
        (change(2, split=None), "line 3: the column split is empty"),
        ([{**row, "id": 1} for row in rows()], "all images are of one identity, 1"),
        (rows()[:4], "2 identities to train on are too few|1 identities to train on are too few"),
        (without("id"), "has no identities; it has file_path, captions"),
        (without("captions"), "has no column of captions"),
        (change(1, file_path="cam a/0_0.png", id=9), "line 2: cam a/0_0.png has the identity 9, but 0 at .*line 1"),
        ([{**row, "split": "test"} for row in rows()], "no image is in the split train|too few to set"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(write, listed, message):
    with pytest.raises(UserError, match=message) as raised:
        load_person_list(path=write(listed))
    assert "\n" not in str(raised.value)


def test_a_list_that_is_missing(tmp_path):
    wrong = {None: "data.path is missing", tmp_path: "is a folder", tmp_path / "none": "does not exist"}
    for path, message in wrong.items():
        with pytest.raises(UserError, match=message):
            load_person_list(path=path)
    (tmp_path / "list.csv").write_text("image,id,caption\na.png,1,x\n")
    with pytest.raises(UserError, match="columns.identity=person: .* has no such column; it has image, id, caption"):
        load_person_list(path=tmp_path / "list.csv", columns={"identity": "person"})


def test_gahr_trains_on_it(compose, write, tmp_path):
    config = compose(
        "experiment=own_gahr", f"data.path={write(rows(split=True))}", "encoder.image.image_size=48",
        "encoder.text.architecture=L1_W16_A2", "data.batch_size=8", "data.workers=0", "trainer.epochs=1", "logger=none",
        f"folder={tmp_path / 'run'}",
    )  # fmt: skip
    figures = train(config, device=torch.device("cpu"))
    assert 0 <= figures["text_to_image/identity/recall@1"] <= 1
