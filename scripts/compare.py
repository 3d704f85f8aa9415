"""Mean and spread over seeds, as Markdown: `python scripts/compare.py runs/cub_clip/* runs/cub_meru/*`.

Runs that differ in nothing but the seed stand in one row, as mean ± standard deviation (of the sample); percent.
Image–text runs, runs on persons and runs of category discovery have a table each, with the figures that at least one
of its runs has; so have the figures of `--figures robustness.json`. What is no run folder is left out.
"""

from __future__ import annotations

import argparse

from meru.command_line import argument, one_line_errors
from meru.configuration.declarations import FOLDER
from meru.configuration.kinds import Text
from meru.files import user_path
from meru.run_layout import FIGURES
from meru.runs.comparison import comparison


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
        help=f"which figures of each run (default {FIGURES})",
    )
    arguments = parser.parse_args()
    with one_line_errors():
        print(comparison(arguments.runs, arguments.figures))


if __name__ == "__main__":
    main()
