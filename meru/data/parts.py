"""Parts of the object in an image: the words that name them, phrases about them, and windows around them.

HyCoCLIP learns from crops of an image with phrases of its captions (Pal et al., "Compositional Entailment
Learning for Hyperbolic Vision-Language Models", ICLR 2025). There the crops come with the data set, here too if it has
them, else from bounding boxes and part key-points. The data set's configuration gives the words for each part.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from meru.data.images import MAXIMUM_PIXELS, image_size
from meru.data.records import Crop, ImageRecord, Region
from meru.data.transforms import EvaluationTransform
from meru.errors import UserError

# A noun phrase does not extend across these.
_BOUNDARIES = {
    *("a", "an", "the", "this", "that", "these", "those", "its", "it", "it's", "his", "her"),
    *("and", "or", "but", "with", "has", "have", "had", "having", "is", "are", "was", "were", "which", "who"),
    *("of", "on", "in", "at", "to", "from", "for", "by", "as", "than", "around", "near", "over", "under", "above"),
    *("below", "along", "between", "while", "where", "there", "also", "very", "mostly"),
}
_BE = ("is", "are")


class Part(NamedTuple):
    """A part of an image, or the bounding box of the whole object.

    Args:
        window: Left, top, width and height, whole pixels inside the image.
        phrase: Words for it, "" if no text describes it.
    """

    window: tuple[int, int, int, int]
    phrase: str


class PartWords:
    """The words that captions use for the object in an image and for its parts.

    Args:
        whole: The noun for the whole object, such as "bird"; "" if captions have none.
        parts: Part, without its side, → the words that name it.
    """

    def __init__(self, whole: str, parts: Mapping[str, Sequence[str]]):
        self.whole = whole
        self.part_of = {word: part for part, words in parts.items() for word in words}
        self._phrases: dict[str, dict[str, str]] = {}

    @classmethod
    def of(cls, section: Mapping) -> PartWords:
        """The words in a configuration's `data`, its keys `whole` and `part_words`."""
        return cls(section["whole"] or "", section["part_words"] or {})

    def naming(self, part: str) -> list[str]:
        """The words that name a part."""
        return [word for word, named in self.part_of.items() if named == part]

    def phrases(self, caption: str) -> dict[str, str]:
        """The noun phrases of a caption that name a part or the whole: name → its first phrase, as in the caption.

        "this bird has a long orange bill and its throat is red." gives, with words for birds,
        {"bird": "bird", "beak": "long orange bill", "throat": "throat is red"}.
        """
        if caption not in self._phrases:
            self._phrases[caption] = self._found(caption)
        return self._phrases[caption]

    def _found(self, caption: str) -> dict[str, str]:
        phrases: dict[str, str] = {}
        for clause in re.split(r"[^a-z' -]+", caption.lower()):
            words = re.findall(r"[a-z']+", clause)
            for position, word in enumerate(words):
                part = self.whole if word == self.whole else self.part_of.get(word)
                if part is None:
                    continue
                start = position
                while start and not self._ends(words[start - 1]):
                    start -= 1
                end = position + 1
                if start == position and part != self.whole and words[end : end + 1] and words[end] in _BE:
                    end += 1  # its description follows
                    while end < len(words) and words[end] not in _BOUNDARIES and words[end] != f"{self.whole}'s":
                        end += 1
                phrases.setdefault(part, " ".join(words[start:end]))
        return phrases

    def _ends(self, word: str) -> bool:
        """Whether a noun phrase begins after this word."""
        return word in _BOUNDARIES or word in self.part_of or word == f"{self.whole}'s"


def plain_part(name: str) -> str:
    """The name of a part without its side: "left wing" → "wing"."""
    return name.rpartition(" ")[2]


def part_places(
    records: Sequence[ImageRecord], transform: EvaluationTransform, *, maximum_pixels: int = MAXIMUM_PIXELS
) -> tuple[list[dict[str, torch.Tensor]], list[tuple[float, float]]]:
    """The positions of the parts of every record, and of the centre of its box, in the model's input image.

    Returns:
        For every record: part (without its side) → `(k, 2)`, and the centre, in shares of that image's width and
        height. Parts that the transform cuts off, and all parts of an unreadable image, are left out; without a box,
        the centre is that of the image.
    """
    places, centres = [], []
    for record in records:
        try:
            height, width = image_size(record.path, maximum_pixels=maximum_pixels)
        except UserError:  # loading the image raises this error or skips the image
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
    """Draws one part of an image at a time: a box, or a window around a visible part.

    Args:
        words: The words for parts in captions.
        crops: `box`, `parts` or both, to draw from; the bounding box, every box with a phrase, every crop of the data
            set and every visible part are equally likely.
        window: Smallest and largest side of a part's window, as shares of the longer side of the box.

    Raises:
        UserError: for other `crops`, or sides out of range.
    """

    KINDS = ("box", "parts")

    def __init__(self, words: PartWords, *, crops: Sequence[str] = KINDS, window: Sequence[float] = (0.3, 0.5)):
        if not crops or set(crops) - set(self.KINDS):
            raise UserError(f"parts.crops={list(crops)}: choose from {', '.join(self.KINDS)}")
        if not 0 < window[0] <= window[1] <= 1:
            raise UserError(f"parts.window={list(window)}: give two shares, 0 < least <= greatest <= 1")
        self.words, self.crops, self.window = words, tuple(crops), tuple(window)

    def check(self, records: Sequence[ImageRecord], root: str) -> None:
        """Check that the data have the annotations that parts are drawn from.

        Raises:
            UserError: if no record has a box, or none has a visible part; the message names what is missing. Boxes with
                phrases are enough.
        """
        if "box" in self.crops and any(r.regions for r in records):
            return
        have = {"box": any(r.box for r in records), "parts": any(r.parts for r in records)}
        files = {"box": "bounding_boxes.txt or boxes with phrases", "parts": "parts/part_locs.txt"}
        for kind in self.crops:
            if not have[kind]:
                others = [other for other in self.KINDS if have[other]]
                instead = f"parts.crops=[{others[0]}], " if others else ""
                raise UserError(
                    f"parts.crops={list(self.crops)} needs {files[kind]}, which {root} lacks (or in which none is "
                    f"visible): restore it, or choose {instead}model=meru_patches or model=meru_grid"
                )

    def __call__(self, record: ImageRecord, *, height: int, width: int, caption: str) -> Part | Crop | None:
        """One part of an image of `height` × `width` pixels, chosen with torch's default generator.

        The phrase of a box with a phrase, or of a crop, is its own. Others come from `caption`, else from another
        caption of the image, else from the colours of its class.

        Returns:
            None if the image has neither of `crops`.
        """
        choices: list[str | Region | Crop | None] = list(record.parts) if "parts" in self.crops else []
        if "box" in self.crops:
            choices += [None] * (record.box is not None)  # the whole
            choices += record.regions
        if not choices:
            return None
        chosen = choices[int(torch.randint(len(choices), ()))]
        if isinstance(chosen, Crop):
            return chosen
        if isinstance(chosen, Region):
            left, top, box_width, box_height = chosen.box
            edges = (left, top, left + box_width, top + box_height)
            return Part(_inside(edges, height, width), chosen.phrase)
        if chosen is None:
            left, top, box_width, box_height = record.box
            edges = (left, top, left + box_width, top + box_height)
        else:
            x, y = record.parts[chosen]
            extent = max(record.box[2:]) if record.box is not None else max(height, width)
            least, greatest = self.window
            half = float(least + (greatest - least) * torch.rand(())) * extent / 2
            edges = (x - half, y - half, x + half, y + half)
        part = self.words.whole if chosen is None else plain_part(chosen)
        return Part(_inside(edges, height, width), self._phrase(record, part, caption))

    def _phrase(self, record: ImageRecord, part: str, caption: str) -> str:
        own = self.words.phrases(caption).get(part)
        if own:
            return own
        others = [phrases[part] for phrases in map(self.words.phrases, record.captions) if part in phrases]
        if others:
            return others[int(torch.randint(len(others), ()))]
        for word in self.words.naming(part):
            if word in record.colours:
                return f"{record.colours[word]} {word}"
        return ""


def _inside(edges: tuple[float, float, float, float], height: int, width: int) -> tuple[int, int, int, int]:
    """Left, top, width and height of the pixels of the image that a window covers, at least one."""
    left, top, right, bottom = edges
    left, right = (min(max(round(edge), 0), width) for edge in (left, right))
    top, bottom = (min(max(round(edge), 0), height) for edge in (top, bottom))
    left, top = min(left, width - 1), min(top, height - 1)
    return left, top, max(right - left, 1), max(bottom - top, 1)
