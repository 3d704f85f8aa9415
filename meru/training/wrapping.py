"""What surrounds a model in training: compiled towers, other processes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
import torch._functorch.config
from torch import nn

from meru import distributed
from meru.errors import UserError
from meru.layers.batch_norm import share_batch_norms
from meru.training.settings import TrainerSettings

TOWERS = ("visual", "textual")


def check_fit(model: nn.Module, settings: TrainerSettings, device: torch.device) -> None:
    """Check, before anything is made, that a model can be trained with the settings on a device.

    Raises:
        UserError: if towers have no blocks to compile, pieces of a batch would change the result, or CUDA graphs lack
            a GPU.
    """
    if settings.compile == "graphs" and device.type != "cuda":
        raise UserError("trainer.compile=graphs: CUDA graphs need a GPU; set it to towers or false")
    if settings.micro_batch_size:
        _require_independent_samples(model, settings.micro_batch_size)
    if settings.compile in ("towers", "graphs"):
        for tower in _towers(model):
            _require_blocks(tower)
    if settings.parallel == "fsdp":
        _require_divisible(model, settings)


def wrapped(model: nn.Module, settings: TrainerSettings, device: torch.device) -> nn.Module:
    """The model to call in training steps; `as_before` takes back what compiling changes."""
    several = distributed.world_size() > 1
    model.micro_batch_size = settings.micro_batch_size
    if several:
        share_batch_norms(model)
    if settings.compile in ("towers", "graphs"):
        if settings.diagnose_every:  # every term has a backward pass of its own through the same graph
            torch._functorch.config.donated_buffer = False
        compile_towers(model, graphs=settings.compile == "graphs")
    forward = torch.compile(model) if settings.compile is True else model
    return distributed.parallel(forward, device) if several else forward


def compile_towers(model: nn.Module, *, graphs: bool = False, backend: str = "inductor") -> None:
    """Compile every block of the towers, in place.

    Equal blocks share their code, so that this takes seconds where compiling a whole model takes minutes, and names of
    parameters stay the same.

    Args:
        model: Has `visual` and perhaps `textual`.
        graphs: Whether a GPU records the kernels of a block and starts them as one.
        backend: Of torch.compile.

    Raises:
        UserError: if a tower has no blocks.
    """
    options = {"backend": backend, **({"mode": "reduce-overhead"} if graphs else {})}
    for tower in _towers(model):
        for block in _require_blocks(tower):
            # Captions differ in number of tokens from step to step, images in nothing.
            block.compile(dynamic=True if tower is getattr(model, "textual", None) else None, **options)


@contextlib.contextmanager
def compiler_errors() -> Iterator[None]:
    """Turn an error of the compiler, such as a missing C++ compiler, into a `UserError`."""
    try:
        yield
    except Exception as error:  # torch's versions have different classes for it
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise UserError(f"trainer.compile: torch.compile failed: {reason}; set it to false", exit_code=1) from error


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The blocks of all towers."""
    return [block for tower in _towers(model) for block in _require_blocks(tower, "trainer.parallel=fsdp")]


def as_before(model: nn.Module) -> None:
    """Make compiled blocks run as they are written again, for evaluation with its other shapes."""
    for module in model.modules():
        module._compiled_call_impl = None


def _towers(model: nn.Module) -> list[nn.Module]:
    return [tower for tower in (getattr(model, name, None) for name in TOWERS) if tower is not None]


def _require_blocks(tower: nn.Module, key: str = "trainer.compile") -> list[nn.Module]:
    blocks = list(_blocks(tower))
    if not blocks:
        instead = "set it to true, or to false" if key == "trainer.compile" else "choose ddp"
        raise UserError(f"{key}: {type(tower).__name__} has no blocks; {instead}")
    return blocks


def _blocks(tower: nn.Module) -> Iterator[nn.Module]:
    """The elements of a tower's lists of layers that consist of layers themselves, such as those of a transformer."""
    for child in tower.children():
        if isinstance(child, (nn.Sequential, nn.ModuleList)):
            for element in child:
                if isinstance(element, (nn.Sequential, nn.ModuleList)):
                    yield from _blocks(element)
                    yield from (each for each in element if _is_block(each))
                elif _is_block(element):
                    yield element
        else:
            yield from _blocks(child)


def _is_block(module: nn.Module) -> bool:
    return not isinstance(module, (nn.Sequential, nn.ModuleList)) and any(True for _ in module.children())


def _require_divisible(model: nn.Module, settings: TrainerSettings) -> None:
    if not hasattr(model, "textual"):
        raise UserError("trainer.parallel=fsdp divides image–text models; choose ddp for category discovery")
    for key in ("compile", "micro_batch_size", "ema_decay", "diagnose_every"):
        if value := getattr(settings, key):
            raise UserError(f"trainer.{key}={value} needs whole blocks in every process: choose trainer.parallel=ddp")
    blocks_of(model)


def _require_independent_samples(model: nn.Module, size: int) -> None:
    norms = nn.modules.batchnorm._BatchNorm
    model.train()
    if any(isinstance(module, norms) and module.training for module in model.modules()):
        raise UserError(
            f"trainer.micro_batch_size={size}: batch norms average over the whole batch, which pieces would change: "
            "set encoder.image.freeze_batch_norm=true, or trainer.micro_batch_size=null"
        )
