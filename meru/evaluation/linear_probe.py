"""A linear classifier on frozen features of labelled images.

Logistic regression by L-BFGS as in Radford et al., ICML 2021, section 3.2: the strength of the L2 penalty is chosen on
a fifth of the training images, and the classifier is then fitted to all of them. Features are divided by their root
mean square over the training images, so that one range of strengths fits every tower.

    linear_probe/class_mean/accuracy@1   top-1 of each class, averaged over the classes
    linear_probe/accuracy@1              over all test images
    linear_probe/validation_accuracy     with the chosen strength, on the fifth that chose it
    linear_probe/log10_c                 the inverse strength C, as a power of ten
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from meru import sharing
from meru.data.image_folders import cut
from meru.data.labelled import LabelledImages
from meru.encoders.image import encode_image
from meru.errors import UserError
from meru.evaluation.suite import Subject
from meru.reports.bars import bars_figure
from meru.reports.tables import format_rows

ROWS = {"linear probe": "linear_probe"}
COLUMNS = {"mean of classes": "class_mean/accuracy@1", "top-1": "accuracy@1"}
POWERS = (-6, -4, -2, 0, 2, 4, 6)  # of C, up to the first above 0 that is worse; then the neighbours of the best
MOST_STEPS = 1000
VALIDATION_SHARE = 0.2

log = logging.getLogger("meru")

Probe = Callable[[np.ndarray], np.ndarray]  # features (n, W) → class numbers (n,)


def evaluate_linear_probe(subject: Subject) -> dict[str, float | None]:
    """The figures above with their chance levels.

    Raises:
        UserError: if there are no training images, or they are of one class.
    """
    if not len(subject.data.train):
        raise UserError("suite=linear_probe fits a classifier, and these data have no training images: complete them")
    split = subject.labelled()
    read = feature_of(subject.model, subject.settings["probe_features"])
    train, train_labels = _features(subject, subject.labelled("train"), read)
    test, labels = _features(subject, split, read)
    if not sharing.leads():
        return {}
    if len(np.unique(train_labels)) < 2:
        raise UserError("suite=linear_probe: all training images are of one class; choose other data")
    scale = float(np.sqrt(np.square(train).mean()).clip(1e-12))
    train, test = train / scale, test / scale
    power, validation = _best_power(train, train_labels, seed=subject.section["split_seed"])
    right = _fitted(train, train_labels, power)(test) == labels
    number = len(subject.data.class_names)
    by_class = [right[labels == label].mean() for label in np.unique(labels)]
    return {
        "linear_probe/accuracy@1": float(right.mean()),
        "linear_probe/chance_accuracy@1": 1 / number,
        "linear_probe/class_mean/accuracy@1": float(np.mean(by_class)),
        "linear_probe/class_mean/chance_accuracy@1": 1 / number,
        "linear_probe/validation_accuracy": validation,
        "linear_probe/log10_c": float(power),
        "linear_probe/images": float(len(labels)),
        "linear_probe/training_images": float(len(train_labels)),
        "linear_probe/width": float(train.shape[1]),
    }


def feature_of(model: nn.Module, name: str) -> Callable[[Tensor], Tensor]:
    """The function from images `(B, 3, S, S)` to features `(B, W)`, all of them before the lift.

    Args:
        model: An image–text model, or one of category discovery.
        name: `tower`: the tower's pooled output. `tangent`: the projected features that the space lifts, or that a
            model of category discovery compares.
    """
    if hasattr(model, "features"):  # category discovery
        return model.features if name == "tower" else lambda images: model.projection(model.features(images))
    if name == "tangent" or not hasattr(model, "visual_proj"):  # without a projection: a tower alone
        return model.image_features
    return lambda images: encode_image(model.visual, model.normalise(images))[0]


@torch.no_grad()
def _features(
    subject: Subject, images: LabelledImages, read: Callable[[Tensor], Tensor]
) -> tuple[np.ndarray, np.ndarray]:
    """Features `(n, W)` and class numbers `(n,)` of the images that decode."""

    def features(batch: dict[str, Tensor]) -> dict[str, Tensor] | None:
        if not len(batch["image"]):
            return None
        return {"features": read(batch["image"].to(subject.device)).float().cpu(), "labels": batch["class_index"]}

    batches = subject.batches(images.images, {"class_index": images.labels})
    rows = sharing.rows_of(batches, features, device=torch.device("cpu"))
    return rows["features"].numpy(), rows["labels"].numpy()


def _best_power(features: np.ndarray, labels: np.ndarray, *, seed: int) -> tuple[int, float | None]:
    """The power of ten of C with the highest accuracy on held-back images, the strongest penalty among equals.

    With one image a class, none can be held back: 0, and None for the accuracy.
    """
    places = LabelledImages(torch.arange(len(labels)), torch.from_numpy(labels))
    fit, held_back = (each.images.numpy() for each in cut(places, share=VALIDATION_SHARE, seed=seed))
    if not len(held_back) or len(np.unique(labels[fit])) < 2:
        return 0, None
    found: dict[int, float] = {}

    def attempt(power: int) -> None:
        predicted = _fitted(features[fit], labels[fit], power)(features[held_back])
        found[power] = float((predicted == labels[held_back]).mean())
        log.info("C = 1e%d: %.1f percent of %d held-back images", power, 100 * found[power], len(held_back))

    for power in POWERS:
        attempt(power)
        if power > 0 and found[power] < max(found.values()):
            break  # weaker penalties overfit more, and take ever longer; strong ones differ by chance and cost little
    best = max(found, key=lambda power: (found[power], -power))
    for power in (best - 1, best + 1):
        attempt(power)
    best = max(found, key=lambda power: (found[power], -power))
    return best, found[best]


def _fitted(features: np.ndarray, labels: np.ndarray, power: int) -> Probe:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # weak penalties need more steps than is worth waiting
        return LogisticRegression(C=10.0**power, max_iter=MOST_STEPS).fit(features, labels).predict


def format_linear_probe(figures: Mapping[str, float | None], title: str) -> str:
    """One row of shares, and how the classifier was fitted."""
    table = format_rows(figures, title, rows=ROWS, columns=COLUMNS)
    count, train, width, power = (
        figures[f"linear_probe/{name}"] for name in ("images", "training_images", "width", "log10_c")
    )
    fitted = f"fitted to {train:.0f} images with {width:.0f} features, C = 1e{power:.0f}"
    return f"{table}\n{count:.0f} test images; {fitted}"


linear_probe_figure = partial(bars_figure, rows=ROWS, columns=COLUMNS)
