"""The moving average of a model's weights."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel


class MovingAverage(AveragedModel):
    """Exponential moving average of the parameters, with the model's own buffers; state as torch's `AveragedModel`.

    torch's reads from the device at every update whether it is the first one, for which a GPU would have to wait.

    Args:
        model: Averaged from its weights at the first update on.
        decay: Share of the average that an update keeps, in [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float):
        super().__init__(model, use_buffers=False)
        self.decay = decay
        self.begun = False

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Take in the model's weights."""
        own, current = list(self.module.parameters()), list(model.parameters())
        if self.begun or self.n_averaged > 0:  # the latter after a checkpoint was loaded
            torch._foreach_lerp_(own, current, 1 - self.decay)
        else:
            torch._foreach_copy_(own, current)
        for mine, buffer in zip(self.module.buffers(), model.buffers(), strict=True):
            mine.copy_(buffer)
        self.n_averaged += 1
        self.begun = True
