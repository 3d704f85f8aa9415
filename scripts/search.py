"""Search in a folder of images by a sentence with a finished model.

    python scripts/search.py run=SOURCE images=FOLDER text="a red bird" [top=10] [output=FILE.png] [workers=2]

run          a run folder, or whatever else `meru.load` takes
images       a folder of images; folders inside it are included
text         a sentence
top          how many images to list, the most similar first
output       a PNG file with these images
workers      processes that read images

A larger score means more similar; scores of different models cannot be compared.
"""

from __future__ import annotations

import check_environment  # noqa: F401 (one line instead of a traceback if packages are missing)

from meru.command_line import one_line_errors, only_own_arguments, report_progress, words_or_usage
from meru.configuration.declarations import EVALUATE
from meru.configuration.kinds import Whole
from meru.errors import UserError
from meru.files import user_path

MEANINGS = {
    "run": "the folder of a finished run",
    "images": "a folder of images",
    "text": "a sentence",
    "top": "a number of images",
    "output": "the path of a PNG file",
    "workers": "a number of processes",
}
NUMBERS = {"top": Whole(1, 100_000), "workers": EVALUATE["workers"].kind}


def main() -> None:
    """Read the command line, `key=value` words; print the ranking."""
    words = words_or_usage(__doc__)
    report_progress()
    with one_line_errors():
        given = only_own_arguments(words, MEANINGS)
        for key in ("run", "images", "text"):
            if key not in given:
                raise UserError(f"{key}= is missing: give {MEANINGS[key]}; see --help")
        numbers = {key: int(given[key]) if given[key].isdecimal() else given[key] for key in NUMBERS if key in given}
        for key, value in numbers.items():
            if not NUMBERS[key].takes(value):
                raise UserError(f"{key}={value}: give {NUMBERS[key].allowed}")

        from meru.runs.search import format_ranking, search_run  # imports PyTorch: only after these mistakes

        print(format_ranking(search_run(**(given | numbers)), user_path(given["images"])))


if __name__ == "__main__":
    main()
