"""Discovery in class folders (ImageNet, Herbarium) and CIFAR: layouts, order, and what is said of incomplete copies."""

import pickle

import numpy as np
import pytest
import torch
from discovery_reference import labelled, spelled_out, touch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from torchvision.datasets import CIFAR10

from meru.data.datasets.generic import (
    load_cifar10_discovery,
    load_herbarium_discovery,
    load_imagenet1k_discovery,
    load_imagenet100_discovery,
)
from meru.data.discovery.splits import ClassList
from meru.errors import UserError


class TestClassFolders:
    def write(self, root, splits, count, per_class=2):
        for split in splits:
            for number in range(count):
                touch(root / split / f"n{number:04d}", *(f"{split}_{image}.JPEG" for image in range(per_class)))

    def test_imagenet(self, tmp_path):
        self.write(tmp_path, ("train",), 1000)
        self.write(tmp_path, ("val",), 1000, per_class=1)
        whole, some = load_imagenet1k_discovery(root=tmp_path), load_imagenet100_discovery(root=tmp_path)
        numbers = [number for number in range(1000) for _ in range(2)]
        assert labelled(whole) == spelled_out(numbers, range(500)) and whole.num_old == 500
        assert whole.class_names[499:501] == ("n0499", "n0500") and len(whole.test) == 1000
        np.random.seed(0)
        drawn = np.sort(np.random.choice(range(1000), size=(100,), replace=False))
        assert some.class_names == tuple(f"n{number:04d}" for number in drawn)
        assert some.num_old == 50 and len(some.train) == 200 and len(some.test) == 100
        assert labelled(some) == spelled_out([number for number in range(100) for _ in range(2)], range(50))

    def test_herbarium_counts_folders_in_alphabetical_order(self, tmp_path, caplog):
        for number in range(683):
            touch(tmp_path / "small-train" / str(number), "a.jpg", "b.jpg")
        data = load_herbarium_discovery(root=tmp_path)
        classes = ClassList.read("herbarium")
        folders = sorted(map(str, range(683)))
        assert data.class_names == tuple(folders[number] for number in (*classes.old, *classes.new))
        assert labelled(data) == spelled_out([number for number in range(683) for _ in range(2)], classes.old)
        assert len(data.test) == 0 and "no small-validation" in caplog.text

    def test_what_systems_leave_behind_is_no_picture(self, tmp_path):
        classes = [str(number) for number in range(683)]
        for name in classes:
            touch(tmp_path / "small-train" / "small-train" / name, f"{name}_a.jpg", "b.AVIF")
        expected = load_herbarium_discovery(root=tmp_path)
        inner = tmp_path / "small-train" / "small-train"
        touch(inner / ".ipynb_checkpoints", "x.jpg")
        touch(inner / "__MACOSX" / "0", "x.jpg")
        touch(inner / "0" / ".ipynb_checkpoints", "0_a-checkpoint.jpg")
        for name in classes[::50]:
            touch(inner / name, f"._{name}_a.jpg", ".DS_Store", "Thumbs.db")
        touch(inner, "Thumbs.db", ".DS_Store", "._0")
        data = load_herbarium_discovery(root=tmp_path)
        assert data.class_names == expected.class_names and data.train.images == expected.train.images
        assert len(data.train) == 2 * 683
        for path in (inner / "5").iterdir():
            path.unlink()
        with pytest.raises(UserError, match=r"small-train: no image in 1 of the class folders, 5 alone"):
            load_herbarium_discovery(root=tmp_path)

    def test_pictures_without_class_folders(self, tmp_path):
        touch(tmp_path / "ILSVRC" / "Data" / "CLS-LOC" / "train", "ILSVRC2012_val_00000001.JPEG")
        with pytest.raises(UserError, match="CLS-LOC/train holds images but no class folders"):
            load_imagenet1k_discovery(root=tmp_path)

    def test_errors(self, tmp_path):
        with pytest.raises(UserError, match="no ImageNet: .* holds no train"):
            load_imagenet1k_discovery(root=tmp_path)
        self.write(tmp_path, ("train",), 3)
        with pytest.raises(UserError, match="has 3 class folders and should have 1000"):
            load_imagenet100_discovery(root=tmp_path)
        with pytest.raises(UserError, match="has 3 class folders and should have 1000"):
            load_imagenet1k_discovery(root=tmp_path)
        touch(tmp_path / "train" / "n0003", "notes.txt")
        with pytest.raises(UserError, match="n0003") as error:
            load_imagenet1k_discovery(root=tmp_path)
        assert "\n" not in str(error.value)


class TestCifar:
    def test_layout(self, tmp_path, monkeypatch):
        folder = tmp_path / "archive" / CIFAR10.base_folder
        folder.mkdir(parents=True)
        numbers = np.random.default_rng(0).integers(0, 10, 40).tolist()
        pictures = np.random.default_rng(1).integers(0, 256, (40, 3, 32, 32), dtype=np.uint8)
        for name in ("data_batch_1", "test_batch"):
            content = {"data": pictures.reshape(40, -1), "labels": numbers}
            (folder / name).write_bytes(pickle.dumps(content))
        (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"kind {n}" for n in range(10)]}))
        # The published files are known by their checksums.
        monkeypatch.setattr(CIFAR10, "train_list", [["data_batch_1", None]])
        monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", None]])
        monkeypatch.setattr(CIFAR10, "meta", {"filename": "batches.meta", "key": "label_names", "md5": None})
        data = load_cifar10_discovery(root=tmp_path)
        assert data.num_old == 5 and data.class_names == tuple(f"kind {n}" for n in range(10))
        assert data.train.labels.tolist() == numbers and labelled(data) == spelled_out(numbers, range(5))
        assert torch.equal(data.train.images, torch.from_numpy(pictures)) and len(data.test) == 40
        for root in (folder, folder.parent):
            assert load_cifar10_discovery(root=root).train.labels.tolist() == numbers

    def test_without_data(self, tmp_path):
        with pytest.raises(UserError, match="no CIFAR10: .*data.download=true"):
            load_cifar10_discovery(root=tmp_path)


@pytest.mark.parametrize("name", ["cars", "aircraft", "cifar10", "cifar100", "imagenet100", "imagenet1k", "herbarium"])
def test_every_configuration_says_what_is_missing(name, compose, tmp_path):
    data = compose(f"data={name}", f"data.root={tmp_path}").data
    with pytest.raises(InstantiationException) as error:
        instantiate(data.load_discovery)
    assert isinstance(error.value.__cause__, UserError)
    assert str(tmp_path) in str(error.value.__cause__) and "data.root=" in str(error.value.__cause__)


def test_configurations_of_cub_and_birds(compose, cub_folder):
    section = compose("data=cub", f"data.root={cub_folder}", "data.old_classes=[002.Red_bird_0]").data.load_discovery
    assert instantiate(section).num_old == 1
    assert compose("data=birds").data.load_discovery._target_.endswith("load_birds_discovery")
