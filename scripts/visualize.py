"""Draw what a trained model does.

    python scripts/visualize.py attention run=RUN_FOLDER image=FILE text="a red bird with a long bill" [output=FILE.png]

attention    where each word of a sentence looks in a photograph, saved as PNG
"""

from __future__ import annotations

import sys

from meru.command_line import one_line_errors, report_progress
from meru.errors import UserError

ALLOWED = {
    "run": "the folder of a finished run",
    "image": "the path of a photograph",
    "text": "a sentence",
    "output": "the path of a PNG file",
}


def main() -> None:
    """Read the command line: a picture's name, then `key=value`."""
    pictures = {"attention": attention}
    words = sys.argv[1:]
    if not words or {"-h", "--help"} & set(words):
        print(__doc__)
        sys.exit(0 if words else 2)
    report_progress()
    with one_line_errors():
        if words[0] not in pictures:
            raise UserError(f"{words[0]}: choose one of {', '.join(pictures)}; see --help")
        draw = pictures[words[0]]
        draw(**arguments_of(words[1:], required=("run", "image", "text"), optional=("output",)))


def arguments_of(words: list[str], *, required: tuple[str, ...], optional: tuple[str, ...]) -> dict[str, str]:
    """`key=value` words as a dict; a value may hold anything, commas and equals signs too."""
    given = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or key not in required + optional:
            raise UserError(f"'{word}': expected key=value with one of {', '.join(required + optional)}")
        if not value.strip():
            raise UserError(f"{key}=: give {ALLOWED[key]}; see --help")
        given[key] = value
    if missing := [key for key in required if not given.get(key)]:
        raise UserError(f"{missing[0]}= is missing; see --help")
    return given


def attention(*, run: str, image: str, text: str, output: str = "attention.png") -> None:
    """Save where each word of `text` looks in `image`."""
    import meru
    from meru.data.images import read_image
    from meru.files import user_path
    from meru.reports.attention import save_figure
    from meru.runs.evaluate import draw_attention

    picture = user_path(output)
    if picture.is_dir():
        raise UserError(f"output={output} is a folder: name a file in it, {picture / 'attention.png'}")
    pretrained = meru.load(run)
    if pretrained.tokenizer is None:
        model = type(pretrained.model).__name__
        raise UserError(
            f"run={run} is a run of {model}, which discovers classes and reads no sentences: choose one of an "
            "image–text model (clip, meru, hycoclip, meru_patches, gahr)"
        )
    figure = draw_attention(pretrained, read_image(user_path(image)), text)
    save_figure(figure, picture)
    print(f"where the words look: {picture}")


if __name__ == "__main__":
    main()
