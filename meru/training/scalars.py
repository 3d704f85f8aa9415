"""How far learnable scalars (curvature, scales, temperatures) moved, and how far their learning rates let them."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

import torch
from torch import nn

log = logging.getLogger("meru")

BINDING = 0.9


class ScalarMovement:
    """Compares every trainable parameter without a dimension to its value at the start of the run.

    Adam moves a parameter by about its learning rate a step, whatever the gradient's size: a scalar that has moved by
    nearly the sum of its rates would have gone further at a higher one.

    Args:
        model: May offer `log_scalars`: parameters that are logarithms → the name of what they are the logarithm of.
        optimizer: Over the model's parameters.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer):
        group_of = {
            id(parameter): number
            for number, group in enumerate(optimizer.param_groups)
            for parameter in group["params"]
        }
        self.optimizer = optimizer
        self.fixed = {name for name, value in model.named_parameters() if not value.dim() and not value.requires_grad}
        self.parameters = {
            name: parameter
            for name, parameter in model.named_parameters()
            if not parameter.dim() and parameter.requires_grad and id(parameter) in group_of
        }
        # Numbers, not groups: an optimizer that loads a checkpoint makes new groups.
        self.groups = {name: group_of[id(parameter)] for name, parameter in self.parameters.items()}
        self.log_scalars: Mapping[str, str] = getattr(model, "log_scalars", {})
        self.start = {name: parameter.item() for name, parameter in self.parameters.items()}
        self.allowed = dict.fromkeys(self.parameters, 0.0)  # sums of learning rates

    def count_step(self) -> None:
        """Add the rates of the step that the optimizer has just taken."""
        for name, number in self.groups.items():
            self.allowed[name] += self.optimizer.param_groups[number]["lr"]

    def state(self) -> dict[str, dict[str, float]]:
        """What a resumed run needs to say the same."""
        return {"start": self.start, "allowed": self.allowed}

    def load(self, state: dict[str, dict[str, float]] | None) -> None:
        """Take up `state`; None, from a run that an older version began: nothing is known of its start."""
        state = state or {"start": {}, "allowed": {}}
        self.start, self.allowed = dict(state["start"]), dict(state["allowed"])
        for known in (self.parameters, self.groups):
            for name in known.keys() - self.start.keys():
                del known[name]

    def figures(self) -> dict[str, float]:
        """`moved/<name>`, in the parameter's own unit, and `moved_share/<name>`, of the sum of its rates."""
        moved = {name: parameter.item() - self.start[name] for name, parameter in self.parameters.items()}
        shares = {name: self._share(name, distance) for name, distance in moved.items()}
        return {
            **{f"moved/{name}": distance for name, distance in moved.items()},
            **{f"moved_share/{name}": share for name, share in shares.items()},
        }

    def unmoved(self) -> set[str]:
        """Names of scalars that are where they started; also of what a scalar is the logarithm of."""
        names = self.fixed | {
            name
            for name, parameter in self.parameters.items()
            if math.isclose(parameter.item(), self.start[name], rel_tol=1e-6, abs_tol=1e-6)
        }
        return names | {self.log_scalars[name] for name in names & self.log_scalars.keys()}

    def report(self) -> None:
        """Log a table of where the scalars started and ended, and which of them wanted to go further."""
        if not self.parameters:
            return
        rows, bound = [("scalar", "start", "end", "moved, of its rates' sum")], []
        for name, parameter in self.parameters.items():
            start, end = self.start[name], parameter.item()
            share = self._share(name, end - start)
            value = math.exp if name in self.log_scalars else float
            rows.append((self.log_scalars.get(name, name), f"{value(start):.4g}", f"{value(end):.4g}", f"{share:.0%}"))
            # Other optimizers take steps as large as the gradient: to them the sum is no bound.
            if share > BINDING and isinstance(self.optimizer, (torch.optim.Adam, torch.optim.AdamW)):
                bound.append(self.log_scalars.get(name, name))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
        log.info("%s", "\n".join(lines))
        if bound:
            log.warning(
                "%s moved by more than %.0f %% of what the learning rates add up to; "
                "a higher optim.multipliers.scalars would let them go further",
                ", ".join(bound),
                100 * BINDING,
            )

    def _share(self, name: str, moved: float) -> float:
        return abs(moved) / self.allowed[name] if self.allowed[name] else 0.0
