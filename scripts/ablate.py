"""Train every variant of an ablation with every seed, and write a table.

    python scripts/ablate.py experiment=birds_meru seeds=0,1,2 [ablation=NAME] [output=FOLDER] [jobs=N] [KEY=VALUE …]

ablation    a file of configs/ablation/ (default: the name of the experiment's model)
seeds       whole numbers separated by commas (default 0,1,2)
output      folder for the runs and the table (default runs/ablation_<experiment>)
jobs        runs at a time (default: one per GPU; one without a GPU)

Everything else is an override for scripts/train.py, the same for all runs. After an interruption, the same command
resumes unfinished runs and keeps finished ones. The table is in <output>/ablation.md and ablation.csv, in percent.
"""

from __future__ import annotations

import signal

from meru.command_line import one_line_errors, own_arguments, words_or_usage
from meru.runs.ablation import MEANINGS, ablate


def main() -> None:
    """Read the command line, train, print the table."""
    words = words_or_usage(__doc__)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # treat a batch system's signal as Ctrl-C
    with one_line_errors():
        ablate(*own_arguments(words, MEANINGS))


if __name__ == "__main__":
    main()
