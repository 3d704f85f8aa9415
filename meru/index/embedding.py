"""The points that a model gives images, whatever its kind."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from meru.assemble import Pretrained
from meru.data.cached_rows import transform_facts
from meru.geometry import lorentz
from meru.geometry.spaces import Hyperboloid, Space, Sphere


@dataclass(frozen=True)
class Embedding:
    """A model as an index needs it.

    Attributes:
        pretrained: The model, in evaluation mode.
        space: Where its points are. A model of an image tower alone has directions of features; one of category
            discovery in the Poincaré ball has points of the ball as points of the hyperboloid.
    """

    pretrained: Pretrained
    space: Space

    @classmethod
    def of(cls, pretrained: Pretrained) -> Embedding:
        """The embedding of any model that `meru.load` gives."""
        model = pretrained.model.eval()
        if hasattr(model, "embed_ball"):
            return cls(pretrained, Hyperboloid(float(model.curvature)))
        space = getattr(model, "space", None) or Sphere()
        if isinstance(space, Hyperboloid):
            space = Hyperboloid(float(torch.as_tensor(space.curvature).detach()))
        return cls(pretrained, space)

    @property
    def predicts(self) -> bool:
        """Whether the model predicts classes: category discovery."""
        return hasattr(self.pretrained.model, "class_logits")

    @torch.no_grad()
    def images(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Points `(B, D)` of prepared images `(B, 3, S, S)`, and their predicted classes `(B,)` if it predicts any."""
        model = self.pretrained.model
        images = images.to(self.pretrained.device, non_blocking=True)
        if not self.predicts:
            return model.embed_image(images).float().cpu(), None
        features = model.features(images)
        if hasattr(model, "embed_ball"):
            ball = model.lift(model.projection(features).float())
            points = lorentz.from_poincare(ball, model.curvature)
        else:
            points = F.normalize(features, dim=-1)
        return points.cpu(), model.class_logits(features).argmax(dim=1).cpu()

    @torch.no_grad()
    def texts(self, texts: list[str], *, batch_size: int = 256) -> Tensor:
        """Points `(B, D)` of sentences."""
        parts = [
            self.pretrained.encode_text(texts[start : start + batch_size]).float().cpu()
            for start in range(0, len(texts), batch_size)
        ]
        return torch.cat(parts)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all that the points depend on: the weights, and how images are prepared."""
        return fingerprint_of(self.pretrained.model, transform_facts(self.pretrained.transforms.evaluation))


def fingerprint_of(model: nn.Module, facts: str) -> str:
    """A hash of a model's weights, their names, and other facts."""
    digest = hashlib.sha256(facts.encode("utf-8", "surrogateescape"))
    for name, value in sorted(model.state_dict().items()):
        value = value.detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
