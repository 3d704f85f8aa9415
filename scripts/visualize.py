"""Draw what a trained model does.

    python scripts/visualize.py attention run=RUN_FOLDER image=FILE text="a red bird with a long bill" [output=FILE.png]
    python scripts/visualize.py tree run=RUN_FOLDER [root=FOLDER] [output=FOLDER]

attention    where each word of a sentence looks in a photograph, saved as PNG
tree         the tree of the classes that a discovery run predicts: dendrogram and Poincaré disk, in the run's folder
             `tree` or in another; `root` says where the data are, if not where they were at training time
"""

from __future__ import annotations

from meru.command_line import one_line_errors, own_arguments, report_progress, words_or_usage
from meru.errors import UserError

MEANINGS = {
    "run": "the folder of a finished run",
    "image": "the path of a photograph",
    "text": "a sentence",
    "root": "the folder of the data",
    "output": "the path of a PNG file, of tree that of a folder",
}


def main() -> None:
    """Read the command line, a picture's name, then `key=value`; draw, and say where the picture is."""
    name, *words = words_or_usage(__doc__)
    report_progress()
    with one_line_errors():
        given, others = own_arguments(words, MEANINGS)
        if others:
            raise UserError(f"'{others[0]}': expected key=value with one of {', '.join(MEANINGS)}")

        from meru.runs.visualize import visualize  # PyTorch: not for a mistake that is seen without it

        print(visualize(name, given))


if __name__ == "__main__":
    main()
