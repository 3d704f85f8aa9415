"""Trees of classes: joined as by hand, written and read back, judged as pair by pair, drawn."""

import itertools
import json
import math
import re
from statistics import mean

import numpy as np
import pytest
import torch
from PIL import Image

from meru.geometry import poincare
from meru.metrics.class_tree import (
    Tree,
    chance_dendrogram_purity,
    class_tree,
    cosine_tree,
    dendrogram_purity,
    to_json,
    to_newick,
)
from meru.reports.attention import save_figure
from meru.reports.class_tree import dendrogram_figure, geodesics, poincare_disk_figure, to_disk

C = 0.3


def random_tree(leaves, dimension=3, seed=0, names=None):
    generator = torch.Generator().manual_seed(seed)
    centres = poincare.exp_map0(torch.randn(leaves, dimension, generator=generator, dtype=torch.float64), C)
    return class_tree(centres, C, names or [f"class {leaf}" for leaf in range(leaves)])


def below(tree, node):
    if node < len(tree.names):
        return {node}
    return set().union(*(below(tree, child) for child in tree.children[node - len(tree.names)].tolist()))


def by_hand(children, leaves):
    children = np.array(children, dtype=np.int64).reshape(-1, 2)
    height = np.concatenate([np.zeros(leaves), np.arange(1.0, leaves)])
    points = torch.zeros(2 * leaves - 1, 2, dtype=torch.float64)
    return Tree(tuple(f"leaf {leaf}" for leaf in range(leaves)), children, height, points, 1.0)


def read_newick(text):
    """→ name → distance to each other name, along the branches."""
    ways, stack, last = {}, [[]], []
    for token in re.findall(r"'(?:[^']|'')*'|[(),;]|:[^(),;']+|[^(),:;']+", text):
        if token == "(":
            stack.append([])
        elif token[0] == ":":
            stack[-1][-1] = [(name, way + float(token[1:])) for name, way in last]
            last = stack[-1][-1]
        elif token == ")":
            left, right = stack.pop()
            for (one, way), (other, further) in itertools.product(left, right):
                ways[one, other] = ways[other, one] = way + further
            last = left + right
            stack[-1].append(last)
        elif token not in (",", ";"):
            last = [(token[1:-1].replace("''", "'") if token[0] == "'" else token, 0.0)]
            stack[-1].append(last)
    assert text.endswith(";") and len(stack) == 1
    return ways


def test_near_classes_are_joined_first_at_their_mean_distance():
    places = torch.tensor([[0.9, 0.0], [0.88, 0.05], [-0.9, 0.1], [-0.7, 0.5], [-0.87, 0.1]], dtype=torch.float64)
    tree = class_tree(places, C, list("abcde"))
    assert [below(tree, node) for node in range(5, 9)] == [{2, 4}, {0, 1}, {2, 3, 4}, {0, 1, 2, 3, 4}]
    distances = poincare.pairwise_distance(places, places, C)
    assert tree.height[7] == pytest.approx(float(distances[3, [2, 4]].mean()))
    assert tree.height[8] == pytest.approx(float(distances[:2, 2:].mean()))
    middle = poincare.einstein_midpoint(places[2:], None, C)
    torch.testing.assert_close(tree.points[7], middle)
    assert tree.leaf_order() in ([0, 1, 3, 2, 4], [3, 2, 4, 0, 1])


@pytest.mark.parametrize("seed", range(3))
def test_every_join_is_higher_than_its_parts_and_isometries_change_nothing(seed):
    tree = random_tree(20, seed=seed)
    for join, pair in enumerate(tree.children, start=20):
        assert tree.height[join] >= tree.height[pair].max() and pair.max() < join
    shift = torch.tensor([0.4, -0.8, 0.2], dtype=torch.float64)
    moved = class_tree(poincare.mobius_add(shift.expand(20, 3), tree.points[:20], C), C, tree.names)
    np.testing.assert_array_equal(moved.children, tree.children)
    np.testing.assert_allclose(moved.height, tree.height, rtol=1e-9)
    torch.testing.assert_close(moved.points, poincare.mobius_add(shift.expand(39, 3), tree.points, C))


def test_the_euclidean_tree_goes_by_directions_alone():
    features = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
    tree = cosine_tree(features, [str(leaf) for leaf in range(12)])
    longer = cosine_tree(features * torch.arange(1, 13)[:, None], tree.names)
    np.testing.assert_array_equal(tree.children, longer.children)
    first = tree.children[0].tolist()
    cosine = torch.cosine_similarity(features[first[0]], features[first[1]], dim=0)
    assert tree.height[12] == pytest.approx(1 - float(cosine), abs=1e-6) and tree.curvature is None


def test_names_and_distances_come_back_from_newick():
    names = ["Black footed Albatross", "Chuck-will's-widow", "a,b(c):d;[e]", "plain.name-2", "under_score", '"x" é']
    tree = random_tree(6, names=names)
    ways = read_newick(to_newick(tree))
    assert {one for one, _ in ways} == set(names)
    for one, other in itertools.combinations(range(6), 2):
        joined = min(node for node in range(6, 11) if {one, other} <= below(tree, node))
        assert ways[names[one], names[other]] == pytest.approx(tree.height[joined], rel=1e-4)
    assert "plain.name-2:" in to_newick(tree) and "'under_score':" in to_newick(tree)


def test_the_tree_comes_back_from_json():
    tree = random_tree(5, names=['a "quoted" \\ name', "two\nlines", "鸟", "d", "e"])
    read = json.loads(to_json(tree))
    nodes = read["nodes"]
    assert [node["id"] for node in nodes] == list(range(9)) and read["root"] == 8 and read["curvature"] == C
    assert tuple(node["name"] for node in nodes[:5]) == tree.names
    assert [node["children"] for node in nodes[5:]] == tree.children.tolist()
    assert nodes[8]["parent"] is None
    assert all(node["id"] in nodes[node["parent"]]["children"] for node in nodes[:8])
    assert [node["height"] for node in nodes] == tree.height.tolist()
    torch.testing.assert_close(torch.tensor([node["point"] for node in nodes]), tree.points.float())


def test_a_chain_of_two_thousand_classes_and_one_class_alone():
    """Deeper than Python's recursion goes."""
    tree = by_hand([[0, 1], *([2000 + join, join + 2] for join in range(1998))], 2000)
    assert sorted(tree.leaf_order()) == list(range(2000))
    assert to_newick(tree).count("(") == 1999 and len(json.loads(to_json(tree))["nodes"]) == 3999
    assert dendrogram_purity(tree, [leaf // 2 for leaf in range(2000)]) < 0.1
    alone = class_tree(torch.zeros(1, 2), 1.0, ["one"])
    assert to_newick(alone) == "one;" and json.loads(to_json(alone))["root"] == 0 and alone.leaf_order() == [0]


def slow_purity(tree, groups):
    pure = []
    for one, other in itertools.combinations(range(len(groups)), 2):
        if groups[one] == groups[other]:
            joined = min((below(tree, node) for node in range(len(tree.height)) if {one, other} <= below(tree, node)),
                         key=len)  # fmt: skip
            pure.append(mean(groups[leaf] == groups[one] for leaf in joined))
    return mean(pure)


@pytest.mark.parametrize("seed", range(4))
def test_purity_is_that_of_every_pair(seed):
    tree = random_tree(12, seed=seed)
    groups = [("x", number % 4) for number in range(11)] + ["alone"]
    assert dendrogram_purity(tree, groups) == pytest.approx(slow_purity(tree, groups))


def test_purity_of_hand_made_trees():
    tree = by_hand([[0, 1], [2, 3], [4, 5]], 4)  # ((a, b), (c, d))
    assert dendrogram_purity(tree, [0, 0, 1, 1]) == 1
    assert dendrogram_purity(tree, [0, 1, 0, 1]) == pytest.approx(1 / 2)
    assert dendrogram_purity(tree, [0, 0, 0, 1]) == pytest.approx((1 + 3 / 4 + 3 / 4) / 3)
    assert dendrogram_purity(tree, [0, 0, 1, 2]) == 1
    assert dendrogram_purity(tree, [5, 5, 5, 5]) == chance_dendrogram_purity(tree, [5, 5, 5, 5]) == 1


@pytest.mark.parametrize("groups", [[0, 0, 1, 1, 2], [0, 0, 0, 1, 1], [0, 0, 0, 0, 1], [0, 0, 1, 2, 3]])
def test_chance_is_the_mean_over_all_orders_of_the_groups(groups):
    tree = by_hand([[0, 1], [5, 2], [3, 4], [6, 7]], 5)
    expected = mean(dendrogram_purity(tree, order) for order in itertools.permutations(groups))
    assert chance_dendrogram_purity(tree, groups) == pytest.approx(expected)
    assert chance_dendrogram_purity(by_hand([[0, 1]], 2), [0, 0]) == 1


def test_families_are_found_where_they_are_in_space():
    generator = torch.Generator().manual_seed(0)
    family = torch.arange(30) % 6
    features = torch.randn(6, 16, generator=generator)[family] + 0.2 * torch.randn(30, 16, generator=generator)
    names = [f"kind {leaf} Family{int(of)}" for leaf, of in enumerate(family)]
    tree = class_tree(poincare.exp_map0(poincare.clip_features(features), 0.1), 0.1, names)
    groups = family.tolist()
    assert dendrogram_purity(tree, groups) == dendrogram_purity(cosine_tree(features, names), groups) == 1
    assert chance_dendrogram_purity(tree, groups) < 0.4


@pytest.mark.parametrize("directions", ["projected", "tree"])
@pytest.mark.parametrize("dimension", [1, 2, 5])
def test_the_disk_keeps_the_distance_from_the_root(dimension, directions):
    tree = random_tree(9, dimension=dimension)
    places = to_disk(tree, directions=directions)
    expected = poincare.distance(tree.points, tree.points[-1], C) * math.sqrt(C)
    torch.testing.assert_close(poincare.distance_to_origin(places), expected, rtol=1e-7, atol=1e-7)
    if dimension == 2 and directions == "projected":  # an isometry
        expected = poincare.pairwise_distance(tree.points, tree.points, C) * math.sqrt(C)
        torch.testing.assert_close(poincare.pairwise_distance(places, places), expected, rtol=1e-6, atol=1e-6)


def test_geodesics_are_the_shortest_ways():
    ends = torch.tensor([[0.5, 0.1], [-0.3, 0.8], [0.5, 0.1]], dtype=torch.float64)
    ways = geodesics(ends[:2], ends[1:], steps=10)
    torch.testing.assert_close(ways[:, 0], ends[:2])
    torch.testing.assert_close(ways[:, -1], ends[1:])
    steps = poincare.distance(ways[:, 1:], ways[:, :-1])
    torch.testing.assert_close(steps.sum(dim=1), poincare.distance(ends[:2], ends[1:]))


def test_pictures_are_written(tmp_path):
    names = [f"strange $name_{leaf} of_{leaf % 13}" for leaf in range(30)]  # nothing here is a formula
    tree = random_tree(30, dimension=8, names=names)
    groups = [leaf % 13 for leaf in range(30)]
    figures = {
        "dendrogram": dendrogram_figure(tree, groups, title="a $ tree"),
        "euclidean": dendrogram_figure(cosine_tree(torch.eye(3), list("abc")), [1, 1, 2]),
        "tree": poincare_disk_figure(tree, groups, title="a $ tree"),
        "projected": poincare_disk_figure(tree, groups, directions="projected"),
        "alone": poincare_disk_figure(class_tree(torch.zeros(1, 2), 1.0, ["one"]), ["one"]),
        "alone too": dendrogram_figure(class_tree(torch.zeros(1, 2), 1.0, ["one"]), ["one"]),
    }
    for name, figure in figures.items():
        save_figure(figure, tmp_path / f"{name}.png")
        assert min(Image.open(tmp_path / f"{name}.png").size) > 100, name


def test_bad_input():
    places, tree = torch.zeros(3, 2), random_tree(4)
    for make in (lambda x, names: class_tree(x, C, names), cosine_tree):
        with pytest.raises(ValueError, match="one place for each name"):
            make(places, ["a", "b"])
        with pytest.raises(ValueError, match="one place for each name"):
            make(places[:0], [])
    with pytest.raises(ValueError, match="point 1 is not inside the Poincaré ball"):
        class_tree(torch.tensor([[0.0, 0.0], [2.0, 0.0]]), C, ["a", "b"])
    with pytest.raises(ValueError, match="not inside"):
        class_tree(torch.tensor([[math.nan, 0.0]]), C, ["a"])
    with pytest.raises(ValueError, match="curvature c must be positive"):
        class_tree(places, -1.0, list("abc"))
    with pytest.raises(ValueError, match="without a direction"):
        cosine_tree(places, list("abc"))
    with pytest.raises(ValueError, match="3 groups for 4 leaves"):
        dendrogram_purity(tree, [1, 1, 2])
    with pytest.raises(ValueError, match="3 groups for 4 leaves"):
        dendrogram_figure(tree, [1, 1, 2])
    with pytest.raises(ValueError, match="no two leaves"):
        chance_dendrogram_purity(tree, [1, 2, 3, 4])
    with pytest.raises(ValueError, match="only a tree in hyperbolic space"):
        poincare_disk_figure(cosine_tree(torch.eye(2), ["a", "b"]), [1, 2])
    with pytest.raises(ValueError, match="choose projected or tree"):
        poincare_disk_figure(tree, [1, 1, 2, 2], directions="up")
