"""Reads which class is a kind of which: a list of children and parents, or WordNet's is-a file."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from meru.data.texts import read_text
from meru.errors import UserError

HEADER = ("child", "parent")


def read_parents(
    path: Path, *, keys: Sequence[str], names: Sequence[str]
) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
    """The parents of every node, and the node of each class.

    Args:
        path: A CSV of `child,parent`, with or without that header, or a text file of lines `<parent> <child>`, as
            WordNet's `wordnet.is_a.txt`. A node may have several parents.
        keys: The classes by their names in the data set's files.
        names: The classes in plain words, which the file may use instead.

    Raises:
        UserError: for a file that cannot be read, a line of another form, or a class that it does not have.
    """
    pairs = _csv(path) if path.suffix.lower() in (".csv", ".tsv") else _is_a(path)
    parents: dict[str, list[str]] = {}
    for child, parent in pairs:
        parents.setdefault(child, []).append(parent)
        parents.setdefault(parent, [])
    for nodes in (keys, names):
        if all(node in parents for node in nodes):
            return {node: tuple(dict.fromkeys(above)) for node, above in parents.items()}, tuple(nodes)
    absent = [key for key in keys if key not in parents]
    near = get_close_matches(absent[0], parents, n=1)
    meant = f"; did it mean {near[0]}?" if near else ""
    raise UserError(
        f"{path} has no line for the class {absent[0]} ({len(absent)} of {len(keys)} classes are missing){meant}"
    )


def _csv(path: Path) -> list[tuple[str, str]]:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    rows = list(enumerate(csv.reader(read_text(path).splitlines(), delimiter=delimiter), start=1))
    found = []
    for line, row in rows:
        cells = [cell.strip() for cell in row]
        if not any(cells) or (line == 1 and tuple(cell.lower() for cell in cells) == HEADER):
            continue
        if len(cells) != 2 or not all(cells):
            raise UserError(f"{path}, line {line}: expected 'child,parent', found {','.join(row)[:60]!r}")
        found.append((cells[0], cells[1]))
    return found


def _is_a(path: Path) -> list[tuple[str, str]]:
    found = []
    for line, text in enumerate(read_text(path).split("\n"), start=1):
        words = text.split()
        if not words:
            continue
        if len(words) != 2:
            raise UserError(f"{path}, line {line}: expected '<parent> <child>', found {text[:60]!r}; other lists: .csv")
        found.append((words[1], words[0]))
    return found
