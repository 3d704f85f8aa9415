"""The parts of a model that are exported on their own: its image side and its text side, each with named outputs."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from meru.encoders.text import TextTransformer
from meru.geometry import lorentz


class DenseLayout:
    """Stands in for `meru.encoders.packing.PackedLayout` where shapes must not depend on the values of tokens.

    Every position is kept, padding too. Real tokens never attend to padding, so their outputs are the same.

    Args:
        tokens: Token ids, shape `(B, L)`, as for `PackedLayout`.
    """

    def __init__(self, tokens: Tensor):
        self.shape = tokens.shape
        ends = tokens.argmax(dim=-1)  # the first maximum: end-of-text
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        self.real = positions <= ends[:, None]
        self.last = ends + torch.arange(tokens.shape[0], device=tokens.device) * tokens.shape[1]

    def pack(self, x: Tensor) -> Tensor:
        """`(B, L, …)` → `(B · L, …)`."""
        return x.flatten(0, 1)

    def unpack(self, x: Tensor) -> Tensor:
        """`(B · L, W)` → `(B, L, W)`."""
        return x.unflatten(0, self.shape)


class DenseText(nn.Module):
    """A `TextTransformer` over all positions of a padded batch; takes its place in a copy of a model."""

    def __init__(self, network: TextTransformer):
        super().__init__()
        self.network, self.width = network, network.width

    def forward(self, tokens: Tensor, embeddings: Tensor | None = None, count: int | None = None) -> Tensor:
        """Features of whole captions: token ids `(B, L)` → `(B, W)`; `count` does not matter here."""
        network, layout = self.network, DenseLayout(tokens)
        # Indexed, because the exporter would name the result of `nn.Embedding` like the output `embedding`.
        x = network.token_embed.weight[tokens] if embeddings is None else embeddings
        x = layout.pack(x + network.posit_embed[: tokens.shape[1]])
        for block in network.resblocks[:-1]:
            x = block(x, layout)
        return network.ln_final(network.resblocks[-1].forward_last(x, layout))


class Side(nn.Module):
    """What one file of a model computes: `forward` gives a tuple in the order of `outputs`.

    Attributes:
        outputs: Names of the tensors that `forward` returns.
    """

    outputs: tuple[str, ...]

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def of_points(self, points: Tensor) -> tuple[Tensor, ...]:
        """Points `(B, D)` of the model's space as outputs: on the hyperboloid with the ambient form and c."""
        if not is_hyperbolic(self.model):
            return (points,)
        curvature = self.model.space.curvature.reshape(1)
        time = lorentz.time(points, curvature)
        return points, torch.cat([time[:, None], points], dim=-1), curvature


class ImageSide(Side):
    """Images `(B, 3, S, S)`, uint8 or in [0, 1], → `embedding` `(B, D)`.

    On the hyperboloid also `embedding_hyperboloid` `(B, D + 1)`, time component first, and `curvature` `(1,)`.
    """

    def __init__(self, model: nn.Module):
        super().__init__(model)
        self.outputs = names_of_points(model)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return self.of_points(self.model.embed_image(image))


class TowerSide(Side):
    """Images → `embedding` `(B, W)`, of a model that has an image tower alone."""

    outputs = ("embedding",)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return (self.model.embed_image(image),)


class TextSide(Side):
    """Token ids `(B, L)`, int64, padded with 0 on the right, → the outputs of `ImageSide`.

    Args:
        model: An image–text model.
        dense: Whether the text tower, in a copy of the model, runs as `DenseText`.
    """

    def __init__(self, model: nn.Module, *, dense: bool):
        if dense:
            model = copy.deepcopy(model, memo={id(model.visual): nn.Identity()})  # without the image tower
            model.textual = DenseText(model.textual)
        super().__init__(model)
        self.outputs = names_of_points(model)

    def forward(self, tokens: Tensor) -> tuple[Tensor, ...]:
        return self.of_points(self.model.embed_text(tokens))


class DiscoverySide(Side):
    """Images → `features` `(B, W)`, class `logits` `(B, K)` and normalised projections `embedding` `(B, D)`.

    A model of the Poincaré ball also gives `embedding_ball` `(B, D)`, its points, and `curvature` `(1,)`.
    """

    def __init__(self, model: nn.Module):
        super().__init__(model)
        ball = ("embedding_ball", "curvature") if hasattr(model, "embed_ball") else ()
        self.outputs = ("features", "logits", "embedding", *ball)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        features = self.model.features(image)
        projected = self.model.projection(features)
        outputs = (features, self.model.class_logits(features), nn.functional.normalize(projected, dim=-1))
        if "embedding_ball" not in self.outputs:
            return outputs
        return *outputs, self.model.lift(projected.float()), torch.full((1,), float(self.model.curvature))


def is_hyperbolic(model: nn.Module) -> bool:
    """Whether an image–text model's points lie on the hyperboloid."""
    return model.space.curved


def names_of_points(model: nn.Module) -> tuple[str, ...]:
    """Names of the outputs of an image–text model's sides."""
    return ("embedding", "embedding_hyperboloid", "curvature") if is_hyperbolic(model) else ("embedding",)
