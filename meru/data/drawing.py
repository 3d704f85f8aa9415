"""How a data set drawn by code comes into its folder: once, whole, and never into another's folder."""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from meru.errors import UserError
from meru.files import user_path

log = logging.getLogger("meru")


def draw_once(
    root: str | Path,
    *,
    kind: str,
    version: int,
    arguments: Mapping[str, int],
    least: Mapping[str, int],
    pictures: Callable[[], int],
    write: Callable[[Path], None],
) -> Path:
    """Draws a data set into `root`, or finds it there.

    Everything is drawn into a temporary folder beside `root` and renamed at the end: under its own name the data
    set is complete, also when several processes draw at once or one of them is killed.

    Args:
        root: The folder to make. One with the same drawings is left as it is.
        kind: What is drawn, such as `birds`; version and arguments are kept in `<kind>.json`.
        version: Of the code that draws.
        arguments: Whole numbers that the drawings depend on.
        least: The least that each of the arguments may be.
        pictures: How many there will be, for the log; called once the arguments are known to be good.
        write: Fills the folder that it is given, which exists.

    Returns:
        `root`.

    Raises:
        UserError: an argument out of range; `root` holds other drawings or something else, or cannot be written.
    """
    root = user_path(root)
    for name, value in arguments.items():
        if type(value) is not int or value < least[name]:
            raise UserError(f"{kind}: {name} is {value!r}; give a whole number of at least {least[name]}")
    made_with = {"drawer_version": version, **arguments}
    try:
        if not _is_drawn(root, kind, made_with):
            log.info("drawing %d %s into %s", pictures(), kind, root)
            _draw(root, kind, made_with, write)
    except OSError as error:
        raise UserError(
            f"{kind}: cannot draw into {root} ({error.strerror or error}); make room there or set another data.root",
            exit_code=1,
        ) from error
    return root


def _draw(root: Path, kind: str, made_with: dict[str, int], write: Callable[[Path], None]) -> None:
    started = time.monotonic()
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{root.name}-", dir=root.parent) as scratch:
        folder = Path(scratch) / root.name
        folder.mkdir()
        made = json.dumps(made_with, indent=2) + "\n"
        (folder / f"{kind}.json").write_text(made, encoding="utf-8", newline="\n")
        write(folder)
        try:
            folder.rename(root)
        except OSError:
            # Another process may have finished the same drawings first; its folder is as good.
            if not _is_drawn(root, kind, made_with):
                raise
    log.info("drawn in %.1f s", time.monotonic() - started)


def _is_drawn(root: Path, kind: str, made_with: dict[str, int]) -> bool:
    """Whether `root` holds exactly these drawings; anything else in it is a `UserError`."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    try:
        found = json.loads((root / f"{kind}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{kind}: {root} holds something other than drawn {kind}; set another data.root")
    differing = [f"{name} {found.get(name)}, not {made_with[name]}" for name in made_with
                 if found.get(name) != made_with[name]]
    if differing:
        raise UserError(
            f"{kind}: {root} was drawn with {'; '.join(differing)}: delete it to draw anew, or set another data.root"
        )
    return True
