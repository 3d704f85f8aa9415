"""Measures of wrong classes in a tree, against sets of ancestors written out."""

import pytest
import torch

from meru.metrics.class_hierarchy import class_hierarchy_metrics, family_paths, tree_measures

PATHS = [("root", "bird", "gull", "herring gull"), ("root", "bird", "gull", "common gull"), ("root", "bird", "owl")]


def test_measures_equal_those_of_ancestor_sets():
    measures = tree_measures(PATHS)
    for p, predicted in enumerate(map(set, PATHS)):
        for t, true in enumerate(map(set, PATHS)):
            common = predicted & true
            expected = {
                "tree_induced_error": len(predicted - true) + len(true - predicted),
                "lowest_common_ancestor": len(predicted) - len(common) + 1,
                "jaccard": len(common) / len(predicted | true),
                "precision": len(common) / len(predicted),
                "recall": len(common) / len(true),
            }
            found = {name: float(values[p, t]) for name, values in measures.items() if "/" not in name}
            assert found == pytest.approx(expected)


def test_the_right_class_has_no_error():
    measures = tree_measures(family_paths(["gull", "gull", "owl"]))
    assert measures["tree_induced_error"].diagonal().tolist() == [0, 0, 0]
    assert measures["tree_induced_error"][0].tolist() == [0, 2, 4]
    assert measures["jaccard"][0].tolist() == pytest.approx([1, 2 / 4, 1 / 5])
    assert measures["ancestors_only/jaccard"][0].tolist() == pytest.approx([1, 1, 1 / 3])


def test_figures_of_predictions_and_of_ties():
    classes = torch.eye(3)
    images = torch.stack([classes[0], classes[2], torch.tensor([0.0, 1.0, 1.0])])  # the last: a tie of classes 1 and 2
    figures = class_hierarchy_metrics(
        images,
        classes,
        labels=torch.tensor([1, 2, 2]),
        families=["gull", "gull", "owl"],
        similarity=lambda x, y: x @ y.T,
        chunk_size=2,
    )
    assert figures["family/accuracy@1"] == pytest.approx((1 + 1 + 0.5) / 3)
    assert figures["hierarchy/tree_induced_error"] == pytest.approx((2 + 0 + 0.5 * 4) / 3)
    assert figures["hierarchy/jaccard"] == pytest.approx((0.5 + 1 + 0.5 * (1 + 0.2)) / 3)
    assert figures["family/chance_accuracy@1"] == pytest.approx((2 / 3 + 1 / 3 + 1 / 3) / 3)
    assert figures["hierarchy/chance_tree_induced_error"] == pytest.approx((6 + 8 + 8) / 9)
