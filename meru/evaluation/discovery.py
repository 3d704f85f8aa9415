"""Category discovery by any model with an image tower: `suite=discovery`.

The unlabelled training images of old and new classes (with `split=test` the test images) are grouped without labels,
and the groups are assigned to classes by one assignment over all (v2; Vaze et al., "Generalized Category Discovery",
CVPR 2022):

    kmeans/all/accuracy, …/old/…, …/new/…    by k-means on the tower's features, unit vectors, with the true number of
                                             classes: the baseline for a run of category discovery
    kmeans_embedded/…                        the same on the directions of the embeddings
    classifier/…                             by the classifier of a run of category discovery
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from meru import sharing
from meru.data.discovery.splits import DiscoverySplit
from meru.encoders.image import encode_image
from meru.errors import UserError
from meru.evaluation.suite import Subject
from meru.metrics.clustering import kmeans
from meru.metrics.discovery import discovery_metrics
from meru.reports.bars import bars_figure
from meru.reports.tables import format_rows

ROWS = {
    "k-means on the tower's features": "kmeans",
    "k-means on embeddings": "kmeans_embedded",
    "the run's classifier": "classifier",
}
COLUMNS = {"All": "all/accuracy", "Old": "old/accuracy", "New": "new/accuracy"}


@torch.no_grad()
def evaluate_discovery(subject: Subject) -> dict[str, float | None]:
    """The figures above, with the chance levels and counts of `discovery_metrics`.

    Raises:
        UserError: if there are no such images, none decodes, or there are fewer of them than classes.
    """
    data = subject.data
    read = read_embeddings(subject, images_to_group(subject))
    if not sharing.leads():
        return {}
    clusters, found = len(data.class_names), len(read["label"])
    if found < clusters:
        raise UserError(f"suite=discovery: {found} images cannot be grouped into the {clusters} classes of the data")
    predictions = {"kmeans": kmeans(read["features"], clusters)}
    if not torch.equal(read["features"], read["embeddings"]):  # equal for a tower alone
        predictions["kmeans_embedded"] = kmeans(read["embeddings"], clusters)
    if "prediction" in read:
        predictions["classifier"] = read["prediction"]
    figures: dict[str, float | None] = {"true_num_classes": float(clusters)}
    for name, predicted in predictions.items():
        for key, figure in discovery_metrics(predicted, read["label"], data.num_old).items():
            figures[f"{name}{key.removeprefix('discovery')}"] = figure
    return figures


def tower_features(model: nn.Module, images: Tensor) -> Tensor:
    """The pooled output of the image tower, before any projection, `(B, W)`, float32.

    Args:
        model: An image–text model, one of category discovery, or an image tower alone.
        images: uint8 `(B, 3, S, S)`, on the model's device.
    """
    if hasattr(model, "features"):  # category discovery
        return model.features(images)
    if hasattr(model, "visual_proj"):  # image–text
        return encode_image(model.visual, model.normalise(images))[0].float()
    return model.image_features(images)


def read_embeddings(subject: Subject, split: DiscoverySplit) -> dict[str, Tensor]:
    """The features of every image that decodes, on the CPU, in order.

    Returns:
        `features`, unit vectors of the tower `(n, W)`, `embeddings`, directions of the embeddings `(n, D)`, `label`
        `(n,)`, and for a model that predicts classes `prediction` `(n,)`.

    Raises:
        UserError: if no image decodes.
    """
    model = subject.model

    def read(batch: dict[str, Tensor]) -> dict[str, Tensor] | None:
        if not len(batch["image"]):
            return None
        images = batch["image"].to(subject.device, non_blocking=True)
        features = tower_features(model, images)
        found = {
            "features": F.normalize(features, dim=-1),
            "embeddings": F.normalize(model.embed_image(images), dim=-1),
            "label": batch["label"],
            **({"prediction": model.class_logits(features).argmax(dim=1)} if hasattr(model, "class_logits") else {}),
        }
        return {name: value.cpu() for name, value in found.items()}

    batches = subject.batches(split.images, {"label": split.labels})
    if not (rows := sharing.rows_of(batches, read, device=torch.device("cpu"))):
        raise UserError(f"none of the {len(split)} images decodes: restore the images")
    return rows


def images_to_group(subject: Subject) -> DiscoverySplit:
    """The images to group: the unlabelled training images, or those of the split that was asked for."""
    asked, data = subject.settings.get("split"), subject.data
    if asked == "validation":
        raise UserError("split=validation: data of old and new classes have no validation split; choose train or test")
    split = data.test if asked == "test" else data.train.where(~data.train.labelled)
    if not len(split):
        raise UserError(f"split={asked}: the data have no {asked} images; choose train, or leave it out")
    return split


def format_classes_found(figures: Mapping[str, float | None], title: str) -> str:
    """All, Old and New by each grouping, with chance levels, and the numbers of images and classes."""
    table = format_rows(figures, title, rows=ROWS, columns=COLUMNS)
    counts = {name: figures.get(f"kmeans/{name}/images") or 0 for name in ("all", "old", "new")}
    return (
        f"{table}\n{counts['all']:.0f} images, {counts['old']:.0f} of old and {counts['new']:.0f} of new classes; "
        f"{figures['true_num_classes']:.0f} classes"
    )


classes_found_figure = partial(bars_figure, rows=ROWS, columns=COLUMNS)
