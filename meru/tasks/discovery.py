"""Category discovery: images of old and new classes, and the labels of some of the old ones."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, open_dict
from torch import Tensor, nn

from meru import distributed
from meru.assemble import Pretrained, build
from meru.data.discovery.loading import discovery_training_loader
from meru.data.discovery.splits import DiscoveryData
from meru.data.sampling import BatchPlan
from meru.errors import UserError
from meru.evaluation.classes import class_trees, discovery_figures, format_discovery, read_features, save_trees
from meru.metrics.clustering import estimate_num_classes
from meru.run_layout import TREES
from meru.tasks.contract import Figures, Findings, Task, made_in_turn
from meru.tasks.discovery_batches import keep_views, nearest_images, released_neighbours

log = logging.getLogger("meru")


class Discovery(Task):
    """Discovery runs: the last weights count, because choosing others would need the labels that are to be found."""

    kind = "category discovery"
    data: DiscoveryData

    def load_data(self) -> DiscoveryData:
        if "discovery" not in self.config.data:
            raise UserError("this data set has no split for discovery: choose another, say data=cub or data=birds")
        return made_in_turn(self.config.data.discovery)

    # ---------------------------------------------------------------- training

    def complete_config(self) -> DictConfig:
        """A number in `discovery.num_classes`: that of the data, the given or an estimated one.

        What was asked for stays in `discovery.asked_num_classes`, so that a change of it can be told.
        """
        wanted, true = self.config.discovery.num_classes, len(self.data.class_names)
        if wanted is None:
            number = true
        elif wanted == "estimate":
            number = distributed.decided_by_main(
                lambda: estimated_classes(self.config, self.data, device=self.device)
            )
        elif isinstance(wanted, int):
            number = wanted
        else:
            raise UserError(f"discovery.num_classes={wanted}: give a number, estimate, or null for as many as there are")
        if number < (old := self.data.num_old):
            raise UserError(f"discovery.num_classes={number}: there are {old} old classes already; give more")
        self.config = self.config.copy()
        with open_dict(self.config):
            self.config.discovery.num_classes = number
            self.config.discovery.asked_num_classes = self.config.discovery.get("asked_num_classes", wanted)
        return self.config

    def describe(self) -> str:
        data = self.data
        return (
            f"{len(data.train)} training images, {int(data.train.labelled.sum())} of them labelled; {data.num_old} old "
            f"and {len(data.class_names) - data.num_old} new classes, {self.config.discovery.num_classes} in the "
            "classifier"
        )

    def batches(self, pretrained: Pretrained, plan: BatchPlan, start: int) -> Iterable[dict[str, Tensor]]:
        """The batches; views kept before the weights are in the model would be those of an empty tower."""
        model, transforms, train = pretrained.model, pretrained.transforms, self.data.train
        released = self.config.model.get("released", False)
        found = self.epoch_state

        def neighbours(epoch: int) -> Tensor:
            # A run that resumes within an epoch has the neighbours that the weights at the epoch's start made.
            if found.get("epoch") != epoch:
                find = released_neighbours if released else nearest_images
                found["neighbours"] = find(self.config, train, model, transforms, epoch=epoch, device=self.device)
                found["epoch"] = epoch
            return found["neighbours"]

        return discovery_training_loader(
            train,
            transform=transforms.training,
            sampler=self.config.discovery.sampler,
            neighbours=neighbours,
            independent=released,
            kept_views=keep_views(self.config, train, model, transforms, device=self.device),
            **self.loader_options(plan, start),
        )

    # ---------------------------------------------------------------- figures

    @classmethod
    def check_question(cls, asked: DictConfig, *, name: str) -> None:
        for key, wants in (("suite", "captions"), ("captions_per_image", "captions"), ("templates", "prompts")):
            if asked[key]:
                raise UserError(
                    f"{key}={asked[key]}: {name} is a run of category discovery, without {wants}; leave the key out"
                )
        if asked.split == "validation":
            raise UserError(
                "split=validation: a discovery run has none, its last weights count; choose train (the unlabelled "
                "training images) or test, or leave it out for both"
            )

    def require_images(self, split: str | None) -> None:
        if split == "test" and not len(self.data.test):
            raise UserError("split=test: this run's data have no test images; choose train, or leave it out")

    def name_of(self, split: str | None) -> str:
        return {"train": "unlabelled training images", "test": "test images", None: "all images"}[split]

    def evaluate(self, pretrained: Pretrained, *, split: str | None = None) -> Findings:
        figures, trees = discovery_figures(
            self.config, self.data, pretrained.model, pretrained.transforms, split=split, device=self.device
        )
        return Findings(figures, trees)

    def table(self, figures: Figures, title: str, *, model: nn.Module) -> str:
        return format_discovery(figures, title)

    def draw(self, findings: Findings, folder: Path, pretrained: Pretrained, *, logger: Any, step: int) -> None:
        """Save the trees of the predicted classes, as text and as pictures."""
        save_trees(folder / TREES, findings.details)

    def draw_trees(self, pretrained: Pretrained, folder: Path) -> list[Path]:
        """Save the same trees once more, in a folder; gives the files that are there then.

        Raises:
            UserError: if no image decodes, or there are fewer than three predicted classes.
        """
        model, transforms = pretrained.model, pretrained.transforms
        seen = read_features(self.config, self.data.train, model, transforms, device=self.device)
        if not seen:
            raise UserError(f"no training image of {self.config.data.root} decodes: restore the images")
        trees = class_trees(self.data, seen, model)
        if not trees.trees:
            raise UserError("the model predicts fewer than three classes, which form no tree: train it longer")
        return save_trees(folder, trees)


def estimated_classes(config: DictConfig, data: DiscoveryData, *, device: torch.device) -> int:
    """How many classes the features of the untrained tower suggest: see `meru.metrics.clustering`."""
    config = config.copy()
    config.discovery.num_classes = data.num_old + 2  # any number: the classifier is not used
    model, _, transforms = build(config)
    read = read_features(config, data.train, model.to(device), transforms, device=device)
    images = len(read.get("features", ()))
    maximum = config.discovery.maximum_classes or min(3 * data.num_old, images)
    if data.num_old < 2 or not data.num_old <= maximum <= images or not read["labelled"].any():
        raise UserError(
            f"discovery.num_classes=estimate: up to {maximum} classes, {data.num_old} of them old, cannot be estimated "
            f"from {images} images: at least two are to be old, and discovery.maximum_classes lies between the old "
            "ones and the images; set it, or give discovery.num_classes as a number"
        )
    number, _ = estimate_num_classes(
        read["features"],
        read["label"],
        read["labelled"],
        data.num_old,
        maximum=maximum,
        seed=config.seed,
    )
    log.info("estimated %d classes, there are %d", number, len(data.class_names))
    return number
