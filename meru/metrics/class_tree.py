"""Trees of classes: built from the leaves up, written to files, and compared with known groups.

    tree = class_tree(centres, 0.1, names)                   of class centres in the Poincaré ball
    dendrogram_purity(tree, families)                        families: a name for each class

Plots: `meru.reports.class_tree`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import squareform
from torch import Tensor
from torch.nn import functional as F

from meru.geometry import poincare


@dataclass(frozen=True)
class Tree:
    """A binary tree over K leaves: nodes 0 … K − 1 are the leaves, K + i is the i-th join, 2K − 2 the root.

    Attributes:
        names: Names of the leaves.
        children: The two nodes that each join connects, both with a smaller number; int64 `(K − 1, 2)`.
        height: Mean distance between the leaves of the two, never below that of a child; 0 for leaves; `(2K − 1,)`.
        points: Position of each node, float64 `(2K − 1, D)`.
        curvature: c of the Poincaré ball of the points; None if they are Euclidean.
    """

    names: tuple[str, ...]
    children: np.ndarray
    height: np.ndarray
    points: Tensor
    curvature: float | None

    def leaf_order(self) -> list[int]:
        """The leaves in an order in which no two branches of the plotted tree cross."""
        order, waiting = [], [len(self.height) - 1]
        while waiting:  # without recursion: a chain of a thousand classes exceeds Python's limit
            node = waiting.pop()
            if node < len(self.names):
                order.append(node)
            else:
                waiting += reversed(self.children[node - len(self.names)].tolist())
        return order

    def counts(self, of_leaves: np.ndarray) -> np.ndarray:
        """Sums over the leaves below each node: `(K, G)` → `(2K − 1, G)`."""
        total = np.concatenate([of_leaves, np.zeros((len(self.children), of_leaves.shape[1]), of_leaves.dtype)])
        for join, pair in enumerate(self.children, start=len(self.names)):
            total[join] = total[pair].sum(axis=0)
        return total


def class_tree(centres: Tensor, curvature: float, names: Sequence[str]) -> Tree:
    """Agglomerative clustering of classes in hyperbolic space: the nearest are joined first, until one tree is left.

    The distance of two subtrees is the mean over all pairs of their leaves (average linkage). Unlike the nearest pair,
    which makes chains, it depends on all leaves, and every join is above its parts. A join is placed at the Einstein
    midpoint of its leaves, which assumes nothing about the position of the root. The common ancestor of HypHC (Chami et
    al., "From Trees to Continuous Embeddings and Back", NeurIPS 2020), the point of a geodesic nearest to the origin,
    is meaningful only if the leaves were trained for it around the origin, and is defined only for two of them.

    Args:
        centres: Points of the ball, shape `(K, D)`; `poincare.group_midpoints` gives those of classes.
        curvature: c > 0; the space has curvature −c.
        names: K names.

    Raises:
        ValueError: if there are no centres, a point is not inside the ball, or the number of names differs.
    """
    _check(centres, names)
    curvature = float(curvature)
    poincare.require_inside(centres, curvature)
    centres = centres.detach().double().cpu()
    children, height = _average_linkage(poincare.pairwise_distance(centres, centres, curvature))
    return _placed(children, height, names, centres, curvature)


def cosine_tree(features: Tensor, names: Sequence[str]) -> Tree:
    """The same with Euclidean features `(K, D)`, for comparison: distance 1 − cosine, joins at means of directions.

    Raises:
        ValueError: if there are no features, one is zero or not finite, or the number of names differs.
    """
    _check(features, names)
    features = features.detach().double().cpu()
    if not features.isfinite().all() or not features.norm(dim=1).all():
        raise ValueError("features without a direction (zero, NaN or infinite) cannot be joined by cosine")
    directions = F.normalize(features, dim=1)
    # ½‖a − b‖² is 1 − cosine without cancellation for nearly equal directions.
    exact = torch.cdist(directions, directions, compute_mode="donot_use_mm_for_euclid_dist")
    children, height = _average_linkage(exact.square() / 2)
    return _placed(children, height, names, directions, None)


def to_newick(tree: Tree) -> str:
    """The tree in Newick format, with names quoted if necessary.

    A branch has half the length of its height difference, so that the path between two leaves is as long as the height
    of their join.
    """
    text = [_newick_name(name) for name in tree.names]
    for join, pair in enumerate(tree.children.tolist(), start=len(tree.names)):
        branches = (f"{text[child]}:{(tree.height[join] - tree.height[child]) / 2:.6g}" for child in pair)
        text.append(f"({','.join(branches)})")
    return text[-1] + ";"


def to_json(tree: Tree) -> str:
    """The tree as JSON: `curvature`, `root`, and `nodes` of `id`, `parent`, `height`, `point`, `name` or `children`.

    The nodes are a list instead of nested objects, because parsers fail on deep nesting.
    """
    leaves, root = len(tree.names), len(tree.height) - 1
    parent: list[int | None] = [None] * (root + 1)
    for join, pair in enumerate(tree.children.tolist(), start=leaves):
        for child in pair:
            parent[child] = join
    nodes = []
    for node, (height, point) in enumerate(zip(tree.height.tolist(), tree.points.float().tolist(), strict=True)):
        below = {"name": tree.names[node]} if node < leaves else {"children": tree.children[node - leaves].tolist()}
        nodes.append({"id": node, "parent": parent[node], "height": height, **below, "point": point})
    return json.dumps({"curvature": tree.curvature, "root": root, "nodes": nodes}, ensure_ascii=False, allow_nan=False)


def dendrogram_purity(tree: Tree, groups: Sequence[Hashable]) -> float:
    """Mean purity of the smallest subtree that contains two leaves of one group, over all such pairs; 1 at best.

    Heller & Ghahramani, "Bayesian Hierarchical Clustering", ICML 2005, over pairs as in Kobren et al., "A Hierarchical
    Algorithm for Extreme Clustering", KDD 2017. Exact, in time K · (number of groups): two leaves meet at a node if
    they come from different children, so that at a node with n_g leaves of group g among n, n_g(left) · n_g(right)
    pairs count n_g/n each.

    Args:
        tree: With K leaves.
        groups: Group of each leaf.

    Raises:
        ValueError: if there are not K groups, or no two leaves share one.
    """
    members = _members(tree, groups)
    counts = tree.counts(members)
    left, right = counts[tree.children[:, 0]], counts[tree.children[:, 1]]
    joined = counts[len(tree.names) :]
    pure = (left * right * joined / joined.sum(axis=1, keepdims=True)).sum()
    return float(pure / _pairs(members))


def chance_dendrogram_purity(tree: Tree, groups: Sequence[Hashable]) -> float:
    """Exact expectation of `dendrogram_purity` if the groups are shuffled among the leaves of the same tree.

    A pair that meets at a node with n leaves counts itself; each of the n − 2 others there is in the same group, with
    m among K leaves, with probability (m − 2)/(K − 2). The number of pairs that meet there does not depend on groups.
    """
    members = _members(tree, groups)
    leaves, of_group = len(tree.names), members.sum(axis=0)
    size = tree.counts(np.ones((leaves, 1)))
    meeting = size[tree.children[:, 0]] * size[tree.children[:, 1]] / (leaves * (leaves - 1) / 2)
    joined = size[leaves:]
    others = (of_group - 2).clip(min=0) / max(1, leaves - 2)
    purity = (meeting * (2 + (joined - 2) * others) / joined).sum(axis=0)
    return float((purity * of_group * (of_group - 1) / 2).sum() / _pairs(members))


def _check(points: Tensor, names: Sequence[str]) -> None:
    if points.ndim != 2 or not len(points) or len(points) != len(names):
        raise ValueError(f"a tree needs one place for each name, got {tuple(points.shape)} for {len(names)} names")


def _average_linkage(distances: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Children and heights of the joins, as `Tree` has them, from distances `(K, K)`."""
    leaves = len(distances)
    if leaves == 1:
        return np.zeros((0, 2), dtype=np.int64), np.zeros(1)
    matrix = ((distances + distances.T) / 2).fill_diagonal_(0).numpy()
    joins = linkage(squareform(matrix, checks=False), method="average")
    # Because of rounding, the mean may fall below the height of a child.
    height = np.maximum.accumulate(np.concatenate([np.zeros(leaves), joins[:, 2]]))
    return joins[:, :2].astype(np.int64), height


def _placed(
    children: np.ndarray, height: np.ndarray, names: Sequence[str], leaves: Tensor, curvature: float | None
) -> Tree:
    """The tree with every join placed at the midpoint (in flat space: the mean) of its leaves."""
    points, below = list(leaves), [[leaf] for leaf in range(len(leaves))]
    for left, right in children.tolist():
        below.append(below[left] + below[right])
        chosen = leaves[below[-1]]
        points.append(chosen.mean(0) if curvature is None else poincare.einstein_midpoint(chosen, None, curvature))
    return Tree(tuple(names), children, height, torch.stack(points), curvature)


def _newick_name(name: str) -> str:
    """Plain letters and digits unchanged, all else quoted, quotes doubled. An unquoted _ would be read as a space."""
    return name if re.fullmatch(r"[A-Za-z0-9.-]+", name) else "'" + name.replace("'", "''") + "'"


def _members(tree: Tree, groups: Sequence[Hashable]) -> np.ndarray:
    """The group of each leaf, one-hot, float64 `(K, G)`."""
    if len(groups) != len(tree.names):
        raise ValueError(f"{len(groups)} groups for {len(tree.names)} leaves")
    number = {group: column for column, group in enumerate(dict.fromkeys(groups))}
    members = np.zeros((len(groups), len(number)))
    members[np.arange(len(groups)), [number[group] for group in groups]] = 1
    return members


def _pairs(members: np.ndarray) -> float:
    """The number of pairs of leaves that share a group."""
    of_group = members.sum(axis=0)
    pairs = (of_group * (of_group - 1) / 2).sum()
    if not pairs:
        raise ValueError("no two leaves are of the same group: purity is undefined")
    return pairs
