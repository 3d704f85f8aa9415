"""A sample of images, captions, classes and families as a picture of the Poincaré disk."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from meru.data.images import read_image
from meru.data.sampling import evenly_spread
from meru.evaluation.sample import Sample
from meru.geometry.co_sne import co_sne
from meru.geometry.disk import DiskView, ring_radius, unit_radius
from meru.optional_part import optional
from meru.reports.disk import Thumbnail, disk_figure
from meru.reports.style import nice_steps

GROUPS = ("class", "family", "everything")  # from below to above
PROJECTIONS = ("tangent", "co_sne")
EXACT = "Distances from the root are exact (dotted rings); directions are projected from {} dimensions to 2."
ABOUT = "CO-SNE keeps neighbours; distances from the root (dotted rings) are off by {:.0%} on average."
NEIGHBOURS_ALONE = "CO-SNE keeps neighbours; points of a sphere have no distance from a root."
SHARED = "Points of a sphere have no distance from a root: only their projected directions differ."


@torch.no_grad()
def draw_disk(sample: Sample, *, projection: str = "tangent", thumbnails: int = 10, title: str = "") -> Figure:
    """A plot of a sample: every image, its first caption, the classes and families.

    Args:
        sample: The points.
        projection: One of `PROJECTIONS`: see `DiskView` and `meru.geometry.co_sne`.
        thumbnails: How many images are shown.
        title: Written above.

    Raises:
        ValueError: for another projection.
    """
    texts = sample.texts
    points = {"image": sample.images, "caption": texts.points[texts.first()]}
    points |= {kind: texts.groups[kind].points for kind in GROUPS if kind in texts.groups}
    points = {kind: each.cpu() for kind, each in points.items()}
    places, note = _placed(sample, points, projection)
    farthest = max(float(sample.space.radius(each).max()) for each in points.values())
    rings = {each: ring_radius(sample.space, each) for each in nice_steps(farthest)}
    shown = []
    for index in evenly_spread(len(sample.records), thumbnails):
        with optional(f"the thumbnail of {sample.records[index].path}"):
            shown.append(Thumbnail(places["image"][index], read_image(sample.records[index].path)))
    return disk_figure(
        places,
        rings={distance: radius for distance, radius in rings.items() if radius is not None},
        names=sample.texts.groups["family"].names if "family" in sample.texts.groups else (),
        branches=_branches(sample),
        thumbnails=shown,
        title=title,
        note=note,
    )


def _placed(sample: Sample, points: dict[str, Tensor], projection: str) -> tuple[dict[str, Tensor], str]:
    """Places of each kind in the unit disk, and how exact they are."""
    space = sample.space
    if projection == "tangent":
        view = DiskView.fit(space, points["image"], points["caption"])
        note = EXACT.format(sample.images.shape[-1]) if space.has_cones else SHARED
        return {kind: view.place(space, each) for kind, each in points.items()}, note
    if projection != "co_sne":
        raise ValueError(f"projection={projection}: choose one of {', '.join(PROJECTIONS)}")
    every = torch.cat(list(points.values()))
    placed = co_sne(space, every)
    kinds = dict(zip(points, placed.split([len(each) for each in points.values()]), strict=True))
    if not space.has_cones:
        return kinds, NEIGHBOURS_ALONE
    wanted = torch.atanh(unit_radius(space, every))  # half the distances
    error = float((torch.atanh(placed.norm(dim=1)) - wanted).abs().mean() / wanted.mean())
    return kinds, ABOUT.format(error)


def _branches(sample: Sample) -> Sequence[tuple[int, int]]:
    """Pairs of a family and a class of it."""
    if "family" not in sample.texts.groups or not sample.space.has_cones:
        return []
    classes, families = sample.texts.groups["class"].members, sample.texts.groups["family"].members
    return [
        (number, below)
        for number, images in enumerate(families)
        for below, members in enumerate(classes)
        if members[0] in images
    ]
