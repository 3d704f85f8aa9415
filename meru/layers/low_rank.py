"""LoRA: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, section 4.1.

The update is a parametrization of the weight itself, so that attention which uses `in_proj_weight` as a tensor needs no
change, and the model with merged weights has the published names. The weight W + α/r · BA is computed in every forward
pass, r · d² operations for a d × d weight, little beside those of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from meru.errors import UserError


@dataclass(frozen=True, kw_only=True)
class LowRank:
    """Settings of the updates of a tower.

    Attributes:
        rank: r.
        alpha: α; the update is scaled by α / r.
        norms: Whether layer norms are trained too.
    """

    rank: int
    alpha: float
    norms: bool = False

    @classmethod
    def of(cls, rank: int | None, alpha: float | None, norms: bool) -> LowRank | None:
        """The settings of the keys `lora_rank`, `lora_alpha` (None: α = r) and `lora_norms`; None without a rank."""
        return cls(rank=rank, alpha=alpha or rank, norms=norms) if rank else None


class LowRankUpdate(nn.Module):
    """W → W + α/r · BA, with trained A `(r, in)`, `down`, and B `(out, r)`, `up`, which starts at 0."""

    def __init__(self, weight: Tensor, *, rank: int, alpha: float):
        super().__init__()
        outputs, inputs = weight.shape
        self.scale = alpha / rank
        self.down = nn.Parameter(weight.new_empty(rank, inputs).uniform_(-1, 1) * inputs**-0.5)
        self.up = nn.Parameter(weight.new_zeros(outputs, rank))

    def forward(self, weight: Tensor) -> Tensor:
        """`(out, in)` → `(out, in)`, in the weight's own precision."""
        with torch.autocast(weight.device.type, enabled=False):
            return torch.addmm(weight, self.up, self.down, alpha=self.scale)


def adapt(network: nn.Module, settings: LowRank, *, key: str) -> int:
    """Freeze a transformer, and train low-rank updates of the linear layers of attention and MLP in its blocks.

    A stacked projection to query, key and value has one update of that rank.

    Args:
        network: A vision transformer of timm or open_clip, or our text tower.
        settings: See `LowRank`.
        key: The config key, for messages.

    Returns:
        The number of updates.

    Raises:
        UserError: for a convolutional network, and if the rank is not below both sides of a weight.
    """
    layers = [(module, name) for module in _blocks(network).modules() for name in _weights(module)]
    if not layers:
        raise UserError(
            f"{key}={settings.rank}: {type(network).__name__} is no plain transformer of timm or open_clip; set it to "
            "null, and train the last blocks by encoder.image.train_last_blocks instead"
        )
    smallest = min(min(getattr(module, name).shape) for module, name in layers)
    if settings.rank >= smallest:
        raise UserError(f"{key}={settings.rank}: this tower is {smallest} wide; give a rank below that, such as 8")
    network.requires_grad_(False)
    for module, name in layers:
        update = LowRankUpdate(getattr(module, name).detach(), rank=settings.rank, alpha=settings.alpha)
        parametrize.register_parametrization(module, name, update)
    if settings.norms:
        for module in network.modules():
            if isinstance(module, nn.LayerNorm):
                module.requires_grad_(True)
    return len(layers)


def _blocks(network: nn.Module) -> nn.Module:
    """The residual blocks of a transformer; nothing for another network."""
    if hasattr(network, "patch_embed"):  # timm
        return getattr(network, "blocks", nn.Identity())
    return getattr(getattr(network, "transformer", network), "resblocks", nn.Identity())


def _weights(module: nn.Module) -> tuple[str, ...]:
    """The names of a module's own weights that are updated."""
    if isinstance(module, nn.Linear):
        return ("weight",)
    stacked = isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None
    return ("in_proj_weight",) if stacked else ()


@torch.no_grad()
def merged_state(model: nn.Module) -> dict[str, Tensor]:
    """The state dict of a model with its low-rank updates added to the weights, under the names without updates."""
    state = model.state_dict()
    for place, module in list(model.named_modules()):
        if not parametrize.is_parametrized(module):
            continue
        for name, steps in module.parametrizations.items():
            if not any(isinstance(step, LowRankUpdate) for step in steps):
                continue
            inside = f"{place}.parametrizations.{name}."
            state = {each: tensor for each, tensor in state.items() if not each.startswith(inside)}
            state[f"{place}.{name}"] = getattr(module, name).detach()
    return state
