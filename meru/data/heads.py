"""Images whose heads are blurred or covered, so that no face is shown, searched or learned from.

The changed images are files of their own, written once to the folder of `data.cache`: training, cached views,
evaluation and pictures then read them like any others.

The place of a head, in this order: a line of `data.heads`; the key-points of the head among the image's parts; for
persons the upper sixth of the image, because pictures of person search are cut to the person.
"""

from __future__ import annotations

import csv
import io
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from meru.data.cache_files import cache_folder, digest_of, file_facts
from meru.data.loading import read_or_skip, reading_options
from meru.data.records import ImageRecord, ImageTextData
from meru.data.texts import read_text
from meru.errors import UserError
from meru.files import make_folder_of, user_path, write_atomically

VERSION = 1
Box = tuple[float, float, float, float]  # left, top, width and height, pixels
COLUMNS = ("image", "x", "y", "width", "height")
# Words in the names of key-points that lie on a head: of persons (as in COCO), and of birds (as in CUB).
POINTS = ("head", "face", "nose", "eye", "ear", "mouth", "chin", "beak", "crown", "forehead", "nape", "throat")
MARGIN = 0.5  # added on each side of the key-points, as a share of their larger extent
LEAST = 1 / 6  # smallest side of a head found by key-points, as a share of the object's larger side
UPPER_SHARE = 1 / 6  # of a picture of a person
PATCHES = 3  # a blurred head keeps this many colours in each direction
PERSON_SHAPED = 1.5  # ratio of height to width from which a picture in a folder may show a whole person
GREY = 128
KEPT = 4  # parts of an image's path that are the end of its copy's
LONGEST = 8  # parts of a path that a list may give
WAYS = ("blur", "cover", "elsewhere")

log = logging.getLogger("meru")


def hidden(image: Tensor, box: Box, how: str) -> Tensor:
    """An image with a box blurred or covered.

    Args:
        image: uint8 `(3, H, W)`.
        box: In pixels; what lies outside the image is left out.
        how: `blur`: 3 × 3 mean colours, enlarged smoothly, from which the head cannot be restored; `cover`: grey;
            `elsewhere`: grey in a box of the same size below the head, or above it, whichever has more room.

    Returns:
        uint8 `(3, H, W)`.
    """
    height, width = image.shape[1:]
    left, top = (max(0, math.floor(value)) for value in box[:2])
    right, bottom = min(width, math.ceil(box[0] + box[2])), min(height, math.ceil(box[1] + box[3]))
    if right <= left or bottom <= top:
        return image
    if how == "elsewhere":
        down, below = bottom - top, height - bottom
        top = bottom + max(0, below - down) // 2 if below >= top else max(0, top - down) // 2
        top, bottom = min(top, height - down), min(top, height - down) + down
    image = image.clone()
    if how != "blur":
        image[:, top:bottom, left:right] = GREY
        return image
    part = image[None, :, top:bottom, left:right].float()
    small = F.adaptive_avg_pool2d(part, tuple(min(PATCHES, side) for side in part.shape[2:]))
    smooth = F.interpolate(small, part.shape[2:], mode="bilinear", align_corners=False)
    image[:, top:bottom, left:right] = smooth[0].round().to(torch.uint8)
    return image


def head_of_points(record: ImageRecord, *, height: int, width: int) -> Box | None:
    """A square around the key-points of the head, in an image of that size; None if no part is of the head."""
    points = [place for name, place in record.parts.items() if of_head(name)]
    if not points:
        return None
    (left, right), (top, bottom) = ((min(values), max(values)) for values in zip(*points, strict=True))
    whole = max(record.box[2:]) if record.box else max(height, width)
    extent = max(right - left, bottom - top)
    side = max(extent * (1 + 2 * MARGIN), LEAST * whole)
    return (left + right - side) / 2, (top + bottom - side) / 2, side, side


def of_head(part: str) -> bool:
    """Whether a part by that name lies on the head."""
    return any(word in POINTS for word in part.lower().replace("_", " ").replace("-", " ").split())


def read_heads(path: Path) -> dict[str, Box]:
    """The boxes of a CSV with the columns image, x, y, width and height, by the image's path.

    Raises:
        UserError: if it is missing, lacks a column, or a line holds no box; the message names the line.
    """
    if not path.is_file():
        raise UserError(
            f"data.heads={path} does not exist: give a CSV with the columns {','.join(COLUMNS)}; for synthetic persons "
            "of an earlier version, delete their folder to draw them anew"
        )
    lines = csv.DictReader(io.StringIO(read_text(path)))
    if missing := [name for name in COLUMNS if name not in (lines.fieldnames or ())]:
        raise UserError(f"data.heads={path} has no column {missing[0]}; it needs {','.join(COLUMNS)}")
    found: dict[str, Box] = {}
    for number, line in enumerate(lines, start=2):
        try:
            x, y, width, height = (float(line[name]) for name in COLUMNS[1:])
        except (TypeError, ValueError):
            raise UserError(f"{path}, line {number}: x, y, width and height must be numbers, in pixels") from None
        if not (line["image"] and width > 0 and height > 0 and all(map(_finite, (x, y, width, height)))):
            raise UserError(f"{path}, line {number}: a head needs an image, and a width and height above 0")
        if line["image"] in found:
            raise UserError(f"{path}, line {number}: {line['image']} is listed twice; keep one head for each image")
        found[line["image"]] = (x, y, width, height)
    return found


def _finite(value: float) -> bool:
    return abs(value) < 1e9


class HeadList:
    """Heads by the image's path, from a list; without one, no head is known.

    Args:
        path: The list; None: there is none.

    Raises:
        UserError: as `read_heads`.
    """

    def __init__(self, path: Path | None):
        self.path, self.boxes = path, {} if path is None else read_heads(path)
        self._named: dict[str, Path] = {}

    def of(self, image: Path) -> Box | None:
        """The box in the list whose path is the end of the image's.

        Raises:
            UserError: if the end of another image's path is the same.
        """
        parts = image.parts
        for count in range(min(len(parts), LONGEST), 0, -1):
            if (end := "/".join(parts[-count:])) in self.boxes:
                if (other := self._named.setdefault(end, image)) != image:
                    raise UserError(f"{self.path}: {end} may be {other} or {image}: give more of the path")
                return self.boxes[end]
        return None

    def hide(self, image: Tensor, path: Path, how: str) -> Tensor:
        """An image of a folder that is only shown: uint8 `(3, H, W)` → the same shape.

        Without a known head the upper sixth is hidden if the image has the shape of a person; others stay as they are.
        """
        height, width = image.shape[1:]
        upper = (0.0, 0.0, float(width), height * UPPER_SHARE) if height >= PERSON_SHAPED * width else None
        box = self.of(path) or upper
        return image if box is None else hidden(image, box, how)


class HiddenHeads:
    """Records whose images are copies with hidden heads.

    Args:
        section: The section `data`: `heads`, `root`, `cache` and the keys for reading images.
        persons: Whether the images are of persons, whose heads are in the upper part if nothing else is known.

    Raises:
        UserError: if `heads` cannot be read.
    """

    def __init__(self, section: Mapping, *, persons: bool):
        self.section, self.persons = section, persons
        file = section.get("heads")
        beside = user_path(section["root"]) / "heads.csv" if section.get("root") else None
        self.heads = HeadList(user_path(file) if file else beside if beside and beside.is_file() else None)
        self._folder = cache_folder(section.get("cache")) / "heads"

    def records(self, records: Sequence[ImageRecord], how: str) -> tuple[ImageRecord, ...]:
        """The records with hidden heads, in order.

        Raises:
            UserError: if the head of an image has no known place, or an image cannot be read or written.
        """
        guessed, hidden_records = 0, []
        for record in records:
            given = self.heads.of(record.path)
            guessed += given is None and not any(map(of_head, record.parts))
            hidden_records.append(self._hidden(record, given, how))
        if guessed:
            log.info("the place of %d of %d heads is not known: the upper sixth is hidden", guessed, len(records))
        return tuple(hidden_records)

    def _hidden(self, record: ImageRecord, given: Box | None, how: str) -> ImageRecord:
        facts = (VERSION, how, file_facts(record.path), given, record.box, sorted(record.parts.items()), self.persons)
        # The end of the path stays, by which other lists name the image; readers go by the content, which is PNG.
        path = self._folder.joinpath(digest_of(facts)[:32], *end_of(record.path))
        if not path.is_file():
            image = read_or_skip(record.path, **reading_options(self.section))
            if image is None:
                return record  # it cannot be decoded, and is skipped wherever it is read
            box = self._box(record, given, image)
            pixels = Image.fromarray(hidden(image, box, how).permute(1, 2, 0).contiguous().numpy())
            make_folder_of(path)
            write_atomically(path, lambda file: pixels.save(file, format="PNG"), advice="free space or set data.cache")
        return replace(record, path=path)

    def _box(self, record: ImageRecord, given: Box | None, image: Tensor) -> Box:
        height, width = image.shape[1:]
        if found := given or head_of_points(record, height=height, width=width):
            return found
        if not self.persons:
            raise UserError(
                f"{record.path}: the place of the head is not known: give data.heads=<CSV of {','.join(COLUMNS)}>, or "
                "data with key-points of heads"
            )
        return 0.0, 0.0, float(width), height * UPPER_SHARE


def end_of(path: Path) -> list[str]:
    """The last parts of a path, none of which leads out of the folder that they are put in."""
    return [part for part in path.parts if part not in (path.anchor, "..")][-KEPT:]


def hide_heads(data: ImageTextData, section: Mapping) -> ImageTextData:
    """The data with the heads of all splits hidden, as `data.hidden_heads` says.

    Raises:
        UserError: as `HiddenHeads`, and for images that are read as a stream.
    """
    if data.shards:
        raise UserError("data.hidden_heads: images of shards are read as a stream; hide heads before they are written")
    heads = HiddenHeads(section, persons=data.class_kind == "identity")
    splits = {
        split: heads.records(getattr(data, split), section["hidden_heads"]) for split in ("train", "validation", "test")
    }
    return replace(data, **splits)
