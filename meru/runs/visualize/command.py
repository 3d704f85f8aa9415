"""The plots by name, and their arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from meru.errors import UserError
from meru.runs.visualize.curves import curves
from meru.runs.visualize.samples import disk, neighbours, norms, traversal
from meru.runs.visualize.single import attention, tree


@dataclass(frozen=True)
class Picture:
    """A plot that a user can request.

    Attributes:
        draw: Saves the plot; takes the user's arguments by name, and returns a line with the path.
        required, optional: Names of the arguments.
    """

    draw: Callable[..., str]
    required: tuple[str, ...]
    optional: tuple[str, ...]


def visualize(name: str, given: Mapping[str, str]) -> str:
    """Draw a plot; returns a line with its path.

    Args:
        name: Name of the plot.
        given: The user's arguments.

    Raises:
        UserError: for an unknown name, unknown or missing arguments, and other failures that the user can fix.
    """
    if name not in PICTURES:
        raise UserError(f"{name}: choose one of {', '.join(PICTURES)}; see --help")
    picture = PICTURES[name]
    known = picture.required + picture.optional
    if unknown := [key for key in given if key not in known]:
        raise UserError(f"{unknown[0]}=: {name} takes {', '.join(known)}; see --help")
    if missing := [key for key in picture.required if key not in given]:
        raise UserError(f"{missing[0]}= is missing; see --help")
    return picture.draw(**given)


PICTURES = {
    "disk": Picture(disk, ("run",), ("split", "count", "projection", "root", "output")),
    "norms": Picture(norms, ("run",), ("split", "count", "root", "output")),
    "traversal": Picture(
        traversal, ("run",), ("image", "text", "other", "texts", "general", "split", "count", "root", "output")
    ),
    "neighbours": Picture(neighbours, ("run",), ("image", "text", "split", "count", "hide_heads", "root", "output")),
    "attention": Picture(attention, ("run", "image", "text"), ("output",)),
    "curves": Picture(curves, ("run",), ("figures", "output")),
    "tree": Picture(tree, ("run",), ("root", "output")),
}
