"""Attacks on images against the classifier of a run of category discovery: `suite=attacks_discovery`.

Each of a sample of the unlabelled training images (with `split=test` of the test images) is changed by at most ε per
value of the model's input so that the classifier no longer predicts what it predicted, whether that was right or not;
the attacks and their keys are those of `suite=attacks`. Clusters get their classes once, by one assignment over all
images of the split, unchanged (v2), and keep them:

    clean/all/accuracy, …/old/…, …/new/…   of the sample as it is
    apgd/4/all/accuracy, …                 of the sample after the attack
    apgd/4/changed                         share of the sample whose prediction is another one
    apgd/4/auroc_above, …/auroc_below      as in `suite=attacks`, for a model with a ball
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from meru import sharing
from meru.data.sampling import derived_seed
from meru.errors import UserError
from meru.evaluation.attacks import attacks_of, signs_of
from meru.evaluation.discovery import images_to_group
from meru.evaluation.suite import Subject
from meru.geometry.poincare import distance_to_origin
from meru.metrics.discovery import assigned_classes
from meru.reports.attacks import attack_rows, draw_signs, draw_strengths
from meru.reports.attention import printable
from meru.reports.tables import format_rows

GROUPS = ("all", "old", "new")


def evaluate_attacks_discovery(subject: Subject) -> dict[str, float | None]:
    """The figures above, accuracies with their chance levels.

    Raises:
        UserError: if the model has no classifier of at least three classes or gives no gradient, or no image decodes.
    """
    model, settings = subject.model, subject.settings
    if not hasattr(model, "class_logits"):
        raise UserError(
            "suite=attacks_discovery attacks the classifier of a run of category discovery, which this model does not "
            "have: choose suite=attacks, or name such a run"
        )
    if model.num_classes < 3:
        raise UserError("suite=attacks_discovery: APGD-DLR compares three classes, and this classifier has two")
    split = images_to_group(subject)
    if int(split.labels.min()) < 0:
        raise UserError("suite=attacks_discovery: the classes of some images are not known, so nothing can be counted")
    generator = torch.Generator().manual_seed(derived_seed(0, "attacked images"))
    chosen = torch.zeros(len(split), dtype=torch.bool)
    chosen[torch.randperm(len(split), generator=generator)[: settings["attack_images"]]] = True
    every = _predicted(subject, split.images, split.labels)
    sample = split.where(chosen)
    found = _attacked(subject, sample.images, sample.labels)
    if not sharing.leads():
        return {}
    class_of = assigned_classes(every["prediction"].numpy(), every["label"].numpy())
    labels = found.pop("label")
    figures: dict[str, float | None] = {"images": float(len(labels)), "steps": float(settings["attack_steps"])}
    radii = {name.removesuffix(RADIUS): found.pop(name) for name in list(found) if name.endswith(RADIUS)}
    for row, predicted in found.items():
        figures |= _accuracies(row, predicted, labels, class_of, subject.data.num_old)
        figures[f"{row}/changed"] = float((predicted != found["clean"]).double().mean())
        if radii:
            figures[f"{row}/radius"] = float(radii[row].double().mean())
        if radii and row != "clean":
            figures |= signs_of(row, radii["clean"], radii[row])
    return figures


RADIUS = "/radius of its points"


def _predicted(subject: Subject, images, labels: Tensor) -> dict[str, Tensor]:
    """`prediction` and `label` of every image that decodes, on the CPU."""

    @torch.no_grad()
    def predict(batch: dict[str, Tensor]) -> dict[str, Tensor] | None:
        if not len(batch["image"]):
            return None
        logits = subject.model.predict(batch["image"].to(subject.device))
        return {"prediction": logits.argmax(dim=1).cpu(), "label": batch["label"]}

    rows = sharing.rows_of(subject.batches(images, {"label": labels}), predict, device=torch.device("cpu"))
    if not rows:
        raise UserError(f"none of the {len(labels)} images decodes: restore the images")
    return rows


def _attacked(subject: Subject, images, labels: Tensor) -> dict[str, Tensor]:
    """Predictions, `clean` and by `<attack>/<strength>`, radii if there are any, and `label`, on the CPU."""
    model, settings = subject.model, subject.settings

    def scores(images: Tensor) -> Tensor:
        return model.predict(images) / model.temperature

    def predict(batch: dict[str, Tensor]) -> dict[str, Tensor] | None:
        if not len(batch["image"]):
            return None
        clean = batch["image"].to(subject.device)
        with torch.no_grad():
            logits = model.predict(clean)
        right = F.one_hot(logits.argmax(dim=1), logits.shape[1]).bool()
        every = {"clean": clean}
        for strength in settings["attack_strengths"]:
            every |= attacks_of(clean, scores, right, strength=strength, steps=settings["attack_steps"])
        found = {"label": batch["label"]}
        with torch.no_grad():
            for name, each in every.items():
                found[name] = model.predict(each).argmax(dim=1).cpu()
                if (radius := _radius(model, each)) is not None:
                    found[f"{name}{RADIUS}"] = radius.cpu()
        return found

    rows = sharing.rows_of(subject.batches(images, {"label": labels}), predict, device=torch.device("cpu"))
    if not rows:
        raise UserError(f"none of the {len(labels)} images chosen decodes: restore the images")
    return rows


def _radius(model: nn.Module, images: Tensor) -> Tensor | None:
    """Distance of images' points from the origin of the ball, `(B,)`; None for a model without a ball."""
    return distance_to_origin(model.embed_ball(images), model.curvature) if hasattr(model, "embed_ball") else None


def _accuracies(
    row: str, predicted: Tensor, labels: Tensor, class_of: Mapping[int, int], num_old: int
) -> dict[str, float]:
    """Accuracy of all, old and new images with clusters that have their classes, and that of shuffled predictions."""
    assigned = torch.tensor([class_of.get(cluster, -1) for cluster in predicted.tolist()])
    share = torch.stack([(assigned == label).double().mean() for label in labels.tolist()])
    groups = {"all": labels >= 0, "old": labels < num_old, "new": labels >= num_old}
    figures = {}
    for name, chosen in groups.items():
        if chosen.any():
            figures[f"{row}/{name}/accuracy"] = float((assigned == labels)[chosen].double().mean())
            figures[f"{row}/{name}/chance_accuracy"] = float(share[chosen].mean())
    return figures


def format_attacks_discovery(figures: Mapping[str, float | None], title: str) -> str:
    """All, Old and New, the share of changed predictions, and the AUROC of the distance, for every attack."""
    columns = {name.capitalize(): f"{name}/accuracy" for name in GROUPS}
    columns |= {"other": "changed", "above": "auroc_above", "below": "auroc_below"}
    table = format_rows(figures, title, rows=attack_rows(figures), columns=columns)
    return (
        f"{table}\nother: predictions that changed; above, below: AUROC of a larger, a smaller distance from the origin"
        f"\n{figures['images']:.0f} images; ε in units of 1 / 255; {figures['steps']:.0f} steps"
    )


def attacks_discovery_figure(figures: Mapping[str, float | None], title: str = "") -> Figure:
    """A plot of All, Old and New by strength, and of the AUROC of the distance."""
    figure = Figure(figsize=(13, 3.6), layout="constrained")
    figure.suptitle(printable(title, width=120), fontsize=10, parse_math=False)
    *groups, sign = figure.subplots(1, 4)
    for axes, name in zip(groups, GROUPS, strict=True):
        if f"clean/{name}/accuracy" in figures:
            draw_strengths(axes, figures, f"{name}/accuracy", title=f"{name.capitalize()}, percent")
        else:
            axes.set_axis_off()
    draw_signs(sign, figures)
    return figure
