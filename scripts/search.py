"""Search in an index of images, or in a folder, by a sentence or by an image.

    python scripts/search.py index=FOLDER "a red bird with a black face" [top=10] [output=hits.png]
    python scripts/search.py index=FOLDER image=FILE [top=10] [output=hits.png]
    python scripts/search.py index=FOLDER queries=FILE.txt [top=10] [output=hits.csv]
    python scripts/search.py run=SOURCE images=FOLDER "a red bird" [top=10] [output=hits.png] [workers=2]

index        the folder of an index, made by scripts/index.py
run, images  instead of it, a run folder, or whatever else `meru.load` takes, and a folder of images, which is embedded
             for this search only
text         the sentence, with text= or without
image        an image to search for
queries      a file of sentences, one a line
top          how many images to list, the most similar first
output       a file: .png or .svg with the first 200 images found (of several queries, the first 10 of each of the first
             20), .csv or .json with the rankings
workers      processes that read images

A larger score means more similar; scores of different models cannot be compared. Where the annotation has it, ✓ marks
images with the label of the query, such as the person's identity.
"""

from __future__ import annotations

import check_environment  # noqa: F401 (one line instead of a traceback if packages are missing)

from meru import stopping
from meru.command_line import numbers_of, one_line_errors, only_own_arguments, report_progress, words_or_usage
from meru.configuration.declarations import EVALUATE
from meru.configuration.kinds import Whole
from meru.errors import UserError

MEANINGS = {
    "index": "the folder of an index",
    "run": "the folder of a finished run, or another source of a model",
    "images": "a folder of images",
    "text": "a sentence",
    "image": "the path of an image",
    "queries": "a file of sentences",
    "top": "a number of images",
    "output": "the path of a file",
    "workers": "a number of processes",
}
NUMBERS = {"top": Whole(1, 100_000), "workers": EVALUATE["workers"].kind}


def main() -> None:
    """Read the command line, `key=value` words and a sentence; print the ranking."""
    words = words_or_usage(__doc__)
    sentence = [word for word in words if not (word.partition("=")[0].isidentifier() and "=" in word)]
    report_progress()
    with one_line_errors(), stopping.listening():
        if len(sentence) > 1:
            raise UserError(f"write the sentence in quotes: \"{' '.join(sentence)}\"")
        given = only_own_arguments([f"text={word}" if word in sentence else word for word in words], MEANINGS)
        numbers = numbers_of(given, NUMBERS)

        from meru.index.searching import search  # imports PyTorch: only after these mistakes

        print(search(**(given | numbers)))


if __name__ == "__main__":
    main()
