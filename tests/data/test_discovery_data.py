"""Category discovery's splits are the release's, index for index, and what users get wrong is said in one line."""

import json
import pickle

import numpy as np
import pytest
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from scipy.io import savemat
from torchvision.datasets import CIFAR10

from meru.data.datasets.fine_grained import (
    load_aircraft_discovery,
    load_birds_discovery,
    load_cars_discovery,
    load_cub_discovery,
)
from meru.data.datasets.generic import (
    load_cifar10_discovery,
    load_herbarium_discovery,
    load_imagenet1k_discovery,
    load_imagenet100_discovery,
)
from meru.data.discovery.splits import SPLITS_FOLDER, ClassList, DiscoveryData, DiscoverySplit, discovery_data
from meru.data.synthetic.birds.load import load_birds
from meru.data.synthetic.birds.species import SPECIES
from meru.errors import UserError


def spelled_out(classes, old, fraction=0.5):
    """The labelled indices as the release finds them: a subset by class, then a draw from it."""
    subset = []
    for index, number in enumerate(classes):
        if number in old:
            subset.append(index)
    state = np.random.get_state()
    np.random.seed(0)
    drawn = np.random.choice(range(len(subset)), replace=False, size=(int(fraction * len(subset)),))
    np.random.set_state(state)
    return sorted(subset[position] for position in drawn)


def labelled(data):
    return data.train.labelled.nonzero().flatten().tolist()


def make(numbers, *, names=6, old=(4, 1, 2), new=(5, 0, 3), **options):
    images = torch.zeros(len(numbers), 3, 1, 1, dtype=torch.uint8)
    return discovery_data(
        source="here", names=list("abcdef")[:names], classes=ClassList(old, new), train=(images, numbers), **options
    )


def in_memory(count, share=0.3):
    images = torch.zeros(count, 3, 1, 1, dtype=torch.uint8)
    images[:, 0] = torch.arange(count)[:, None, None]
    return DiscoverySplit(images, torch.arange(count) % 6, torch.arange(count) < share * count)


def touch(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()


class TestSplit:
    def test_labelled_half_is_the_release_s(self):
        numbers = np.random.default_rng(3).integers(0, 6, 501).tolist()
        data = make(numbers)
        assert data.num_old == 3 and data.class_names == tuple("ebcfad")
        assert labelled(data) == spelled_out(numbers, (4, 1, 2))
        assert [data.class_names[label] for label in data.train.labels] == ["abcdef"[number] for number in numbers]
        assert labelled(make(numbers, labelled_fraction=0.3)) == spelled_out(numbers, (4, 1, 2), 0.3)
        assert labelled(make(numbers, split_seed=1)) != labelled(data)

    def test_global_generator_is_left_alone(self):
        np.random.seed(5)
        expected = np.random.random()
        np.random.seed(5)
        make([0, 1, 1, 2])
        assert np.random.random() == expected

    def test_classes_without_images_are_left_out(self):
        data = make([0, 0, 1, 1, 2])
        assert data.class_names == ("b", "c", "a") and data.num_old == 2
        assert data.train.labels.tolist() == [2, 2, 0, 0, 1]

    def test_a_single_labelled_image_is_enough(self):
        assert labelled(make([0, 1, 1])) in ([1], [2])

    def test_unlabelled_part(self):
        split = in_memory(10)
        rest = split.where(~split.labelled)
        assert len(rest) == 7 and rest.images[0, 0, 0, 0] == 3 and not rest.labelled.any()

    @pytest.mark.parametrize(
        ("numbers", "options", "message"),
        [
            ([0, 1, 1], {"labelled_fraction": 0.0}, "labelled_fraction=0.0"),
            ([0, 1, 1], {"labelled_fraction": 1.0}, "labelled_fraction=1.0"),
            ([0, 1, 1], {"split_seed": -1}, "split_seed=-1"),
            ([0, 1, 1, 6], {}, "label 6 of an image is out of range"),
            ([0, 1, 1, -1], {}, "label -1 of an image is out of range"),
            ([0, 3, 5], {}, "no training image is of one of the old classes"),
            ([1, 1, 2], {}, "no training image is of one of the new classes"),
            ([0, 1, 1], {"old": (1, 8)}, "names class 8"),
            ([0, 1, 1], {"old": (1, 0)}, "class a is in the list of old classes and in that of new ones"),
            ([0, 1, 1, 3], {"new": (5, 0)}, "class d is neither"),
            ([0, 1], {}, "no image would be labelled"),
        ],
    )
    def test_what_users_get_wrong(self, numbers, options, message):
        with pytest.raises(UserError, match=message) as error:
            make(numbers, **options)
        assert "\n" not in str(error.value)

    def test_data_made_by_hand_are_checked(self):
        none = in_memory(0)
        with pytest.raises(UserError, match="label 2 of a training image is out of range"):
            DiscoveryData(("a", "b"), 1, in_memory(6), none)
        with pytest.raises(UserError, match="a labelled training image is of a new class"):
            DiscoveryData(tuple("abcdef"), 1, in_memory(6, share=1), none)
        with pytest.raises(ValueError, match="1 families of 6 classes"):
            DiscoveryData(tuple("abcdef"), 3, in_memory(6), none, families=("one",))
        with pytest.raises(ValueError, match="2 images, 1 labels"):
            DiscoverySplit(none.images.new_zeros(2, 3, 1, 1), torch.zeros(1), torch.zeros(2))


class TestClassLists:
    @pytest.mark.parametrize(
        ("name", "old", "new", "first"),
        [
            ("cub", 100, 100, "151.Black_capped_Vireo"),
            ("cars", 98, 98, 1),
            ("aircraft", 50, 50, 0),
            ("herbarium", 341, 342, 113),
        ],
    )
    def test_shipped(self, name, old, new, first):
        classes = ClassList.read(name)
        assert (len(classes.old), len(classes.new), classes.old[0]) == (old, new, first)
        assert len({*classes.old, *classes.new}) == old + new
        if name != "cub":
            assert {*classes.old, *classes.new} == set(range(old + new))
        assert "source" in json.loads((SPLITS_FOLDER / f"{name}.json").read_text())


class TestCub:
    def test_subset_of_the_official_folders(self, make_cub_folder):
        root = make_cub_folder(classes=4)
        official = ["151.Black_capped_Vireo", "001.Black_footed_Albatross", "035.Purple_Finch", "021.Eastern_Towhee"]
        for own, name in zip(sorted(path.name for path in (root / "images").iterdir()), official, strict=True):
            for folder in ("images", "text_c10"):
                (root / folder / own).rename(root / folder / name)
            for file in ("images.txt", "classes.txt"):
                (root / file).write_text((root / file).read_text().replace(own, name))
        data = load_cub_discovery(root=root)
        assert data.class_names == ("Black capped Vireo", "Purple Finch", "Black footed Albatross", "Eastern Towhee")
        assert data.num_old == 3 and data.train.labels.tolist() == [0] * 4 + [2] * 4 + [1] * 4 + [3] * 4
        assert labelled(data) == spelled_out([number for number in range(4) for _ in range(4)], range(3))
        assert len(data.test) == 8 and not data.test.labelled.any()
        assert data.families == ("Vireo", "Finch", "Albatross", "Towhee")
        assert [path.parent.name for path in data.train.images[:4]] == [official[0]] * 4

    def test_own_pictures_need_a_list(self, cub_folder):
        with pytest.raises(UserError, match="class folder 002.Red_bird_0 is none of CUB-200-2011's"):
            load_cub_discovery(root=cub_folder)
        data = load_cub_discovery(root=cub_folder, old_classes=["008.Blue_bird_2"])
        assert data.class_names == ("Blue bird 2", "Red bird 0", "Green bird 1") and data.num_old == 1
        assert data.train.labelled.sum() == 2

    def test_list_with_an_unknown_class(self, cub_folder):
        with pytest.raises(UserError, match="has no class folder 9.None"):
            load_cub_discovery(root=cub_folder, old_classes=["008.Blue_bird_2", "9.None"])

    def test_without_data(self, tmp_path):
        with pytest.raises(UserError, match="no CUB data"):
            load_cub_discovery(root=tmp_path)


def test_birds_have_old_and_new_species_of_every_family(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "meru.data.datasets.fine_grained.load_birds",
        lambda **options: load_birds(images_per_species=2, image_size=32, **options),
    )
    data = load_birds_discovery(root=tmp_path / "birds")
    families = [name.split()[-1] for name in data.class_names]
    assert data.num_old == 24 and len(families) == 48
    assert all(families[:24].count(family) == families[24:].count(family) == 3 for family in families)
    plain = [species.name.replace("-", " ") for species in SPECIES]
    assert data.class_names[0] == plain[0] and data.class_names[24] == plain[1]
    assert len(data.train) == 48 and data.train.labelled.sum() == 12
    assert data.families == tuple(families)


class TestCars:
    def write(self, root, *, train=(3, 2, 2, 1, 196, 4), test=(1, 196), bad=()):
        kind = [("bbox_x1", "O"), ("class", "O"), ("fname", "O")]
        (root / "devkit").mkdir(parents=True)
        for part, numbers in (("train", train), ("test", test)):
            files = [f"{position:05d}.jpg" for position in range(1, len(numbers) + 1)]
            touch(root / f"cars_{part}", *(file for file in files if file not in bad))
            rows = np.array([[(1, number, file) for number, file in zip(numbers, files, strict=True)]], dtype=kind)
            name = "cars_train_annos.mat" if part == "train" else "cars_test_annos_withlabels.mat"
            savemat(root / "devkit" / name, {"annotations": rows})
        names = np.array([[f"Car {number}" for number in range(1, 197)]], dtype=object)
        savemat(root / "devkit" / "cars_meta.mat", {"class_names": names})

    def test_layout(self, tmp_path):
        self.write(tmp_path / "cars")
        for root in (tmp_path, tmp_path / "cars"):
            data = load_cars_discovery(root=root)
            # The devkit counts from 1, the benchmark, which lists 1, 0, 195 and 2 in this order as known, from 0.
            assert data.class_names == ("Car 2", "Car 1", "Car 196", "Car 3", "Car 4") and data.num_old == 4
            assert data.families is None  # the last word of a car's name is its year
            assert labelled(data) == spelled_out((2, 1, 1, 0, 195, 3), (1, 0, 195, 2))
            assert data.train.images[3] == tmp_path / "cars" / "cars_train" / "00004.jpg"
            assert [data.class_names[label] for label in data.test.labels] == ["Car 1", "Car 196"]

    @pytest.mark.parametrize("copy", ["kaggle", "flat", "browser", "torchvision", "archive"])
    def test_copies_as_they_circulate(self, tmp_path, copy):
        root = tmp_path / "data"
        self.write(root)
        expected = load_cars_discovery(root=root)
        labels = "cars_test_annos_withlabels.mat"
        if copy == "kaggle":
            (root / "car_devkit").mkdir()
            (root / "devkit").rename(root / "car_devkit" / "devkit")
            (root / "car_devkit" / "devkit" / labels).rename(root / labels)
            for part in ("cars_train", "cars_test"):
                (root / part).rename(root / "moved")
                (root / part).mkdir()
                (root / "moved").rename(root / part / part)
        elif copy == "flat":
            for path in (root / "devkit").iterdir():
                path.rename(root / path.name)
            (root / "devkit").rmdir()
        elif copy == "browser":
            (root / "devkit" / labels).rename(root / "cars_test_annos_withlabels (1).mat")
        else:
            inner = root / ("stanford_cars" if copy == "torchvision" else "archive/input")
            inner.mkdir(parents=True)
            for name in ("devkit", "cars_train", "cars_test"):
                (root / name).rename(inner / name)
        data = load_cars_discovery(root=root)
        assert data.class_names == expected.class_names and labelled(data) == labelled(expected)
        for split in ("train", "test"):
            found, before = getattr(data, split), getattr(expected, split)
            assert found.labels.tolist() == before.labels.tolist() and all(path.is_file() for path in found.images)
            assert [path.name for path in found.images] == [path.name for path in before.images]

    def test_an_image_twice_or_outside(self, tmp_path):
        self.write(tmp_path)
        kind = [("class", "O"), ("fname", "O")]
        for names, message in (
            (("00001.jpg", "00001.JPG"), "00001.jpg is listed twice, entries 1 and 2"),
            (("00001.jpg", "../a.jpg"), r"'../a.jpg' is listed, which leaves the folder"),
        ):
            rows = np.array([[(1, name) for name in names]], dtype=kind)
            savemat(tmp_path / "devkit" / "cars_train_annos.mat", {"annotations": rows})
            with pytest.raises(UserError, match=message):
                load_cars_discovery(root=tmp_path)

    def test_without_labels_of_the_test(self, tmp_path):
        self.write(tmp_path)
        (tmp_path / "devkit" / "cars_test_annos_withlabels.mat").unlink()
        (tmp_path / "devkit" / "cars_meta.mat").unlink()
        data = load_cars_discovery(root=tmp_path)
        assert len(data.test) == 0 and data.class_names[0] == "1"

    def test_errors(self, tmp_path):
        with pytest.raises(UserError, match="no Stanford Cars: .* holds no devkit/cars_train_annos.mat"):
            load_cars_discovery(root=tmp_path)
        self.write(tmp_path / "a", bad=["00002.jpg"])
        with pytest.raises(UserError, match=r"00002.jpg is listed but absent \(1 of 6"):
            load_cars_discovery(root=tmp_path / "a")
        self.write(tmp_path / "b", train=(3, 2, 197))
        with pytest.raises(UserError, match="label 196 of an image is out of range"):
            load_cars_discovery(root=tmp_path / "b")
        (tmp_path / "b" / "devkit" / "cars_train_annos.mat").write_bytes(b"no matrix")
        with pytest.raises(UserError, match="does not read as a MATLAB file"):
            load_cars_discovery(root=tmp_path / "b")


class TestAircraft:
    def write(self, root, *, variants=100):
        names = [f"Jet {number:03d}" for number in range(variants)]
        order = [name for _ in range(2) for name in reversed(names)]
        images = [f"{1000 + position}" for position in range(len(order))]
        touch(root / "data" / "images", *(f"{image}.jpg" for image in [*images, "500", "501", "502"]))
        lines = [f"{image} {name}\n" for image, name in zip(images, order, strict=True)]
        (root / "data" / "images_variant_trainval.txt").write_text("".join(lines))
        (root / "data" / "images_variant_test.txt").write_text(
            "".join(f"{500 + number} {names[number]}\n" for number in range(3))
        )

    def test_layout(self, tmp_path):
        self.write(tmp_path / "fgvc-aircraft-2013b")
        data = load_aircraft_discovery(root=tmp_path)
        old = ClassList.read("aircraft").old
        assert data.class_names[:3] == tuple(f"Jet {number:03d}" for number in old[:3])
        assert labelled(data) == spelled_out([99 - position % 100 for position in range(200)], old)
        assert data.train.labelled.sum() == 50 and len(data.test) == 3
        assert data.families is None

    def test_families_of_variants_are_those_of_their_images(self, tmp_path):
        self.write(tmp_path)
        path = tmp_path / "data" / "images_family_trainval.txt"
        lines = [f"{1000 + position} Boeing {(99 - position % 100) // 10}\n" for position in range(200)]
        path.write_text("".join(lines))
        data = load_aircraft_discovery(root=tmp_path)
        assert data.families == tuple(f"Boeing {int(name.split()[1]) // 10}" for name in data.class_names)
        path.write_text("".join(["1000 Airbus\n", *lines[1:]]))  # one variant in two families
        assert load_aircraft_discovery(root=tmp_path).families is None

    def test_errors(self, tmp_path):
        with pytest.raises(UserError, match="no FGVC-Aircraft"):
            load_aircraft_discovery(root=tmp_path)
        self.write(tmp_path, variants=7)
        with pytest.raises(UserError, match="has 7 variants .* should have 100"):
            load_aircraft_discovery(root=tmp_path)
        (tmp_path / "data" / "images_variant_test.txt").write_text("1000\n")
        with pytest.raises(UserError, match="entry 1: expected '<image> <variant>'"):
            load_aircraft_discovery(root=tmp_path)


    def test_a_leak_is_named(self, tmp_path):
        self.write(tmp_path)
        path = tmp_path / "data" / "images_variant_test.txt"
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
        assert len(load_aircraft_discovery(root=tmp_path).test) == 3
        path.write_text(path.read_text(encoding="utf-8-sig") + "1004 Jet 003\n")
        with pytest.raises(UserError, match=r"1004.jpg is listed for training and for the test"):
            load_aircraft_discovery(root=tmp_path)


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
        with pytest.raises(UserError, match=r"small-train: no picture in 1 of the class folders, 5 alone"):
            load_herbarium_discovery(root=tmp_path)

    def test_pictures_without_class_folders(self, tmp_path):
        touch(tmp_path / "ILSVRC" / "Data" / "CLS-LOC" / "train", "ILSVRC2012_val_00000001.JPEG")
        with pytest.raises(UserError, match="CLS-LOC/train holds pictures but no class folders"):
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
        instantiate(data.discovery)
    assert isinstance(error.value.__cause__, UserError)
    assert str(tmp_path) in str(error.value.__cause__) and "data.root=" in str(error.value.__cause__)


def test_configurations_of_cub_and_birds(compose, cub_folder):
    section = compose("data=cub", f"data.root={cub_folder}", "data.old_classes=[002.Red_bird_0]").data.discovery
    assert instantiate(section).num_old == 1
    assert compose("data=birds").data.discovery._target_.endswith("load_birds_discovery")
