"""Discovery in CUB, synthetic birds, Stanford Cars and FGVC-Aircraft: layouts, order, and copies as they circulate."""


import numpy as np
import pytest
from discovery_reference import labelled, spelled_out, touch
from scipy.io import savemat

from meru.data.datasets.fine_grained import (
    load_aircraft_discovery,
    load_birds_discovery,
    load_cars_discovery,
    load_cub_discovery,
)
from meru.data.discovery.splits import ClassList
from meru.data.synthetic.birds.load import load_birds
from meru.data.synthetic.birds.species import SPECIES
from meru.errors import UserError


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
        assert data.grouped("last_word").families == ("Vireo", "Finch", "Albatross", "Towhee")
        assert [path.parent.name for path in data.train.images[:4]] == [official[0]] * 4

    def test_own_pictures_need_a_list(self, cub_folder):
        with pytest.raises(UserError, match="class folder 002.Red_bird_0 is not one of CUB-200-2011's"):
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
    assert data.grouped("last_word").families == tuple(families)


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
            assert data.families is None
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
            (("00001.jpg", "../a.jpg"), r"'../a.jpg' is listed but outside the folder"),
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
        with pytest.raises(UserError, match="cannot be read as a MATLAB file"):
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
