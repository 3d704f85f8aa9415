"""The moving average of weights against torch's own."""

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from meru.training.averaging import MovingAverage


def walk(model, *averages, steps):
    for _ in range(steps):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += torch.randn_like(parameter)
            model.get_buffer("running_mean").add_(1)
        for average in averages:
            average.update_parameters(model)


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def test_it_is_torchs_average_to_the_bit_also_after_a_checkpoint():
    torch.manual_seed(0)
    model = nn.BatchNorm1d(3)
    own, theirs = MovingAverage(model, 0.9), AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    walk(model, own, theirs, steps=4)
    assert_equal(own.state_dict(), theirs.state_dict())
    resumed = MovingAverage(nn.BatchNorm1d(3), 0.9)
    resumed.load_state_dict(theirs.state_dict())
    walk(model, own, resumed, steps=2)
    assert_equal(own.state_dict(), resumed.state_dict())
