"""A gallery of random points in files that are mapped into memory, as an index has them."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from meru.geometry.spaces import Hyperboloid, Space
from meru.index.scan import ExactScan, own_number, shrunk

CLUSTERS = 1000
CHUNK = 16_384  # rows drawn at a time
# Geodesic distances from the origin of the images and captions of MERU's runs, in docs/results/photographs.md.
IMAGES, CAPTIONS, SPREAD = 1.1, 0.9, 0.1


class Drawing:
    """Points in clusters, as embeddings are, the same for the same seed.

    Args:
        space: Where they are: on the hyperboloid, at the radii of a trained model's points.
        dimension: D.
    """

    def __init__(self, space: Space, dimension: int):
        self.space = space
        self.generator = torch.Generator().manual_seed(0)
        self.centres = torch.randn(CLUSTERS, dimension, generator=self.generator)

    def points(self, count: int, radius: float) -> Tensor:
        """Points `(count, D)` about this far from the origin, float32."""
        chosen = self.centres[torch.randint(CLUSTERS, (count,), generator=self.generator)]
        features = chosen + torch.randn(chosen.shape, generator=self.generator)
        if not isinstance(self.space, Hyperboloid):
            return self.space.lift(features)
        radii = radius + SPREAD * torch.randn(count, 1, generator=self.generator)
        return self.space.lift(F.normalize(features, dim=1) * radii.clamp_min(SPREAD))


@contextlib.contextmanager
def drawn_gallery(
    space: Space, rows: int, dimension: int, queries: int, folder: Path
) -> Iterator[tuple[ExactScan, Tensor]]:
    """An exact scan of drawn points on the disk, and points `(queries, D)` to search for; removed afterwards.

    Args:
        space: The points' space.
        rows: Number of points.
        dimension: D.
        queries: Number of queries.
        folder: Where the temporary folder is made.
    """
    place = Path(tempfile.mkdtemp(prefix="meru_gallery_", dir=folder))
    try:
        drawing = Drawing(space, dimension)
        asked = drawing.points(queries, CAPTIONS)
        yield _written(drawing, rows, dimension, place), asked
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _written(drawing: Drawing, rows: int, dimension: int, place: Path) -> ExactScan:
    longest, own = 0.0, torch.empty(rows)
    with (place / "points.f32").open("wb") as file:
        for start in range(0, rows, CHUNK):
            part = drawing.points(min(CHUNK, rows - start), IMAGES).contiguous()
            longest = max(longest, float(part.norm(dim=1).max()))
            own[start : start + len(part)] = own_number(drawing.space, part)
            file.write(part.numpy().data)
    points = _mapped(place / "points.f32", rows, dimension, torch.float32)
    rounding = 0.0
    with (place / "half.f16").open("wb") as file:
        for part in points.split(CHUNK):
            half = shrunk(part, longest)
            rounding = max(rounding, float((part / longest - half.float()).norm(dim=1).max()))
            file.write(half.numpy().data)
    half = _mapped(place / "half.f16", rows, dimension, torch.float16)
    return ExactScan(drawing.space, points, half, longest=longest, own=own, rounding=rounding)


def _mapped(path: Path, rows: int, dimension: int, dtype: torch.dtype) -> Tensor:
    return torch.from_file(str(path), shared=False, size=rows * dimension, dtype=dtype).view(rows, dimension)
