"""Distances from the root by kind, by the length of captions, and of degraded images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torchvision.transforms.v2 import functional

from meru.data.corruptions.families import Corruption
from meru.errors import UserError
from meru.evaluation.sample import Sample, Subjects
from meru.reports.norms import norms_figure


@dataclass(frozen=True)
class Crop:
    """The middle of an image, `share` of its area."""

    share: float

    def __call__(self, image: Tensor) -> Tensor:
        """uint8 `(3, H, W)` → uint8 `(3, h, w)`."""
        sides = [max(1, round(side * self.share**0.5)) for side in image.shape[1:]]
        return functional.center_crop(image, sides)


DEGRADATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "resolution ÷ 4": Corruption("resolution", 3),
    "resolution ÷ 8": Corruption("resolution", 5),
    "half occluded": Corruption("occlusion", 5),
    "middle quarter": Crop(0.25),
    "night, severity 3": Corruption("night", 3),
}
LENGTHS = 4  # groups of captions


@torch.no_grad()
def draw_norms(subjects: Subjects, sample: Sample, *, degraded: bool = True, title: str = "") -> Figure:
    """A plot of the distances of a sample from the root.

    Args:
        subjects: The model and data of the sample.
        sample: The points.
        degraded: Whether to embed the images five times more, degraded.
        title: Written above.

    Raises:
        UserError: if the points of the space have no distance from a root.
    """
    space = sample.space
    if not space.has_cones:
        raise UserError(
            "the points of this model lie on a sphere, where all distances from the origin are 1: name a model with a "
            "hyperbolic or Euclidean space"
        )
    texts = sample.texts
    kinds = {"images": sample.images, "captions": texts.points}
    kinds |= {name: texts.groups[kind].points for kind, name in _GROUPS.items() if kind in texts.groups}
    panels = {"kinds of points": {label: space.radius(points) for label, points in kinds.items()}}
    panels["captions by number of words"] = by_length(texts.captions, space.radius(texts.points))
    if degraded:
        rows = {"image as it is": space.radius(sample.images)}
        for label, change in DEGRADATIONS.items():
            rows[label] = space.radius(subjects.embed_images(sample.records, change)["embeddings"])
        panels["degraded images"] = rows
    return norms_figure(panels, title=title)


_GROUPS = {"class": "classes", "family": "families"}


def by_length(captions: tuple[str, ...], radii: Tensor) -> dict[str, Tensor]:
    """Radii `(m,)` of captions by their number of words, in at most four groups of similar size, shortest first.

    Words are separated by spaces; for texts without any, such as Chinese, characters are counted.
    """
    spaced = any(" " in caption.strip() for caption in captions)
    counts = torch.tensor([len(caption.split()) if spaced else len(caption) for caption in captions])
    shares = torch.linspace(0, 1, LENGTHS + 1)[1:]
    highest = counts.double().quantile(shares.double()).floor().long().unique().tolist()
    unit, rows, low = "words" if spaced else "characters", {}, int(counts.min())
    for high in highest:
        chosen = (counts >= low) & (counts <= high)
        if chosen.any():
            rows[f"{low}–{high} {unit}" if low < high else f"{low} {unit}"] = radii[chosen.to(radii.device)]
        low = high + 1
    return rows
