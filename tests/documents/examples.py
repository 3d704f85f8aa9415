"""The examples of docs/add.md in a copy of the project: their files, their changes, their commands."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import NamedTuple

from pages import blocks, read

from meru.files import PROJECT

HUNKS = "@@\n"


class Example(NamedTuple):
    """A block of a page and the file that it is for, by the last path before it."""

    path: str
    language: str
    text: str


def examples(page: str) -> list[Example]:
    """The files and the changes that a page shows, in its order."""
    form = r"`([\w/]+\.\w+)`[^`]*\n\n```(python|yaml|diff|csv)\n(.*?)^```"
    return [Example(*match.groups()) for match in re.finditer(form, read(page), re.DOTALL | re.MULTILINE)]


def copy_of_project(folder: Path, page: str) -> Path:
    """The package, its configurations and scripts, with the examples of a page put in."""
    for name in ("meru", "configs", "scripts"):
        shutil.copytree(PROJECT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for example in examples(page):
        path = folder / example.path
        path.parent.mkdir(parents=True, exist_ok=True)
        if example.language == "diff":
            text = changed(path.read_text(encoding="utf-8"), example.text, where=example.path)
        else:
            assert not path.exists(), f"{example.path} is there already: another example has it, or the project"
            text = example.text
        path.write_text(text, encoding="utf-8")
    return folder


def changed(text: str, change: str, *, where: str) -> str:
    """A file with a change: the lines of a hunk without + stand in it once."""
    for hunk in change.split(HUNKS):
        lines = hunk.splitlines(keepends=True)
        before, after = ("".join(line[1:] for line in lines if line[0] in signs) for signs in (" -", " +"))
        assert text.count(before) == 1, f"{where} has {text.count(before)} times, not once:\n{before}"
        text = text.replace(before, after)
    return text


def code(page: str) -> list[str]:
    """All blocks of a page."""
    return [block for language in ("python", "yaml", "diff", "csv", "bash") for block in blocks(page, language)]
