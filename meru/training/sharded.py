"""Training with the blocks of the towers divided among processes (FSDP2, `trainer.parallel=fsdp`).

Each process holds a part of the weights, gradients and moments of every block, and gathers a block's weights while it
computes the block. What is outside the blocks (embeddings, projections, learnable scalars) is in every process, with
gradients averaged by DDP. Losses and gradients are those of DDP.

A whole model in evaluation form is kept beside it: processes that divide an evaluation do not compute the same blocks
at the same time, and files hold whole weights. A checkpoint therefore is that of DDP, and any number of processes can
go on with it, divided or not.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from meru import distributed
from meru.layers.batch_norm import share_batch_norms
from meru.training.wrapping import blocks_of

OTHER_FORWARDS = ("forward_last",)  # methods of a block beside `forward` that use its weights


class Sharded:
    """Divides the blocks of a model, and what an optimizer keeps for them, in place.

    Attributes:
        whole: The undivided model; `gather` brings it up to date.
        names: Names of the divided parameters.

    Args:
        model: On its device, with the same weights in every process.
        optimizer: Of the model's parameters, with whole moments or none yet.
        device: The model's.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device):
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method  # takes long to import

        self.model, self.whole = model, copy.deepcopy(model).requires_grad_(False)
        share_batch_norms(model)  # replaces modules, which FSDP would not notice
        before = {id(parameter): name for name, parameter in model.named_parameters()}
        mesh = dist.device_mesh.init_device_mesh(device.type, (distributed.world_size(),))
        for block in _outermost(blocks_of(model)):
            for parameter in block.parameters():
                parameter.data = parameter.data.contiguous()  # FSDP takes no other layout in memory
            fully_shard(block, mesh=mesh)
            for method in OTHER_FORWARDS:
                if hasattr(block, method):
                    register_fsdp_forward_method(block, method)
        now = dict(model.named_parameters())
        self.names = [name for name, parameter in now.items() if is_divided(parameter)]
        for group in optimizer.param_groups:
            group["params"] = [self._moved(optimizer, each, now[before[id(each)]]) for each in group["params"]]
            group.update(fused=False, foreach=False)  # these cannot mix divided and other parameters

    @staticmethod
    def _moved(optimizer: torch.optim.Optimizer, old: nn.Parameter, new: nn.Parameter) -> nn.Parameter:
        """Give the new parameter the optimizer's state of the old one."""
        from torch.distributed.tensor import distribute_tensor

        if new is not old and (state := optimizer.state.pop(old, None)):
            optimizer.state[new] = {
                name: distribute_tensor(value, new.device_mesh, new.placements)
                if isinstance(value, Tensor) and value.shape == new.shape
                else value
                for name, value in state.items()
            }
        return new

    @torch.no_grad()
    def gather(self) -> nn.Module:
        """Bring `whole` up to date and return it; every process calls this."""
        self.whole.load_state_dict(whole(self.model.state_dict()))
        return self.whole


def _outermost(blocks: list[nn.Module]) -> list[nn.Module]:
    """The blocks that are within no other one, each once."""
    within = {id(inner) for block in blocks for inner in block.modules() if inner is not block}
    return list({id(block): block for block in blocks if id(block) not in within}.values())


def is_divided(value: object) -> bool:
    """Whether a value is a tensor of which this process has a part (a `DTensor`)."""
    return hasattr(value, "placements")


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that is in this process: all of it unless it is divided."""
    return tensor.to_local() if is_divided(tensor) else tensor


def whole(value: Any) -> Any:
    """A state with every divided tensor in it gathered, on the CPU; every process calls this."""
    if is_divided(value):
        return value.full_tensor().cpu()
    if isinstance(value, Mapping):
        return {name: whole(each) for name, each in value.items()}
    return [whole(each) for each in value] if isinstance(value, list) else value


def norms_over_processes(norms: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
    """Norms of whole gradients from the norms of the parts in each process; others are unchanged."""
    divided = [place for place, each in enumerate(gradients) if is_divided(each)]
    if divided:
        squares = distributed.total(torch.stack([norms[place] for place in divided]).square())
        for place, square in zip(divided, squares, strict=True):
            norms[place] = square.sqrt()
    return norms


def clip(model: nn.Module, limit: float, norm: Tensor) -> None:
    """Scale all gradients by `limit / norm` if that is below 1, as torch does, for divided ones too."""
    gradients = [local(each.grad) for each in model.parameters() if each.grad is not None]
    torch._foreach_mul_(gradients, (limit / (norm + 1e-6)).clamp(max=1.0))
