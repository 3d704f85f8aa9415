"""Parameter groups and the schedule."""

import pytest
import torch
from torch import nn

from meru.errors import UserError
from meru.training.optimizer import build_optimizer, parameter_groups, scaled_rate, warmup_cosine


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.visual = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
        self.visual_proj = nn.Linear(3, 2, bias=False)
        self.scale = nn.Parameter(torch.tensor(1.0))


def settings_of(groups, parameter):
    (group,) = [g for g in groups if any(p is parameter for p in g["params"])]
    return group["lr"], group["weight_decay"]


def test_only_matrices_are_decayed_and_only_the_named_module_has_another_rate():
    model = Model()
    groups = parameter_groups(model, learning_rate=0.1, weight_decay=0.2, multipliers={"visual": 0.5})
    assert settings_of(groups, model.visual[0].weight) == (0.05, 0.2)
    assert settings_of(groups, model.visual[0].bias) == (0.05, 0.0)
    assert settings_of(groups, model.visual[1].weight) == (0.05, 0.0)
    assert settings_of(groups, model.visual_proj.weight) == (0.1, 0.2)
    assert settings_of(groups, model.scale) == (0.1, 0.0)


def test_values_that_exclude_each_other_are_one_line():
    def nesterov(groups):
        return torch.optim.SGD(groups, nesterov=True)

    with pytest.raises(UserError, match=r"^optim.optimizer does not take these values together: Nesterov .*\w$"):
        build_optimizer(Model(), nesterov, learning_rate=0.1, weight_decay=0.0)


def test_the_innermost_module_counts():
    model = Model()
    groups = parameter_groups(model, learning_rate=1.0, weight_decay=0.0, multipliers={"visual": 0.5, "visual.1": 2.0})
    assert settings_of(groups, model.visual[0].weight)[0] == 0.5
    assert settings_of(groups, model.visual[1].weight)[0] == 2.0


class Scaled(Model):
    """With scalars beside and inside its modules, and a vector of its own."""

    def __init__(self):
        super().__init__()
        self.other = nn.Parameter(torch.tensor(1.0))
        self.positions = nn.Parameter(torch.zeros(3))
        self.visual.gain = nn.Parameter(torch.tensor(1.0))


def test_a_parameter_goes_by_its_own_name_then_by_scalars_then_by_its_module():
    model = Scaled()
    multipliers = {"visual": 0.5, "scalars": 3.0, "other": 7.0, "positions": 2.0, "visual.0.bias": 11.0}
    groups = parameter_groups(model, learning_rate=1.0, weight_decay=0.0, multipliers=multipliers)
    rates = {name: settings_of(groups, parameter)[0] for name, parameter in model.named_parameters()}
    assert rates == {
        "scale": 3.0, "other": 7.0, "positions": 2.0, "visual.gain": 3.0, "visual.0.weight": 0.5, "visual.0.bias": 11.0,
        "visual.1.weight": 0.5, "visual.1.bias": 0.5, "visual_proj.weight": 1.0,
    }  # fmt: skip
    assert {group["base_learning_rate"] for group in groups} == {1.0}


def test_a_model_may_be_without_scalars():
    groups = parameter_groups(nn.Linear(2, 2), learning_rate=1.0, weight_decay=0.0, multipliers={"scalars": 9.0})
    assert [group["lr"] for group in groups] == [1.0]


def test_frozen_parameters_are_left_out():
    model = Model()
    model.visual.requires_grad_(False)
    groups = parameter_groups(model, learning_rate=1.0, weight_decay=0.0)
    assert sum(len(group["params"]) for group in groups) == 2


def test_mistakes_are_one_clear_line():
    for name, message in {
        "vision": "it has visual, visual_proj, scale, and scalars for all learnable scalars",
        "scales": "it has visual, visual_proj, scale",
        "visual.2": "visual has 0, 1",
        "visual.0.gain": "visual.0 has weight, bias",
    }.items():
        with pytest.raises(UserError, match=f"multipliers.{name}: the model has no module or parameter.*; {message}"):
            parameter_groups(Model(), learning_rate=1.0, weight_decay=0.0, multipliers={name: 2.0})
    with pytest.raises(UserError, match="nothing to train"):
        parameter_groups(Model().requires_grad_(False), learning_rate=1.0, weight_decay=0.0)


def test_the_optimizer_gets_the_groups():
    optimizer = build_optimizer(Model(), torch.optim.SGD, learning_rate=0.1, weight_decay=0.2)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, 0.2}


def test_the_rate_grows_with_the_batch_it_is_meant_for():
    options = {"learning_rate": 0.1, "weight_decay": 0.2}
    scaled = build_optimizer(Model(), torch.optim.SGD, **options, batch_of_rate=128, images_per_step=1024)
    assert [group["lr"] for group in scaled.param_groups] == pytest.approx([0.8] * len(scaled.param_groups))
    assert scaled_rate(0.1, None, 1024) == 0.1
    with pytest.raises(UserError, match="optim.batch_of_rate=0"):
        scaled_rate(0.1, 0, 1024)


def test_schedule():
    factors = [warmup_cosine(step, total_steps=12, warmup_steps=2, final=0.1) for step in range(13)]
    assert factors[:3] == [0.5, 1.0, 1.0]
    assert factors[7] == pytest.approx(0.55)
    assert factors[12] == pytest.approx(0.1)
    assert factors[1:] == sorted(factors[1:], reverse=True)
    assert warmup_cosine(0, total_steps=5, warmup_steps=0) == 1.0
