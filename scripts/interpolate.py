"""Interpolate between the weights of a finished run and those that it began with (WiSE-FT).

    python scripts/interpolate.py run=SOURCE shares=0,0.25,0.5,0.75,1 split=validation [start=SOURCE] [root=FOLDER]
    python scripts/interpolate.py run=SOURCE shares=0.5 output=FOLDER [start=SOURCE]

shares   0 is the start, 1 the run; every weight is (1 - share) * start + share * run
start    a run folder or another source of a model; by default the pretrained weights that the run began with
split    evaluate each share on this split of the run's data: validation, to choose one, or test
root     the folder of the data if it has moved since training
output   a new folder for the model, which `meru.load` and every run= take; with several shares, a folder for each in it
"""

from __future__ import annotations

import check_environment  # noqa: F401 (one line instead of a traceback if packages are missing)

from meru.command_line import one_line_errors, only_own_arguments, report_progress, words_or_usage

MEANINGS = {
    "run": "a run folder or another source of a model",
    "start": "a run folder or another source of a model",
    "shares": "numbers from 0 to 1, such as 0,0.5,1",
    "split": "validation or test",
    "root": "the folder of the data",
    "output": "the path of a new folder",
}


def main() -> None:
    """Read `key=value` words, interpolate, and print what was written."""
    words = words_or_usage(__doc__)
    report_progress()
    with one_line_errors():
        given = only_own_arguments(words, MEANINGS)

        from meru.export.interpolation import interpolate  # imports PyTorch: only after other mistakes are ruled out

        print(interpolate(given))


if __name__ == "__main__":
    main()
