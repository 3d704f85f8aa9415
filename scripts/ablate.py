"""Train every variant of an ablation with every seed, and write their table.

    python scripts/ablate.py experiment=birds_meru seeds=0,1,2 [ablation=NAME] [output=FOLDER] [jobs=N] [KEY=VALUE …]

ablation    which file of configs/ablation/ (default: the name of the experiment's model)
seeds       whole numbers with commas between them (default 0,1,2)
output      where runs and table go (default runs/ablation_<experiment>)
jobs        runs at a time (default: one a GPU; without a GPU one)

Everything else is an override for scripts/train.py, the same for all runs. The same command goes on where it was
stopped: finished runs are kept, begun ones resumed. The table: <output>/ablation.md and ablation.csv, in percent.
"""

from __future__ import annotations

import signal

from meru.command_line import one_line_errors, own_arguments, words_or_usage
from meru.runs.ablation import MEANINGS, ablate


def main() -> None:
    """Read the command line, train, print the table."""
    words = words_or_usage(__doc__)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a batch system's signal is a Ctrl-C, too
    with one_line_errors():
        ablate(*own_arguments(words, MEANINGS))


if __name__ == "__main__":
    main()
