"""Category discovery in a folder of one's own: a folder for each class, and what says which images are labelled.

The setting is that of Vaze et al., "Generalized Category Discovery", CVPR 2022: labels for some images of old classes,
none for the others, which may be of old or of new classes.
"""

from __future__ import annotations

import csv
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from meru.data.datasets.own.class_folders import images_below, loose_images, split_folders
from meru.data.discovery.splits import UNKNOWN, DiscoveryData, DiscoverySplit, class_list
from meru.data.folders import FileFinder, inner_path, visible_folders
from meru.data.texts import read_text
from meru.errors import UserError
from meru.files import user_path

WAYS = (
    "data.old_classes=[<class>,…] or a text file with one a line, data.old_share=0.5, or "
    "data.labelled_files=<a list of files>"
)
COLUMNS = ("image", "file", "path", "filepath", "file_path", "filename", "image_path")  # of a list with a header
SHOWN = 12  # names in a message

log = logging.getLogger("meru")


def load_folder_discovery(
    *,
    root: str | Path,
    old_classes: Sequence[str] | str | None = None,
    old_share: float | None = None,
    labelled_files: str | Path | None = None,
    unlabelled: str | Path | None = None,
    labelled_fraction: float | None = None,
    split_seed: int = 0,
) -> DiscoveryData:
    """A folder with a folder of images for each class, or with `train/` and `test/` or `val/` that hold such folders.

    At most one of `old_classes`, `old_share` and `labelled_files` may be given; one of them must, unless `unlabelled`
    is. No image is decoded.

    Args:
        root: The folder. Images of a class may lie in folders inside its folder.
        old_classes: Names of the class folders that are old, or a text file with one name a line.
        old_share: Share of the classes that are old, in (0, 1), at least one; `split_seed` chooses them.
        labelled_files: A text file with the path of a labelled image a line, or a CSV with a column `image`; paths are
            relative to `root`. Classes with a labelled image are old.
        unlabelled: A folder of training images whose classes are not known. Without another choice, all classes of
            `root` are old.
        labelled_fraction: Share of the training images of every old class that are labelled, in (0, 1], at least one;
            `split_seed` chooses them. None: 0.5, or 1 with `unlabelled`.
        split_seed: Seed of both choices.

    Returns:
        Classes named as their folders, old ones first, both in alphabetical order. Images of unknown classes follow
        those of `root`.

    Raises:
        UserError: if there are no class folders or fewer than two, a class folder has no image, the old classes or
            labelled files are not those of the folder, or no image is left to discover classes in.
    """
    choices = {"old_classes": old_classes, "old_share": old_share, "labelled_files": labelled_files}
    _check_choice([name for name, value in choices.items() if value is not None], unlabelled, labelled_fraction)
    root = user_path(root)
    aside = _folder_of_unlabelled(root, unlabelled) if unlabelled is not None else None
    train, test = class_images(root, aside=aside)
    names = list(train)
    files = [path for paths in train.values() for path in paths]
    number = torch.tensor([index for index, paths in enumerate(train.values()) for _ in paths], dtype=torch.int64)
    if labelled_files is not None:
        labelled = _listed(root, user_path(labelled_files), files, test)
        old = sorted(number[labelled].unique().tolist())
    else:
        old = _old_classes(root, names, old_classes, old_share, split_seed)
        fraction = labelled_fraction if labelled_fraction is not None else 0.5 if aside is None else 1.0
        labelled = draw_of_every_class(number, old, fraction=fraction, seed=split_seed)
    if len(old) == len(names) and aside is None:
        raise UserError(
            f"{root}: all {len(names)} classes are old, so there is nothing to discover: choose fewer, or give images "
            "without a class by data.unlabelled=<folder>"
        )
    log.info("old classes: %s", shortened([names[index] for index in old]))
    unknown = images_below(aside) if aside is not None else []
    return _in_order(names, old, (files, number, labelled), unknown, test)


def _in_order(
    names: Sequence[str],
    old: Sequence[int],
    train: tuple[Sequence[Path], Tensor, Tensor],
    unknown: Sequence[Path],
    test: Mapping[str, Sequence[Path]],
) -> DiscoveryData:
    """The data with old classes first; `train` holds files, the number of each one's class, and which are labelled."""
    files, number, labelled = train
    order = [*old, *(index for index in range(len(names)) if index not in set(old))]
    position = torch.empty(len(names), dtype=torch.int64)
    position[order] = torch.arange(len(names))
    return DiscoveryData(
        class_names=tuple(names[index] for index in order),
        num_old=len(old),
        train=DiscoverySplit(
            (*files, *unknown),
            torch.cat([position[number], torch.full((len(unknown),), UNKNOWN)]),
            torch.cat([labelled, torch.zeros(len(unknown), dtype=torch.bool)]),
        ),
        test=_test_split(test, {names[index]: place for place, index in enumerate(order)}),
    )


def class_images(root: Path, *, aside: Path | None = None) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    """The training and the test images of each class, by the names of their folders, sorted.

    Args:
        root: As for `load_folder_discovery`.
        aside: A folder that is not a class's own, as `unlabelled`; None: there is none.

    Raises:
        UserError: as `load_folder_discovery`.
    """
    if not root.is_dir():
        raise UserError(f"data.root={root} is no folder: give the folder that holds the class folders")
    parts = split_folders(root)
    folders = [path for path in visible_folders(parts["train"]) if not _is_same(path, aside)]
    loose = loose_images(parts["train"])
    if not folders:
        lying = f", only {len(loose)} images without a class" if loose else ""
        raise UserError(f"{parts['train']} has no class folders{lying}: put the images of each class in a folder")
    if loose:
        log.warning("%s: %d images outside the class folders are left out", parts["train"], len(loose))
    train = {path.name: images_below(path, without=aside) for path in folders}
    if empty := [name for name, images in train.items() if not images]:
        raise UserError(
            f"class folder {parts['train'] / empty[0]} holds no image ({len(empty)} of {len(train)} class folders do "
            "not): add images (.jpg, .png, …), or delete the folder"
        )
    if len(train) == 1 and aside is None:
        deeper = [path.name for path in visible_folders(folders[0])]
        advice = f"; did you mean data.root={folders[0]}?" if len(deeper) > 1 else ": discovery needs several"
        raise UserError(f"{parts['train']} has one class folder only, {folders[0].name}{advice}")
    test = {path.name: images_below(path) for path in visible_folders(parts["test"])} if "test" in parts else {}
    if strange := test.keys() - train.keys():
        raise UserError(f"class folder {parts['test'] / min(strange)} has no training images: add some, or delete it")
    return train, {name: images for name, images in test.items() if images}


def draw_of_every_class(number: Tensor, old: Sequence[int], *, fraction: float, seed: int) -> Tensor:
    """Which images are labelled: the share of each old class, rounded, and at least one image.

    Args:
        number: Class of each image, int64 `(n,)`.
        old: The old classes.
        fraction: In (0, 1].
        seed: Of the choice.

    Returns:
        bool `(n,)`.
    """
    generator = torch.Generator().manual_seed(seed)
    labelled = torch.zeros(len(number), dtype=torch.bool)
    for each in old:
        own = (number == each).nonzero().flatten()
        count = max(1, math.floor(fraction * len(own) + 0.5))
        labelled[own[torch.randperm(len(own), generator=generator)[:count]]] = True
    return labelled


def shortened(names: Sequence[str]) -> str:
    """Names with commas between them; of many, the first."""
    more = f", … ({len(names)} in all)" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _check_choice(given: Sequence[str], unlabelled: str | Path | None, fraction: float | None) -> None:
    if len(given) > 1:
        raise UserError(f"data.{given[0]} and data.{given[1]} both say which images are labelled: give one of them")
    if not given and unlabelled is None:
        raise UserError(
            f"data.old_classes is missing: which images are labelled? Give {WAYS}; or, if all images in class folders "
            "are, data.unlabelled=<the folder of the others>"
        )
    if "labelled_files" in given and fraction is not None:
        raise UserError("data.labelled_fraction goes with old classes, data.labelled_files lists the images: give one")
    if fraction is not None and not 0 < fraction <= 1:
        raise UserError(f"data.labelled_fraction={fraction}: it must be above 0 and at most 1")


def _folder_of_unlabelled(root: Path, unlabelled: str | Path) -> Path:
    folder = user_path(unlabelled)
    if not folder.is_dir():
        raise UserError(f"data.unlabelled={folder} is no folder: give the folder of images without a class")
    if _is_same(folder, root) or folder.resolve() in root.resolve().parents:
        raise UserError(f"data.unlabelled={folder} holds the class folders of data.root={root}: give another folder")
    if not images_below(folder):
        raise UserError(f"data.unlabelled={folder} holds no image (.jpg, .png, …): give another folder")
    return folder


def _is_same(path: Path, other: Path | None) -> bool:
    return other is not None and path.resolve() == other.resolve()


def _old_classes(
    root: Path, names: Sequence[str], old_classes: Sequence[str] | str | None, share: float | None, seed: int
) -> list[int]:
    """The numbers of the old classes, in order."""
    if old_classes is not None:
        listed = class_list(old_classes)
        if absent := [name for name in listed if name not in names]:
            more = f" ({len(absent)} of {len(listed)} names are unknown)" if len(absent) > 1 else ""
            raise UserError(
                f"data.old_classes: {root} has no class folder {absent[0]!r}{more}; it has {shortened(names)}"
            )
        return sorted(map(names.index, set(listed)))
    if share is None:
        return list(range(len(names)))
    if not 0 < share < 1:
        raise UserError(f"data.old_share={share}: it must be above 0 and below 1")
    count = min(max(1, math.floor(share * len(names) + 0.5)), len(names) - 1) if len(names) > 1 else 1
    return sorted(torch.randperm(len(names), generator=torch.Generator().manual_seed(seed))[:count].tolist())


def _listed(root: Path, path: Path, files: Sequence[Path], test: Mapping[str, Sequence[Path]]) -> Tensor:
    """Which of the training images a list names, bool `(n,)`."""
    place = {file: index for index, file in enumerate(files)}
    of_test = {file for images in test.values() for file in images}
    finder = FileFinder(root)
    labelled = torch.zeros(len(files), dtype=torch.bool)
    unknown = []
    for name in _names_in(path):
        inner = _inside(root, name)
        if inner is None:
            raise UserError(f"{path}: {name!r} is outside data.root={root}: give paths inside it")
        found = finder.find(inner) or next((file for file in (root / "train" / inner,) if file in place), None)
        if found in of_test:
            raise UserError(f"{path}: {name} is a test image, which is never labelled: take it out of the list")
        if found in place:
            labelled[place[found]] = True
        else:
            unknown.append(name)
    if unknown:
        raise UserError(
            f"{path}: {unknown[0]} is not an image in a class folder of {root} ({len(unknown)} listed files are not): "
            f"give paths like {files[0].relative_to(root).as_posix()}"
        )
    return labelled


def _inside(root: Path, name: str) -> str | None:
    """A listed path, absolute or not, as one inside the root; None if it leads out of it."""
    if name.startswith("/") and Path(name).is_relative_to(root):
        name = Path(name).relative_to(root).as_posix()
    return inner_path(name)


def _names_in(path: Path) -> list[str]:
    """The files that a list names: one a line, or the column of a CSV or TSV file."""
    lines = [line.strip() for line in read_text(path).split("\n") if line.strip()]
    if not lines:
        raise UserError(f"data.labelled_files={path} lists no file: write the path of a labelled image on each line")
    if path.suffix.lower() not in (".csv", ".tsv"):
        return lines
    rows = list(csv.reader(lines, delimiter="\t" if path.suffix.lower() == ".tsv" else ","))
    header = [name.strip().lower() for name in rows[0]]
    column = next((header.index(name) for name in COLUMNS if name in header), None)
    if column is None and len(header) > 1:
        raise UserError(f"{path} has no column {COLUMNS[0]}, only {shortened(header)}: name the column of paths so")
    column, rows = (column, rows[1:]) if column is not None else (0, rows)
    return [row[column].strip() for row in rows if len(row) > column and row[column].strip()]


def _test_split(test: Mapping[str, Sequence[Path]], position: Mapping[str, int]) -> DiscoverySplit:
    images = tuple(path for paths in test.values() for path in paths)
    labels = [position[name] for name, paths in test.items() for _ in paths]
    return DiscoverySplit(
        images, torch.tensor(labels, dtype=torch.int64), torch.zeros(len(images), dtype=torch.bool)
    )
