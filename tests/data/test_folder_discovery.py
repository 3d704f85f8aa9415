"""A user's own class folders for category discovery: which images are labelled, and what can be wrong with them."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image

from meru.data.datasets.folder_discovery import load_folder_discovery
from meru.data.discovery.splits import UNKNOWN, validation_data
from meru.errors import UserError
from meru.runs.train import train

CLASSES = ("ant", "bee", "cat", "dog")


def draw(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((20, 24, 3), value, np.uint8)).save(path)
    return path


@pytest.fixture
def root(tmp_path):
    """Four classes of five images, and what other programs leave behind."""
    for number, name in enumerate(CLASSES):
        for image in range(5):
            draw(tmp_path / "photos" / name / f"{image}.png", 50 * number + image)
    (tmp_path / "photos" / "ant" / "._0.png").write_bytes(b"\0")
    (tmp_path / "photos" / "notes.txt").write_text("two of them are mine")
    (tmp_path / "photos" / ".cache").mkdir()
    return tmp_path / "photos"


def classes_of(split):
    return [path.parent.name for path in split.images]


def test_named_classes_are_old(root):
    data = load_folder_discovery(root=root, old_classes=["dog", "bee"])
    assert data.class_names == ("bee", "dog", "ant", "cat") and data.num_old == 2
    assert [data.class_names[label] for label in data.train.labels] == classes_of(data.train)
    assert len(data.train) == 20 and not len(data.test) and not data.has_unknown
    assert sorted(classes_of(data.train.where(data.train.labelled))) == ["bee"] * 3 + ["dog"] * 3  # of five


def test_a_text_file_of_classes_reads_as_the_list(root, tmp_path):
    (tmp_path / "旧类.txt").write_text("dog\n\nbee\ndog\n", encoding="utf-8")
    assert load_folder_discovery(root=root, old_classes=str(tmp_path / "旧类.txt")).class_names[:2] == ("bee", "dog")


def test_a_share_of_the_classes_is_chosen_by_the_seed(root):
    of = {seed: load_folder_discovery(root=root, old_share=0.5, split_seed=seed).class_names[:2] for seed in range(8)}
    assert len(set(of.values())) > 1
    assert load_folder_discovery(root=root, old_share=0.5, split_seed=3).class_names[:2] == of[3]
    assert load_folder_discovery(root=root, old_share=0.01).num_old == 1
    assert load_folder_discovery(root=root, old_share=0.99).num_old == 3


@pytest.mark.parametrize("name", ["list.txt", "list.csv", "list.tsv"])
def test_listed_files_are_labelled_and_their_classes_old(root, tmp_path, name):
    files = ["cat/1.png", "./cat/3.png", str(root / "bee" / "0.png")]
    rows = {"list.txt": files, "list.csv": ["score,Image", *(f"1,{file}" for file in files)],
            "list.tsv": ["path\tscore", *(f"{file}\t1" for file in files)]}  # fmt: skip
    (tmp_path / name).write_text("\n".join(rows[name]) + "\n")
    data = load_folder_discovery(root=root, labelled_files=tmp_path / name)
    assert data.class_names == ("bee", "cat", "ant", "dog") and data.num_old == 2
    chosen = [path.relative_to(root).as_posix() for path in data.train.where(data.train.labelled).images]
    assert chosen == ["bee/0.png", "cat/1.png", "cat/3.png"]


def test_training_and_test_folders(root, tmp_path):
    for name in CLASSES:
        (tmp_path / "both" / "Train").mkdir(parents=True, exist_ok=True)
        (root / name).rename(tmp_path / "both" / "Train" / name)
    draw(tmp_path / "both" / "val" / "cat" / "inner" / "9.png")
    data = load_folder_discovery(root=tmp_path / "both", old_share=0.5)
    assert len(data.train) == 20 and classes_of(data.test) == ["inner"]
    assert data.class_names[data.test.labels[0]] == "cat" and not data.test.labelled.any()


def test_images_without_a_class(root):
    for number in range(3):
        draw(root / "new" / f"{number}.png", 200)
    data = load_folder_discovery(root=root, unlabelled=root / "new")
    assert data.class_names == CLASSES and data.num_old == 4
    assert data.train.labelled.tolist() == [True] * 20 + [False] * 3
    assert data.train.labels.tolist()[-3:] == [UNKNOWN] * 3 and data.has_unknown
    assert data.train.labelled.sum() == 20
    part = load_folder_discovery(root=root, unlabelled=root / "new", old_classes=["ant"], labelled_fraction=0.4)
    assert part.num_old == 1 and part.train.labelled.sum() == 2
    assert len(validation_data(data).train) == 20


def test_linked_folders_are_read_and_circles_end(root, tmp_path):
    (root / "cat").rename(tmp_path / "elsewhere")
    (root / "cat").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (root / "dog" / "again").symlink_to(root / "dog", target_is_directory=True)
    assert len(load_folder_discovery(root=root, old_share=0.5).train) == 20


def spoiled(root, tmp_path):
    """Arguments and a part of the message that they give."""
    (root / "empty.txt").write_text("\n")
    (root / "bad.txt").write_text("ant/0.png\nant/99.png\n")
    (root / "outside.txt").write_text("../secret.png\n")
    (root / "table.csv").write_text("where,score\nant/0.png,1\n")
    loose = draw(tmp_path / "loose" / "0.png").parent
    draw(tmp_path / "one" / "photos" / "ant" / "0.png")
    draw(tmp_path / "one" / "photos" / "bee" / "0.png")
    draw(tmp_path / "alone" / "ant" / "0.png")
    return [
        ({}, "which images are labelled.* data.old_classes"),
        ({"old_classes": ["ant", "wolf"]}, f"{root} has no class folder 'wolf'; it has ant, bee, cat, dog"),
        ({"old_classes": "ant"}, r"data.old_classes=ant: no such file; write class names in brackets, \[ant"),
        ({"old_classes": str(root / "empty.txt")}, "data.old_classes is empty"),
        ({"old_classes": CLASSES}, "all 4 classes are old, so there is nothing to discover"),
        ({"old_share": 0.5, "old_classes": ["ant"]}, "data.old_classes and data.old_share both say"),
        ({"old_share": 1.5}, "data.old_share=1.5"),
        ({"old_share": 0.5, "labelled_fraction": 0.0}, "data.labelled_fraction=0.0"),
        ({"labelled_files": root / "bad.txt"}, r"ant/99.png is not an image in a class folder .* \(1 listed files are"),
        ({"labelled_files": root / "outside.txt"}, "'../secret.png' is outside data.root="),
        ({"labelled_files": root / "empty.txt"}, "lists no file"),
        ({"labelled_files": root / "table.csv"}, "has no column image, only where, score"),
        ({"labelled_files": root / "none.txt"}, "none.txt cannot be read"),
        ({"unlabelled": root}, "holds the class folders"),
        ({"unlabelled": tmp_path / "none"}, "is no folder"),
        ({"root": tmp_path / "none", "old_share": 0.5}, "none is no folder"),
        ({"root": loose, "old_share": 0.5}, "has no class folders, only 1 images without a class"),
        ({"root": tmp_path / "one", "old_share": 0.5}, f"did you mean data.root={tmp_path / 'one' / 'photos'}"),
        ({"root": tmp_path / "alone", "old_share": 0.5}, "one class folder only, ant: discovery needs several"),
    ]


def test_what_is_wrong_is_said_in_one_line(root, tmp_path):
    for arguments, message in spoiled(root, tmp_path):
        with pytest.raises(UserError, match=message) as raised:
            load_folder_discovery(**{"root": root, **arguments})
        assert "\n" not in str(raised.value)


def test_empty_and_unknown_class_folders(root):
    (root / "elk").mkdir()
    with pytest.raises(UserError, match=r"elk holds no image \(1 of 5 class folders do not\)"):
        load_folder_discovery(root=root, old_share=0.5)
    (root / "elk").rmdir()
    (root / "train").mkdir()
    for name in CLASSES:
        (root / name).rename(root / "train" / name)
    draw(root / "test" / "fox" / "0.png")
    with pytest.raises(UserError, match="fox has no training images"):
        load_folder_discovery(root=root, old_share=0.5)
    (root / "labelled.txt").write_text("test/ant/0.png\n")
    draw(root / "test" / "ant" / "0.png")
    (root / "test" / "fox" / "0.png").unlink()
    (root / "test" / "fox").rmdir()
    with pytest.raises(UserError, match="test/ant/0.png is a test image"):
        load_folder_discovery(root=root, labelled_files=root / "labelled.txt")


SMALL = (
    "experiment=own_hypgcd", "encoder.image.image_size=32", "model.projection_width=16", "model.projection_dimension=8",
    "data.batch_size=8", "data.workers=0", "trainer.epochs=1", "logger=none",
)  # fmt: skip


def test_a_run_ends_with_a_table_of_predicted_classes(compose, root, tmp_path):
    for number in range(3):
        draw(tmp_path / "new ones" / f"{number}.png", 200)
    chosen = (f"data.root={root}", f"data.unlabelled={tmp_path / 'new ones'}", "data.old_classes=[ant,bee]")
    with pytest.raises(UserError, match="discovery.num_classes: some training images are of unknown classes"):
        train(compose(*SMALL, *chosen, f"folder={tmp_path / 'refused'}"), device=torch.device("cpu"))
    folder = tmp_path / "run"
    figures = train(compose(*SMALL, *chosen, "discovery.num_classes=5", f"folder={folder}"), device=torch.device("cpu"))
    assert figures["discovery/all/images"] == 10 and "true_num_classes" not in figures  # of cat and dog
    with open(folder / "clusters.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 23
    assert {row["predicted"] for row in rows} <= {"ant", "bee", "new 1", "new 2", "new 3"}
    assert all(0 < float(row["confidence"]) <= 1 and row["split"] == "train" for row in rows)
    assert [row["labelled"] for row in rows] == ["yes"] * 10 + ["no"] * 13
    assert rows[0]["image"] == "ant/0.png" and rows[0]["class"] == "ant"
    assert rows[-1]["image"] == str(tmp_path / "new ones" / "2.png") and rows[-1]["class"] == ""
