from collections import deque

import pytest
import torch

from meru.errors import UserError
from meru.metrics.class_graph import graph_measures
from meru.metrics.class_hierarchy import family_paths, tree_measures

# A node with two parents, so that the shortest path between two classes is not by the first common ancestor alone.
PARENTS = {
    "thing": (), "animal": ("thing",), "pet": ("thing",), "dog": ("animal", "pet"), "poodle": ("dog",),
    "wolf": ("animal",), "goldfish": ("pet",), "other": ("thing",),
}  # fmt: skip
CLASSES = ("poodle", "wolf", "goldfish", "dog")  # the last is above the first


def ancestors(name):
    return {name}.union(*(ancestors(parent) for parent in PARENTS[name]))


def edges_between(start, end):
    """Breadth first, in both directions of every edge."""
    near = {node: set(up) for node, up in PARENTS.items()}
    for node, up in PARENTS.items():
        for parent in up:
            near[parent].add(node)
    waiting, seen = deque([(start, 0)]), {start}
    while waiting:
        node, steps = waiting.popleft()
        if node == end:
            return steps
        for other in near[node] - seen:
            seen.add(other)
            waiting.append((other, steps + 1))


def test_measures_are_those_of_sets_and_paths():
    found = graph_measures(PARENTS, CLASSES)
    for row, predicted in enumerate(CLASSES):
        for column, true in enumerate(CLASSES):
            p, t = ancestors(predicted), ancestors(true)
            expected = {
                "tree_induced_error": edges_between(predicted, true),
                "lowest_common_ancestor": len(p) - len(p & t) + 1,
                "jaccard": len(p & t) / len(p | t),
                "precision": len(p & t) / len(p),
                "recall": len(p & t) / len(t),
            }
            p, t = p - {predicted}, t - {true}  # as HyCoCLIP counts
            expected |= {
                "ancestors_only/lowest_common_ancestor": len(p) - len(p & t) + 1,
                "ancestors_only/jaccard": len(p & t) / len(p | t),
                "ancestors_only/precision": len(p & t) / len(p),
                "ancestors_only/recall": len(p & t) / len(t),
            }
            assert {name: each[row, column].item() for name, each in found.items()} == pytest.approx(expected)


def test_a_class_without_ancestors_has_only_itself():
    found = graph_measures({"a": (), "b": ("a",)}, "ab")
    assert found["ancestors_only/jaccard"].tolist() == [[1, 0], [0, 1]]
    assert found["ancestors_only/precision"].tolist() == [[1, 0], [0, 1]]
    assert found["jaccard"].tolist() == [[1, 0.5], [0.5, 1]]


def test_a_tree_gives_what_the_measures_of_trees_give():
    families = ("cat", "dog", "cat")
    parents = {"a": ("cat",), "b": ("dog",), "c": ("cat",), "cat": ("root",), "dog": ("root",), "root": ()}
    found, expected = graph_measures(parents, "abc"), tree_measures(family_paths(families))
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values)


def test_classes_without_a_common_ancestor_get_one():
    found = graph_measures({"a": ("x",), "x": (), "b": ("y",), "y": ()}, "ab")
    assert found["tree_induced_error"].tolist() == [[0, 4], [4, 0]]
    assert found["jaccard"][0, 1].item() == pytest.approx(1 / 5)


@pytest.mark.parametrize("parents", [{"a": ("b",), "b": ("a",)}, {"a": ("b",), "b": ("c",), "c": ("b",)}])
def test_a_circle_is_an_error_of_the_list(parents):
    with pytest.raises(UserError, match="goes in a circle"):
        graph_measures(parents, "a")
