"""Movement of learnable scalars (curvature, scales, temperatures), compared with the bound of their learning rates."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

import torch
from torch import nn

log = logging.getLogger("meru")

BINDING = 0.9


class ScalarMovement:
    """Compares every zero-dimensional trainable parameter with its value at the start of the run.

    Adam moves a parameter by about its learning rate per step, whatever the gradient's size. A scalar that has moved by
    nearly the sum of its rates would have moved further with a higher rate.

    Args:
        model: May have `log_scalars`: parameters stored as logarithms → the name of the quantity itself.
        optimizer: Optimizer of the model's parameters.
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
        # Indices, not groups: an optimizer that loads a checkpoint makes new groups.
        self.groups = {name: group_of[id(parameter)] for name, parameter in self.parameters.items()}
        self.log_scalars: Mapping[str, str] = getattr(model, "log_scalars", {})
        self.start = {name: parameter.item() for name, parameter in self.parameters.items()}
        self.allowed = dict.fromkeys(self.parameters, 0.0)  # sums of learning rates

    def count_step(self) -> None:
        """Add the learning rates of the optimizer's last step."""
        for name, number in self.groups.items():
            self.allowed[name] += self.optimizer.param_groups[number]["lr"]

    def state(self) -> dict[str, dict[str, float]]:
        """State for the checkpoint."""
        return {"start": self.start, "allowed": self.allowed}

    def load(self, state: dict[str, dict[str, float]] | None) -> None:
        """Load `state`; None, from a checkpoint of an older version, means that the initial values are unknown."""
        state = state or {"start": {}, "allowed": {}}
        self.start, self.allowed = dict(state["start"]), dict(state["allowed"])
        for known in (self.parameters, self.groups):
            for name in known.keys() - self.start.keys():
                del known[name]

    def figures(self) -> dict[str, float]:
        """`moved/<name>` in the parameter's own unit, and `moved_share/<name>` as a share of the sum of its rates."""
        moved = {name: parameter.item() - self.start[name] for name, parameter in self.parameters.items()}
        shares = {name: self._share(name, distance) for name, distance in moved.items()}
        return {
            **{f"moved/{name}": distance for name, distance in moved.items()},
            **{f"moved_share/{name}": share for name, share in shares.items()},
        }

    def unmoved(self) -> set[str]:
        """Names of scalars with their initial values, including the names of quantities stored as logarithms."""
        names = self.fixed | {
            name
            for name, parameter in self.parameters.items()
            if math.isclose(parameter.item(), self.start[name], rel_tol=1e-6, abs_tol=1e-6)
        }
        return names | {self.log_scalars[name] for name in names & self.log_scalars.keys()}

    def report(self) -> None:
        """Log a table of the scalars' first and last values, and name those that their learning rates limited."""
        if not self.parameters:
            return
        rows, bound = [("scalar", "start", "end", "moved, of its rates' sum")], []
        for name, parameter in self.parameters.items():
            start, end = self.start[name], parameter.item()
            share = self._share(name, end - start)
            value = math.exp if name in self.log_scalars else float
            rows.append((self.log_scalars.get(name, name), f"{value(start):.4g}", f"{value(end):.4g}", f"{share:.0%}"))
            # Other optimizers take steps in proportion to the gradient, so the sum does not limit them.
            if share > BINDING and isinstance(self.optimizer, (torch.optim.Adam, torch.optim.AdamW)):
                bound.append(self.log_scalars.get(name, name))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
        log.info("%s", "\n".join(lines))
        if bound:
            log.warning(
                "%s moved by more than %.0f %% of the sum of their learning rates; "
                "a higher optim.multipliers.scalars would let them move further",
                ", ".join(bound),
                100 * BINDING,
            )

    def _share(self, name: str, moved: float) -> float:
        return abs(moved) / self.allowed[name] if self.allowed[name] else 0.0
