"""The measures of `meru.metrics.class_hierarchy` where a class may have several parents, as in WordNet.

Ancestors are all nodes above a class by any way, and the tree-induced error is the length of the shortest undirected
path. In a tree both are those of `tree_measures`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from scipy.sparse import csr_array
from scipy.sparse.csgraph import shortest_path
from torch import Tensor

from meru.errors import UserError
from meru.metrics.class_hierarchy import set_measures

ROOT = ""  # above all nodes without a parent, if they are several


def graph_measures(parents: Mapping[str, Sequence[str]], classes: Sequence[str]) -> dict[str, Tensor]:
    """The measures of every pair of predicted and true classes.

    Args:
        parents: Node → its parents; every node is a key. If the classes do not share an ancestor, one is added.
        classes: The node of each of K classes.

    Returns:
        As `tree_measures`.

    Raises:
        UserError: if a node is its own ancestor.
    """
    above = {name: _ancestors(parents, name) for name in classes}
    tops = {node for nodes in above.values() for node in nodes if not parents[node]}
    if not set.intersection(*above.values()):
        parents = {**{node: (ROOT,) if node in tops else up for node, up in parents.items()}, ROOT: ()}
        above = {name: nodes | {ROOT} for name, nodes in above.items()}
    of_sets = set_measures([above[name] for name in classes], classes)
    return {"tree_induced_error": _distances(parents, classes), **of_sets}


def _ancestors(parents: Mapping[str, Sequence[str]], name: str) -> set[str]:
    """A node and all above it."""
    found, waiting = {name}, list(parents[name])
    while waiting:
        node = waiting.pop()
        if node == name:
            raise UserError(f"the list of parents goes in a circle: {name} is above itself; correct it")
        if node not in found:
            found.add(node)
            waiting += parents[node]
    if all(parents[node] for node in found):
        raise UserError(f"the list of parents goes in a circle above {name}; correct it")
    return found


def _distances(parents: Mapping[str, Sequence[str]], classes: Sequence[str]) -> Tensor:
    """Edges of the shortest undirected path between every two classes, float64 `(K, K)`."""
    number = {node: position for position, node in enumerate(parents)}
    edges = [(number[child], number[parent]) for child, up in parents.items() for parent in up]
    rows, columns = np.array(edges, dtype=np.int64).reshape(-1, 2).T
    graph = csr_array((np.ones(len(rows)), (rows, columns)), shape=(len(number), len(number)))
    places = [number[name] for name in classes]
    found = shortest_path(graph, method="D", directed=False, unweighted=True, indices=places)[:, places]
    return torch.from_numpy(found).double()
