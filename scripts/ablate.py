"""Train every variant of an ablation with every seed, and write a table.

    python scripts/ablate.py experiment=birds_meru seeds=0,1,2 [ablation=NAME] [output=FOLDER] [jobs=N] [KEY=VALUE …]
    python scripts/ablate.py ablation=gahr_from_clip [tune=true] [KEY=VALUE …]

ablation    a file of configs/ablation/ (default: the name of the experiment's model)
experiment  a recipe (default: the one that the ablation names)
seeds       whole numbers separated by commas (default: those of the ablation, or 0,1,2)
output      folder for the runs and the tables (default runs/ablation_<experiment>, or without one <ablation>)
jobs        runs at a time (default: one per GPU, more share them; without a GPU, one per core with one thread each)
tune        true: first choose the overrides of each variant from the candidates in the ablation, by validation figures

Everything else is an override for scripts/train.py, the same for all runs. After an interruption, the same command
resumes unfinished runs and keeps finished ones. In <output>: ablation.md with mean ± standard deviation and paired
differences to the first variant, in percent; ablation.csv with the same; ablation_runs.csv with every run.
"""

from __future__ import annotations

import signal

import check_environment  # noqa: F401 (one line instead of a traceback if packages are missing)

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
