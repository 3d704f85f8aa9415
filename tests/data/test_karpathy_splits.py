"""COCO and Flickr30k in their own layouts, with Karpathy's lists; what is missing is one line."""

import json

import pytest
from PIL import Image

from meru.data.datasets.karpathy_splits import load_karpathy
from meru.errors import UserError

COCO = [
    ("train2014", "COCO_train2014_000000000009.jpg", "train"),
    ("val2014", "COCO_val2014_000000000042.jpg", "restval"),
    ("val2014", "COCO_val2014_000000000073.jpg", "val"),
    ("val2014", "COCO_val2014_000000000074.jpg", "test"),
    ("val2014", "COCO_val2014_000000000133.jpg", "test"),
]


def entry(folder, name, split, captions=("a dog", "A dog runs.\n", "a dog")):
    sentences = [{"raw": each, "tokens": each.lower().split()} for each in captions]
    found = {"filename": name, "split": split, "sentences": sentences, "cocoid": 1, "imgid": 1}
    return {"filepath": folder, **found} if folder else found


@pytest.fixture
def coco(tmp_path):
    root = tmp_path / "coco"
    for folder, name, _ in COCO:
        (root / folder).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 4)).save(root / folder / name)
    write(root, [entry(*each) for each in COCO])
    return root


def write(root, images, name="dataset_coco.json"):
    (root / name).write_text(json.dumps({"images": images, "dataset": "coco"}))


def test_coco_as_it_unpacks(coco):
    data = load_karpathy(root=coco, layout="coco")
    names = [[record.path.name for record in each] for each in (data.train, data.validation, data.test)]
    assert names == [[COCO[0][1], COCO[1][1]], [COCO[2][1]], [COCO[3][1], COCO[4][1]]]
    assert data.test[0].captions == ("a dog", "A dog runs.", "a dog")  # every sentence counts, also a repeated one
    every = [record.class_index for record in (*data.train, *data.validation, *data.test)]
    assert data.class_kind == "image" and len(set(every)) == len(every)


def test_the_list_in_a_folder_of_its_own_and_the_images_elsewhere(coco, tmp_path):
    expected = load_karpathy(root=coco, layout="coco")
    (coco / "karpathy").mkdir()
    (coco / "dataset_coco.json").rename(coco / "karpathy" / "dataset_coco.json")
    assert load_karpathy(root=coco, layout="coco") == expected
    (tmp_path / "moved").mkdir()
    for folder in ("train2014", "val2014"):
        (coco / folder).rename(tmp_path / "moved" / folder)
    found = load_karpathy(root=coco, layout="coco", images=tmp_path / "moved")
    assert [record.captions for record in found.test] == [record.captions for record in expected.test]
    path = coco / "karpathy" / "dataset_coco.json"
    assert load_karpathy(root=tmp_path, layout="coco", path=path, images=tmp_path / "moved") == found


def test_val2014_alone_is_enough_to_evaluate(coco):
    (coco / "train2014" / COCO[0][1]).unlink()
    with pytest.raises(UserError, match=r"absent \(1 of 2 train images"):
        load_karpathy(root=coco, layout="coco")
    write(coco, [entry(*each) for each in COCO if each[2] != "restval"])
    data = load_karpathy(root=coco, layout="coco")
    assert not data.train and len(data.validation) == 1 and len(data.test) == 2


@pytest.mark.parametrize("folder", ["flickr30k-images", "flickr30k_images/flickr30k_images", "."])
def test_flickr30k_in_the_spellings_of_its_folder(tmp_path, folder):
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    images = [entry(None, f"{number}.jpg", split) for number, split in enumerate(("train", "val", "test"))]
    for each in images:
        Image.new("RGB", (6, 4)).save(tmp_path / folder / each["filename"])
    write(tmp_path, images, "dataset_flickr30k.json")
    data = load_karpathy(root=tmp_path, layout="flickr30k")
    assert [record.path.name for record in data.test] == ["2.jpg"]


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ([entry(*COCO[0])], "no image is in the split test"),
        ([entry("val2014", "COCO_val2014_000000000999.jpg", "test")], "no test image of dataset_coco.json is there"),
        ([entry(*COCO[3]), entry("val2014", "gone.jpg", "test")], r"gone.jpg is listed .* absent \(1 of 2 test images"),
        ([entry(*COCO[3]), entry(*COCO[3])], "image 2: .*is the same image as at .*image 1"),
        ([entry("..", "a.jpg", "test")], "leaves the folder of images"),
        ([entry("val2014", COCO[3][1], "tset")], "split is 'tset'"),
        ([{"filename": "a.jpg", "split": "test"}], "image 1: sentences must be a list"),
        ([{"filename": "a.jpg", "split": "test", "sentences": []}], "caption is empty"),
        ([], "not a list of the form"),
    ],
)
def test_a_wrong_list_is_one_line(coco, images, said):
    write(coco, images)
    with pytest.raises(UserError, match=said) as error:
        load_karpathy(root=coco, layout="coco")
    assert "\n" not in str(error.value)


def test_without_a_list_the_message_says_where_to_get_it(tmp_path):
    with pytest.raises(UserError, match=r"no COCO: .*dataset_coco.json.*caption_datasets.zip.*data.root="):
        load_karpathy(root=tmp_path, layout="coco")
    with pytest.raises(UserError, match="missing.json is no folder"):
        load_karpathy(root=tmp_path, layout="coco", path=tmp_path / "missing.json")
    with pytest.raises(UserError, match="choose one of coco, flickr30k"):
        load_karpathy(root=tmp_path, layout="cooc")
