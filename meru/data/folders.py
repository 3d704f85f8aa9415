"""Finds the folders and files of data sets, also in copies whose names have been changed by users or file systems."""

from __future__ import annotations

import os
import posixpath
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

from meru.errors import UserError
from meru.files import user_path

# Names that operating systems and archives leave behind; names with a leading dot count as clutter too.
CLUTTER = {"__MACOSX", "Thumbs.db", "desktop.ini", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information"}
_MOST_SEARCHED = 100  # folders inside a folder that is not the data set's own


def is_clutter(name: str) -> bool:
    """Whether a name is one that systems or programs leave behind: `._a.jpg`, `.ipynb_checkpoints`, `Thumbs.db`."""
    return name.startswith(".") or name in CLUTTER


def visible_folders(folder: Path) -> list[Path]:
    """The folders inside a folder, sorted, without clutter; empty if it cannot be listed."""
    try:
        return sorted(path for path in folder.iterdir() if not is_clutter(path.name) and path.is_dir())
    except OSError:
        return []


def find_folder(
    root: str | Path,
    *,
    marker: str | Sequence[str],
    inside: Sequence[str] = (),
    what: str,
    missing: str | None = None,
    advice: str,
) -> Path:
    """The folder that holds a file or folder `marker`: `root`, one of those `inside` it, or the only such folder below.

    It may be two levels down, as archives often unpack into a folder of their own.

    Args:
        marker: One name, or several of which one is enough.
        what: Name of the data set, for messages.
        missing: What the folder lacks, for messages, if the first marker's name is not enough.
        advice: What to do if it is not found; "or set data.root=" follows.

    Raises:
        UserError: if there is none, or more than one.
    """
    root = user_path(root)
    markers = (marker,) if isinstance(marker, str) else tuple(marker)

    def has_marker(folder: Path) -> bool:
        return any((folder / name).exists() for name in markers)

    for folder in (root, *(root / name for name in inside)):
        if has_marker(folder):
            return folder
    level = [root]
    for _ in range(2):
        level = [inner for folder in level for inner in visible_folders(folder)][:_MOST_SEARCHED]
        if found := [folder for folder in level if has_marker(folder)]:
            if len(found) > 1:
                raise UserError(
                    f"{what}: {found[0]} and {found[1]} both hold {markers[0]}; set data.root= to one of them"
                )
            return found[0]
    reason = f"holds no {missing or markers[0]}" if root.is_dir() else "is no folder"
    raise UserError(f"no {what}: {root} {reason}; {advice}, or set data.root=<folder> to a copy of it")


def inner_path(name: str) -> str | None:
    """The normalised path inside a folder, with `/` between its parts; None if it points outside the folder."""
    path = name.strip().replace("\\", "/")
    if not path or "\0" in path or path.startswith("/") or re.match(r"[A-Za-z]:", path):
        return None
    path = posixpath.normpath(path)
    return None if path in (".", "..") or path.startswith("../") else path


class FileFinder:
    """Finds files inside a folder by listed names, also if case or Unicode form differ.

    Every folder is listed once, instead of checking each file: this is fast on network drives as well.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._names: dict[Path, set[str]] = {}
        self._alike: dict[Path, dict[str, list[str]]] = {}
        self._inner: dict[str, Path | None] = {"": folder}

    def find(self, name: str) -> Path | None:
        """The file of that name, else the only one whose name differs just in case or Unicode form, else None.

        Args:
            name: As returned by `inner_path`.
        """
        inner, _, file = name.rpartition("/")
        if inner not in self._inner:
            self._inner[inner] = self.find(inner)
        parent = self._inner[inner]
        return None if parent is None else self._in_folder(parent, file)

    def find_all(self, names: Iterable[str]) -> tuple[list[Path | None], list[str]]:
        """The result of `find` for each name, and the names without a file."""
        names = list(names)
        paths = [self.find(name) for name in names]
        return paths, [name for name, path in zip(names, paths, strict=True) if path is None]

    def _in_folder(self, parent: Path, name: str) -> Path | None:
        if parent not in self._names:
            self._names[parent] = set(os.listdir(parent)) if parent.is_dir() else set()
        if name in self._names[parent]:
            return parent / name
        if parent not in self._alike:
            self._alike[parent] = {}
            for each in self._names[parent]:
                self._alike[parent].setdefault(folded(each), []).append(each)
        alike = self._alike[parent].get(folded(name), [])
        return parent / alike[0] if len(alike) == 1 else None


def folded(name: str) -> str:
    """A name without the differences in case and Unicode form that some file systems ignore."""
    return unicodedata.normalize("NFC", name).casefold()


def first_repeated(paths: Iterable[object]) -> tuple[int, int] | None:
    """Positions of the first two equal items, or None."""
    seen: dict[object, int] = {}
    for position, path in enumerate(paths):
        if seen.setdefault(path, position) != position:
            return seen[path], position
    return None


def torchvision_root(root: str | Path, folder: str) -> Path:
    """Torchvision's root: the folder that contains `folder`. `root` may also be `folder` itself or one level up.

    Args:
        root: As the user gave it.
        folder: A name, or two with a slash between them, of which `root` may also be the first.
    """
    root = user_path(root)
    names = Path(folder).parts
    if not (root / folder).is_dir():
        for depth in range(len(names), 0, -1):
            if root.parts[-depth:] == names[:depth]:
                return root.parents[depth - 1]
        deeper = [path.parent for path in root.glob(f"*/{folder}") if path.is_dir()]
        if len(deeper) == 1:
            return deeper[0]
    return root
