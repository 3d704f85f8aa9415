"""Fetch, draw and check the data sets.

    python scripts/prepare_data.py cub                 check data/CUB_200_2011: files, counts, every image
    python scripts/prepare_data.py cub --download      fetch it first (1.1 GB)
    python scripts/prepare_data.py birds               draw the birds of data=birds into data/birds
    python scripts/prepare_data.py pedestrians         draw the persons of data=pedestrians into data/pedestrians
    python scripts/prepare_data.py cuhk_pedes          check data/CUHK-PEDES; likewise icfg_pedes, rstpreid

Exit code 0: ready to train; 1: something is missing or broken, as said; 2: wrong usage.
"""

from __future__ import annotations

import argparse
import socket
import tarfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from meru.command_line import PROJECT, argument, one_line_errors, report_progress
from meru.configuration.declarations import FOLDER, SEED
from meru.configuration.kinds import Whole
from meru.configuration.overrides import pasteable
from meru.errors import UserError
from meru.files import user_path

CUB_ROOT = PROJECT / "data" / "CUB_200_2011"
BIRDS_ROOT = PROJECT / "data" / "birds"
PEDESTRIANS_ROOT = PROJECT / "data" / "pedestrians"
ARCHIVE = "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz?download=1"
ARCHIVE_MD5 = "97eceeb196236b17998738112f37df78"
CAPTIONS_PAGE = "https://github.com/reedscot/cvpr2016"
FULL_COPY = {"classes": 200, "training": 5994, "test": 5794}
UNREADABLE_SHOWN = 20
ROOT, SEED_ARGUMENT, PIXELS = argument(FOLDER, user_path), argument(SEED), argument(Whole(1, 10**10))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    data_sets = parser.add_subparsers(dest="data_set", required=True)
    cub = data_sets.add_parser("cub", help="CUB-200-2011 with captions: check, and fetch with --download")
    cub.add_argument("--root", type=ROOT, default=CUB_ROOT, help="default: %(default)s")
    cub.add_argument("--download", action="store_true", help="fetch and unpack the images if root has none")
    cub.add_argument("--maximum-pixels", type=PIXELS, help="as data.maximum_pixels, for larger images")
    cub.set_defaults(prepare=prepare_cub)
    birds = data_sets.add_parser("birds", help="birds drawn by code: draw")
    birds.add_argument("--root", type=ROOT, default=BIRDS_ROOT, help="default: %(default)s")
    birds.add_argument(
        "--seed", type=SEED_ARGUMENT, default=0, help="another seed, other pictures (default: %(default)s)"
    )
    birds.set_defaults(prepare=prepare_birds)
    pedestrians = data_sets.add_parser("pedestrians", help="persons drawn by code: draw")
    pedestrians.add_argument("--root", type=ROOT, default=PEDESTRIANS_ROOT, help="default: %(default)s")
    pedestrians.add_argument(
        "--seed", type=SEED_ARGUMENT, default=0, help="another seed, other people (default: %(default)s)"
    )
    pedestrians.set_defaults(prepare=prepare_pedestrians)
    for layout, folder in (("cuhk_pedes", "CUHK-PEDES"), ("icfg_pedes", "ICFG-PEDES"), ("rstpreid", "RSTPReid")):
        persons = data_sets.add_parser(layout, help=f"{folder}: check, and how to get it")
        persons.add_argument("--root", type=ROOT, default=PROJECT / "data" / folder, help="default: %(default)s")
        persons.add_argument("--maximum-pixels", type=PIXELS, help="as data.maximum_pixels, for larger images")
        persons.set_defaults(prepare=partial(prepare_persons, layout))
    options = parser.parse_args(arguments)
    report_progress()
    with one_line_errors():
        options.root = user_path(options.root)
        options.prepare(options)


def prepare_birds(options: argparse.Namespace) -> None:
    from meru.data.synthetic.birds.load import draw_birds

    root = draw_birds(options.root, seed=options.seed)
    override = "" if root == BIRDS_ROOT else f" {pasteable('data.root', root)}"
    print(f"birds in {root}, ready; train with: bash train_cub.sh meru data=birds{override}")


def prepare_pedestrians(options: argparse.Namespace) -> None:
    from meru.data.synthetic.pedestrians.load import draw_pedestrians

    root = draw_pedestrians(options.root, seed=options.seed)
    override = "" if root == PEDESTRIANS_ROOT else f" {pasteable('data.root', root)}"
    print(f"persons in {root}, ready; train with: python scripts/train.py experiment=pedestrians_gahr{override}")


def prepare_persons(layout: str, options: argparse.Namespace) -> None:
    from prepare_person_search import report_annotation

    from meru.data.datasets.person_search import LAYOUTS, find_annotations, find_images, read_splits

    name = LAYOUTS[layout].folder
    try:
        folder, annotations = find_annotations(options.root, layout)
        print(f"{name} in {folder}")
        line("annotation", ", ".join(path.name for path in annotations))
        splits = read_splits(annotations)
        # Before the images, which may still be on their way.
        for what, text in report_annotation(layout, splits):
            line(what, text)
        check_decoding(list(find_images(folder, splits, layout=layout).values()), options.maximum_pixels)
    except UserError as error:
        raise UserError(str(error), exit_code=1) from error
    override = "" if folder == PROJECT / "data" / name else f" {pasteable('data.root', folder)}"
    print(f"ready; train with: python scripts/train.py experiment={layout}_gahr{override}")


def prepare_cub(options: argparse.Namespace) -> None:
    if options.download:
        download_cub(options.root)
    try:
        check_cub(options.root, options.maximum_pixels)
    except UserError as error:
        raise UserError(str(error), exit_code=1) from error


def download_cub(root: Path) -> None:
    """Fetch the official archive, compare its checksum and unpack it to `root`, which appears when complete."""
    from torchvision.datasets.utils import download_and_extract_archive

    from meru.data.synthetic.folder import scratch_folder

    if (root / "images.txt").is_file():
        print(f"{root} is there already, nothing to download")
        return
    if root.exists() and not (root.is_dir() and not any(root.iterdir())):
        raise UserError(
            f"{root} exists and is no CUB folder: move it away, or choose another --root", exit_code=1
        )
    socket.setdefaulttimeout(60)  # a dead connection is an error, not an endless wait
    print(f"fetching {ARCHIVE} (1.1 GB)", flush=True)
    try:
        with scratch_folder(root) as scratch:
            download_and_extract_archive(ARCHIVE, scratch, filename="CUB_200_2011.tgz", md5=ARCHIVE_MD5)
            folder = scratch / "CUB_200_2011"
            names = scratch / "attributes.txt"  # beside the folder whose attributes it names
            if names.is_file():
                names.rename(folder / "attributes" / names.name)
            folder.rename(root)
    except (OSError, RuntimeError, EOFError, tarfile.TarError) as error:
        raise UserError(
            f"download of {ARCHIVE} failed ({error}): nothing was kept; try again, or unpack the archive of "
            f"https://www.vision.caltech.edu/datasets/cub_200_2011/ to {root} yourself",
            exit_code=1,
        ) from error


def check_cub(root: Path, maximum_pixels: int | None) -> None:
    """Print what the folder holds.

    Raises:
        UserError: a file is missing or malformed, or an image does not decode.
    """
    from meru.data.datasets.cub import class_attributes, find_captions, find_cub, load_cub

    folder = find_cub(root)
    print(f"CUB-200-2011 in {folder}")
    data = load_cub(root=folder, validation_fraction=0)
    records = data.train + data.test
    found = {"classes": len(data.class_names), "training": len(data.train), "test": len(data.test)}
    extent = (
        "complete" if found == FULL_COPY else "a subset: the full copy has 200 classes, 5994 and 5794 images"
    )
    line("classes", f"{found['classes']}")
    line("images", f"{found['training']} for training, {found['test']} for the test ({extent})")
    if not data.test:
        line("", "without a test image there will be no figures at the end of a run")

    if find_captions(folder):
        counts = Counter(len(record.captions) for record in records)
        line("captions", ", ".join(f"{each} for {images} images" for each, images in sorted(counts.items())))
        if set(counts) != {10}:
            line("", "the full set has 10 for every image")
    else:
        line("captions", "none")
        line(
            "",
            f"{CAPTIONS_PAGE} links to those of Reed et al. (2016), an archive on the authors' Google Drive:",
        )
        line("", f"unpack it and move its folder text_c10 to {folder / 'text_c10'}")
        line("", "so that text_c10/<class folder>/<image>.txt has the ten captions of an image, one a line")
    line("boxes", f"of {sum(record.box is not None for record in records)} images")
    line("parts", f"of {sum(bool(record.parts) for record in records)} images")
    described = sum(bool(attributes) for attributes in class_attributes(folder).values())
    line(
        "attributes",
        f"of {described} classes" if described else "none (used for prompts where captions are missing)",
    )

    check_decoding([record.path for record in records], maximum_pixels)
    override = "" if folder == CUB_ROOT else f" {pasteable('data.root', folder)}"
    print(f"ready; train with: bash train_cub.sh meru{override}")


def check_decoding(images: Sequence[Path], maximum_pixels: int | None) -> None:
    """Print that every image decodes, or which do not.

    Raises:
        UserError: one does not.
    """
    if unreadable := unreadable_images(images, maximum_pixels):
        for reason in list(unreadable.values())[:UNREADABLE_SHOWN]:
            line("unreadable", reason)
        raise UserError(
            f"{len(unreadable)} of {len(images)} images do not decode, {next(iter(unreadable))} the first: replace "
            "them, or train with data.on_error=skip"
        )
    line("decoding", "every image decodes")


def line(what: str, text: str) -> None:
    print(f"  {what:<11} {text}")


def unreadable_images(paths: Sequence[Path], maximum_pixels: int | None) -> dict[Path, str]:
    """Those that do not decode, in order, and why."""
    import torch

    from meru.data.images import MAXIMUM_PIXELS, check_maximum_pixels, read_image

    limit = check_maximum_pixels(maximum_pixels or MAXIMUM_PIXELS)

    def reason(path: Path) -> str | None:
        try:
            read_image(path, maximum_pixels=limit)
        except UserError as error:
            return str(error).removeprefix("image ").removesuffix(", or set data.on_error=skip to go on without it")
        return None

    torch.set_num_threads(1)  # the threads of the pool are enough
    with ThreadPoolExecutor() as pool:
        return {path: why for path, why in zip(paths, pool.map(reason, paths), strict=True) if why}


if __name__ == "__main__":
    main()
