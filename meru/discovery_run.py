"""A whole discovery run: its data, the number of classes, training, and the figures on the unlabelled images."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, open_dict
from torch import Tensor, nn
from torch.nn import functional as F

from meru import distributed, poincare
from meru.data.discovery import DiscoveryData, DiscoverySplit
from meru.data.discovery_loading import discovery_evaluation_loader, discovery_training_loader
from meru.data.loading import steps_per_epoch
from meru.data.transforms import Transforms
from meru.errors import UserError
from meru.evaluation.clustering import estimate_num_classes, kmeans
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
from meru.evaluation.report import format_rows, write_json
from meru.evaluation.tree_pictures import dendrogram_figure, poincare_disk_figure
from meru.pretrained import build, without_pretrained_weights
from meru.run_folder import environment, make_run_folder
from meru.running import instantiate_in_turn, make_logger
from meru.training.checkpoint import save_weights
from meru.training.loggers import NoLogger
from meru.training.optimizer import build_optimizer
from meru.training.trainer import Trainer, TrainerSettings

log = logging.getLogger("meru")


def train_discovery(config: DictConfig, *, device: torch.device) -> dict[str, float] | None:
    """Train to the end and say how well the unlabelled training images were sorted.

    The last weights count: choosing others would need the labels that are to be discovered.

    Args:
        config: As `configs/train.yaml` describes it, with a model of `task: discovery`.
        device: This process's.

    Returns:
        The figures in the main process; None in others, and after a signal stopped the run.

    Raises:
        UserError: for whatever the user can put right.
    """
    settings = TrainerSettings.of(config.trainer)
    data = load_discovery_data(config)
    batch = {"batch_size": config.data.batch_size, "world_size": distributed.world_size()}
    batches_per_epoch = steps_per_epoch(len(data.train), **batch)
    folder = Path(config.resume) if config.resume else None
    begun = folder is not None and (folder / "last.pt").exists()
    config = with_num_classes(config, data, device=device)
    torch.manual_seed(config.seed)  # the same weights in every process
    pretrained = build(without_pretrained_weights(config) if begun else config)
    torch.manual_seed(config.seed + distributed.rank())  # but not the same triplets
    model, transforms = pretrained.model.to(device), pretrained.transforms
    optimizer = build_optimizer(model, **instantiate(config.optim, _convert_="all"))
    folder = folder or make_run_folder(config)
    logger = make_logger(config, folder, device) if distributed.is_main() else NoLogger()
    log.info("run folder %s", folder)
    log.info(
        "%d training images, %d of them labelled; %d old and %d new classes, %d in the classifier; %s",
        len(data.train),
        int(data.train.labelled.sum()),
        data.num_old,
        len(data.class_names) - data.num_old,
        config.discovery.num_classes,
        ", ".join(f"{name} {value}" for name, value in environment(device).items()),
    )
    trainer = Trainer(
        model=model,
        optimizer=optimizer,
        batches=lambda start: discovery_training_loader(
            data.train,
            transform=transforms.training,
            sampler=config.discovery.sampler,
            neighbours=lambda: nearest_images(config, data.train, model, transforms, device=device),
            seed=config.seed,
            total_steps=settings.epochs * batches_per_epoch,
            start_step=start,
            rank=distributed.rank(),
            workers=config.data.workers,
            on_error=config.data.on_error,
            **batch,
        ),
        batches_per_epoch=batches_per_epoch,
        evaluate=None,
        logger=logger,
        folder=folder,
        device=device,
        settings=settings,
    )
    finished = trainer.run()
    figures = None
    if distributed.is_main():
        if finished:
            model = trainer.evaluated
            save_weights(folder / "model.safetensors", model.state_dict())
            figures = evaluate_discovery(config, data, model, transforms, device=device)
            figures |= save_trees(folder / "tree", config, data, model, transforms, device=device)
            write_json(folder / "test.json", figures)
            logger.log({f"test/{name}": figure for name, figure in figures.items()}, step=trainer.step)
            log.info("%s", format_discovery(figures, "unlabelled training images, the last step"))
            log.info("model, figures and configuration: %s", folder)
        else:
            log.info("stopped at step %d; to go on: resume=%s", trainer.step, folder)
        logger.finish()
    distributed.barrier()
    return figures


def load_discovery_data(config: DictConfig) -> DiscoveryData:
    """The images, and the labels of some."""
    if "discovery" not in config.data:
        raise UserError("this data set has no split for discovery: choose another, say data=cub or data=birds")
    return instantiate_in_turn(config.data.discovery)


def with_num_classes(config: DictConfig, data: DiscoveryData, *, device: torch.device) -> DictConfig:
    """The configuration with a number in `discovery.num_classes`: that of the data, the given or an estimated one."""
    wanted, true = config.discovery.num_classes, len(data.class_names)
    if wanted is None:
        number = true
    elif wanted == "estimate":
        number = distributed.broadcast(estimated_classes(config, data, device=device) if distributed.is_main() else 0)
    elif isinstance(wanted, int):
        number = wanted
    else:
        raise UserError(f"discovery.num_classes={wanted}: give a number, estimate, or null for as many as there are")
    if number < data.num_old:
        raise UserError(f"discovery.num_classes={number}: there are {data.num_old} old classes already; give more")
    config = config.copy()
    with open_dict(config):
        config.discovery.num_classes = number
    return config


def estimated_classes(config: DictConfig, data: DiscoveryData, *, device: torch.device) -> int:
    """How many classes the features of the untrained tower suggest: see `meru.evaluation.clustering`."""
    config = config.copy()
    config.discovery.num_classes = data.num_old + 2  # any number: the classifier is not used
    model, _, transforms = build(config)
    read = read_features(config, data.train, model.to(device), transforms, device=device)
    number, _ = estimate_num_classes(
        read["features"],
        read["label"],
        read["labelled"],
        data.num_old,
        maximum=config.discovery.maximum_classes or 3 * data.num_old,
        seed=config.seed,
    )
    log.info("estimated %d classes, there are %d", number, len(data.class_names))
    return number


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
        on_error=config.data.on_error,
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


def nearest_images(
    config: DictConfig, split: DiscoverySplit, model: nn.Module, transforms: Transforms, *, device: torch.device
) -> Tensor:
    """Every image's nearest by their projected features, itself first, `(n, discovery.neighbours)`.

    In the data set's order and without augmentation: the released code takes them in the order of a weighted loader
    with replacement, so that its neighbours are other images than those it looks up.
    """
    read = read_features(config, split, model, transforms, device=device)
    if len(read["projected"]) < len(split):
        raise UserError("discovery.sampler=neighbours needs every image to decode: choose weighted, or restore them")
    count = config.discovery.neighbours
    nearest = []
    for start in range(0, len(split), 1024):
        scores = read["projected"][start : start + 1024] @ read["projected"].T
        rows = torch.arange(len(scores))
        scores[rows, start + rows] = 2.0  # above every cosine: itself first, whatever else is equal
        nearest.append(scores.topk(count, dim=1).indices)
    return torch.cat(nearest)


def evaluate_discovery(
    config: DictConfig, data: DiscoveryData, model: nn.Module, transforms: Transforms, *, device: torch.device
) -> dict[str, float]:
    """All figures: of the classifier and of k-means on the unlabelled training images, and on the test images."""
    unlabelled = data.train.where(~data.train.labelled)
    read = read_features(config, unlabelled, model, transforms, device=device)
    figures = discovery_metrics(read["prediction"], read["label"], data.num_old)
    clusters = kmeans(read["features"], model.num_classes, seed=config.seed)
    figures |= _renamed(discovery_metrics(clusters, read["label"], data.num_old), "kmeans")
    if len(data.test):
        read = read_features(config, data.test, model, transforms, device=device)
        figures |= _renamed(discovery_metrics(read["prediction"], read["label"], data.num_old), "inductive")
    return {**figures, "num_classes": float(model.num_classes), "true_num_classes": float(len(data.class_names))}


def save_trees(
    folder: Path, config: DictConfig, data: DiscoveryData, model: nn.Module, transforms: Transforms, *, device
) -> dict[str, float]:
    """The trees that the predicted classes form, in the ball and by the tower's Euclidean features, and their purity.

    A predicted class bears the name of the true one it is assigned to; those that nobody is put into, or that no class
    is assigned to, are left out. Families are the last words of the names.

    Returns:
        `tree/…` and `feature_tree/dendrogram_purity`, with their chance levels; empty where no two classes share a
        family.
    """
    read = read_features(config, data.train, model, transforms, device=device)
    class_of = assigned_classes(read["prediction"].numpy(), read["label"].numpy())
    kept = sorted(class_of)
    names = [data.class_names[class_of[cluster]] for cluster in kept]
    families = [family_of(name) for name in names]
    if len(kept) < 3 or len(set(families)) in (1, len(families)):
        return {}
    folder.mkdir(exist_ok=True)
    means = torch.stack([read["features"][read["prediction"] == cluster].mean(dim=0) for cluster in kept])
    trees = {"feature_tree": cosine_tree(means, names)}
    if "points" in read:
        curvature = model.curvature
        centres = poincare.group_midpoints(read["points"], read["prediction"], model.num_classes, curvature)
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
