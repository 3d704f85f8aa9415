"""Labelled images, each data set in a tiny copy of its own layout."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from torchvision import datasets

from meru.data.datasets.class_folders import load_class_folders, load_imagenet, load_sun397
from meru.data.datasets.label_sets import load_coco_objects, load_voc2007
from meru.data.datasets.labelled_own import load_cub_labelled, of_discovery
from meru.data.datasets.torchvision_sets import SETS, load_torchvision
from meru.data.discovery.splits import DiscoveryData, DiscoverySplit
from meru.data.image_folders import cut
from meru.data.labelled import labelled
from meru.data.parents import read_parents
from meru.errors import UserError


def picture(path: Path, ending: str = "JPEG") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 8), (90, 120, 40)).save(path, ending)
    return path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def food101(root: Path) -> None:
    for split, names in (("train", ("1", "2")), ("test", ("3",))):
        listed = {food: [f"{food}/{name}" for name in names] for food in ("apple_pie", "sushi")}
        write(root / "food-101" / "meta" / f"{split}.json", json.dumps(listed))
        for files in listed.values():
            for file in files:
                picture(root / "food-101" / "images" / f"{file}.jpg")


def dtd(root: Path) -> None:
    for split, number in (("train", 1), ("val", 2), ("test", 3)):
        files = [f"{texture}/{texture}_{number}.jpg" for texture in ("banded", "dotted")]
        write(root / "dtd" / "dtd" / "labels" / f"{split}1.txt", "\n".join(files) + "\n")
        for file in files:
            picture(root / "dtd" / "dtd" / "images" / file)


def pets(root: Path) -> None:
    for split, number in (("trainval", 1), ("test", 2)):
        lines = [f"Abyssinian_{number} 1 1 1", f"american_bulldog_{number} 2 2 1"]
        write(root / "oxford-iiit-pet" / "annotations" / f"{split}.txt", "\n".join(lines) + "\n")
        for name in ("Abyssinian", "american_bulldog"):
            picture(root / "oxford-iiit-pet" / "images" / f"{name}_{number}.jpg")


def flowers102(root: Path) -> None:
    folder = root / "flowers-102"
    for number in range(1, 7):
        picture(folder / "jpg" / f"image_{number:05d}.jpg")
    savemat(folder / "setid.mat", {"trnid": [1, 2], "valid": [3, 4], "tstid": [5, 6]})
    savemat(folder / "imagelabels.mat", {"labels": [1, 2, 1, 2, 1, 2]})


def stl10(root: Path) -> None:
    folder = root / "stl10_binary"
    folder.mkdir(parents=True)
    for split, count in (("train", 3), ("test", 2)):
        np.zeros((count, 3, 96, 96), np.uint8).tofile(folder / f"{split}_X.bin")
        np.arange(1, count + 1, dtype=np.uint8).tofile(folder / f"{split}_y.bin")
    write(folder / "class_names.txt", "airplane\nbird\ncar\n")


def mnist(root: Path) -> None:
    def idx(kind: int, values: np.ndarray) -> bytes:
        header = bytes([0, 0, kind, values.ndim]) + b"".join(int(size).to_bytes(4, "big") for size in values.shape)
        return header + values.tobytes()

    for start, count in (("train", 3), ("t10k", 2)):
        folder = root / "MNIST" / "raw"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{start}-images-idx3-ubyte").write_bytes(idx(8, np.zeros((count, 28, 28), np.uint8)))
        (folder / f"{start}-labels-idx1-ubyte").write_bytes(idx(8, np.arange(count, dtype=np.uint8)))


def clevr(root: Path) -> None:
    folder = root / "clevr" / "CLEVR_v1.0"
    for split in ("train", "val"):
        scenes = []
        for number, count in enumerate((3, 10)):
            name = f"CLEVR_{split}_{number:06d}.png"
            picture(folder / "images" / split / name, "PNG")
            scenes.append({"image_filename": name, "objects": [{}] * count})
        write(folder / "scenes" / f"CLEVR_{split}_scenes.json", json.dumps({"scenes": scenes}))


def sst2(root: Path) -> None:
    for split in ("train", "valid", "test"):
        for name in ("negative", "positive"):
            picture(root / "rendered-sst2" / split / name / "1.png", "PNG")


LAYOUTS = {
    food101: (("apple pie", "sushi"), 4, 2),
    dtd: (("banded", "dotted"), 4, 2),
    pets: (("Abyssinian", "American Bulldog"), 2, 2),
    flowers102: (("pink primrose", "hard-leaved pocket orchid"), 4, 2),
    stl10: (("airplane", "bird", "car"), 3, 2),
    mnist: (("0", "1", "2"), 3, 2),
    clevr: (("three", "four"), 2, 2),
    sst2: (("negative", "positive"), 4, 2),
}


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_torchvisions_sets_are_read_in_their_layouts(layout, tmp_path, monkeypatch):
    for made in (datasets.Flowers102, datasets.STL10):
        monkeypatch.setattr(made, "_check_integrity", lambda self: True)  # compares with the sums of the real files
    layout(tmp_path)
    names, train, test = LAYOUTS[layout]
    name = layout.__name__
    for root in (tmp_path, tmp_path / SETS[name].folder, tmp_path / SETS[name].folder.split("/")[0]):
        data = load_torchvision(root=root, data_set=name)
        assert data.class_names[: len(names)] == names
        assert len(data.train) == train and len(data.test) == test
    image = data.test.images[0]
    assert image.is_file() if isinstance(image, Path) else image.shape[0] == 3
    assert data.train.labels.tolist() == {"clevr": [0, 7], "stl10": [0, 1, 2], "mnist": [0, 1, 2]}.get(
        name, ([0, 0, 1, 1] if name == "food101" else [0, 1] * (train // 2))
    )


def test_pcam_is_read_image_by_image_and_needs_h5py(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UserError, match="pip install h5py"):
        load_torchvision(root=tmp_path, data_set="pcam")

    class File:
        def __init__(self, path, mode):
            self.count = {"train": 3, "valid": 2, "test": 1}[Path(path).name.split("_")[4]]

        __enter__ = lambda self: self  # noqa: E731
        __exit__ = lambda self, *error: None  # noqa: E731

        def __getitem__(self, name):
            images = np.full((self.count, 96, 96, 3), self.count, np.uint8)
            return images if name == "x" else np.arange(self.count).reshape(-1, 1, 1, 1) % 2

    monkeypatch.setitem(sys.modules, "h5py", SimpleNamespace(File=File))
    for split in datasets.PCAM._FILES.values():
        for file, *_ in split.values():
            write(tmp_path / "pcam" / file, "")
    data = load_torchvision(root=tmp_path, data_set="pcam")
    assert (len(data.train), len(data.test)) == (5, 1)
    assert data.train.images[2].shape == (3, 96, 96) and int(data.train.images[3].max()) == 2
    assert data.train.labels.tolist() == [0, 1, 0, 0, 1]
    assert data.class_names[1] == "lymph node containing metastatic tumor tissue"


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_a_wrong_layout_gets_one_line(layout, tmp_path):
    (tmp_path / SETS[layout.__name__].folder).mkdir(parents=True)
    with pytest.raises(UserError) as raised:
        load_torchvision(root=tmp_path, data_set=layout.__name__)
    assert "\n" not in str(raised.value) and str(tmp_path) in str(raised.value)


def test_damaged_lists_get_one_line(tmp_path):
    pets(tmp_path)
    write(tmp_path / "oxford-iiit-pet" / "annotations" / "test.txt", "Abyssinian_2 1\n")
    with pytest.raises(UserError, match="is not laid out as torchvision's OxfordIIITPet wants"):
        load_torchvision(root=tmp_path, data_set="pets")
    with pytest.raises(UserError, match="choose one of food101, dtd"):
        load_torchvision(root=tmp_path, data_set="pet")


# ---------------------------------------------------------------- folders of classes


def test_folders_without_a_split_are_cut_by_class_and_seed(tmp_path):
    for name in ("AnnualCrop", "SeaLake"):
        for number in range(10):
            picture(tmp_path / "EuroSAT" / name / f"{name}_{number}.jpg")
    data = load_class_folders(root=tmp_path, data_set="eurosat", seed=1)
    assert data.class_names == ("annual crop land", "sea or lake") and data.class_keys == ("AnnualCrop", "SeaLake")
    assert data.test.labels.tolist() == [0, 0, 1, 1] and len(data.train) == 16
    assert not set(data.train.images) & set(data.test.images)
    again, other = (load_class_folders(root=tmp_path, data_set="eurosat", seed=seed) for seed in (1, 2))
    assert again.test.images == data.test.images != other.test.images


def test_caltech_has_no_background_and_plain_names(tmp_path):
    for name in ("accordion", "BACKGROUND_Google", "Faces_easy"):
        for number in range(2):
            picture(tmp_path / "caltech101" / "101_ObjectCategories" / name / f"image_000{number}.jpg")
    data = load_class_folders(root=tmp_path, data_set="caltech101")
    assert data.class_names == ("centered face", "accordion")


def test_countries_have_names_and_their_validation_images_train(tmp_path):
    for split in ("train", "valid", "test"):
        for code in ("CI", "DE"):
            picture(tmp_path / "country211" / split / code / "1.jpg")
    data = load_class_folders(root=tmp_path, data_set="country211")
    assert data.class_names == ("Ivory Coast", "Germany")
    assert data.train.labels.tolist() == [0, 1, 0, 1] and data.test.labels.tolist() == [0, 1]
    picture(tmp_path / "country211" / "train" / "FR" / "1.jpg")
    with pytest.raises(UserError, match="train and test differ in the class folder FR"):
        load_class_folders(root=tmp_path, data_set="country211")


def test_folders_that_cannot_be_classified_get_one_line(tmp_path):
    with pytest.raises(UserError, match="is not a folder"):
        load_class_folders(root=tmp_path / "nowhere")
    with pytest.raises(UserError, match="no class folders"):
        load_class_folders(root=tmp_path)
    picture(tmp_path / "one" / "1.jpg")
    with pytest.raises(UserError, match="has the one class one: classification needs at least two"):
        load_class_folders(root=tmp_path)


def test_sun397_uses_the_official_lists_if_they_are_there(tmp_path):
    folder = tmp_path / "SUN397"
    write(folder / "ClassName.txt", "/a/abbey\n/c/church/outdoor\n")
    files = [f"a/abbey/sun_{number}.jpg" for number in (1, 2)] + [f"c/church/outdoor/sun_{n}.jpg" for n in (3, 4)]
    for file in files:
        picture(folder / file)
    data = load_sun397(root=tmp_path)
    assert data.class_names == ("abbey", "church outdoor") and sorted(data.test.labels.tolist()) == [0, 1]
    write(tmp_path / "Training_01.txt", "".join(f"/{file}\n" for file in files[:3]))
    write(tmp_path / "Testing_01.txt", f"/{files[3]}\n")
    data = load_sun397(root=tmp_path)
    assert data.train.labels.tolist() == [0, 0, 1] and data.test.images[0].name == "sun_4.jpg"
    write(tmp_path / "Testing_01.txt", "/a/abbey/sun_9.jpg\n")
    with pytest.raises(UserError, match="Testing_01.txt lists .*sun_9.jpg, which is missing"):
        load_sun397(root=tmp_path)


def test_imagenet_needs_no_training_images_and_has_readable_names(tmp_path):
    for wnid in ("n01440764", "n01443537"):
        picture(tmp_path / "val" / wnid / "a.JPEG")
    data = load_imagenet(root=tmp_path)
    assert data.class_names == ("tench", "goldfish") and data.class_keys == ("n01440764", "n01443537")
    assert len(data.train) == 0 and len(data.test) == 2
    picture(tmp_path / "val" / "tench" / "a.JPEG")
    with pytest.raises(UserError, match="tench is not named by a WordNet id"):
        load_imagenet(root=tmp_path)


def test_all_of_imagenet_has_the_names_of_open_clip(tmp_path):
    for number in range(1000):
        (folder := tmp_path / "val" / f"n{number:08d}").mkdir(parents=True)
        (folder / "a.jpg").touch()
    data = load_imagenet(root=tmp_path)
    assert data.class_names[:2] == ("tench", "goldfish") and len(set(data.test.labels.tolist())) == 1000


def test_a_cut_leaves_an_image_of_each_class_in_both_parts():
    images = labelled(torch.arange(7), [0, 0, 1, 1, 1, 1, 2])
    first, second = cut(images, share=0.01, seed=0)
    assert sorted(second.labels.tolist()) == [0, 1] and sorted(first.labels.tolist()) == [0, 1, 1, 1, 2]


# ---------------------------------------------------------------- this project's own


def test_cub_has_labels_without_captions(make_cub_folder):
    folder = make_cub_folder(captions=False)
    data = load_cub_labelled(root=folder, families="last_word")
    assert len(data.train) == 12 and len(data.test) == 6
    assert len(data.families) == len(data.class_names) == 3


def test_all_images_of_a_discovery_set_are_labelled():
    images = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    split = DiscoverySplit(images, torch.tensor([0, 1]), torch.tensor([True, False]))
    data = of_discovery(DiscoveryData(("pine_tree", "rose"), 1, split, split))
    assert data.class_names == ("pine tree", "rose") and data.train.labels.tolist() == [0, 1]


# ---------------------------------------------------------------- several labels


def test_coco_is_read_by_category_and_image(tmp_path):
    images = [{"id": 7, "file_name": "b.jpg"}, {"id": 3, "file_name": "a.jpg"}]
    for each in images:
        picture(tmp_path / "val2017" / each["file_name"])
    categories = [{"id": 90, "name": "toothbrush"}, {"id": 1, "name": "person"}]
    objects = [{"image_id": 3, "category_id": 1}, {"image_id": 3, "category_id": 90}, {"image_id": 3, "category_id": 1}]
    path = tmp_path / "annotations" / "instances_val2017.json"
    write(path, json.dumps({"images": images, "categories": categories, "annotations": objects}))
    data = load_coco_objects(root=tmp_path)
    assert data.class_names == ("person", "toothbrush") and data.targets.tolist() == [[0, 0], [1, 1]]
    write(path, json.dumps({"images": images}))
    with pytest.raises(UserError, match="is not a file of COCO's instances"):
        load_coco_objects(root=tmp_path)
    write(path, json.dumps({"images": images, "categories": categories, "annotations": [{"image_id": 4,
          "category_id": 1}]}))  # fmt: skip
    with pytest.raises(UserError, match="has an object of image 4, category 1, which it lacks"):
        load_coco_objects(root=tmp_path)


def test_voc_lists_must_agree(tmp_path):
    lists = tmp_path / "VOC2007" / "ImageSets" / "Main"
    write(lists / "aeroplane_test.txt", "000001  1\n")
    write(lists / "cat_test.txt", "000001  0\n")
    picture(tmp_path / "VOC2007" / "JPEGImages" / "000001.jpg")
    data = load_voc2007(root=tmp_path)
    assert data.class_names == ("airplane", "cat") and data.targets.tolist() == [[1, -1]]
    write(lists / "cat_test.txt", "000002  0\n")
    with pytest.raises(UserError, match="cat_test.txt lists other images than aeroplane_test.txt"):
        load_voc2007(root=tmp_path)
    write(lists / "cat_test.txt", "000001 2\n")
    with pytest.raises(UserError, match="line 1: expected '<image> 1', -1 or 0"):
        load_voc2007(root=tmp_path)


# ---------------------------------------------------------------- parents


def test_parents_are_read_from_both_kinds_of_file(tmp_path):
    write(tmp_path / "a.csv", "Child,Parent\nrose, flower\n\nflower,plant\nrose,shrub\nshrub,plant\n")
    expected = {"rose": ("flower", "shrub"), "flower": ("plant",), "plant": (), "shrub": ("plant",)}
    assert read_parents(tmp_path / "a.csv", keys=["n1"], names=["rose"]) == (expected, ("rose",))
    write(tmp_path / "wordnet.is_a.txt", "n2 n1\nn3 n2\n")
    parents, classes = read_parents(tmp_path / "wordnet.is_a.txt", keys=["n1"], names=["rose"])
    assert parents == {"n1": ("n2",), "n2": ("n3",), "n3": ()} and classes == ("n1",)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "rose\n", "line 1: expected 'child,parent'"),
        ("a.csv", "rose,\n", "line 1: expected 'child,parent'"),
        ("a.txt", "one two three\n", "line 1: expected '<parent> <child>'"),
        ("a.csv", "rosee,flower\n", "has no line for the class rose .*did it mean rosee"),
    ],
)
def test_lists_of_another_form_get_one_line(name, text, message, tmp_path):
    write(tmp_path / name, text)
    with pytest.raises(UserError, match=message):
        read_parents(tmp_path / name, keys=["rose"], names=["rose"])
