"""Batch norm over the samples of all processes, on any device: torch's `SyncBatchNorm` does not support CPUs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from meru import distributed


class SharedBatchNorm(_BatchNorm):
    """A batch norm of torch or timm, with its parameters and buffers, with statistics over all processes.

    W processes with B samples each then normalise like one process with W·B samples; evaluation is unchanged.

    Args:
        norm: The layer to replace. The dropout and the activation of timm's `BatchNormAct2d` are kept.
    """

    def __init__(self, norm: _BatchNorm):
        super().__init__(
            norm.num_features,
            norm.eps,
            norm.momentum,
            affine=norm.affine,
            track_running_stats=norm.track_running_stats,
        )
        for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            setattr(self, name, getattr(norm, name))
        self.training = norm.training
        self.drop = getattr(norm, "drop", nn.Identity())
        self.act = getattr(norm, "act", nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        """Features `(B, C, …)`, of the same shape in every process."""
        shared = self.training and distributed.world_size() > 1
        return self.act(self.drop(self._normalise(x) if shared else super().forward(x)))

    def _normalise(self, x: Tensor) -> Tensor:
        over = [0, *range(2, x.dim())]
        values = x.float()
        parts = distributed.gather(torch.stack(torch.var_mean(values, dim=over, correction=0))[None])
        variances, means = parts.unbind(1)
        mean = means.mean(dim=0)
        variance = (variances + (means - mean).square()).mean(dim=0)
        if self.track_running_stats:
            self._track(mean.detach(), variance.detach(), x.numel() // x.shape[1] * distributed.world_size())
        scale = (variance + self.eps).rsqrt()
        if self.affine:
            scale = scale * self.weight
        shape = (-1, *[1] * (x.dim() - 2))
        values = (values - mean.view(shape)) * scale.view(shape)
        return (values + self.bias.view(shape) if self.affine else values).to(x.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, count: int) -> None:
        self.num_batches_tracked += 1
        share = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
        unbiased = variance * (count / max(1, count - 1))
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), share)

    def _check_input_dim(self, x: Tensor) -> None:
        """Allow any number of dimensions from two on."""


def share_batch_norms(model: nn.Module) -> None:
    """Make trained batch norms use statistics over all processes; frozen ones are unchanged.

    The layers are replaced in the model; its parameters, buffers and their names stay the same.
    """
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            trained = isinstance(child, _BatchNorm) and not (child.affine and not child.weight.requires_grad)
            if trained and not isinstance(child, SharedBatchNorm):
                setattr(parent, name, SharedBatchNorm(child))
