"""Names of groups from their captions, and k-means that keeps labelled rows with their class."""

import math

import numpy as np
import pytest
import torch

from meru.metrics.semi_supervised import semi_supervised_kmeans
from meru.metrics.words import COMMON, PRIOR, log_odds, names_of, naming_metrics, vocabulary, words_of

CAPTIONS = [["a red bird", "red wings"], ["the red bird"], ["a blue bird"], ["a blue bird", "bird 12 x"]]


def test_words_are_lower_case_without_numbers_and_single_letters():
    assert words_of(["A Red-winged bird, 12 cm!", "海鸥 x"]) == {"red", "winged", "bird", "cm", "海鸥"}


def test_a_word_of_one_group_sets_it_apart_and_a_common_one_does_not():
    found = vocabulary(CAPTIONS, torch.tensor([0, 0, 1, 1]), 2)
    score = {word: found.scores[:, column] for column, word in enumerate(found.words)}
    assert score["red"][0] > 0.2 > abs(score["bird"][0]) and score["blue"][1] > 0.2 > 0 > score["blue"][0]
    assert names_of(found, most=1) == [("red",), ("blue",)]
    assert found.shares[0, found.words.index("wings")] == 0.5


def test_the_score_is_that_of_the_paper():
    counts = np.array([[8.0, 2.0], [1.0, 9.0]])
    prior = PRIOR * counts.sum(axis=0) / counts.sum()
    inside, outside = counts[0, 0] + prior[0], counts[1, 0] + prior[0]
    n_inside, n_outside = 10 + PRIOR, 10 + PRIOR
    odds = math.log(inside / (n_inside - inside)) - math.log(outside / (n_outside - outside))
    assert log_odds(counts)[0, 0] == pytest.approx(odds / math.sqrt(1 / inside + 1 / outside))


def test_an_empty_group_and_images_in_no_group_have_no_name():
    found = vocabulary(CAPTIONS, torch.tensor([0, 0, -1, -1]), 3)
    assert names_of(found)[1:] == [(), ()] and np.isfinite(found.scores).all()
    assert names_of(vocabulary([["x"]], torch.tensor([0]), 1)) == [()]


def test_a_word_that_few_images_of_the_group_have_is_no_name():
    captions = [["common"]] * 8 + [["common rare"]] + [["other"]] * 9
    found = vocabulary(captions, torch.tensor([0] * 9 + [1] * 9), 2)
    assert found.shares[0, found.words.index("rare")] < COMMON and names_of(found) == [("common",), ("other",)]


def test_a_name_is_right_if_its_words_lead_to_its_class():
    known = vocabulary(CAPTIONS, torch.tensor([0, 0, 1, 1]), 2)
    figures = naming_metrics([("red",), ("red", "blue", "never"), ("never",)], [0, 1, 1], known)
    assert figures["names/chance_accuracy"] == 0.5 and figures["names/count"] == 3
    assert figures["names/accuracy"] == pytest.approx(1 / 3) or figures["names/accuracy"] == pytest.approx(2 / 3)
    assert naming_metrics([("blue",), ("red",)], [1, 0], known)["names/accuracy"] == 1.0
    assert naming_metrics([], [], known) == {}


def groups(count, each, *, apart=8.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count).repeat_interleave(each)
    return apart * torch.eye(count)[labels] + torch.randn(count * each, count, generator=generator), labels


def test_labelled_rows_keep_their_class_and_new_ones_are_found():
    features, labels = groups(5, 12)
    labelled = (labels < 3) & (torch.arange(60) % 2 == 0)
    found = semi_supervised_kmeans(features, torch.where(labelled, labels, -1), labelled, 5)
    assert torch.equal(found[labelled], labels[labelled]) and torch.equal(found[labels < 3], labels[labels < 3])
    new = [found[labels == number].unique() for number in (3, 4)]
    assert [len(each) for each in new] == [1, 1] and {int(each) for each in new} == {3, 4}


def test_a_labelled_row_stays_with_its_class_even_where_another_is_nearer():
    features, labels = groups(2, 10)
    labelled = torch.zeros(20, dtype=torch.bool)
    labelled[[0, 1, 2, 10, 11, 12]] = True
    wrong = labels.clone()
    wrong[0] = 1
    found = semi_supervised_kmeans(features, wrong, labelled, 2)
    assert found[0] == 1 and torch.equal(found[3:], labels[3:])


def test_without_labels_it_is_k_means_and_impossible_numbers_are_refused():
    features, labels = groups(3, 8)
    nothing = torch.zeros(24, dtype=torch.bool)
    found = semi_supervised_kmeans(features, torch.full((24,), -1), nothing, 3)
    assert [len(found[labels == number].unique()) for number in range(3)] == [1, 1, 1]
    with pytest.raises(ValueError, match="labels must be below"):
        semi_supervised_kmeans(features, labels, ~nothing, 2)
    with pytest.raises(ValueError, match="3 clusters without labels of 0"):
        semi_supervised_kmeans(features, labels, ~nothing, 6)
