"""Fine-grained category discovery: CUB-200-2011, the synthetic birds, Stanford Cars, FGVC-Aircraft.

Layouts and image order are those of the SimGCD release (Wen et al., "Parametric Classification for
Generalized Category Discovery: A Baseline Study", ICCV 2023); old and new classes are those of the Semantic Shift
Benchmark (Vaze et al., "Open-Set Recognition: a Good Closed-Set Classifier is All You Need?", ICLR 2022). No image is
decoded.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.io import loadmat
from scipy.io.matlab import MatReadError
from torchvision.datasets import FGVCAircraft

from meru.data.datasets.cub import load_cub
from meru.data.discovery.splits import (
    ClassList,
    DiscoveryData,
    check_class_count,
    check_no_leak,
    class_list,
    discovery_data,
    existing_images,
    from_torchvision,
)
from meru.data.folders import find_folder
from meru.data.records import ImageTextData
from meru.data.synthetic.birds.load import load_birds
from meru.data.synthetic.birds.species import SPECIES
from meru.data.texts import read_text
from meru.errors import UserError

AIRCRAFT_PAGE = "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/"

CARS_TRAIN = "cars_train_annos.mat"
CARS_DEVKIT = (Path("devkit"), Path("car_devkit/devkit"), Path("car_devkit"), Path("."))

log = logging.getLogger("meru")

Listing = tuple[tuple[Path, ...], list[int]]  # files, and the class number of each


def load_cub_discovery(
    *,
    root: str | Path,
    old_classes: Sequence[str] | str | None = None,
    labelled_fraction: float = 0.5,
    split_seed: int = 0,
) -> DiscoveryData:
    """CUB-200-2011, or any folder in its layout, with some or all of its classes.

    Args:
        root: As for `meru.data.datasets.cub.load_cub`.
        old_classes: Class folders of the old classes, or a text file with one a line, all others being new; None: the
            benchmark's list, by folder name.
        labelled_fraction, split_seed: As for `meru.data.discovery.splits.discovery_data`, also in the functions below.

    Raises:
        UserError: as `load_cub` and `discovery_data`; for a class that is not in the list, or a listed class that is
            missing.
    """
    data = load_cub(root=root, validation_fraction=0)
    # Class folders, because names in plain words lack the class number and two folders might share one.
    folders = {record.class_index: record.path.parent.name for record in (*data.train, *data.test)}
    number = {folder: index for index, folder in folders.items()}
    if old_classes is None:
        classes = ClassList.read("cub").keep(number)
        if strange := number.keys() - {*classes.old, *classes.new}:
            raise UserError(
                f"{root}: class folder {min(strange)} is not one of CUB-200-2011's, for which old and new classes are "
                "defined; set data.old_classes=[<class folder>,…], or restore the name"
            )
    else:
        old = tuple(class_list(old_classes))
        if absent := set(old) - number.keys():
            raise UserError(f"data.old_classes: {root} has no class folder {min(absent)}; it has {', '.join(number)}")
        classes = ClassList(old, tuple(folder for folder in sorted(number) if folder not in old))
    return _from_records(
        data,
        source=root,
        classes=ClassList(*(tuple(number[folder] for folder in part) for part in (classes.old, classes.new))),
        labelled_fraction=labelled_fraction,
        split_seed=split_seed,
    )


def load_birds_discovery(
    *, root: str | Path, labelled_fraction: float = 0.5, split_seed: int = 0, **drawing
) -> DiscoveryData:
    """The synthetic birds: the first, third and fifth species of every family are old, the others new.

    Every silhouette therefore has old and new species, and of two species that differ in one detail, one is old and the
    other new. `drawing` is passed to `draw_birds`.
    """
    data = load_birds(root=root, validation_fraction=0, section="data.load_discovery", **drawing)
    parts: tuple[list[int], list[int]] = ([], [])
    for number, species in enumerate(SPECIES):
        earlier = sum(other.family == species.family for other in SPECIES[:number])
        parts[earlier % 2].append(number)
    return _from_records(
        data,
        source=root,
        classes=ClassList(*map(tuple, parts)),
        labelled_fraction=labelled_fraction,
        split_seed=split_seed,
    )


def load_cars_discovery(*, root: str | Path, labelled_fraction: float = 0.5, split_seed: int = 0) -> DiscoveryData:
    """Stanford Cars: `cars_train/`, `cars_test/`, and `devkit/` with the annotations.

    Copies from Kaggle can be read unchanged: `car_devkit/devkit/`, or annotations beside the images, and
    `cars_train/cars_train/`. Without `cars_test_annos_withlabels.mat`, in `devkit` or beside it, there are no test
    images.

    Raises:
        UserError: for a missing folder, file or image, or an annotation that cannot be read; and as `discovery_data`.
    """
    folder = find_folder(
        root,
        marker=[str(place / CARS_TRAIN) for place in CARS_DEVKIT],
        inside=("cars", "stanford_cars"),
        what="Stanford Cars",
        advice="put cars_train/, cars_test/ and devkit/ there (see data/README.md)",
    )
    devkit = next(folder / place for place in CARS_DEVKIT if (folder / place / CARS_TRAIN).is_file())
    train = _cars(devkit / CARS_TRAIN, folder / "cars_train")
    test: Listing = ((), [])
    # Browsers save a second download as "cars_test_annos_withlabels (1).mat".
    if labelled_test := sorted(
        path for place in (devkit, folder, folder / "devkit") for path in place.glob("cars_test_annos_withlabels*.mat")
    ):
        test = _cars(labelled_test[0], folder / "cars_test")
    else:
        log.warning("%s has no devkit/cars_test_annos_withlabels.mat: no metrics on the test images", folder)
    classes = ClassList.read("cars")
    names = [str(number) for number in range(len(classes.old) + len(classes.new))]
    if (meta := devkit / "cars_meta.mat").is_file():
        names = [str(each) for each in np.atleast_1d(_matlab(meta, "class_names"))]
        classes = classes.keep(range(len(names)))
    check_no_leak(train[0], test[0])
    return discovery_data(
        source=folder,
        names=names,
        classes=classes,
        train=train,
        test=test,
        labelled_fraction=labelled_fraction,
        split_seed=split_seed,
    )


def load_aircraft_discovery(
    *, root: str | Path, download: bool = False, labelled_fraction: float = 0.5, split_seed: int = 0
) -> DiscoveryData:
    """FGVC-Aircraft by variant: `data/images/` and `data/images_variant_{trainval,test}.txt`.

    Args:
        root: The folder `fgvc-aircraft-2013b`, or the folder that contains it.
        download: Download and unpack it into `root` (2.8 GB) if it is missing.

    Raises:
        UserError: for a missing folder, file or image, or if the variants are not the release's hundred.
    """
    if download:
        from_torchvision(FGVCAircraft, root, what="FGVC-Aircraft", split="trainval", download=True)
    folder = find_folder(
        root,
        marker="data/images_variant_trainval.txt",
        inside=("fgvc-aircraft-2013b",),
        what="FGVC-Aircraft",
        advice=f"unpack the archive of {AIRCRAFT_PAGE} there, or set data.download=true",
    )
    lines = {part: _variants(folder / "data" / f"images_variant_{part}.txt") for part in ("trainval", "test")}
    names = sorted({variant for _, variant in lines["trainval"]})
    classes = ClassList.read("aircraft")
    wanted = len(classes.old) + len(classes.new)
    check_class_count(folder, len(names), wanted, "variants in data/images_variant_trainval.txt")
    number = {name: position for position, name in enumerate(names)}
    listings = {}
    for part, pairs in lines.items():
        if strange := {variant for _, variant in pairs} - number.keys():
            raise UserError(f"{folder}: variant {min(strange)} has test images only; restore images_variant_test.txt")
        files = [f"{image}.jpg" for image, _ in pairs]
        listings[part] = existing_images(folder / "data" / "images", files), [number[variant] for _, variant in pairs]
    check_no_leak(listings["trainval"][0], listings["test"][0])
    families = folder / "data" / "images_family_trainval.txt"
    return discovery_data(
        source=folder,
        names=names,
        classes=classes,
        train=listings["trainval"],
        test=listings["test"],
        families=_families(names, lines["trainval"], _variants(families)) if families.is_file() else None,
        labelled_fraction=labelled_fraction,
        split_seed=split_seed,
    )


def _from_records(
    data: ImageTextData, *, source: str | Path, classes: ClassList, labelled_fraction: float, split_seed: int
) -> DiscoveryData:
    train, test = (
        (tuple(record.path for record in records), [record.class_index for record in records])
        for records in (data.train, data.test)
    )
    return discovery_data(
        source=source,
        names=data.class_names,
        classes=classes,
        train=train,
        test=test,
        labelled_fraction=labelled_fraction,
        split_seed=split_seed,
    )


def _matlab(path: Path, field: str) -> np.ndarray:
    try:
        return loadmat(path, squeeze_me=True)[field]
    except KeyError:
        raise UserError(f"{path} has no {field}: restore the file") from None
    except (OSError, ValueError, TypeError, NotImplementedError, MatReadError) as error:
        raise UserError(f"{path} cannot be read as a MATLAB file ({error}): restore the file") from None


def _cars(annotations: Path, folder: Path) -> Listing:
    rows = np.atleast_1d(_matlab(annotations, "annotations"))
    if missing := {"fname", "class"} - set(rows.dtype.names or ()):
        raise UserError(f"{annotations}: the annotations have no {min(missing)}; restore the file")
    inner = folder / folder.name  # as Kaggle's archive unpacks
    files = existing_images(inner if inner.is_dir() else folder, [str(name) for name in rows["fname"]])
    try:
        return files, [int(number) - 1 for number in rows["class"]]
    except (TypeError, ValueError) as error:
        raise UserError(f"{annotations}: a class is not a number ({error}); restore the file") from None


def _families(
    names: Sequence[str], variants: Sequence[tuple[str, str]], families: Sequence[tuple[str, str]]
) -> list[str] | None:
    """The family of each variant, from that of its images; None if a variant has no family, or two."""
    of_image = dict(families)
    found: dict[str, set[str | None]] = {name: set() for name in names}
    for image, variant in variants:
        found[variant].add(of_image.get(image))
    if any(len(each) != 1 or None in each for each in found.values()):
        return None
    return [str(*found[name]) for name in names]


def _variants(path: Path) -> list[tuple[str, str]]:
    """Reads `<image> <variant>` lines; a variant may contain spaces."""
    pairs = [tuple(line.split(maxsplit=1)) for line in map(str.strip, read_text(path).split("\n")) if line]
    if bad := next((number for number, pair in enumerate(pairs, start=1) if len(pair) != 2), None):
        raise UserError(f"{path}, entry {bad}: expected '<image> <variant>'; restore the file")
    return pairs
