"""Draw attention maps or the class tree of a finished run.

    python scripts/visualize.py attention run=RUN_FOLDER image=FILE text="a red bird with a long bill" [output=FILE.png]
    python scripts/visualize.py tree run=RUN_FOLDER [root=FOLDER] [output=FOLDER]

run          a run folder; for attention also published weights, an open_clip tag or an id of the hub
attention    attention maps of each word of a sentence in an image, saved as PNG
tree         the tree of the classes that a discovery run predicts, as dendrogram and Poincaré disk, in the run's folder
             `tree` or in `output`; `root` is the folder of the data if it has moved since training
"""

from __future__ import annotations

import check_environment  # noqa: F401 (one line instead of a traceback if packages are missing)

from meru.command_line import one_line_errors, only_own_arguments, report_progress, words_or_usage

MEANINGS = {
    "run": "the folder of a finished run, or another source of a model",
    "image": "the path of an image",
    "text": "a sentence",
    "root": "the folder of the data",
    "output": "the path of a PNG file (attention) or a folder (tree)",
}


def main() -> None:
    """Read the command line, the name of a plot and `key=value` words; draw the plot and print its path."""
    name, *words = words_or_usage(__doc__)
    report_progress()
    with one_line_errors():
        given = only_own_arguments(words, MEANINGS)

        from meru.runs.visualize import visualize  # imports PyTorch: only after other mistakes are ruled out

        print(visualize(name, given))


if __name__ == "__main__":
    main()
