"""Nearest neighbours of images, for batches of a discovery run; in `sharing.together`, processes divide the work."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from meru import sharing
from meru.data.discovery.loading import weighted_view_loader
from meru.data.discovery.splits import DiscoverySplit
from meru.data.loading import reading_options
from meru.data.transforms import Transforms
from meru.data.workers import worker_options
from meru.errors import UserError
from meru.geometry.all_pairs import exact_product


def nearest_images(
    read: Mapping[str, Tensor], *, images: int, count: int, among: Tensor | None = None
) -> Tensor:
    """Nearest neighbours of every image by projected features, the image itself first, `(n, count)`.

    The features are unaugmented and in the data set's order, so the result depends only on the model.

    Args:
        read: Result of `meru.evaluation.classes.read_features` for the training images.
        images: Number of training images; all of them must decode.
        count: Number of neighbours, including the image itself.
        among: The images of a stage, `(m,)`; the result then has places in these, `(m, count)`. None: all.
    """
    if len(read.get("projected", ())) < images:
        raise UserError("discovery.sampler=neighbours needs every image to decode: choose weighted, or restore them")
    return _nearest(read["projected"] if among is None else read["projected"][among], count)


@torch.no_grad()
def released_neighbours(
    config: DictConfig,
    split: DiscoverySplit,
    model: nn.Module,
    transforms: Transforms,
    *,
    epoch: int,
    device: torch.device,
) -> Tensor:
    """Neighbours as the released code computes them, `(n, discovery.neighbours)`.

    It reads one augmented view of each image in a weighted sample with replacement, but uses positions in that sample
    as positions in the data set. The images of a batch are therefore nearly unrelated, and the share of labelled ones
    is no longer one half.
    """
    was_training = model.training
    model.eval()
    loader = weighted_view_loader(
        split,
        transform=transforms.training,
        epoch=epoch,
        batch_size=config.evaluation.batch_size,
        seed=config.seed,
        **worker_options(config.data),
        **reading_options(config.data),
    )

    def embed(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"embeddings": model.embed_image(batch["image"][:, 0].to(device, non_blocking=True)).cpu()}

    embedded = sharing.rows_of(loader, embed, device=torch.device("cpu"))["embeddings"]
    model.train(was_training)
    return _nearest(embedded, config.discovery.neighbours)


def _nearest(vectors: Tensor, count: int) -> Tensor:
    """Nearest neighbours of unit vectors, each itself first: `(n, D)` → int64 `(n, count)`."""
    if count > len(vectors):
        raise UserError(f"discovery.neighbours={count}: there are {len(vectors)} training images; choose fewer")

    def search(start: int) -> dict[str, Tensor]:
        scores = exact_product(vectors[start : start + 1024], vectors)
        rows = torch.arange(len(scores))
        scores[rows, start + rows] = 2.0  # above every cosine, so that ties do not precede the vector itself
        return {"nearest": scores.topk(count, dim=1).indices}

    return sharing.rows_of(range(0, len(vectors), 1024), search, device=vectors.device)["nearest"]
