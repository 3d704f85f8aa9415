"""Gradients of single loss terms, measured at some steps of a training run without a change to the training.

The figures of a step, one line of `diagnosis.jsonl`:

    weighted/<term>                 weight × value
    gradient_norm/<term>/all        length of its gradient with respect to all trained parameters
    gradient_norm/<term>/<group>    the same for one group of parameters, see `group_of`
    cosine_to_total/<term>          cosine of its gradient with that of the loss, before clipping; null if one is 0

Measuring takes one more backward pass per term. The gradients are kept in main memory, so that a GPU holds only one of
them at a time.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from meru import distributed


class Terms(Protocol):
    """The result of a model's forward pass: `loss`, and the weighted terms that add up to it, if the model has them."""

    loss: Tensor
    terms: dict[str, Tensor]


def group_of(name: str, parameter: nn.Parameter) -> str:
    """The group of a parameter by its name in the model.

    `scalars` for curvature, scales and temperatures, `projections` for the layers between towers and space, otherwise
    the top-level module or parameter, such as `visual` and `textual`, the towers.
    """
    top = name.partition(".")[0]
    if not parameter.dim():
        return "scalars"
    return "projections" if top == "projection" or top.endswith("_proj") else top


class TermGradients:
    """Gradients of each term of one optimizer step, over all accumulated batches and all processes.

    Args:
        model: Its trainable parameters are the ones measured.
    """

    def __init__(self, model: nn.Module):
        self.model = model
        named = [(name, each) for name, each in model.named_parameters() if each.requires_grad]
        self.parameters = [parameter for _, parameter in named]
        self.groups = [group_of(name, parameter) for name, parameter in named]
        self.values: dict[str, float] = {}
        self.gradients: dict[str, list[Tensor]] = {}

    def add(self, output: Terms, *, share: float) -> None:
        """Add the gradients of a batch before its backward pass; every process calls this.

        Args:
            output: Of the forward pass; its graph is kept.
            share: Factor of the batch in the step, 1 / number of accumulated batches.
        """
        buffers = [buffer.clone() for buffer in self.model.buffers()]
        for term, value in (output.terms or {"loss": output.loss}).items():
            self.values[term] = self.values.get(term, 0.0) + share * value.item()
            before = self.gradients.get(term)
            found = self._gradients(share * value)
            self.gradients[term] = found if before is None else [x + y for x, y in zip(before, found, strict=True)]
        # Checkpointed layers compute their forward pass again in every backward pass, batch norms with new statistics.
        for buffer, kept in zip(self.model.buffers(), buffers, strict=True):
            if not torch.equal(buffer, kept):
                buffer.copy_(kept)

    def _gradients(self, value: Tensor) -> list[Tensor]:
        """The gradient of a scalar for each parameter, in main memory; the average over processes."""
        found = (None,) * len(self.parameters)
        if value.requires_grad:
            found = torch.autograd.grad(value, self.parameters, retain_graph=True, allow_unused=True)
        gradients = []
        for parameter, gradient in zip(self.parameters, found, strict=True):
            gradient = torch.zeros_like(parameter) if gradient is None else gradient
            if distributed.world_size() > 1:
                gradient = distributed.total(gradient) / distributed.world_size()
            gradients.append(gradient.detach().float().cpu())
        return gradients

    def figures(self) -> dict[str, float | None]:
        """The figures of the step; see the module."""
        total = [sum(parts) for parts in zip(*self.gradients.values(), strict=True)]
        length_of_total = _length(total)
        values = distributed.collect(self.values)
        figures: dict[str, float | None] = {}
        for term, gradients in self.gradients.items():
            figures[f"weighted/{term}"] = sum(each[term] for each in values) / len(values)
            figures[f"gradient_norm/{term}/all"] = length = _length(gradients)
            for group in dict.fromkeys(self.groups):
                of_group = [each for each, own in zip(gradients, self.groups, strict=True) if own == group]
                figures[f"gradient_norm/{term}/{group}"] = _length(of_group)
            product = sum(torch.sum(x * y, dtype=torch.float64).item() for x, y in zip(gradients, total, strict=True))
            lengths = length * length_of_total
            figures[f"cosine_to_total/{term}"] = product / lengths if lengths else None
        return figures


def _length(tensors: list[Tensor]) -> float:
    """Euclidean length of several tensors as one vector."""
    return sum(torch.sum(each.square(), dtype=torch.float64).item() for each in tensors) ** 0.5
