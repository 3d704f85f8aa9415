"""Boxes with phrases in a cell of a table."""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Iterable, Mapping, Sequence

from meru.data.records import Region
from meru.errors import UserError

FORMATS = ("xywh", "xyxy")  # x, y, width, height; or the left, top, right and bottom edges
# Share of a box's area. Edges drawn a little outside the image are usual; with less inside, the unit or image is wrong.
LEAST_INSIDE = 0.5
BOX_NAMES, PHRASE_NAMES = ("box", "bbox"), ("phrase", "caption", "text", "label")


def regions(value: object, where: str, *, box_format: str = "xywh") -> tuple[Region, ...]:
    """Read boxes with phrases: `[{"box": [x, y, width, height], "phrase": "a red bill"}, …]`, in pixels.

    Args:
        value: Such a list, or its JSON text as in CSV; `[x, y, width, height, phrase]` is read as well. None or an
            empty text: no boxes.
        where: The place of the row, for messages.
        box_format: One of `FORMATS`.

    Raises:
        UserError: for anything else, boxes without area, and boxes in shares of the image.
    """
    if value is None or value != value or value == "":
        return ()
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise UserError(f"{where}: the boxes are not JSON ({error})") from None
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list):
        raise UserError(f"{where}: the boxes are {reprlib.repr(value)}, not a list")
    return tuple(_region(each, where, box_format) for each in value)


def _region(value: object, where: str, box_format: str) -> Region:
    box, phrase = None, None
    if isinstance(value, Mapping):
        box = next((value[name] for name in BOX_NAMES if name in value), None)
        phrase = next((value[name] for name in PHRASE_NAMES if name in value), "")
    elif isinstance(value, list) and len(value) == 5:
        *box, phrase = value
    numbers = isinstance(box, list) and all(type(edge) in (int, float) and math.isfinite(edge) for edge in box)
    if not numbers or len(box) != 4 or not isinstance(phrase, str):
        wanted = '{"box": [x, y, width, height], "phrase": "words"}'
        raise UserError(f"{where}: the box {reprlib.repr(value)} is not of the form {wanted}")
    if max(map(abs, box)) <= 1:
        raise UserError(f"{where}: the box {box} looks like shares of the image: give pixels")
    x, y, width, height = box
    if box_format == "xyxy":
        width, height = width - x, height - y
    if width <= 0 or height <= 0:
        others = " or ".join(FORMATS)
        raise UserError(f"{where}: the box {box} has no area with data.box_format={box_format}; choose {others}")
    return Region((float(x), float(y), float(width), float(height)), " ".join(phrase.split()))


def require_inside(found: Iterable[Region], where: str, *, height: int, width: int) -> None:
    """Refuse boxes that do not belong to an image of this size, in pixels; edges slightly outside are accepted.

    Raises:
        UserError: if less than `LEAST_INSIDE` of a box lies in the image; the message begins with `where`.
    """
    for region in found:
        if share_inside(region.box, height=height, width=width) < LEAST_INSIDE:
            raise UserError(
                f"{where}: the box {shown(region.box)} (left, top, width, height) lies outside its image of {width} × "
                f"{height} pixels: give boxes in pixels of the image as it is stored, or set data.box_format"
            )


def share_inside(box: Sequence[float], *, height: float, width: float) -> float:
    """The share of the area of a box, left, top, width and height, that lies in an image."""
    left, top, across, down = box
    inside = max(0.0, min(left + across, width) - max(left, 0)) * max(0.0, min(top + down, height) - max(top, 0))
    return inside / (across * down)


def shown(box: Sequence[float]) -> str:
    """A box as in a table: `[10, 20, 50.5, 40]`."""
    return f"[{', '.join(f'{edge:g}' for edge in box)}]"
