"""Data for category discovery: images of old and new classes, some of the old ones labelled.

The splits are those of the public SimGCD release (Wen et al., ICCV 2023), index for index: the labelled
images are a share of the pooled images of all old classes, in the data set's own order, chosen by NumPy's legacy
generator.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from meru.data.families import families_by_name
from meru.data.folders import FileFinder, first_repeated, inner_path
from meru.data.records import Images
from meru.data.texts import read_text
from meru.errors import UserError
from meru.files import user_path

UNKNOWN = -1  # label of an image whose class is not known
SPLITS_FOLDER = Path(__file__).parent / "ssb_splits"

log = logging.getLogger("meru")


@dataclass(frozen=True)
class DiscoverySplit:
    """Images in the data set's own order.

    Attributes:
        images: Files, or the decoded images: uint8 `(n, 3, H, W)`.
        labels: Position of each image's class in `DiscoveryData.class_names`, old classes first, int64 `(n,)`;
            `UNKNOWN` for images that belong to no known class. Those of unlabelled images are for evaluation only.
        labelled: Images whose labels training may use, bool `(n,)`.
        given: The labels that training sees, some of them wrong, int64 `(n,)`; valid where `labelled`. None: `labels`.
    """

    images: Images
    labels: Tensor
    labelled: Tensor
    given: Tensor | None = None

    def __post_init__(self):
        if not len(self.images) == len(self.labels) == len(self.labelled):
            raise ValueError(
                f"{len(self.images)} images, {len(self.labels)} labels, but {len(self.labelled)} entries in labelled"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def where(self, chosen: Tensor) -> DiscoverySplit:
        """The images where `chosen`, bool `(n,)`, in order: `split.where(~split.labelled)` are the unlabelled ones."""
        if isinstance(self.images, Tensor):
            images = self.images[chosen]
        else:
            images = tuple(self.images[index] for index in chosen.nonzero().flatten().tolist())
        given = None if self.given is None else self.given[chosen]
        return DiscoverySplit(images, self.labels[chosen], self.labelled[chosen], given)

    @property
    def training_labels(self) -> Tensor:
        """The labels that training sees where `labelled`, int64 `(n,)`."""
        return self.labels if self.given is None else self.given


@dataclass(frozen=True)
class DiscoveryData:
    """The images of one discovery benchmark.

    Attributes:
        class_names: Old classes first, in the order of the class list.
        num_old: Number of old classes.
        train: Labelled and unlabelled training images; metrics are computed over the unlabelled ones.
        test: Images of all classes that training does not see, none of them labelled; may be empty.
        families: The group of each of `class_names`; None if classes are not grouped.
    """

    class_names: tuple[str, ...]
    num_old: int
    train: DiscoverySplit
    test: DiscoverySplit
    families: tuple[str, ...] | None = None

    def __post_init__(self):
        if self.families is not None and len(self.families) != len(self.class_names):
            raise ValueError(f"{len(self.families)} families of {len(self.class_names)} classes")
        for name, split in (("training", self.train), ("test", self.test)):
            known = split.labels[(split.labels != UNKNOWN) | split.labelled]
            outside = known[(known < 0) | (known >= len(self.class_names))]
            if len(outside):
                raise UserError(
                    f"label {int(outside[0])} of a {name} image is out of range: there are {len(self.class_names)} "
                    "classes, counted from 0"
                )
            if (split.labels[split.labelled] >= self.num_old).any():
                raise UserError(f"a labelled {name} image is of a new class: only images of old ones may be labelled")

    def grouped(self, rule: str | None) -> DiscoveryData:
        """The same data with families made by a rule, the configuration's `data.families`.

        Args:
            rule: `last_word` of a class's name, so that "Laysan Albatross" is an "Albatross"; a name without a word is
                a family of its own. `file`: as the loader read them. None: no families.

        Raises:
            UserError: for another rule.
        """
        families = families_by_name(self.class_names, rule)
        return self if rule == "file" else replace(self, families=families)

    @property
    def has_unknown(self) -> bool:
        """Whether the classes of some training images are not known, so that there may be more than `class_names`."""
        return bool((self.train.labels == UNKNOWN).any())

    def paths(self) -> dict[str, Sequence[Path]]:
        """The image files of each split; empty for images in memory."""
        splits = {"training": self.train.images, "test": self.test.images}
        return {name: () if isinstance(images, Tensor) else images for name, images in splits.items()}


@dataclass(frozen=True)
class ClassList:
    """Old and new classes, by number or by name, in the order of the labels."""

    old: tuple
    new: tuple

    @classmethod
    def read(cls, benchmark: str) -> ClassList:
        """The published list of `cub`, `cars`, `aircraft` or `herbarium`."""
        lists = json.loads((SPLITS_FOLDER / f"{benchmark}.json").read_text(encoding="utf-8"))
        return cls(tuple(lists["old"]), tuple(lists["new"]))

    def keep(self, present: Iterable) -> ClassList:
        """The list without classes that are not `present`."""
        present = set(present)
        return ClassList(*(tuple(each for each in part if each in present) for part in (self.old, self.new)))


def discovery_data(
    *,
    source: str | Path,
    names: Sequence[str],
    classes: ClassList,
    train: tuple[Images, Sequence[int]],
    test: tuple[Images, Sequence[int]] = ((), ()),
    families: Sequence[str] | None = None,
    labelled_fraction: float = 0.5,
    split_seed: int = 0,
) -> DiscoveryData:
    """Number the classes, old ones first, and choose the labelled images.

    Classes of the list without a single image are left out, so a copy with some of the classes can be used.

    Args:
        source: The data set's folder, for messages.
        names: Names of all classes, by their numbers in the data set.
        classes: Numbers of the old and the new classes.
        train, test: Images in the data set's own order, with the class number of each.
        families: The group of each class, by the same numbers as `names`; None if the data set's files give none.
        labelled_fraction: Share of the training images of old classes that are labelled, in (0, 1).
        split_seed: Seed of that choice; the release uses 0.

    Raises:
        UserError: for a fraction or seed out of range, a class list that contradicts itself or the data, or images
            that leave no old class, no new class or no labelled image.
    """
    if labelled_fraction is None or not 0 < labelled_fraction < 1:
        raise UserError(f"data.labelled_fraction={labelled_fraction}: it must be above 0 and below 1")
    if not 0 <= split_seed < 2**32:
        raise UserError(f"data.split_seed={split_seed}: it must be at least 0 and below 2**32")
    _check_classes(source, names, classes, [*train[1], *test[1]])
    classes = classes.keep([*train[1], *test[1]])
    label = {number: position for position, number in enumerate([*classes.old, *classes.new])}
    labels = [torch.tensor([label[number] for number in numbers], dtype=torch.int64) for numbers in (train[1], test[1])]
    num_old = len(classes.old)
    for kind, count in (("old", (labels[0] < num_old).sum()), ("new", (labels[0] >= num_old).sum())):
        if not count:
            raise UserError(
                f"{source}: no training image is of one of the {kind} classes, but discovery needs old and new ones; "
                "complete the folder, or choose another data set"
            )
    labelled = draw_labelled(labels[0] < num_old, fraction=labelled_fraction, seed=split_seed)
    if not labelled.any():
        raise UserError(
            f"data.labelled_fraction={labelled_fraction}: no image would be labelled, {source} has "
            f"{int((labels[0] < num_old).sum())} of old classes; raise the fraction"
        )
    if without := num_old - len(labels[0][labelled].unique()):
        log.warning("%s: %d of the %d old classes have no labelled image", source, without, num_old)
    return DiscoveryData(
        class_names=tuple(names[number] for number in label),
        num_old=num_old,
        train=DiscoverySplit(train[0], labels[0], labelled),
        test=DiscoverySplit(test[0], labels[1], torch.zeros(len(labels[1]), dtype=torch.bool)),
        families=None if families is None else tuple(families[number] for number in label),
    )


def validation_data(data: DiscoveryData) -> DiscoveryData:
    """Data to choose settings on: images of old classes only, of which every second plays a new one.

    Images of new classes and test images are left out. Classes that stay old keep their labelled images, and those
    that play new ones have none, so the share of labelled images is as in `data`.

    Args:
        data: With at least four old classes.

    Raises:
        UserError: for fewer, or if no image would be labelled.
    """
    if data.num_old < 4:
        raise UserError(
            f"discovery.validation=true: every second old class plays a new one, and there are {data.num_old} old "
            "classes; it needs at least 4, set it to false or choose another data set"
        )
    order = [*range(0, data.num_old, 2), *range(1, data.num_old, 2)]
    num_old = len(range(0, data.num_old, 2))
    position = torch.empty(data.num_old, dtype=torch.int64)
    position[order] = torch.arange(data.num_old)
    kept = data.train.where((data.train.labels != UNKNOWN) & (data.train.labels < data.num_old))
    labels = position[kept.labels]
    labelled = kept.labelled & (labels < num_old)
    if not labelled.any():
        raise UserError("discovery.validation=true: none of the classes that stay old has a labelled image; label more")
    return DiscoveryData(
        class_names=tuple(data.class_names[number] for number in order),
        num_old=num_old,
        train=DiscoverySplit(kept.images, labels, labelled),
        test=kept.where(torch.zeros(len(kept), dtype=torch.bool)),
        families=None if data.families is None else tuple(data.families[number] for number in order),
    )


def draw_labelled(of_old_class: Tensor, *, fraction: float, seed: int) -> Tensor:
    """Which images are labelled: a share of the images of all old classes together, not of each class.

    Args:
        of_old_class: bool `(n,)`, in the data set's own order.
        fraction: The share, rounded down to whole images.
        seed: As given to `np.random.seed`.

    Returns:
        bool `(n,)`.
    """
    pooled = of_old_class.nonzero().flatten()
    # RandomState gives the same numbers as np.random.seed with np.random.choice, without the global generator.
    drawn = np.random.RandomState(seed).choice(len(pooled), size=int(fraction * len(pooled)), replace=False)
    labelled = torch.zeros(len(of_old_class), dtype=torch.bool)
    labelled[pooled[torch.from_numpy(drawn)]] = True
    return labelled


def class_list(given: Sequence[str] | str) -> list[str]:
    """The names in `data.old_classes`, a list or a text file with one name a line, without repetitions.

    Raises:
        UserError: if there is no such file, or it has no name.
    """
    if isinstance(given, str):
        path = user_path(given)
        if not path.is_file():
            raise UserError(f"data.old_classes={given}: no such file; write class names in brackets, [{path.name},…]")
        given = [line.strip() for line in read_text(path).split("\n")]
    names = list(dict.fromkeys(str(name) for name in given if str(name)))
    if not names:
        raise UserError("data.old_classes is empty: name at least one class")
    return names


def existing_images(folder: Path, files: Sequence[str]) -> tuple[Path, ...]:
    """Paths of the files inside `folder`; all of them must exist, and none may be listed twice."""
    inner = [inner_path(file) for file in files]
    if None in inner:
        outside = files[inner.index(None)]
        raise UserError(f"{folder}: image {outside!r} is listed but outside the folder; restore the list")
    found, absent = FileFinder(folder).find_all(inner)
    if absent:
        raise UserError(
            f"{folder / absent[0]} is listed but absent ({len(absent)} of {len(files)} images are): unpack the data "
            "set's archive again"
        )
    if repeated := first_repeated(found):
        first, second = repeated
        raise UserError(f"{found[first]} is listed twice, entries {first + 1} and {second + 1}; keep one")
    return tuple(found)


def check_no_leak(train: Sequence[Path], test: Sequence[Path]) -> None:
    """Check that no training image is a test image."""
    if both := set(train) & set(test):
        raise UserError(f"{min(both)} is listed for training and for the test; keep one of the two")


def check_class_count(folder: Path, found: int, wanted: int, what: str) -> None:
    """Check the number of classes: with a different one, the numbers in a class list would mean other classes."""
    if found != wanted:
        raise UserError(
            f"{folder} has {found} {what} and should have {wanted}: old and new classes are given by number, "
            "complete the folder"
        )


def from_torchvision(data_set: type, root: str | Path, *, what: str, download: bool, **options):
    """One of torchvision's data sets, created with its own `options`; its errors become a `UserError`."""
    try:
        return data_set(str(user_path(root)), download=download, **options)
    except (RuntimeError, OSError) as error:
        if download:
            raise UserError(f"{what} could not be downloaded into {root} ({error}); try again", exit_code=1) from None
        raise UserError(
            f"no {what}: {root} does not hold a complete copy ({error}); set data.download=true to download it, or "
            "data.root=<folder> to a copy of it"
        ) from None


def _check_classes(source: str | Path, names: Sequence[str], classes: ClassList, numbers: Sequence[int]) -> None:
    """Check a class list against the data; `numbers` are the classes of all images."""
    listed, known, used = {*classes.old, *classes.new}, set(range(len(names))), set(numbers)
    if unknown := listed - known:
        raise UserError(
            f"{source}: the list of old and new classes names class {min(unknown)}, but there are {len(names)} "
            "classes, counted from 0; restore the files of the data set"
        )
    if twice := set(classes.old) & set(classes.new):
        raise UserError(f"class {names[min(twice)]} is in the list of old classes and in that of new ones")
    if outside := used - known:
        raise UserError(
            f"{source}: label {min(outside)} of an image is out of range, there are {len(names)} classes, counted "
            "from 0; restore the labels"
        )
    if unlisted := used - listed:
        raise UserError(
            f"{source}: class {names[min(unlisted)]} is neither in the list of old classes nor in that of new ones"
        )
