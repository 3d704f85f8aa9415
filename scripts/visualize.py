"""Draw figures of finished runs.

    python scripts/visualize.py disk run=RUN_FOLDER [split=test] [count=300] [projection=co_sne]
    python scripts/visualize.py norms run=RUN_FOLDER [split=test] [count=100]
    python scripts/visualize.py traversal run=RUN_FOLDER [image=FILE | text="a red bird"] [other=FILE] [texts=FILE]
                                          [general=cone|radius|none] [count=2000]
    python scripts/visualize.py neighbours run=RUN_FOLDER [image=FILE] [text="a red bird"] [split=test] [count=500]
                                          [hide_heads=blur|cover]
    python scripts/visualize.py curves run=RUN_FOLDER,RUN_FOLDER,… [figures=loss,text_to_image/class/recall@1]
    python scripts/visualize.py attention run=RUN_FOLDER image=FILE text="a red bird with a long bill"
    python scripts/visualize.py tree run=RUN_FOLDER [output=FOLDER]

disk         images, captions, classes and families in the Poincaré disk; projection=co_sne keeps neighbours together
             instead of exact distances from the root
norms        distances from the root: by kind, by the length of captions, and of degraded images
traversal    the way from an image or a text to the root, or to the image `other`, and the texts met on it: captions of
             the training split, classes and families, or the lines of the file `texts`; `general` says which may be
             met (docs/figures.md); without image and text, from three images of the split
neighbours   the nearest images and captions of an image or a text; without any, of three images of the split
curves       learning curves; `run` takes several folders and patterns (*), and runs that differ in their seed alone
             are drawn as one band
attention    where each word of a sentence looks in an image; `run` may be any source of an image-text model
tree         the tree of the classes that a discovery run predicts, as dendrogram and Poincaré disk, in the run's folder
             `tree` or in `output`

output       the file, PNG or SVG by its name; else disk.png and so on in the working directory
root         the folder of the data if it has moved since training (disk, norms, traversal, neighbours, tree)
hide_heads   neighbours: blur or cover the heads of the images that are drawn; the model sees them as they are
count        how many images are drawn from, evenly spread; for traversal, images whose captions may be met
"""

from __future__ import annotations

import check_environment  # noqa: F401 (one line instead of a traceback if packages are missing)

from meru.command_line import one_line_errors, only_own_arguments, report_progress, words_or_usage
from meru.configuration.kinds import Choice, Whole
from meru.errors import UserError

MEANINGS = {
    "run": "the folder of a run; for curves several; for attention any source of a model",
    "image": "the path of an image",
    "text": "a sentence",
    "other": "the path of an image",
    "texts": "the path of a file with one text a line",
    "general": "cone, radius, none or auto",
    "split": "test, validation or train",
    "count": "a number of images",
    "hide_heads": "blur or cover",
    "projection": "tangent or co_sne",
    "figures": "names of figures, separated by commas",
    "root": "the folder of the data",
    "output": "the path of a PNG or SVG file, or a folder (tree)",
}
VALUES = {
    "general": Choice(("auto", "cone", "radius", "none")),
    "split": Choice(("test", "validation", "train")),
    "hide_heads": Choice(("blur", "cover")),
    "count": Whole(4, 100_000),
    "projection": Choice(("tangent", "co_sne")),
}


def main() -> None:
    """Read the command line, the name of a plot and `key=value` words; draw the plot and print its path."""
    name, *words = words_or_usage(__doc__)
    report_progress()
    with one_line_errors():
        given = only_own_arguments(words, MEANINGS)
        for key, kind in VALUES.items():
            value = given.get(key, "")
            if value and not kind.takes(int(value) if value.isdecimal() else value):
                raise UserError(f"{key}={value}: give {kind.allowed}")

        from meru.runs.visualize import visualize  # imports PyTorch: only after other mistakes are ruled out

        print(visualize(name, given))


if __name__ == "__main__":
    main()
