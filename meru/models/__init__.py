"""One system a file: the paper is named on its first line.

A model is made of parts: towers, a space, and a table of terms. Nothing outside this folder asks which model it is.

- An image–text model offers what `dual_encoder.DualEncoder` does: `forward(batch) -> Output`, `embed_image`,
  `embed_text`, `embed_patches`, `embed_words`, `word_attention`, `similarity`, `average`, `radius`, `constrain_`.
- A model that discovers classes offers what `simgcd.SimGCD` does: `forward`, `features`, `projection`, `class_logits`,
  `predict`, `embed_image`, `frozen_output`, `constrain_`.
- A term of the loss is a function `(model, step) -> Tensor`, unweighted, and an entry in a table under its name in the
  configuration, `loss.<name>.weight`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from meru.errors import UserError

Term = Callable[[Any, Any], Tensor]


@dataclass(frozen=True, kw_only=True)
class Output:
    """What a training step gives.

    Attributes:
        loss: Scalar to be minimised, with gradient.
        logs: Detached figures by name: scalars to be averaged, one-dimensional tensors to be drawn as histograms.
            Names under `loss/` are the unweighted terms.
    """

    loss: Tensor
    logs: dict[str, Tensor] = field(default_factory=dict)


def weight_of(loss: Mapping[str, Mapping], term: str) -> float:
    """The configured weight of a term; 0, also where the configuration does not name it: it is not computed."""
    return loss[term]["weight"] if term in loss else 0.0


def values_of(terms: Mapping[str, Term], model: nn.Module, step: object) -> dict[str, Tensor]:
    """The unweighted values of those of the terms whose weight in `model.loss` is not 0."""
    return {name: term(model, step) for name, term in terms.items() if weight_of(model.loss, name)}


def combined(loss: Mapping[str, Mapping], values: Mapping[str, Tensor], logs: Mapping[str, Tensor]) -> Output:
    """The weighted sum of the terms, and everything worth logging.

    Raises:
        UserError: if there is no term.
    """
    if not values:
        raise UserError("every loss.….weight is 0, so there is nothing to learn: give one of them a weight")
    total = sum(weight_of(loss, name) * value for name, value in values.items())
    return Output(loss=total, logs={**{f"loss/{name}": value.detach() for name, value in values.items()}, **logs})
