"""Write a report of one or several runs as a single HTML file that needs no server and no network.

    python scripts/report.py run=RUN_FOLDER[,RUN_FOLDER…] [output=FILE.html] [lang=en|zh]

run          run folders, finished or not; a pattern such as run='runs/birds_*/*' stands for the run folders it matches
output       the file; by default report.html in the run folder, or beside several
lang         the language that is shown first; the page has a switch

The page has the figures with their chance levels (runs that differ in the seed alone as mean ± standard deviation), the
learning curves, pictures of the run folders, discovered classes, and the configuration, what differs first.
"""

from __future__ import annotations

import check_environment  # noqa: F401 (one line instead of a traceback if packages are missing)

from meru.command_line import one_line_errors, only_own_arguments, report_progress, words_or_usage
from meru.errors import UserError

MEANINGS = {
    "run": "the folders of runs, separated by commas",
    "output": "the path of an HTML file",
    "lang": "en or zh",
}


def main() -> None:
    """Read the command line, `key=value` words; write the report and print its path."""
    words = words_or_usage(__doc__)
    report_progress()
    with one_line_errors():
        given = only_own_arguments(words, MEANINGS)
        if "run" not in given:
            raise UserError(f"run= is missing: give {MEANINGS['run']}; see --help")

        from meru.runs.report import write_report

        print(f"report: {write_report(**given)}")


if __name__ == "__main__":
    main()
