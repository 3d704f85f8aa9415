"""Fixed batch norms folded into the convolutions before them: the same values and gradients in fewer passes."""

from __future__ import annotations

from timm.layers import BatchNormAct2d
from timm.models._efficientnet_blocks import InvertedResidual
from torch import Tensor, nn


def folded_block(block: nn.Module, x: Tensor) -> Tensor:
    """The output of a block; of timm's inverted residuals, computed with `convolved`."""
    if type(block) is not InvertedResidual or getattr(block, "conv_s2d", None) is not None:
        return block(x)
    inside = convolved(block.conv_pw, block.bn1, x)
    inside = block.aa(convolved(block.conv_dw, block.bn2, inside))
    inside = convolved(block.conv_pwl, block.bn3, block.se(inside))
    return block.drop_path(inside) + x if block.has_skip else inside


def convolved(convolution: nn.Module, norm: nn.Module, x: Tensor) -> Tensor:
    """`norm(convolution(x))` by one convolution if the norm is in evaluation mode and is not trained.

    With γ, β, mean μ and variance v of the norm: W · γ / √(v + ε) are the weights, and β − μγ / √(v + ε) the bias.
    """
    if type(convolution) is not nn.Conv2d or convolution.bias is not None or not _is_fixed(norm):
        return norm(convolution(x))
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    bias = norm.bias - norm.running_mean * scale
    return norm.act(norm.drop(convolution._conv_forward(x, convolution.weight * scale[:, None, None, None], bias)))


def _is_fixed(norm: nn.Module) -> bool:
    return (
        type(norm) is BatchNormAct2d and not norm.training and norm.running_var is not None
        and norm.affine and not norm.weight.requires_grad
    )  # fmt: skip
