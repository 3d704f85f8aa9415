"""Zero-shot accuracy against hand-made numbers and every order of the ties."""

from __future__ import annotations

import itertools
import random
from statistics import mean

import pytest
import torch

from meru.errors import UserError
from meru.metrics.zero_shot import class_prompts, zero_shot_metrics


def from_scores(scores, labels, **options):
    scores = torch.as_tensor(scores)
    return zero_shot_metrics(
        scores,
        torch.eye(scores.shape[1]),
        labels=torch.as_tensor(labels),
        similarity=lambda images, classes: images @ classes.T,
        **options,
    )


def test_hand_made():
    scores = torch.eye(6)[[0, 0, 0, 5]] - torch.arange(6) / 10  # one peak, else falling
    metrics = from_scores(scores, [0, 0, 1, 2])
    assert metrics["accuracy@1"] == pytest.approx(2 / 4)
    assert metrics["accuracy@5"] == pytest.approx(4 / 4)
    assert metrics["class_mean/accuracy@1"] == pytest.approx((1 + 0 + 0) / 3)
    assert metrics["chance_accuracy@1"] == metrics["class_mean/chance_accuracy@1"] == pytest.approx(1 / 6)
    assert metrics["chance_accuracy@5"] == pytest.approx(5 / 6)
    assert metrics["images"] == 4


@pytest.mark.parametrize("seed", range(10))
def test_ties_equal_the_mean_over_all_orders(seed):
    rng = random.Random(seed)
    scores = [float(rng.randrange(3)) for _ in range(6)]
    orders = [
        order
        for order in itertools.permutations(range(6))
        if all(scores[i] >= scores[j] for i, j in itertools.pairwise(order))
    ]
    metrics = from_scores([scores], [2], ks=(1, 3, 5))
    for k in (1, 3, 5):
        assert metrics[f"accuracy@{k}"] == pytest.approx(mean(2 in order[:k] for order in orders))


def test_constant_similarity_scores_chance_and_chunks_do_not_matter():
    labels = torch.arange(50) % 10
    metrics = from_scores(torch.ones(50, 10), labels, chunk_size=7)
    for name in ("accuracy@1", "accuracy@5", "class_mean/accuracy@1", "class_mean/accuracy@5"):
        row, _, metric = name.rpartition("/")
        assert metrics[name] == pytest.approx(metrics[f"{row}/chance_{metric}".lstrip("/")])
    scores = torch.randint(0, 4, (50, 10), generator=torch.Generator().manual_seed(0)).float()
    assert from_scores(scores, labels, chunk_size=3) == pytest.approx(from_scores(scores, labels))


@pytest.mark.parametrize(("classes", "left"), [(1, {1}), (4, {1}), (5, {1}), (6, {1, 5})])
def test_trivial_cut_offs_are_left_out(classes, left):
    metrics = from_scores(torch.rand(3, classes), [0, 0, 0])
    assert {int(name.split("@")[1]) for name in metrics if "@" in name} == left


def test_bad_input():
    with pytest.raises(ValueError, match="labels"):
        from_scores(torch.zeros(2, 3), [0, 3])
    with pytest.raises(ValueError, match="labels"):
        from_scores(torch.zeros(2, 3), [0])
    with pytest.raises(ValueError, match="nothing to rank"):
        from_scores(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long))
    with pytest.raises(UserError, match="query 1"):
        from_scores(torch.tensor([[0.0, 1.0], [float("nan"), 0.0]]), [0, 1])


def test_class_prompts():
    prompts = class_prompts(["laysan albatross", "{odd} name"], ["a photo of a {}.", "one {} and another {}"])
    assert prompts == [
        ["a photo of a laysan albatross.", "one laysan albatross and another laysan albatross"],
        ["a photo of a {odd} name.", "one {odd} name and another {odd} name"],
    ]
    with pytest.raises(UserError, match="'a bird' has no"):
        class_prompts(["wren"], ["a bird"])
    with pytest.raises(UserError, match="no prompt template"):
        class_prompts(["wren"], [])
