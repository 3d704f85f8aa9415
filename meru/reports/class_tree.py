"""Plots of a tree of classes: a dendrogram, and the tree in the Poincaré disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from torch import Tensor
from torch.nn import functional as F

from meru.geometry import lorentz, poincare
from meru.metrics.class_tree import Tree
from meru.reports.attention import printable

MIXED = (0.6, 0.6, 0.6)
LEGEND = 20  # most groups that a legend names
NAMED = 220  # more names around the disk would be illegible
TALLEST = 250  # inches; matplotlib cannot draw more than 2^16 pixels


def dendrogram_figure(tree: Tree, groups: Sequence[Hashable], *, title: str = "") -> Figure:
    """A plot of the tree with its leaves at the right, one line each; the height of a join is its distance to the left.

    A branch has the colour of a group if all leaves below it are of that group, and is grey if groups mix or the group
    has only one leaf.

    Args:
        tree: With K leaves.
        groups: Group of each leaf.
        title: Written above.
    """
    leaves, order = len(tree.names), tree.leaf_order()
    colours = _colours(groups)
    of_node = _node_groups(tree, groups)
    level = np.zeros(len(tree.height))
    level[order] = np.arange(leaves)
    lines, line_colours = [], []
    for join, pair in enumerate(tree.children, start=leaves):
        level[join] = level[pair].mean()
        for child in pair:
            corner = tree.height[join], level[child]
            lines.append([(tree.height[child], level[child]), corner, (tree.height[join], level[join])])
            line_colours.append(colours.get(of_node[child], MIXED))
    figure = Figure(figsize=(8, min(TALLEST, 1.2 + 0.17 * leaves)), layout="constrained")
    if title:
        figure.suptitle(printable(title, width=100), fontsize=10, parse_math=False)
    axis = figure.subplots()
    axis.add_collection(LineCollection(lines, colors=line_colours, linewidths=1.2))
    reach = tree.height[-1] or 1.0
    axis.set_xlim(1.02 * reach, -0.01 * reach)
    axis.set_ylim(leaves - 0.5, -0.5)
    axis.yaxis.tick_right()
    names = [printable(tree.names[leaf], width=60) for leaf in order]
    axis.set_yticks(range(leaves), names, fontsize=7, parse_math=False)
    for label, leaf in zip(axis.get_yticklabels(), order, strict=True):
        label.set_color(colours.get(groups[leaf], "black"))
    axis.tick_params(axis="y", length=0)
    axis.tick_params(axis="x", labelsize=7)
    axis.set_xlabel("mean distance" if tree.curvature else "mean of 1 − cosine", fontsize=8)
    for side in ("top", "left", "right"):
        axis.spines[side].set_visible(False)
    return figure


def poincare_disk_figure(
    tree: Tree, groups: Sequence[Hashable], *, directions: str = "tree", title: str = ""
) -> Figure:
    """A plot of the tree in the disk: leaves as dots, joins as small dots, branches as geodesics. See `to_disk`.

    Only the part of the disk around the tree is shown. Rings mark distances from the root.

    Args:
        tree: A tree in the ball.
        groups: Group of each leaf; groups with one leaf are grey.
        directions: As in `to_disk`; with `tree`, the leaves have their names, unless there are too many.
        title: Written above.

    Raises:
        ValueError: for a tree of Euclidean features, a wrong number of groups, or unknown `directions`.
    """
    places = to_disk(tree, directions=directions)
    leaves, colours, of_node = len(tree.names), _colours(groups), _node_groups(tree, groups)
    figure = Figure(figsize=(9, 9), layout="constrained")
    if title:
        figure.suptitle(printable(title, width=100), fontsize=10, parse_math=False)
    axis = figure.subplots()
    axis.set_axis_off()
    axis.set_aspect("equal")
    named = directions == "tree" and leaves <= NAMED
    reach = max(0.02, float(places.norm(dim=1).max()))
    limit = min(1.03, 1.05 * reach) + (0.6 * reach if named else 0)
    axis.set_xlim(-limit, limit)
    axis.set_ylim(-limit, limit)
    if limit > 1:
        axis.add_patch(Circle((0, 0), 1, fill=False, color="black", linewidth=1))
    step = 1.0 if reach > np.tanh(0.5) else 0.25
    for number in range(1, 12):  # in units of 1/√c
        radius = np.tanh(number * step / 2)
        if radius < 1.05 * reach:
            axis.add_patch(Circle((0, 0), radius, fill=False, color=MIXED, linewidth=0.6, linestyle=":"))
            distance = f"{number * step / tree.curvature**0.5:.3g}"
            axis.text(0, radius, distance, fontsize=6, color=MIXED, ha="center", va="bottom")

    parent = np.repeat(np.arange(leaves, len(places)), 2)
    child = tree.children.flatten()
    branch_colours = [colours.get(of_node[each], MIXED) for each in child]
    branches = geodesics(places[parent], places[child]).numpy()
    axis.add_collection(LineCollection(branches, colors=branch_colours, linewidths=0.9))
    axis.scatter(*places[leaves:].T.numpy(), s=5, color="dimgrey", zorder=2)
    dots = [colours.get(group, MIXED) for group in groups]
    axis.scatter(*places[:leaves].T.numpy(), s=28, c=dots, edgecolors="white", linewidths=0.4, zorder=3)
    if named:
        names = [printable(name, width=60) for name in tree.names]
        _write_names(axis, names, places[:leaves], 1.04 * reach, dots, size=7 if leaves <= 80 else 5)
    largest = [group for group, _ in Counter(groups).most_common() if group in colours][:LEGEND]
    for group in largest:
        axis.scatter([], [], s=28, color=colours[group], label=printable(str(group), width=60))
    if largest:  # below, where no name of a leaf reaches
        legend = figure.legend(loc="outside lower center", ncols=8, fontsize=7, frameon=False)
        for text in legend.get_texts():
            text.set_parse_math(False)
    return figure


def _write_names(axis: Axes, names: Sequence[str], places: Tensor, radius: float, colours: list, *, size: int) -> None:
    """Write each name on the ring of that radius, in the direction of its position, never upside down."""
    for name, (x, y), colour in zip(names, places.tolist(), colours, strict=True):
        angle = np.degrees(np.arctan2(y, x))
        left = abs(angle) > 90
        axis.text(
            radius * np.cos(np.radians(angle)), radius * np.sin(np.radians(angle)), name, color=colour, fontsize=size,
            rotation=angle - 180 if left else angle, rotation_mode="anchor", ha="right" if left else "left",
            va="center", parse_math=False,
        )  # fmt: skip


def to_disk(tree: Tree, *, directions: str = "tree") -> Tensor:
    """Positions of the nodes in the unit disk, with the root at the centre, float64 `(2K − 1, 2)`.

    First, an isometry of the ball moves the root to the origin, which changes no distance. Then each node keeps its
    distance from the root and gets a direction in the plane; two-dimensional positions keep theirs.

    Args:
        tree: A tree in the ball.
        directions: `tree`: the leaves all around in the order of the dendrogram, each join in the middle of its leaves.
            All nodes are visible and few branches cross, but only the distances from the root are those of the space.
            `projected`: the node's direction from the root, projected on the plane in which the leaves spread most
            (principal components of the tangent vectors at the root). Exact in two dimensions; in many, most nodes
            overlap.

    Raises:
        ValueError: for a tree of Euclidean features, or unknown directions.
    """
    if tree.curvature is None:
        raise ValueError("only a tree in hyperbolic space lies in the Poincaré disk")
    c, leaves = tree.curvature, len(tree.names)
    tangent = poincare.log_map0(poincare.mobius_add(-tree.points[-1].expand_as(tree.points), tree.points, c), c)
    if directions == "tree":
        position = torch.zeros(leaves, 1, dtype=torch.float64)
        position[tree.leaf_order(), 0] = torch.arange(leaves, dtype=torch.float64)
        size = tree.counts(np.ones((leaves, 1)))
        angle = torch.from_numpy(tree.counts(position.numpy()) / size)[:, 0] * (2 * torch.pi / leaves)
        plane = torch.stack([angle.cos(), angle.sin()], dim=1)
    elif directions == "projected":
        plane = tangent
        if tangent.shape[1] > 2:
            axes = torch.linalg.svd(tangent[:leaves], full_matrices=False).Vh[:2]
            # The solver's sign of a component is arbitrary: the largest entry is made positive.
            axes = axes * axes.gather(1, axes.abs().argmax(dim=1, keepdim=True)).sign()
            plane = tangent @ axes.T
        plane = F.pad(plane, (0, 2 - plane.shape[1]))  # for one leaf, or leaves on a line
    else:
        raise ValueError(f"directions={directions}: choose projected or tree")
    length = plane.norm(dim=1, keepdim=True)
    plane = torch.where(length > 1e-12, plane / length.clamp_min(1e-300), plane.new_tensor([1.0, 0.0]))
    return poincare.exp_map0(plane * tangent.norm(dim=1, keepdim=True), c) * c**0.5


def geodesics(x: Tensor, y: Tensor, *, steps: int = 24) -> Tensor:
    """Points on the geodesic from each x to its y in the unit disk, `(n, 2)` → `(n, steps + 1, 2)`."""
    share = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    start, end = (lorentz.from_poincare(each.double())[:, None] for each in (x, y))
    return lorentz.to_poincare(lorentz.geodesic(start, end, share))


def _colours(groups: Sequence[Hashable]) -> dict[Hashable, tuple[float, ...]]:
    """A colour for each group with at least two members, in order of appearance."""
    count = Counter(groups)
    several = [group for group in dict.fromkeys(groups) if count[group] > 1]
    distinct = [colour for colour in matplotlib.colormaps["tab10"].colors if len({*colour}) > 1]  # grey is reserved
    if len(several) <= len(distinct):
        return dict(zip(several, distinct, strict=False))
    # Neighbours in the list are often related classes: they get distant colours on the wheel.
    golden = 0.61803398875
    wheel = matplotlib.colormaps["turbo"]
    return {group: wheel(0.04 + 0.92 * (number * golden % 1)) for number, group in enumerate(several)}


def _node_groups(tree: Tree, groups: Sequence[Hashable]) -> list[Hashable | None]:
    """The group that all leaves below each node share, or None."""
    if len(groups) != len(tree.names):
        raise ValueError(f"{len(groups)} groups for {len(tree.names)} leaves")
    shared: list[Hashable | None] = list(groups)
    for left, right in tree.children.tolist():
        shared.append(shared[left] if shared[left] == shared[right] else None)
    return shared
