"""What a trained discovery model found: figures of its classes, and the tree they form."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.nn import functional as F

from meru import poincare
from meru.data.discovery import DiscoveryData, DiscoverySplit
from meru.data.discovery_loading import discovery_evaluation_loader
from meru.data.loading import reading_options
from meru.data.transforms import Transforms
from meru.evaluation.clustering import kmeans
from meru.evaluation.discovery import assigned_classes, discovery_metrics
from meru.evaluation.hierarchy import (
    chance_dendrogram_purity,
    class_tree,
    cosine_tree,
    dendrogram_purity,
    family_of,
    to_json,
    to_newick,
)
from meru.evaluation.pictures import save_figure
from meru.evaluation.report import format_rows
from meru.evaluation.tree_pictures import dendrogram_figure, poincare_disk_figure


@torch.no_grad()
def read_features(
    config: DictConfig, split: DiscoverySplit, model: nn.Module, transforms: Transforms, *, device: torch.device
) -> dict[str, Tensor]:
    """What a model sees in every image that decodes.

    Returns:
        On the CPU, in the split's order: `features`, unit vectors of the tower `(n, W)`, `projected`, unit vectors of
        the projection head `(n, D)`, `points` of the ball `(n, D)` if the model has one, `prediction`, `label`,
        `labelled` and `image_index`, all `(n,)`.
    """
    was_training = model.training
    model.eval()
    parts: dict[str, list[Tensor]] = {}
    loader = discovery_evaluation_loader(
        split,
        transform=transforms.evaluation,
        batch_size=config.evaluation.batch_size,
        workers=config.data.workers,
        **reading_options(config.data),
    )
    for batch in loader:
        if not len(batch["image"]):
            continue
        features = model.features(batch["image"].to(device, non_blocking=True))
        found = {
            "features": F.normalize(features, dim=-1),
            "projected": F.normalize(projected := model.projection(features).float(), dim=-1),
            **({"points": model.lift(projected)} if hasattr(model, "lift") else {}),
            "prediction": model.class_logits(features).argmax(dim=1),
            **{name: batch[name] for name in ("label", "labelled", "image_index")},
        }
        for name, value in found.items():
            parts.setdefault(name, []).append(value.cpu())
    model.train(was_training)
    return {name: torch.cat(values) for name, values in parts.items()}


def evaluate_discovery(
    config: DictConfig,
    data: DiscoveryData,
    seen: Mapping[str, Tensor],
    model: nn.Module,
    transforms: Transforms,
    *,
    device: torch.device,
) -> dict[str, float]:
    """All figures: of the classifier and of k-means on the unlabelled training images, and on the test images.

    `seen` is what `read_features` gives for the training images.
    """
    read = {name: values[~seen["labelled"]] for name, values in seen.items()}
    figures = discovery_metrics(read["prediction"], read["label"], data.num_old)
    clusters = kmeans(read["features"], model.num_classes, seed=config.seed)
    figures |= _renamed(discovery_metrics(clusters, read["label"], data.num_old), "kmeans")
    if len(data.test):
        read = read_features(config, data.test, model, transforms, device=device)
        figures |= _renamed(discovery_metrics(read["prediction"], read["label"], data.num_old), "inductive")
    return {**figures, "num_classes": float(model.num_classes), "true_num_classes": float(len(data.class_names))}


def save_trees(folder: Path, data: DiscoveryData, seen: Mapping[str, Tensor], model: nn.Module) -> dict[str, float]:
    """The trees that the predicted classes form, in the ball and by the tower's Euclidean features, and their purity.

    A predicted class bears the name of the true one it is assigned to; those that nobody is put into, or that no class
    is assigned to, are left out. Families are the last words of the names. `seen` is what `read_features` gives for the
    training images.

    Returns:
        `tree/…` and `feature_tree/dendrogram_purity`, with their chance levels; empty where no two classes share a
        family.
    """
    class_of = assigned_classes(seen["prediction"].numpy(), seen["label"].numpy())
    kept = sorted(class_of)
    names = [data.class_names[class_of[cluster]] for cluster in kept]
    families = [family_of(name) for name in names]
    if len(kept) < 3 or len(set(families)) in (1, len(families)):
        return {}
    folder.mkdir(exist_ok=True)
    means = torch.stack([seen["features"][seen["prediction"] == cluster].mean(dim=0) for cluster in kept])
    trees = {"feature_tree": cosine_tree(means, names)}
    if "points" in seen:
        curvature = model.curvature
        centres = poincare.group_midpoints(seen["points"], seen["prediction"], model.num_classes, curvature)
        trees["tree"] = class_tree(centres[kept], curvature, names)
        save_figure(poincare_disk_figure(trees["tree"], families), folder / "poincare_disk.png")
    figures = {}
    for name, tree in trees.items():
        (folder / f"{name}.nwk").write_text(to_newick(tree) + "\n", encoding="utf-8")
        (folder / f"{name}.json").write_text(to_json(tree) + "\n", encoding="utf-8")
        save_figure(dendrogram_figure(tree, families), folder / f"{name}.png")
        figures[f"{name}/dendrogram_purity"] = dendrogram_purity(tree, families)
        figures[f"{name}/chance_dendrogram_purity"] = chance_dendrogram_purity(tree, families)
    return figures


def _renamed(figures: Mapping[str, float], name: str) -> dict[str, float]:
    """`discovery/all/accuracy` → `<name>/all/accuracy`, the other protocols left out."""
    return {
        f"{name}/{key.removeprefix('discovery/')}": value
        for key, value in figures.items()
        if key.startswith("discovery/")
    }


def format_discovery(figures: Mapping[str, float], title: str) -> str:
    """The printed table: All, Old and New of each protocol, chance beside the first."""
    rows = {
        "one assignment (v2)": "discovery",
        "mean of classes (v2)": "discovery_balanced",
        "two assignments (v1)": "discovery_v1",
        "k-means on the same features": "kmeans",
        "test images": "inductive",
    }
    columns = {"All": "all/accuracy", "Old": "old/accuracy", "New": "new/accuracy"}
    table = format_rows(figures, title, rows=rows, columns=columns)
    purity = {name: figures.get(f"{name}/dendrogram_purity") for name in ("tree", "feature_tree")}
    for name, value in purity.items():
        if value is not None:
            chance = figures[f"{name}/chance_dendrogram_purity"]
            table += f"\n{name}: dendrogram purity by family {100 * value:.1f} (chance {100 * chance:.1f})"
    numbers = f"{figures['num_classes']:.0f} classes in the classifier, {figures['true_num_classes']:.0f} in the data"
    return f"{table}\n{numbers}"
