"""Print mean and spread over seeds as Markdown: `python scripts/compare.py runs/cub_clip/* runs/cub_meru/*`.

Runs that differ only in the seed share a row, with mean ± sample standard deviation in percent. There are separate
tables for image–text runs, runs on persons and category discovery, each with the figures that at least one of its runs
has, and for `--figures robustness.json`. Paths that are not run folders are left out. With `--transfer persons`, the
figures that scripts/evaluate.py suite=persons data=<data> wrote: a row per run, a column per data set of the test.
"""

from __future__ import annotations

import argparse

import check_environment  # noqa: F401 (one line instead of a traceback if packages are missing)

from meru.command_line import argument, one_line_errors
from meru.configuration.declarations import FOLDER
from meru.configuration.kinds import Text
from meru.files import user_path
from meru.run_layout import FIGURES
from meru.runs.comparison import comparison
from meru.runs.transfer import FIGURES_OF, transfer_tables


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "runs", nargs="+", type=argument(FOLDER, user_path), metavar="RUN", help="folders of finished runs"
    )
    parser.add_argument(
        "--figures",
        default=FIGURES,
        type=argument(Text("the name of a file in a run folder")),
        help=f"the file with the figures in each run folder (default {FIGURES})",
    )
    parser.add_argument(
        "--transfer",
        choices=list(FIGURES_OF),
        metavar="SUITE",
        help=f"a table of runs and data sets instead, of the figures of {', '.join(FIGURES_OF)}",
    )
    arguments = parser.parse_args()
    with one_line_errors():
        if arguments.transfer:
            print(transfer_tables(arguments.runs, arguments.transfer))
        else:
            print(comparison(arguments.runs, arguments.figures))


if __name__ == "__main__":
    main()
