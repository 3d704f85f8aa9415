"""Downloads, generates and checks data sets before training and prints a summary, for `scripts/prepare_data.py`."""

from __future__ import annotations

import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from meru.configuration.overrides import pasteable
from meru.data.datasets.cub import DOWNLOAD_PAGE, class_attributes, find_captions, find_cub, load_cub
from meru.data.datasets.person_search import LAYOUTS, Entry, find_annotations, find_images, read_splits
from meru.data.downloading import download
from meru.data.inspection import decode_all
from meru.data.records import ImageRecord
from meru.data.synthetic.birds.load import draw_birds
from meru.data.synthetic.folder import scratch_folder
from meru.data.synthetic.pedestrians.load import draw_pedestrians
from meru.errors import UserError
from meru.files import PROJECT

ARCHIVE = "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz?download=1"
ARCHIVE_MD5 = "97eceeb196236b17998738112f37df78"
# Early releases of Python 3.10 and 3.11 have no filter; the archive is known by its checksum.
SAFELY = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
CAPTIONS_PAGE = "https://github.com/reedscot/cvpr2016"
FULL_CUB = {"classes": 200, "training": 5994, "test": 5794}
# Identities, images and captions of each split, as published.
PUBLISHED = {
    "cuhk_pedes": {"train": (11003, 34054, 68126), "val": (1000, 3078, 6158), "test": (1000, 3074, 6156)},
    "icfg_pedes": {"train": (3102, 34674, 34674), "val": (0, 0, 0), "test": (1000, 19848, 19848)},
    "rstpreid": {"train": (3701, 18505, 37010), "val": (200, 1000, 2000), "test": (200, 1000, 2000)},
}
UNREADABLE_SHOWN = 20


def prepare_birds(root: Path, *, seed: int) -> None:
    """Draw the synthetic birds into `root`, if they are not there yet."""
    root = draw_birds(root, seed=seed)
    print(f"birds in {root}, ready; train with: bash train_cub.sh meru data=birds{_override(root, 'birds')}")


def prepare_pedestrians(root: Path, *, seed: int) -> None:
    """Draw the synthetic persons into `root`, if they are not there yet."""
    root = draw_pedestrians(root, seed=seed)
    command = f"python scripts/train.py experiment=pedestrians_gahr{_override(root, 'pedestrians')}"
    print(f"persons in {root}, ready; train with: {command}")


def prepare_persons(root: Path, *, layout: str, maximum_pixels: int | None) -> None:
    """Check a person search data set, and explain how to obtain it if it is missing.

    Args:
        root: Its folder, or the folder that contains it.
        layout: One of `LAYOUTS`.
        maximum_pixels: As `data.maximum_pixels`; None: its default.

    Raises:
        UserError: if a file is missing or malformed, or an image cannot be decoded.
    """
    name = LAYOUTS[layout].folder
    folder, annotations = find_annotations(root, layout)
    print(f"{name} in {folder}")
    _line("annotation", ", ".join(path.name for path in annotations))
    splits = read_splits(annotations)
    # Printed before the images are checked, which may not have arrived yet.
    for what, text in report_annotation(layout, splits):
        _line(what, text)
    check_images(list(find_images(folder, splits, layout=layout).values()), maximum_pixels)
    print(f"ready; train with: python scripts/train.py experiment={layout}_gahr{_override(folder, name)}")


def report_annotation(layout: str, splits: Mapping[str, Sequence[Entry]]) -> Iterator[tuple[str, str]]:
    """Lines of a report that compares an annotation with the published numbers, as (label, text); needs no images."""
    for split, entries in splits.items():
        found, published = _counts(entries), PUBLISHED[layout][split]
        extent = "complete" if found == published else "published: {:,} / {:,} / {:,}".format(*published)
        yield split, "{:,} identities, {:,} images, {:,} captions ({})".format(*found, extent)
    every = [entry for entries in splits.values() for entry in entries]
    if alone := sum(count == 1 for count in Counter(entry.identity for entry in every).values()):
        yield "", f"{alone:,} identities with a single image"
    translated = sum(len(entry.back_translations) for entry in every)
    yield "back-trans.", f"of {translated:,} captions" if translated else "none (one augmentation fewer)"


def _counts(entries: Sequence[Entry]) -> tuple[int, int, int]:
    """The numbers of identities, images and captions."""
    identities = {entry.identity for entry in entries}
    return len(identities), len(entries), sum(len(entry.captions) for entry in entries)


def prepare_cub(root: Path, *, download: bool, maximum_pixels: int | None) -> None:
    """Check a copy of CUB-200-2011, and download it first if requested.

    Args:
        root: Its folder, or the folder that contains it.
        download: Whether to download the images if `root` has none.
        maximum_pixels: As `data.maximum_pixels`; None: its default.

    Raises:
        UserError: if a file is missing or malformed, an image cannot be decoded, or the download failed.
    """
    if download:
        download_cub(root)
    folder = find_cub(root)
    print(f"CUB-200-2011 in {folder}")
    data = load_cub(root=folder, validation_fraction=0)
    records = data.train + data.test
    found = {"classes": len(data.class_names), "training": len(data.train), "test": len(data.test)}
    extent = "complete" if found == FULL_CUB else "a subset: the full copy has 200 classes, 5994 and 5794 images"
    _line("classes", f"{found['classes']}")
    _line("images", f"{found['training']} for training, {found['test']} for the test ({extent})")
    if not data.test:
        _line("", "without test images, a run ends without test metrics")
    _report_captions(folder, records)
    _line("boxes", f"of {sum(record.box is not None for record in records)} images")
    _line("parts", f"of {sum(bool(record.parts) for record in records)} images")
    described = sum(bool(attributes) for attributes in class_attributes(folder).values())
    without = "none (used for prompts where captions are missing)"
    _line("attributes", f"of {described} classes" if described else without)
    check_images([record.path for record in records], maximum_pixels)
    print(f"ready; train with: bash train_cub.sh meru{_override(folder, 'CUB_200_2011')}")


def _report_captions(folder: Path, records: Sequence[ImageRecord]) -> None:
    if find_captions(folder):
        counts = Counter(len(record.captions) for record in records)
        _line("captions", ", ".join(f"{each} for {images} images" for each, images in sorted(counts.items())))
        if set(counts) != {10}:
            _line("", "the full set has 10 for every image")
        return
    _line("captions", "none")
    _line("", f"{CAPTIONS_PAGE} links to those of Reed et al. (2016), an archive on the authors' Google Drive:")
    _line("", f"unpack it and move its folder text_c10 to {folder / 'text_c10'}")
    _line("", "so that text_c10/<class folder>/<image>.txt has the ten captions of an image, one a line")


def download_cub(root: Path) -> None:
    """Download the official archive, compare its checksum and unpack it to `root`, which appears only when complete.

    An interrupted download leaves `<root>.tgz.part`, from which the next call goes on.

    Raises:
        UserError: if `root` holds something else, or the download failed.
    """
    if (root / "images.txt").is_file():
        print(f"{root} exists already, nothing to download")
        return
    if root.exists() and not (root.is_dir() and not any(root.iterdir())):
        raise UserError(f"{root} exists and is not a CUB folder: move it away, or choose another --root", exit_code=1)
    archive = root.with_name(f"{root.name}.tgz.part")
    print(f"downloading {ARCHIVE} (1.1 GB)", flush=True)
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        download(ARCHIVE, archive, md5=ARCHIVE_MD5)
        with scratch_folder(root) as scratch:
            with tarfile.open(archive) as packed:
                packed.extractall(scratch, **SAFELY)
            folder = scratch / "CUB_200_2011"
            names = scratch / "attributes.txt"  # the archive has it beside the folder
            if names.is_file():
                names.rename(folder / "attributes" / names.name)
            folder.rename(root)
        archive.unlink()
    except UserError as error:
        raise UserError(f"{error}; or unpack the archive of {DOWNLOAD_PAGE} to {root} yourself", exit_code=1) from error
    except (OSError, RuntimeError, EOFError, tarfile.TarError) as error:
        raise UserError(
            f"unpacking of {archive} failed ({error}): the verified archive is kept, the same command unpacks it again",
            exit_code=1,
        ) from error


def check_images(images: Sequence[Path], maximum_pixels: int | None) -> None:
    """Print that every image can be decoded.

    Raises:
        UserError: if an image cannot be decoded.
    """
    if unreadable := decode_all(images, maximum_pixels).unreadable:
        for reason in list(unreadable.values())[:UNREADABLE_SHOWN]:
            _line("unreadable", reason)
        raise UserError(
            f"{len(unreadable)} of {len(images)} images do not decode, the first is {next(iter(unreadable))}: replace "
            "them, or train with data.on_error=skip"
        )
    _line("decoding", "every image decodes")


def _override(folder: Path, name: str) -> str:
    """The command-line override that points to the data, empty for the default folder."""
    return "" if folder == PROJECT / "data" / name else f" {pasteable('data.root', folder)}"


def _line(what: str, text: str) -> None:
    print(f"  {what:<11} {text}")
