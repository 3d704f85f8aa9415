"""Groups of images that category discovery found: their rows and tree, their names, and a table to download."""

from __future__ import annotations

import csv
import io
import itertools
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch

from meru.metrics.class_tree import Tree, class_tree, cosine_tree
from meru.page.answers import Refused
from meru.page.engine import Engine

SHOWN = 12  # images of a cluster, those nearest its centre
DEEPEST = 200  # levels of a tree that is sent: parsers of JSON fail on deep nesting
ROWS = 1_000  # of the table at a time
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


class Clusters:
    """The clusters of an index, computed at the first request. Its methods may be called from several threads."""

    def __init__(self, engine: Engine):
        self._index = engine.index
        self._turn = threading.Lock()
        self._rows: list[dict[str, Any]] | None = None
        self._tree: dict[str, Any] | None = None

    def page(self, start: int, count: int) -> dict[str, Any]:
        """`count` clusters from number `start` on, the largest first, and the tree of all.

        Raises:
            Refused: 404 if the index has no clusters.
        """
        rows, names = self._all(), self._index.cluster_names
        return {
            "total": len(rows),
            "clusters": [{**row, "name": names.get(row["cluster"])} for row in rows[start : start + count]],
            "tree": self._tree,
        }

    def rename(self, cluster: int, name: str) -> dict[str, Any]:
        """Give a cluster a name; return its row.

        Raises:
            Refused: 404 if there is no such cluster, 422 if the name has a character that the index does not keep.
            UserError: if the name cannot be written into the folder of the index.
        """
        row = next((row for row in self._all() if row["cluster"] == cluster), None)
        if row is None:
            raise Refused(404, f"there is no cluster {cluster}")
        if hidden := [f"U+{ord(character):04X}" for character in name if not character.isprintable()]:
            raise Refused(422, f"name has an invisible or unknown character, {hidden[0]}: remove it")
        with self._turn:
            self._index.name_cluster(cluster, name)
        return {**row, "name": self._index.cluster_names.get(cluster)}

    def table(self) -> Iterator[bytes]:
        """A CSV table of all images, part by part: name, cluster, the cluster's name.

        Cells that a spreadsheet would take for a formula get an apostrophe in front.

        Raises:
            UserError: if the names of the clusters cannot be read.
        """
        self.require()
        images, clusters, names = self._index.names, self._index.clusters, self._index.cluster_names
        rows = (
            [cell(image), cluster, cell(names.get(cluster) or "")]
            for image, cluster in zip(images, clusters, strict=True)
        )
        return _parts(rows)

    def require(self) -> None:
        """Raise `Refused`, 404, if the index has no clusters."""
        if self._index.clusters is None:
            raise Refused(404, "this index has no clusters: it is not of a model that discovers categories")

    @torch.inference_mode()
    def _all(self) -> list[dict[str, Any]]:
        self.require()
        with self._turn:
            if self._rows is None:
                self._rows, self._tree = self._computed()
            return self._rows

    def _computed(self) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
        index, places = self._index, {}
        for place, cluster in enumerate(index.clusters):
            places.setdefault(int(cluster), []).append(place)
        rows, centres = [], []
        for cluster, members in sorted(places.items(), key=lambda item: (-len(item[1]), item[0])):
            points = index.points(members)
            centre = index.space.average(points)
            near = index.space.similarity(centre[None], points)[0].topk(min(SHOWN, len(members))).indices.tolist()
            rows.append(
                {
                    "cluster": cluster,
                    "name": None,
                    "size": len(members),
                    "images": [members[place] for place in near],
                    "label": self._most_frequent_label(members),
                }
            )
            centres.append(centre)
        return rows, nested(self._tree_of(torch.stack(centres), rows)) if rows else None

    def _most_frequent_label(self, members: list[int]) -> str | None:
        if self._index.labels is None:
            return None
        known = Counter(label for place in members if (label := self._index.labels[place]) is not None and label >= 0)
        return self._index.label_names[known.most_common(1)[0][0]] if known else None

    def _tree_of(self, centres: torch.Tensor, rows: list[dict[str, Any]]) -> Tree:
        names, space = [str(row["cluster"]) for row in rows], self._index.space
        if not space.has_cones:
            return cosine_tree(centres, names)
        ball, curvature = space.in_ball(centres.double())
        return class_tree(ball, float(curvature), names)


def nested(tree: Tree) -> dict[str, Any] | None:
    """A tree as nested objects of `cluster` or `children`, and `height`; None if it is too deep to be sent."""
    leaves = len(tree.names)
    nodes: list[dict[str, Any]] = [{"cluster": int(name), "height": 0.0} for name in tree.names]
    depth = [1] * leaves
    for pair, height in zip(tree.children.tolist(), tree.height[leaves:].tolist(), strict=True):
        nodes.append({"children": [nodes[child] for child in pair], "height": round(height, 6)})
        depth.append(1 + max(depth[child] for child in pair))
    return nodes[-1] if depth[-1] <= DEEPEST else None


def _parts(rows: Iterator[list]) -> Iterator[bytes]:
    """A table as CSV, some rows at a time."""
    yield b"image,cluster,name\r\n"
    while some := list(itertools.islice(rows, ROWS)):
        file = io.StringIO()
        csv.writer(file).writerows(some)
        yield file.getvalue().encode("utf-8", "surrogateescape")


def cell(text: str) -> str:
    """The text of a cell, which no spreadsheet takes for a formula."""
    return f"'{text}" if text.lstrip(" ").startswith(_FORMULA) else text
