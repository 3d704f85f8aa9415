"""One system a file: the paper is named on its first line.

Every image–text model offers `forward(batch) -> Output`, `embed_image`, `embed_text`, `similarity`, `average` and
`constrain_`; nothing outside this folder asks which model it is.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


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
