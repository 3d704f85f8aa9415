"""Labelled images of data sets that this project also reads for captions or for category discovery."""

from __future__ import annotations

from pathlib import Path

from meru.data.datasets.cub import load_cub
from meru.data.datasets.fine_grained import load_aircraft_discovery, load_cars_discovery
from meru.data.datasets.generic import load_cifar10_discovery, load_cifar100_discovery
from meru.data.discovery.splits import DiscoveryData
from meru.data.families import families_by_name
from meru.data.labelled import LabelledData, LabelledImages, labelled
from meru.data.records import ImageTextData
from meru.data.synthetic.birds.load import load_birds
from meru.errors import UserError


def of_pairs(data: ImageTextData, *, families: str | None = None) -> LabelledData:
    """The images and classes of data with captions; the validation images belong to the training images.

    Args:
        families: The rule of `data.families`.

    Raises:
        UserError: if there are no classes, or they are identities of persons, which have no names.
    """
    if data.class_kind == "identity":
        raise UserError("these data show persons, who have no class names: choose other data")
    if data.class_kind != "class":
        raise UserError(
            "these data have captions but no classes: choose data with classes (a table with a column class, or "
            "data=image_folder), or suite=retrieval"
        )
    train, test = (
        labelled([record.path for record in records], [record.class_index for record in records])
        for records in ((*data.train, *data.validation), data.test)
    )
    return LabelledData(data.class_names, train, test, families=families_by_name(data.class_names, families))


def of_discovery(data: DiscoveryData) -> LabelledData:
    """All images of data for category discovery, with all labels."""
    train, test = (LabelledImages(split.images, split.labels) for split in (data.train, data.test))
    names = tuple(name.replace("_", " ") for name in data.class_names)
    return LabelledData(names, train, test, class_keys=data.class_names, families=data.families)


def load_cub_labelled(*, root: str | Path, families: str | None = None) -> LabelledData:
    """CUB-200-2011, or any folder in its layout; captions are not read. For `families` see `of_pairs`."""
    return of_pairs(load_cub(root=root, validation_fraction=0), families=families)


def load_birds_labelled(*, root: str | Path, families: str | None = None, **drawing) -> LabelledData:
    """The synthetic birds; `drawing` is passed to `load_birds`."""
    data = load_birds(root=root, validation_fraction=0, section="data.load_labelled", **drawing)
    return of_pairs(data, families=families)


def load_cars_labelled(*, root: str | Path) -> LabelledData:
    """Stanford Cars, in the layouts of `load_cars_discovery`.

    Raises:
        UserError: as `load_cars_discovery`, and if the names of the classes are missing.
    """
    data = load_cars_discovery(root=root)
    if all(name.isdigit() for name in data.class_names):
        raise UserError(f"{root} lacks devkit/cars_meta.mat with the names of the classes: restore the file")
    return of_discovery(data)


def load_aircraft_labelled(*, root: str | Path, download: bool = False) -> LabelledData:
    """FGVC-Aircraft by variant, in the layout of `load_aircraft_discovery`, with its families."""
    return of_discovery(load_aircraft_discovery(root=root, download=download))


def load_cifar10_labelled(*, root: str | Path, download: bool = False) -> LabelledData:
    """CIFAR-10, in torchvision's layout."""
    return of_discovery(load_cifar10_discovery(root=root, download=download))


def load_cifar100_labelled(*, root: str | Path, download: bool = False) -> LabelledData:
    """CIFAR-100, in torchvision's layout."""
    return of_discovery(load_cifar100_discovery(root=root, download=download))
