"""The models, one per file; the first line of each file names the paper.

A model consists of towers, a space, and a table of loss terms. Code outside this folder does not depend on the class of
a model.

- An image–text model has the interface of `dual_encoder.DualEncoder`: `forward(batch) -> Output`, `embed_image`,
  `embed_text`, `embed_patches`, `embed_words`, `word_attention`, `similarity`, `average`, `radius`, `constrain_`.
- A category discovery model has the interface of `simgcd.SimGCD`: `forward`, `features`, `projection`, `class_logits`,
  `predict`, `embed_image`, `frozen_output`, `constrain_`.
- A loss term is a function `(model, step) -> Tensor` without its weight. A table lists it under its name in the
  configuration: `loss.<name>.weight`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from meru.errors import UserError

Term = Callable[[Any, Any], Tensor]


@dataclass(frozen=True, kw_only=True)
class Output:
    """The result of a training step.

    Attributes:
        loss: Scalar to minimise, with gradient.
        logs: Detached figures by name: scalars are averaged, one-dimensional tensors become histograms.
            Names under `loss/` are the unweighted terms.
        terms: The weighted terms by name, with gradient; `loss` is their sum. Empty in a compiled model.
    """

    loss: Tensor
    logs: dict[str, Tensor] = field(default_factory=dict)
    terms: dict[str, Tensor] = field(default_factory=dict)


def weight_of(loss: Mapping[str, Mapping], term: str) -> float:
    """The configured weight of a term; 0, so that it is not computed, if the configuration lacks it."""
    return loss[term]["weight"] if term in loss else 0.0


def values_of(terms: Mapping[str, Term], model: nn.Module, step: object) -> dict[str, Tensor]:
    """The unweighted values of the terms whose weight in `model.loss` is not 0."""
    return {name: term(model, step) for name, term in terms.items() if weight_of(model.loss, name)}


def combined(loss: Mapping[str, Mapping], values: Mapping[str, Tensor], logs: Mapping[str, Tensor]) -> Output:
    """The weighted sum of the terms, with the figures for the logs.

    Raises:
        UserError: if there is no term.
    """
    if not values:
        raise UserError("every loss.….weight is 0, so there is nothing to learn: set one of them above 0")
    weighted = {name: weight_of(loss, name) * value for name, value in values.items()}
    unweighted = {f"loss/{name}": value.detach() for name, value in values.items()}
    # More outputs with gradient would change the backward pass of a compiled model.
    terms = {} if torch.compiler.is_compiling() else weighted
    return Output(loss=sum(weighted.values()), logs={**unweighted, **logs}, terms=terms)
