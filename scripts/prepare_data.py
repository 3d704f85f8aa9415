"""Download, generate and check the data sets.

    python scripts/prepare_data.py cub                 check data/CUB_200_2011: files, counts, every image
    python scripts/prepare_data.py cub --download      download it first (1.1 GB)
    python scripts/prepare_data.py birds               generate the synthetic birds of data=birds in data/birds
    python scripts/prepare_data.py pedestrians         generate the synthetic persons of data=pedestrians
    python scripts/prepare_data.py cuhk_pedes          check data/CUHK-PEDES; likewise icfg_pedes, rstpreid
    python scripts/prepare_data.py check data=pairs data.path=photos
                                                       check any data by the keys of scripts/train.py: counts, sizes,
                                                       captions, duplicates, every image; prints the training command
    python scripts/prepare_data.py describe data=cub output=captions
                                                       write captions of templates, from the names of classes only to a
                                                       sentence for every part, for data.captions_from

Exit code: 0 if the data are ready for training, 1 if something is missing or broken, 2 for wrong usage, such as a
folder that does not exist.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import check_environment  # noqa: F401 (one line instead of a traceback if packages are missing)

from meru.command_line import argument, one_line_errors, report_progress
from meru.configuration.declarations import FOLDER, SEED
from meru.configuration.kinds import Whole
from meru.errors import UserError
from meru.files import PROJECT, output_folder, user_path

PERSONS = {"cuhk_pedes": "CUHK-PEDES", "icfg_pedes": "ICFG-PEDES", "rstpreid": "RSTPReid"}
ROOT, SEED_ARGUMENT, PIXELS = argument(FOLDER, user_path), argument(SEED), argument(Whole(1, 10**10))


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    report_progress()
    with one_line_errors():
        if options.data_set == "check":
            from meru.runs.data_check import check_data  # imports PyTorch, which takes seconds

            check_data(options.words)
        elif options.data_set == "describe":
            from meru.runs.data_captions import write_template_captions

            folders = [word.partition("=")[2] for word in options.words if word.startswith("output=")]
            if len(folders) != 1 or not folders[0]:
                raise UserError("where do the files go? Give output=<folder>, once")
            words = [word for word in options.words if not word.startswith("output=")]
            write_template_captions(words, output_folder(folders[0]))
        else:
            prepare(options)


def parser() -> argparse.ArgumentParser:
    whole = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data_sets = whole.add_subparsers(dest="data_set", required=True)

    def add(name: str, folder: str, text: str) -> argparse.ArgumentParser:
        added = data_sets.add_parser(name, help=text)
        default = PROJECT / "data" / folder
        added.add_argument("--root", type=ROOT, help=f"default: {default}")
        added.set_defaults(default_root=default)
        return added

    cub = add("cub", "CUB_200_2011", "CUB-200-2011 with captions: check, and download with --download")
    cub.add_argument("--download", action="store_true", help="download and unpack the images if root has none")
    drawn = {"birds": "other images", "pedestrians": "other persons"}
    for name, changes in drawn.items():
        synthetic = add(name, name, f"synthetic {name}: generate")
        text = f"another seed gives {changes} (default: %(default)s)"
        synthetic.add_argument("--seed", type=SEED_ARGUMENT, default=0, help=text)
    persons = [add(layout, folder, f"{folder}: check, and how to obtain it") for layout, folder in PERSONS.items()]
    for checked in (cub, *persons):
        checked.add_argument("--maximum-pixels", type=PIXELS, help="as data.maximum_pixels, for larger images")
    checked = data_sets.add_parser("check", help="any data by the keys of scripts/train.py: check")
    described = data_sets.add_parser("describe", help="captions by templates, in JSON files in output=")
    text = "data=<name> or experiment=<recipe>, and other overrides: data.path=<file>, data.root=<folder>"
    for each in (checked, described):
        each.add_argument("words", nargs="+", metavar="key=value", help=text)
    return whole


def prepare(options: argparse.Namespace) -> None:
    root: Path = options.root or options.default_root
    wrong = options.root is not None and not root.is_dir() and not getattr(options, "download", False)
    from meru.data import preparing  # imports PyTorch, which takes seconds

    if options.data_set == "birds":
        preparing.prepare_birds(root, seed=options.seed)
    elif options.data_set == "pedestrians":
        preparing.prepare_pedestrians(root, seed=options.seed)
    else:
        try:
            if options.data_set == "cub":
                preparing.prepare_cub(root, download=options.download, maximum_pixels=options.maximum_pixels)
            else:
                preparing.prepare_persons(root, layout=options.data_set, maximum_pixels=options.maximum_pixels)
        except UserError as error:  # no mistake on the command line, unless the folder does not exist
            raise UserError(str(error), exit_code=2 if wrong else 1) from error


if __name__ == "__main__":
    main()
