"""A plot of images, captions, classes and families in the Poincaré disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from matplotlib.patches import Circle
from torch import Tensor

from meru.reports.attention import printable
from meru.reports.class_tree import geodesics
from meru.reports.style import COLOURS, GREY, MARKERS

SIZES = {"image": 22, "caption": 20, "class": 34, "family": 70, "everything": 120, "root": 90}
PLURALS = {
    "image": "{} images",
    "caption": "{} captions",
    "class": "{} classes",
    "family": "{} families",
    "everything": "all captions",
}
SIDE = 72  # pixels of a thumbnail


class Thumbnail(NamedTuple):
    """An image, uint8 RGB `(3, H, W)`, and its place in the disk `(2,)`."""

    place: Tensor
    image: Tensor


def disk_figure(
    places: Mapping[str, Tensor],
    *,
    rings: Mapping[float, float],
    names: Sequence[str] = (),
    branches: Sequence[tuple[int, int]] = (),
    thumbnails: Sequence[Thumbnail] = (),
    title: str = "",
    note: str = "",
) -> Figure:
    """A plot of points in the disk, zoomed to the radii that occur.

    Args:
        places: Kind, one of `meru.reports.style.MARKERS`, → places in the unit disk, `(n, 2)`.
        rings: Distance from the origin → radius in the unit disk; those beyond the points are left out. Empty on a
            sphere, which has no root.
        names: Of the points of the kind `family`, written beside them; none if empty.
        branches: Pairs of a family and a class of it, joined by a geodesic.
        thumbnails: Drawn around the disk, with a line to their places.
        title: Written above.
        note: Written below, such as how exact the picture is.
    """
    reach = max([float(each.norm(dim=1).max()) for each in places.values() if len(each)], default=0.5)
    figure = Figure(figsize=(7, 7.4), layout="constrained")
    figure.suptitle(printable(title, width=80), fontsize=13)
    axis = figure.subplots()
    axis.set_axis_off()
    axis.set_aspect("equal")
    limit = reach * (1.42 if thumbnails else 1.08)
    axis.set_xlim(-limit, limit)
    axis.set_ylim(-limit, limit)
    _draw_rings(axis, rings, reach)
    if branches:
        ends = torch.tensor(list(branches))
        lines = geodesics(places["family"][ends[:, 0]], places["class"][ends[:, 1]]).numpy()
        axis.add_collection(LineCollection(lines, colors=COLOURS["family"], linewidths=0.7, alpha=0.4, zorder=1))
    for order, (kind, of_kind) in enumerate(places.items()):
        axis.scatter(
            *of_kind.T.numpy(), s=SIZES[kind], c=COLOURS[kind], marker=MARKERS[kind], alpha=0.8,
            edgecolors="white", linewidths=0.4, zorder=2 + order, label=PLURALS[kind].format(len(of_kind)),
        )  # fmt: skip
    if rings:
        axis.scatter([0], [0], s=SIZES["root"], c=COLOURS["root"], marker=MARKERS["root"], zorder=9, label="root")
    _draw_thumbnails(axis, thumbnails, reach)
    _write_names(axis, names, places.get("family"), reach)
    legend = figure.legend(loc="outside lower center", ncols=3, fontsize=11, frameon=False, markerscale=1.3)
    legend.set_title(printable(note, width=110), prop={"size": 9})
    return figure


def _draw_rings(axis: Axes, rings: Mapping[float, float], reach: float) -> None:
    for distance, radius in rings.items():
        if radius <= 1.05 * reach:
            axis.add_patch(Circle((0, 0), radius, fill=False, color=GREY, linewidth=0.8, linestyle=":", zorder=0))
            axis.text(
                0, radius, f"{distance:g}", fontsize=10, color=GREY, ha="center", va="center", zorder=8,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.8},
            )  # fmt: skip


def _draw_thumbnails(axis: Axes, thumbnails: Sequence[Thumbnail], reach: float) -> None:
    """Draw images at even angles around the disk, in the order of the angles of their places."""
    if not thumbnails:
        return
    angles = torch.stack([torch.atan2(each.place[1], each.place[0]) for each in thumbnails])
    spread = torch.arange(len(thumbnails), dtype=torch.float64) * (2 * torch.pi / len(thumbnails))
    # Turned so that the images are as near to their places as even angles allow.
    turn = torch.polar(torch.ones_like(spread), angles.sort().values - spread).sum().angle()
    for number, at in zip(angles.argsort().tolist(), (spread + turn).tolist(), strict=True):
        place, image = thumbnails[number]
        outside = (1.26 * reach * torch.tensor([at], dtype=torch.float64).cos().item(),)
        outside = (*outside, 1.26 * reach * torch.tensor([at], dtype=torch.float64).sin().item())
        axis.plot(
            *zip(place.tolist(), outside, strict=True), color=COLOURS["image"], linewidth=0.8, alpha=0.7, zorder=1
        )
        axis.scatter(*place.tolist(), s=60, facecolors="none", edgecolors=COLOURS["image"], linewidths=1.4, zorder=7)
        pixels = image.permute(1, 2, 0).numpy()
        box = OffsetImage(pixels, zoom=SIDE / max(pixels.shape[:2]) * 72 / 120)
        frame = {"edgecolor": COLOURS["image"], "linewidth": 1.2}
        axis.add_artist(AnnotationBbox(box, outside, pad=0.1, bboxprops=frame, zorder=8))


def _write_names(axis: Axes, names: Sequence[str], places: Tensor | None, reach: float) -> None:
    """Write the names of families where no other name is, those with more room first."""
    taken: list[tuple[float, float]] = []
    for name, (x, y) in zip(names, places.tolist() if places is not None else [], strict=False):
        if all(abs(x - other) > 0.3 * reach or abs(y - above) > 0.075 * reach for other, above in taken):
            taken.append((x, y))
            axis.text(
                x, y + 0.03 * reach, printable(name, width=16), fontsize=9, ha="center", va="bottom", zorder=10,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.4, "alpha": 0.75},
            )  # fmt: skip
