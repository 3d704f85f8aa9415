"""Parts of birds: the words that name them, the phrases about them, and the windows that show them.

Crops of an image with phrases of its captions are what HyCoCLIP learns from (Pal et al., "Compositional Entailment
Learning for Hyperbolic Vision-Language Models", ICLR 2025); there they come with the data set, here from CUB's
bounding boxes and part key-points.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch

from meru.data.images import MAXIMUM_PIXELS, image_size
from meru.data.records import ImageRecord
from meru.data.transforms import EvaluationTransform
from meru.errors import UserError

WHOLE = "bird"
# Word in a caption → part; CUB's part names without "left" and "right".
PART_OF_WORD = {
    "bill": "beak", "bills": "beak", "beak": "beak", "beaks": "beak",
    "crown": "crown", "forehead": "forehead",
    "eye": "eye", "eyes": "eye",
    "throat": "throat", "breast": "breast", "belly": "belly", "back": "back", "nape": "nape",
    "wing": "wing", "wings": "wing",
    "leg": "leg", "legs": "leg",
    "tail": "tail",
}  # fmt: skip
# A noun phrase does not reach across these.
_BOUNDARIES = {
    *("a", "an", "the", "this", "that", "these", "those", "its", "it", "it's", "his", "her", "bird's"),
    *("and", "or", "but", "with", "has", "have", "had", "having", "is", "are", "was", "were", "which", "who"),
    *("of", "on", "in", "at", "to", "from", "for", "by", "as", "than", "around", "near", "over", "under", "above"),
    *("below", "along", "between", "while", "where", "there", "also", "very", "mostly"),
}
_BE = ("is", "are")


class Part(NamedTuple):
    """A part of a picture, or the whole bird in it.

    Args:
        window: Left, top, width and height, whole pixels inside the image.
        phrase: Words for it, "" where nothing is said of it.
    """

    window: tuple[int, int, int, int]
    phrase: str


@cache
def part_phrases(caption: str) -> dict[str, str]:
    """The noun phrases of a caption that name a part or the bird: part → its first phrase, as in the caption.

    "this bird has a long orange bill and its throat is red." gives
    {"bird": "bird", "beak": "long orange bill", "throat": "throat is red"}.
    """
    phrases: dict[str, str] = {}
    for clause in re.split(r"[^a-z' -]+", caption.lower()):
        words = re.findall(r"[a-z']+", clause)
        for position, word in enumerate(words):
            part = WHOLE if word == WHOLE else PART_OF_WORD.get(word)
            if part is None:
                continue
            start = position
            while start and words[start - 1] not in _BOUNDARIES and words[start - 1] not in PART_OF_WORD:
                start -= 1
            end = position + 1
            if start == position and part != WHOLE and words[end : end + 1] and words[end] in _BE:
                end += 1  # what it is follows
                while end < len(words) and words[end] not in _BOUNDARIES:
                    end += 1
            phrases.setdefault(part, " ".join(words[start:end]))
    return phrases


def plain_part(name: str) -> str:
    """CUB's part name without its side: "left wing" → "wing"."""
    return name.rpartition(" ")[2]


def part_places(
    records: Sequence[ImageRecord], transform: EvaluationTransform, *, maximum_pixels: int = MAXIMUM_PIXELS
) -> tuple[list[dict[str, torch.Tensor]], list[tuple[float, float]]]:
    """Where the parts of every record and the centre of its box are in the picture that the model sees.

    Returns:
        For every record: part (without its side) → `(k, 2)`, and the centre; shares of the picture's width and
        height. Parts that the transform cuts off, and all those of an unreadable image, are left out; without a box
        the centre is that of the picture.
    """
    places, centres = [], []
    for record in records:
        try:
            height, width = image_size(record.path, maximum_pixels=maximum_pixels)
        except UserError:  # whoever loads the picture complains of it, or is told to skip it
            places.append({})
            centres.append((0.5, 0.5))
            continue
        size = {"height": height, "width": width}
        by_part: dict[str, list[torch.Tensor]] = {}
        for name, point in record.parts.items():
            (place,) = transform.places(torch.tensor([point]), **size)
            if ((place >= 0) & (place < 1)).all():
                by_part.setdefault(plain_part(name), []).append(place)
        places.append({part: torch.stack(found) for part, found in by_part.items()})
        if record.box is None:
            centres.append((0.5, 0.5))
        else:
            left, top, width, height = record.box
            (centre,) = transform.places(torch.tensor([[left + width / 2, top + height / 2]]), **size)
            centres.append(tuple(centre.tolist()))
    return places, centres


class CropParts:
    """Draws one part of a picture at a time: the bird's bounding box, or a window around a visible part.

    Args:
        crops: Which of `box` and `parts` to draw from; every box and every visible part is as likely.
        window: Least and greatest side of a part's window, as a share of the longer side of the box.

    Raises:
        UserError: for other `crops`, or sides out of range.
    """

    KINDS = ("box", "parts")

    def __init__(self, *, crops: Sequence[str] = KINDS, window: Sequence[float] = (0.3, 0.5)):
        if not crops or set(crops) - set(self.KINDS):
            raise UserError(f"parts.crops={list(crops)}: choose from {', '.join(self.KINDS)}")
        if not 0 < window[0] <= window[1] <= 1:
            raise UserError(f"parts.window={list(window)}: give two shares, 0 < least <= greatest <= 1")
        self.crops, self.window = tuple(crops), tuple(window)

    def check(self, records: Sequence[ImageRecord], root: str) -> None:
        """See that the data have what is to be drawn from.

        Raises:
            UserError: if no record has a box, or none a visible part; it names the missing file.
        """
        have = {"box": any(r.box for r in records), "parts": any(r.parts for r in records)}
        files = {"box": "bounding_boxes.txt", "parts": "parts/part_locs.txt"}
        for kind in self.crops:
            if not have[kind]:
                others = [other for other in self.KINDS if have[other]]
                instead = f"parts.crops=[{others[0]}], " if others else ""
                raise UserError(
                    f"model=hycoclip needs {files[kind]}, which {root} lacks (or which tells of no visible one): "
                    f"restore it, or choose {instead}model=meru_patches or model=meru_grid"
                )

    def __call__(self, record: ImageRecord, *, height: int, width: int, caption: str) -> Part | None:
        """One part of a picture of `height` × `width` pixels, drawn with torch's default generator.

        Its phrase comes from `caption`, else from another caption of the image, else from what its class looks like.

        Returns:
            None where the picture has nothing to draw from.
        """
        choices = list(record.parts) if "parts" in self.crops else []
        if "box" in self.crops and record.box is not None:
            choices.append(WHOLE)
        if not choices:
            return None
        chosen = choices[int(torch.randint(len(choices), ()))]
        if chosen == WHOLE:
            left, top, box_width, box_height = record.box
            edges = (left, top, left + box_width, top + box_height)
        else:
            x, y = record.parts[chosen]
            extent = max(record.box[2:]) if record.box is not None else max(height, width)
            least, greatest = self.window
            half = float(least + (greatest - least) * torch.rand(())) * extent / 2
            edges = (x - half, y - half, x + half, y + half)
        part = plain_part(chosen)
        return Part(_inside(edges, height, width), self._phrase(record, part, caption))

    @staticmethod
    def _phrase(record: ImageRecord, part: str, caption: str) -> str:
        own = part_phrases(caption).get(part)
        if own:
            return own
        others = [phrases[part] for phrases in map(part_phrases, record.captions) if part in phrases]
        if others:
            return others[int(torch.randint(len(others), ()))]
        for word in (word for word, named in PART_OF_WORD.items() if named == part):
            if word in record.colours:
                return f"{record.colours[word]} {word}"
        return ""


def _inside(edges: tuple[float, float, float, float], height: int, width: int) -> tuple[int, int, int, int]:
    """Left, top, width, height of the whole pixels that a window covers of the image, at least one."""
    left, top, right, bottom = edges
    left, right = (min(max(round(edge), 0), width) for edge in (left, right))
    top, bottom = (min(max(round(edge), 0), height) for edge in (top, bottom))
    left, top = min(left, width - 1), min(top, height - 1)
    return left, top, max(right - left, 1), max(bottom - top, 1)
