"""Evaluates a trained discovery model: figures of its classes, and the trees they form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from meru import sharing
from meru.data.discovery.splits import UNKNOWN, DiscoveryData
from meru.evaluation.bias import best_of_groups, described_bias
from meru.files import make_folder_of, write_text
from meru.geometry import poincare
from meru.metrics.class_tree import (
    Tree,
    chance_dendrogram_purity,
    class_tree,
    cosine_tree,
    dendrogram_purity,
    to_json,
    to_newick,
)
from meru.metrics.clustering import kmeans
from meru.metrics.discovery import assigned_classes, discovery_metrics
from meru.optional_part import optional
from meru.reports.attention import save_figure
from meru.reports.class_tree import dendrogram_figure, poincare_disk_figure
from meru.reports.tables import format_rows


class ClassTrees(NamedTuple):
    """Trees over the same predicted classes.

    Attributes:
        trees: `feature_tree`, and `tree` if the model has a ball; empty if fewer than three classes are found.
        families: The family of each leaf; None if the data set has no families, or they group nothing.
    """

    trees: dict[str, Tree]
    families: list[str] | None


@torch.no_grad()
def read_features(
    model: nn.Module,
    batches: Iterable[dict[str, Tensor]],
    *,
    device: torch.device,
    num_old: int | None = None,
    classes: int | None = None,
) -> dict[str, Tensor]:
    """The features and predictions of a model for every image that can be decoded.

    In `sharing.together`, the processes divide the images.

    Args:
        model: Has `features`, `projection`, `class_logits` and `temperature`, and with a ball also `lift`. It is put
            into evaluation mode temporarily.
        batches: From `discovery_evaluation_loader`.
        device: The model's.
        num_old: Number of old classes, to read what `meru.evaluation.bias` needs; None: without that.
        classes: So many classes take part, the first ones; None: all.

    Returns:
        On the CPU, in the images' order: `features`, unit vectors of the tower `(n, W)`, `projected`, unit vectors of
        the projection head `(n, D)`, `projected_length`, their lengths before that, `points` of the ball `(n, D)` if
        the model has one, `prediction`, `confidence`, its probability, `label`, `labelled` and `image_index`; the shape
        is `(n,)` unless given. With `num_old` also those of `best_of_groups`. Empty if no image can be decoded.
    """
    was_training = model.training
    model.eval()

    def read(batch: dict[str, Tensor]) -> dict[str, Tensor] | None:
        if not len(batch["image"]):
            return None
        features = model.features(batch["image"].to(device, non_blocking=True))
        logits = model.class_logits(features)[:, :classes].float() / model.temperature
        probabilities = logits.softmax(dim=1)
        found = {
            "features": F.normalize(features, dim=-1),
            "projected": F.normalize(projected := model.projection(features).float(), dim=-1),
            "projected_length": projected.norm(dim=-1),
            **({"points": model.lift(projected)} if hasattr(model, "lift") else {}),
            "prediction": probabilities.argmax(dim=1),
            "confidence": probabilities.amax(dim=1),
            **({} if num_old is None else best_of_groups(logits, num_old)),
            **{name: batch[name] for name in ("label", "labelled", "image_index")},
        }
        return {name: value.cpu() for name, value in found.items()}

    rows = sharing.rows_of(batches, read, device=torch.device("cpu"))
    model.train(was_training)
    return rows


def discovery_figures(
    data: DiscoveryData, train: Mapping[str, Tensor], test: Mapping[str, Tensor], *, num_classes: int, seed: int
) -> dict[str, float]:
    """Figures of the classifier and of k-means on the unlabelled training images, and on the test images.

    Images of unknown classes are left out. So are figures without images, and those of k-means also if there are more
    classes than images.

    Args:
        data: Gives the old classes.
        train, test: Results of `read_features` for these splits.
        num_classes: Number of classes in the classifier.
        seed: Seed of k-means.
    """
    figures = {}
    if train and (chosen := ~train["labelled"] & (train["label"] != UNKNOWN)).any():
        read = {name: values[chosen] for name, values in train.items()}
        figures |= discovery_metrics(read["prediction"], read["label"], data.num_old)
        with optional("k-means"):  # there may be more classes than images
            clusters = kmeans(read["features"], num_classes, seed=seed)
            figures |= _renamed(discovery_metrics(clusters, read["label"], data.num_old), "kmeans")
    if test:
        figures |= _renamed(discovery_metrics(test["prediction"], test["label"], data.num_old), "inductive")
    if not figures:
        return {}
    true = {} if data.has_unknown else {"true_num_classes": float(len(data.class_names))}
    return {**figures, "num_classes": float(num_classes), **true}


def class_trees(data: DiscoveryData, seen: Mapping[str, Tensor], model: nn.Module) -> ClassTrees:
    """The trees that the predicted classes form, in the ball and by the tower's Euclidean features.

    A predicted class has the name of the true class that it is assigned to; empty and unassigned ones, and those of
    unknown classes, are left out. `seen` is the result of `read_features` for the training images.
    """
    seen = {name: values[seen["label"] != UNKNOWN] for name, values in seen.items()}
    class_of = assigned_classes(seen["prediction"].numpy(), seen["label"].numpy())
    kept = sorted(class_of)
    if len(kept) < 3:
        return ClassTrees({}, None)
    names = [data.class_names[class_of[cluster]] for cluster in kept]
    families = [data.families[class_of[cluster]] for cluster in kept] if data.families else None
    if families and len(set(families)) in (1, len(families)):
        families = None
    means = torch.stack([seen["features"][seen["prediction"] == cluster].mean(dim=0) for cluster in kept])
    trees = {"feature_tree": cosine_tree(means, names)}
    if "points" in seen:
        curvature = model.curvature
        centres = poincare.group_midpoints(seen["points"], seen["prediction"], model.num_classes, curvature)
        trees["tree"] = class_tree(centres[kept], curvature, names)
    return ClassTrees(trees, families)


def purities(found: ClassTrees) -> dict[str, float]:
    """`tree/…` and `feature_tree/dendrogram_purity` by family, with their chance levels; empty without families."""
    figures = {}
    if found.families:
        for name, tree in found.trees.items():
            figures[f"{name}/dendrogram_purity"] = dendrogram_purity(tree, found.families)
            figures[f"{name}/chance_dendrogram_purity"] = chance_dendrogram_purity(tree, found.families)
    return figures


def save_trees(folder: Path, found: ClassTrees) -> list[Path]:
    """Write the trees as Newick, JSON and plots, with leaves in the colours of their families, if known.

    Returns:
        The files written; one that fails is left out with a warning.
    """
    written = []
    for name, tree in found.trees.items():
        with optional(f"{name}.nwk and {name}.json"):
            make_folder_of(folder / f"{name}.nwk")
            write_text(folder / f"{name}.nwk", to_newick(tree) + "\n")
            write_text(folder / f"{name}.json", to_json(tree) + "\n")
            written += [folder / f"{name}.nwk", folder / f"{name}.json"]
    for name, tree in found.trees.items():
        groups = found.families or range(len(tree.names))  # a group for each leaf: no colours
        with optional(f"the plot {name}.png"):
            save_figure(dendrogram_figure(tree, groups), folder / f"{name}.png")
            written.append(folder / f"{name}.png")
        if tree.curvature is not None:
            with optional("the plot poincare_disk.png"):
                save_figure(poincare_disk_figure(tree, groups), folder / "poincare_disk.png")
                written.append(folder / "poincare_disk.png")
    return written


def _renamed(figures: Mapping[str, float], name: str) -> dict[str, float]:
    """`discovery/all/accuracy` → `<name>/all/accuracy`; other protocols are left out."""
    return {
        f"{name}/{key.removeprefix('discovery/')}": value
        for key, value in figures.items()
        if key.startswith("discovery/")
    }


def format_discovery(figures: Mapping[str, float], title: str, *, adjusted: bool = False) -> str:
    """The printed table: All, Old and New for each protocol, with the chance level of the first.

    `adjusted`: the rows of the classifier say that its predictions were corrected (`meru.evaluation.bias`).
    """
    mark = " (adjusted)" if adjusted else ""
    rows = {
        f"one assignment (v2){mark}": "discovery",
        f"mean of classes (v2){mark}": "discovery_balanced",
        f"two assignments (v1){mark}": "discovery_v1",
        "k-means on the same features": "kmeans",
        f"test images{mark}": "inductive",
    }
    columns = {"All": "all/accuracy", "Old": "old/accuracy", "New": "new/accuracy"}
    table = format_rows(figures, title, rows=rows, columns=columns)
    for taken, of, others in (("new_as_old", "new", "old"), ("old_as_new", "old", "new")):
        if (share := figures.get(f"discovery/{taken}/share")) is not None:
            chance = figures[f"discovery/{taken}/chance_share"]
            table += (
                f"\nimages of {of} classes taken for {others} ones, after clusters are assigned to classes: "
                f"{100 * share:.1f} (chance {100 * chance:.1f})"
            )
    table += described_bias(figures)
    purity = {name: figures.get(f"{name}/dendrogram_purity") for name in ("tree", "feature_tree")}
    for name, value in purity.items():
        if value is not None:
            chance = figures.get(f"{name}/chance_dendrogram_purity")
            beside = "" if chance is None else f" (chance {100 * chance:.1f})"
            table += f"\n{name}: dendrogram purity by family {100 * value:.1f}{beside}"
    if "num_classes" not in figures:  # all unlabelled images are of unknown classes, and there are no test images
        return table
    numbers = f"{figures['num_classes']:.0f} classes in the classifier"
    if (true := figures.get("true_num_classes")) is not None:
        numbers += f", {true:.0f} in the data"
    return f"{table}\n{numbers}"
