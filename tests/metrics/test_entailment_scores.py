"""Ranked pairs with ties, the order of captions by radius, and what HierarCaps measures on the way to an image."""

import math

import pytest
import torch

from meru.metrics.entailment import LEVELS, order_correlation, pair_metrics, retrieval_by_level


def test_average_precision_and_area_are_what_counting_gives():
    scores = torch.tensor([0.9, 0.8, 0.8, 0.5, 0.1])
    positive = torch.tensor([True, True, False, False, True])
    found = pair_metrics(scores, positive)
    # The two pairs of 0.8 are one step: recall 1/3, 2/3 and 1 are reached at precision 1/1, 2/3 and 3/5.
    assert found["average_precision"] == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)
    wins = [1.0, 1.0, 0.5, 1.0, 0.0, 0.0]  # of each positive over the negatives 0.8 and 0.5; a tie is half
    assert found["area_under_roc"] == pytest.approx(sum(wins) / 6)
    assert found["share_of_ties"] == pytest.approx(2 / 5) and found["share_of_zeros"] == 0
    assert found["chance_average_precision"] == pytest.approx(3 / 5)


def test_a_constant_score_is_at_chance_and_all_ties():
    found = pair_metrics(torch.zeros(8), torch.arange(8) < 2)
    for name in ("average_precision", "area_under_roc"):
        assert found[name] == pytest.approx(found[f"chance_{name}"])
    assert found["share_of_ties"] == found["share_of_zeros"] == 1


@pytest.mark.parametrize(
    ("scores", "positive"),
    [
        (torch.zeros(3), torch.ones(3, dtype=torch.bool)),
        (torch.zeros(3), torch.zeros(3, dtype=torch.bool)),
        (torch.zeros(3), torch.tensor([True, False])),
        (torch.tensor([0.0, math.nan]), torch.tensor([True, False])),
    ],
)
def test_pairs_that_cannot_be_ranked_are_refused(scores, positive):
    with pytest.raises(ValueError, match=r"pairs|ranked"):
        pair_metrics(scores, positive)


def test_the_order_of_captions_by_radius():
    assert order_correlation([torch.tensor([0.1, 0.2, 0.3, 0.4])]) == 1
    assert order_correlation([torch.tensor([0.4, 0.3, 0.2, 0.1])]) == -1
    # One of three pairs is in the wrong order; a list without an order counts for nothing.
    lists = [torch.tensor([0.1, 0.3, 0.2]), torch.tensor([0.5]), torch.ones(4)]
    assert order_correlation(lists) == pytest.approx(1 / 3)
    assert order_correlation(lists[1:]) is None


def by_loops(scores, radii, captions, own):
    low, high = radii.min().item(), radii.max().item()
    precision, recall = [], []
    for row, lists in zip(scores, own, strict=True):
        taken = set()
        for level in range(LEVELS):
            reach = low + (high - low) * level / (LEVELS - 1)
            within = [place for place in range(len(captions)) if radii[place] <= reach + 1e-12]
            taken.add(captions[max(within, key=lambda place: row[place].item())])
        right = {caption for each in lists for caption in each}
        precision.append(len(taken & right) / len(taken))
        recall.append(sum(any(each[place] in taken for each in lists) for place in range(4)) / 4)
    return {"precision": sum(precision) / len(own), "recall": sum(recall) / len(own)}


def test_the_captions_on_the_way_to_an_image_are_those_that_loops_find():
    generator = torch.Generator().manual_seed(0)
    lists = [[f"{image} {list_} {level}" for level in range(4)] for image in range(3) for list_ in range(2)]
    own = [lists[0:2], lists[2:4], lists[4:6]]
    captions = [caption for each in lists for caption in each]
    radii = torch.rand(len(captions), generator=generator, dtype=torch.float64)
    scores = torch.rand(3, len(captions), generator=generator)
    for row in range(3):  # so that some are met
        scores[row, 8 * row : 8 * row + 8] += 0.3
    expected = by_loops(scores, radii, captions, own)
    assert 0 < expected["precision"] < 1 and 0 < expected["recall"] < 1
    assert retrieval_by_level(scores, radii, captions, own) == pytest.approx(expected)


def test_lists_of_different_lengths_and_a_perfect_model():
    captions = ["thing", "bird", "red bird", "thing", "car"]
    radii = torch.tensor([0.0, 0.5, 1.0, 0.0, 1.0])
    scores = torch.tensor([[0.1, 0.5, 0.9, 0.1, 0.0], [0.1, 0.0, 0.0, 0.1, 0.9]])
    own = [[["thing", "bird", "red bird"]], [["thing", "car"]]]
    assert retrieval_by_level(scores, radii, captions, own) == {"precision": 1, "recall": 1}
