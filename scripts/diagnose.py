"""Show why the loss terms of finished runs do what they do: where points lie, and how strong each term's gradient is.

    python scripts/diagnose.py run=RUN_FOLDER[,RUN_FOLDER …] [split=validation] [root=FOLDER] [workers=2]

run          run folders separated by commas, or a quoted pattern such as 'runs/birds_meru/*': one column each
split        validation, test or train (default: validation of an image–text run, train of a discovery run)
root         the folder of the data if it has moved since training
workers      processes that read images

Prints one table and what stands out in it, and writes <run>/diagnosis/diagnosis.json, radii.png and, for runs trained
with trainer.diagnose_every, gradients.png.
"""

from __future__ import annotations

import check_environment  # noqa: F401 (one line instead of a traceback if packages are missing)

from meru.command_line import one_line_errors, only_own_arguments, report_progress, words_or_usage
from meru.configuration.declarations import EVALUATE
from meru.errors import UserError

MEANINGS = {
    "run": "one or more folders of finished runs",
    "split": "validation, test or train",
    "root": "the folder of the data",
    "workers": "a number of processes",
}


def main() -> None:
    """Read the command line, `key=value` words; print the table."""
    words = words_or_usage(__doc__)
    report_progress()
    with one_line_errors():
        given = only_own_arguments(words, MEANINGS)
        if "run" not in given:
            raise UserError(f"run= is missing: give {MEANINGS['run']}; see --help")
        workers = given.pop("workers", "2")
        workers = int(workers) if workers.isdecimal() else workers
        for key, value in (("split", given.get("split")), ("workers", workers)):
            if not EVALUATE[key].takes(value):
                raise UserError(f"{key}={value}: give {EVALUATE[key].kind.allowed}")

        from meru.runs.diagnosis import diagnose  # imports PyTorch: only after other mistakes are ruled out

        print(diagnose(**given, workers=workers))


if __name__ == "__main__":
    main()
