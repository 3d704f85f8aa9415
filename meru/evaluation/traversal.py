"""Walks from an image or a caption to the root, or to another image, as pictures.

The texts that may be met are captions of the training split, the averages of the captions of each class and each
family, and that of all of them; or those of the user's file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from meru.data.images import read_image
from meru.data.sampling import evenly_spread
from meru.evaluation.sample import Sample, Subjects, Texts
from meru.geometry.spaces import Space
from meru.metrics.traversal import ROOT, more_general, walk
from meru.reports.traversal import Met, Row, traversal_figure

GENERAL = ("auto", "cone", "radius", "none")
STEPS = 50  # as in the paper
ROOT_NAME = "root"
FILTERED = {
    "cone": "only texts whose cone contains the point count",
    "radius": "only texts at least as near to the root as the point count",
    "none": "all texts count",
}


@dataclass(frozen=True)
class Candidates:
    """Texts that may be met on a walk.

    Attributes:
        texts: T texts.
        kinds: Kind of each: `caption`, `class`, `family` or `everything`.
        points: `(T, D)`.
        pictures: Image file that illustrates each, or None.
    """

    texts: tuple[str, ...]
    kinds: tuple[str, ...]
    points: Tensor
    pictures: tuple[Path | None, ...]

    @classmethod
    def of_texts(cls, found: Texts) -> Candidates:
        """Captions and their groups; each illustrated by an image that belongs to it."""
        paths = [record.path for record in found.records]
        texts, kinds, points = list(found.captions), ["caption"] * len(found.captions), [found.points]
        pictures: list[Path | None] = [paths[row] for row in found.image_of.tolist()]
        for kind, group in found.groups.items():
            texts += group.names
            kinds += [kind] * len(group.names)
            points.append(group.points)
            middle = [members[len(members) // 2] for members in group.members]
            pictures += [None if kind == "everything" else paths[row] for row in middle]
        return cls(tuple(texts), tuple(kinds), torch.cat(points), tuple(pictures))

    @classmethod
    def of_training(cls, subjects: Subjects, *, count: int) -> Candidates:
        """Two captions of each of at most `count` images of the training split, and their groups."""
        return cls.of_texts(subjects.texts(subjects.records("train", count), captions_of_image=2))

    @classmethod
    def of_lines(cls, lines: Sequence[str], subjects: Subjects) -> Candidates:
        """A user's texts."""
        distinct = tuple(dict.fromkeys(lines))
        points = subjects.embed_captions(distinct)
        return cls(distinct, ("caption",) * len(distinct), points, (None,) * len(distinct))


@dataclass(frozen=True)
class End:
    """Where a walk starts or ends: the root, an image or a text.

    Attributes:
        point: `(D,)`.
        image: uint8 RGB `(3, H, W)`, or None.
        text: Its text, "" for an image.
    """

    point: Tensor
    image: Tensor | None = None
    text: str = ""

    @classmethod
    def of_image(cls, subjects: Subjects, image: Tensor) -> End:
        """An image, uint8 RGB `(3, H, W)`."""
        return cls(subjects.embed_image(image), image=image)

    @classmethod
    def of_text(cls, subjects: Subjects, text: str) -> End:
        """A text."""
        return cls(subjects.embed_captions([text])[0], text=text)


def root_of(space: Space, candidates: Candidates) -> End:
    """The root of the space: see `Space.root`."""
    return End(space.root(candidates.points), text=ROOT_NAME)


def chosen_filter(space: Space, start: End, end: End, candidates: Candidates, general: str) -> str:
    """The filter of `meru.metrics.traversal.walk` for one of `GENERAL`.

    `auto` is `cone`, as in the paper, if the cone of any text contains the start or the end; else `radius`, because
    after training on small data the cones of captions are often too narrow to contain any image. A text that is itself
    the start or the end, and so lies in its own cone, does not count.

    Raises:
        ValueError: for another value.
    """
    if general not in GENERAL:
        raise ValueError(f"general={general}: choose one of {', '.join(GENERAL)}")
    if not space.has_cones:
        return "none"
    if general != "auto":
        return general
    # On a way to the root, a cone that does not contain the start contains no later point either: from the apex, the
    # angle to a point only grows as the point comes nearer to the root.
    ends = torch.stack([start.point, end.point])
    others = candidates.points[[text not in (start.text, end.text) for text in candidates.texts]]
    return "cone" if len(others) and bool(more_general(space, ends, others, "cone").any()) else "radius"


@torch.no_grad()
def row_of(space: Space, start: End, end: End, candidates: Candidates, *, general: str = "auto") -> tuple[Row, str]:
    """A row of the picture of `meru.reports.traversal.traversal_figure`, and the filter that was used."""
    choice = chosen_filter(space, start, end, candidates, general)
    root = root_of(space, candidates).point
    found = walk(space, start.point, end.point, candidates.points, root=root, steps=STEPS, general=choice)
    radii = space.radius(candidates.points)
    stages = []
    for first, last, number in found.stretches():
        at_root = number == ROOT
        path = None if at_root else candidates.pictures[number]
        stages.append(
            Met(
                kind="root" if at_root else candidates.kinds[number],
                text="root" if at_root else candidates.texts[number],
                first=first,
                last=last,
                radius=0.0 if at_root else float(radii[number]),
                image=None if path is None else read_image(path),
            )
        )
    row = Row(start.image, start.text, end.image, end.text, tuple(stages), found.shares.tolist(), found.radii.tolist())
    return row, choice


def starts_of(sample: Sample, *, count: int = 3) -> list[End]:
    """Some images of a sample, evenly spread, as starts of walks."""
    rows = evenly_spread(len(sample.records), count)
    return [End(sample.images[row], image=read_image(sample.records[row].path)) for row in rows]


def draw_walks(
    space: Space, walks: Sequence[tuple[End, End]], candidates: Candidates, *, general: str = "auto", title: str = ""
) -> Figure:
    """A plot of walks, each from a start to an end.

    Args:
        space: The points' space.
        walks: At least one.
        candidates: The texts that may be met.
        general: One of `GENERAL`: see `chosen_filter`.
        title: Written above; "": a title that says what the walks are.
    """
    rows, filters = zip(*(row_of(space, *ends, candidates, general=general) for ends in walks), strict=True)
    meant = ", or ".join(FILTERED[each] for each in dict.fromkeys(filters))
    to_root = walks[0][1].text == ROOT_NAME
    named = title or ("From specific to general" if to_root else "From one image to another")
    return traversal_figure(rows, title=named, note=f"Met is the nearest text to each point of the way; {meant}.")
