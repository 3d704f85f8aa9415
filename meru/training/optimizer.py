"""Parameter groups and the learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import nn

from meru.errors import UserError

SCALARS = "scalars"


def parameter_groups(
    model: nn.Module, *, learning_rate: float, weight_decay: float, multipliers: Mapping[str, float] | None = None
) -> list[dict]:
    """Group trainable parameters by weight decay and learning rate.

    Gains, biases and learnable scalars (all tensors of fewer than two dimensions) are not decayed.

    Args:
        model: Parameters that do not require a gradient are left out.
        learning_rate: Rate of parameters without a multiplier; each group keeps it as `base_learning_rate`.
        weight_decay: Weight decay of tensors with at least two dimensions.
        multipliers: Name → factor on the learning rate. A name is that of a parameter, `curv` or `visual.pos_embed`;
            the word `scalars`, for all zero-dimensional parameters, if any; or that of a module, `visual` or
            `visual.blocks.11`. The first match in this order applies to a parameter; of modules, the innermost.

    Raises:
        UserError: if the model has nothing of that name, or no parameter is trainable.
    """
    modules = {name for name, _ in model.named_modules()} - {""}
    known = modules | {name for name, _ in model.named_parameters()} | {SCALARS}
    # The configuration names both towers; a factor of 1 is allowed on a tower that the model lacks.
    multipliers = {name: factor for name, factor in (multipliers or {}).items() if name in known or factor != 1}
    for name in multipliers.keys() - known:
        raise UserError(_unknown_name(model, name, modules))
    groups: dict[tuple[float, float], dict] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        factor = _factor(name, parameter, multipliers)
        decay = weight_decay if parameter.dim() >= 2 else 0.0
        group = groups.setdefault(
            (factor, decay),
            {
                "params": [],
                "lr": learning_rate * factor,
                "base_learning_rate": learning_rate,
                "weight_decay": decay,
            },
        )
        group["params"].append(parameter)
    if not groups:
        raise UserError("nothing to train: every parameter is frozen")
    return list(groups.values())


def _factor(name: str, parameter: nn.Parameter, multipliers: Mapping[str, float]) -> float:
    if name in multipliers:
        return multipliers[name]
    if not parameter.dim() and SCALARS in multipliers:
        return multipliers[SCALARS]
    around = [module for module in multipliers if name.startswith(f"{module}.")]
    return multipliers[max(around, key=len)] if around else 1.0


def _unknown_name(model: nn.Module, name: str, modules: set[str]) -> str:
    """Complaint about an unknown name; lists the names at the place where it goes wrong."""
    place = name
    while place and place not in modules:
        place = place.rpartition(".")[0]
    inner = model.get_submodule(place)
    own = [each for each, _ in inner.named_children()] + [each for each, _ in inner.named_parameters(recurse=False)]
    where, more = (place, "") if place else ("it", f", and {SCALARS} for all learnable scalars")
    return (
        f"optim.multipliers.{name}: the model has no module or parameter of that name; "
        f"{where} has {', '.join(own)}{more}"
    )


def build_optimizer(
    model: nn.Module,
    optimizer: Callable[..., torch.optim.Optimizer],
    *,
    learning_rate: float,
    weight_decay: float,
    multipliers: Mapping[str, float] | None = None,
    batch_of_rate: float | None = None,
    images_per_step: int | None = None,
) -> torch.optim.Optimizer:
    """Build an optimizer over `parameter_groups` with the learning rate of `scaled_rate`.

    `optimizer` is a partially applied class of torch.optim that is called with the groups.

    Raises:
        UserError: if it does not take its settings together, and as for `parameter_groups`.
    """
    learning_rate = scaled_rate(learning_rate, batch_of_rate, images_per_step)
    groups = parameter_groups(model, learning_rate=learning_rate, weight_decay=weight_decay, multipliers=multipliers)
    try:
        return optimizer(groups)
    except (ValueError, RuntimeError) as error:  # such as Nesterov's momentum of 0
        reason = " ".join(str(error).split())
        raise UserError(f"optim.optimizer does not take these values together: {reason}") from None


def scaled_rate(learning_rate: float, batch_of_rate: float | None, images_per_step: int | None) -> float:
    """Scale a learning rate meant for steps of `batch_of_rate` images in proportion to the images of a step.

    Goyal et al., "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour", 2017. If one of the numbers is None, the
    rate is unchanged.
    """
    if batch_of_rate is None or images_per_step is None:
        return learning_rate
    if batch_of_rate <= 0:
        raise UserError(f"optim.batch_of_rate={batch_of_rate}: give a number of images above 0, or null")
    return learning_rate * images_per_step / batch_of_rate


def warmup_cosine(step: int, *, total_steps: int, warmup_steps: int, final: float = 0.0) -> float:
    """Factor on the learning rate: linear up to 1 over the warm-up, then half a cosine down to `final`.

    A pure function of the step, so a resumed run needs no state for it.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
