"""Make an index of images, to search them and to show them on the page.

    python scripts/index.py run=SOURCE images=FOLDER [output=FOLDER] [kind=exact] [texts=FILE] [labels=FILE]
    python scripts/index.py run=RUN_FOLDER [split=test] [output=FOLDER]

run          a run folder, or whatever else `meru.load` takes
images       a folder of images, folders inside it included; without it, the images that the run was trained on
split        only those of train, validation or test
output       the folder of the index; without it, `index` in the run folder
kind         exact, or ivf or hnsw for more than a million images: needs FAISS, and does not find everything; the share
             of the 10 most similar images that it finds is measured and printed
texts        a file of sentences, one a line, that are met between a query and the origin; without it, the captions that
             the run was trained on; none: no texts
labels       a CSV file with the columns image and label; without it, the labels of the run's data; none: no labels
batch_size   images embedded at a time (64)
workers      processes that read images (2)

The same command brings an index up to date: only images that are new or have changed are embedded. It can be stopped
and started again. Images that cannot be read are listed in `skipped.csv`.
"""

from __future__ import annotations

import check_environment  # noqa: F401 (one line instead of a traceback if packages are missing)

from meru import stopping
from meru.command_line import numbers_of, one_line_errors, only_own_arguments, report_progress, words_or_usage
from meru.configuration.declarations import EVALUATE
from meru.errors import UserError

MEANINGS = {
    "run": "the folder of a finished run, or another source of a model",
    "images": "a folder of images",
    "split": "train, validation or test",
    "output": "a folder for the index",
    "kind": "exact, ivf or hnsw",
    "texts": "a file of sentences, or none",
    "labels": "a CSV file, or none",
    "batch_size": "a number of images",
    "workers": "a number of processes",
}
NUMBERS = {name: EVALUATE[name].kind for name in ("batch_size", "workers")}


def main() -> None:
    """Read the command line, `key=value` words; make the index and print what was done."""
    words = words_or_usage(__doc__)
    report_progress()
    with one_line_errors(), stopping.listening():
        given = only_own_arguments(words, MEANINGS)
        if "run" not in given:
            raise UserError("run= is missing: give the folder of a finished run, or another source; see --help")
        numbers = numbers_of(given, NUMBERS)

        from meru.index.building import Wanted, build_index, format_made  # PyTorch: only after these mistakes

        print(format_made(build_index(Wanted(**(given | numbers)))))


if __name__ == "__main__":
    main()
