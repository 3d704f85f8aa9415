"""Serve the search page: indexes of images in a browser, by sentence or image.

    python scripts/serve.py index=FOLDER [index=FOLDER …] [host=127.0.0.1] [port=8080] [token=TEXT]
                            [hide_heads=blur|cover]

index        a folder that `scripts/index.py` wrote; several, `index=a index=b` or `index=a,b`, can be compared
host         the address to listen at. The default is reached only from this machine; beyond it, every request needs
             the token that is in the address printed at the start
port         the port; 0 takes a free one
token        a token of your own, at least 16 letters, digits, - or _ (default: a random one where it is needed)
hide_heads   blur or cover heads in the images of the page: those that heads.csv in the folder of images lists
             (image,x,y,width,height), else the upper sixth of images that are 1.5 times as tall as wide

The page is at the address that is printed; Ctrl-C ends the server. Needs starlette and uvicorn.
"""

from __future__ import annotations

import check_environment  # noqa: F401 (one line instead of a traceback if packages are missing)

from meru.command_line import numbers_of, one_line_errors, only_own_arguments, report_progress, words_or_usage
from meru.configuration.kinds import Whole
from meru.errors import UserError
from meru.files import user_path

MEANINGS = {
    "index": "the folder of an index",
    "host": "an address of this machine",
    "port": "a port",
    "token": "a token",
    "hide_heads": "blur or cover",
}


def main() -> None:
    """Read the command line, `key=value` words; serve until the end."""
    words = words_or_usage(__doc__)
    report_progress()
    with one_line_errors():
        given = only_own_arguments(words, MEANINGS)
        folders = [folder for word in words if word.startswith("index=") for folder in folders_in(word[6:])]
        if not folders:
            raise UserError("index= is missing: give the folder of an index, which scripts/index.py writes; see --help")
        if (how := given.get("hide_heads")) and how not in ("blur", "cover"):
            raise UserError(f"hide_heads={how}: give blur or cover")
        numbers = numbers_of(given, {"port": Whole(0, 65_535)})

        from meru.page.serving import serve  # imports PyTorch: only after these mistakes

        options = {key: value for key, value in given.items() if key != "index"}
        serve(folders, **(options | numbers))


def folders_in(value: str) -> list[str]:
    """The folders that one `index=` names, separated by commas; one whose name has a comma can be named alone."""
    folders = [value] if user_path(value).is_dir() else [part.strip() for part in value.split(",") if part.strip()]
    for folder in folders:
        if not user_path(folder).is_dir():
            raise UserError(f"index={folder}: there is no such folder; scripts/index.py writes an index")
    return folders


if __name__ == "__main__":
    main()
