"""Figures of classes that arrive in stages, computed by hand."""

import pytest
import torch

from meru.metrics.stages import forgetting, stage_metrics
from meru.runs.figure_names import figure_names

CLASS_STAGE = torch.tensor([0, 0, 0, 1, 2])  # two old classes, one new in each stage


def figures_of(predicted, labels, stage, earlier=()):
    return stage_metrics(
        torch.tensor(predicted),
        torch.tensor(labels),
        class_stage=CLASS_STAGE,
        num_old=2,
        stage=stage,
        earlier=dict(earlier),
    )


def test_forgetting_is_the_mean_fall_from_the_highest_earlier_accuracy():
    assert forgetting([[0.9]]) is None
    assert forgetting([[0.9], [0.6, 0.7]]) == pytest.approx(0.3)
    # (max(0.5, 0.8) − 0.4 + 0.9 − 1.0) / 2
    assert forgetting([[0.5], [0.8, 0.9], [0.4, 1.0, 0.2]]) == pytest.approx(0.15)
    assert forgetting([[0.5], [0.75, 1.0]]) == pytest.approx(-0.25)
    assert forgetting([[0.5], [0.3, None], [0.2, 0.9, 0.1]]) == pytest.approx(0.3)  # without images before: left out


def test_the_figures_of_two_stages():
    first = figures_of([5, 5, 6, 6, 7, 7], [0, 0, 1, 1, 2, 2], 0)
    assert first["stage/1/all/accuracy"] == first["stage/1/new_now/accuracy"] == first["stage/1/since_1/accuracy"] == 1
    assert 0 < first["stage/1/new_now/chance_accuracy"] < 1
    assert "stage/1/forgetting" not in first
    # Cluster 5 now holds all of the old class 0 and the new class 3; class 2 keeps one of its two images.
    second = figures_of([5, 5, 6, 6, 7, 8, 5, 9], [0, 0, 1, 1, 2, 2, 3, 3], 1, first)
    assert second["stage/2/old/accuracy"] == 1 and second["stage/2/new/accuracy"] == 0.5
    assert second["stage/2/new_now/accuracy"] == second["stage/2/since_2/accuracy"] == 0.5
    assert second["stage/2/since_1/accuracy"] == pytest.approx(5 / 6)
    assert second["stage/2/forgetting"] == pytest.approx(1 / 6)
    assert second["stage/2/all/images"] == 8


def test_an_ablation_may_name_these_figures_of_a_run_with_stages_only():
    config = {"task": "discovery", "discovery": {"stages": 3}}
    names = figure_names(config)
    given = figures_of([5, 5, 6, 6, 7, 7, 8], [0, 0, 1, 1, 2, 2, 3], 1, {"stage/1/since_1/accuracy": 0.5})
    assert {*given, "stage/3/all/accuracy", "stage/3/forgetting", "forgetting"} <= {*names}
    assert not any("stage" in name or "forgetting" in name for name in figure_names({"task": "discovery"}))
