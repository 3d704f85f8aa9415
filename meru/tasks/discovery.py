"""Category discovery on images of old and new classes, with labels for some images of old classes."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig, open_dict
from torch import Tensor, nn

from meru import distributed, sharing
from meru.assemble import Pretrained, build
from meru.data.discovery.loading import discovery_evaluation_loader, discovery_training_loader
from meru.data.discovery.splits import UNKNOWN, DiscoveryData, DiscoverySplit
from meru.data.discovery.staged_loading import staged_training_loader
from meru.data.discovery.stages import Stages
from meru.data.pixels import CachedPixels
from meru.data.sampling import BatchPlan
from meru.errors import UserError
from meru.evaluation.bias import corrected
from meru.evaluation.classes import (
    ClassTrees,
    class_trees,
    discovery_figures,
    format_discovery,
    purities,
    read_features,
    save_trees,
)
from meru.evaluation.clusters import save_clusters
from meru.evaluation.stages import figures_of_stages, format_stages, stage_figures
from meru.evaluation.suites import SUITES
from meru.metrics.clustering import estimate_num_classes
from meru.optional_part import optional
from meru.reports.tables import finite_figures
from meru.run_layout import CLUSTERS, TREES
from meru.tasks.contract import Figures, Findings, Task
from meru.tasks.data import load_discovery_data
from meru.tasks.discovery_batches import nearest_images, released_neighbours
from meru.tasks.discovery_labels import described_noise, described_sizes, label_noise, split_seed, with_label_noise
from meru.tasks.discovery_stages import arriving_stages, check_stages, number_of_stages

log = logging.getLogger("meru")


class Answer(NamedTuple):
    """What a model found: trees of its classes, and the results of `read_features` for the splits it was asked for."""

    trees: ClassTrees
    train: dict[str, Tensor]
    test: dict[str, Tensor]


class Discovery(Task):
    """Discovery runs; they use the last weights, because selecting others would need labels of the new classes."""

    data: DiscoveryData

    def load_data(self) -> DiscoveryData:
        return load_discovery_data(self.config)

    # ---------------------------------------------------------------- training

    @property
    def stages(self) -> int:
        """Stages in which classes and images arrive."""
        return number_of_stages(self.config)

    @cached_property
    def arriving(self) -> Stages | None:
        """What arrives when; None if everything is there from the start."""
        return arriving_stages(self.config, self.data)

    def images_per_epoch(self) -> int:
        """Those of the first stage, for all stages: what remains of earlier images does not change the steps."""
        return len(self.arriving.images[0] if self.arriving else self.data.train)

    def complete_config(self) -> DictConfig:
        """Set `discovery.num_classes` to a number: that of the data, the given one, or an estimate.

        The requested value is kept in `discovery.asked_num_classes`, so that a later change can be detected. From here
        on, `data` has the wrong labels of `data.label_noise`.
        """
        wanted = self.config.discovery.num_classes
        if self.arriving:
            check_stages(self.arriving, self.config)
        share, kind = label_noise(self.config)
        read = self.untrained_features() if wanted == "estimate" or (share and kind == "nearest") else {}
        self.data = with_label_noise(self.data, self.config, read)
        if wanted is None and self.data.has_unknown:
            raise UserError(
                "discovery.num_classes: some training images are of unknown classes; give the number of classes that "
                f"you expect, the {self.data.num_old} old ones included, or discovery.num_classes=estimate"
            )
        if wanted is None:
            number = len(self.data.class_names)
        elif wanted == "estimate":
            number = self.estimated_classes(read)
        else:
            number = wanted
        if number < (old := self.data.num_old):
            raise UserError(f"discovery.num_classes={number}: there are {old} old classes already; give more")
        self.config = self.config.copy()
        with open_dict(self.config):
            self.config.discovery.num_classes = number
            self.config.discovery.asked_num_classes = self.config.discovery.get("asked_num_classes", wanted)
        return self.config

    def untrained_features(self) -> dict[str, Tensor]:
        """Result of `read_features` for the training images by the tower before training, the same for all seeds.

        The processes divide the images; a run that caches views reads their rows.
        """
        config = self.config.copy()
        config.discovery.num_classes = self.data.num_old + 2  # any number: the classifier is not used
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(split_seed(config))  # a tower without weights is drawn at random
            untrained = build(config)
        distributed.broadcast_weights(untrained.model.to(self.device))
        self.use_cached_views(untrained)
        with sharing.together():
            read = self.features(self.data.train, untrained)
        self.cache = None  # training has a cache with its own model
        return read

    def estimated_classes(self, read: dict[str, Tensor]) -> int:
        """Estimate the number of classes from `untrained_features`; see `meru.metrics.clustering`.

        The processes divide the runs of k-means. Labels are those that training sees.
        """
        data, config = self.data, self.config
        images = len(read.get("features", ()))
        maximum = config.discovery.maximum_classes or min(3 * data.num_old, images)
        if data.num_old < 2 or not data.num_old <= maximum <= images or not read["labelled"].any():
            raise UserError(
                f"discovery.num_classes=estimate: up to {maximum} classes, {data.num_old} of them old, cannot be "
                f"estimated from {images} images: at least two must be old, and discovery.maximum_classes must be "
                "between the numbers of old classes and images; set it, or give discovery.num_classes as a number"
            )
        with sharing.together():
            number, _ = estimate_num_classes(
                read["features"],
                data.train.training_labels[read["image_index"]],
                read["labelled"],
                data.num_old,
                maximum=maximum,
                seed=config.seed,
            )
        known = "" if data.has_unknown else f", there are {len(data.class_names)}"
        log.info("estimated %d classes%s", number, known)
        return number

    def describe(self) -> str:
        data = self.data
        validation = self.config.discovery.get("validation")  # missing in configurations of older runs
        playing = "validation, half of the old classes play new ones: " if validation else ""
        new = len(data.class_names) - data.num_old
        unknown = f", {int((data.train.labels == UNKNOWN).sum())} of unknown classes" if data.has_unknown else ""
        kept = self.config.discovery.get("earlier_images")
        staged = f"{self.stages} stages, of earlier images {kept} remain: " if self.arriving else ""
        return playing + staged + (
            f"{len(data.train)} training images, {int(data.train.labelled.sum())} of them labelled"
            f"{described_noise(data, self.config)}{unknown}; {data.num_old} old and {new} new classes"
            f"{described_sizes(data, self.config)}, {self.config.discovery.num_classes} in the classifier"
        )

    def batches(self, pretrained: Pretrained, plan: BatchPlan, start: int) -> Iterable[dict[str, Tensor]]:
        """Load the batches; cached views are computed here, after the weights have been loaded."""
        model, transforms, train = pretrained.model, pretrained.transforms, self.data.train
        released = pretrained.model.released_batches
        found = self.epoch_state

        def neighbours(epoch: int, among: Tensor | None = None) -> Tensor:
            # A run that resumes within an epoch uses the neighbours from the weights at the start of the epoch.
            if found.get("epoch") != epoch:
                with sharing.together():  # all processes are at the start of the epoch
                    if released:
                        split = train if among is None else train.where(self.arriving.chosen(among))
                        nearest = released_neighbours(
                            self.config, split, model, transforms, epoch=epoch, device=self.device
                        )
                    else:
                        count = self.config.discovery.neighbours
                        seen = self.features(train, pretrained, pixels=pixels)
                        nearest = nearest_images(seen, images=len(train), count=count, among=among)
                found.update(neighbours=nearest, epoch=epoch)
            return found["neighbours"]

        self.use_cached_views(pretrained)
        pixels = self.cached_pixels(train.images)
        options = {
            "pixels": pixels,
            "transform": transforms.training,
            "sampler": self.config.discovery.sampler,
            "neighbours": neighbours,
            "independent": released,
            "views": self.cached_training_views(train.images, transforms),
            **self.loader_options(plan, start),
        }
        if self.arriving is None:
            return discovery_training_loader(train, **options)
        steps = self.config.trainer.epochs * (plan.batches_per_epoch // plan.accumulate) * plan.accumulate
        return staged_training_loader(
            train, self.arriving, num_classes=model.num_classes, stage_steps=steps, **options
        )

    def at_stage_end(self, pretrained: Pretrained, model: nn.Module, stage: int) -> Figures:
        """Figures on the test images of the classes that have arrived, or without any on unlabelled training images."""
        data, stages = self.data, self.arriving
        classes = stages.open_classes(stage, model.num_classes)
        split, choose = (data.test, stages.measured) if len(data.test) else (data.train, stages.unlabelled)
        read = self.features(split, pretrained._replace(model=model), classes=classes)
        if not sharing.leads():
            return {}
        figures = stage_figures(
            read, choose(split, stage), stages, stage=stage, classes=classes, earlier=self.epoch_state
        )
        if stage + 1 < self.stages:  # the table at the end of the run has the last stage
            log.info("%s", format_stages(figures, adjusted=bool(self.config.discovery.get("prior_adjustment"))))
        return finite_figures(figures)

    # ---------------------------------------------------------------- figures

    @classmethod
    def check_question(cls, asked: DictConfig, *, name: str) -> None:
        for key, wants in (("suite", "captions"), ("captions_per_image", "captions"), ("templates", "prompts")):
            if asked[key] and (key != "suite" or SUITES[asked.suite].reads_text):
                raise UserError(
                    f"{key}={asked[key]}: {name} is a run of category discovery, without {wants}; leave the key out"
                )
        if asked.split == "validation":
            raise UserError(
                "split=validation: a discovery run has no validation split; choose train (the unlabelled training "
                "images) or test, or leave it out for both"
            )

    def require_images(self, split: str | None) -> None:
        if split == "test" and not len(self.data.test):
            raise UserError("split=test: this run's data have no test images; choose train, or leave it out")

    def name_of(self, split: str | None) -> str:
        return {"train": "unlabelled training images", "test": "test images", None: "all images"}[split]

    def evaluate(self, pretrained: Pretrained, *, split: str | None = None) -> Findings:
        """Compute figures on the unlabelled training images, on the test images, and of the trees of classes.

        `tree/…` and `feature_tree/dendrogram_purity` need the training images, and classes with families. In
        `sharing.together`, the processes divide the images, and only the main one has figures.
        """
        data, adjustment = self.data, self.config.discovery.get("prior_adjustment", 0.0)  # missing in older runs
        train = self.features(data.train, pretrained) if split != "test" or adjustment else {}
        test = self.features(data.test, pretrained) if split != "train" and len(data.test) else {}
        if not sharing.leads():
            return Findings({})
        if split != "train" and len(data.test) and not test:
            log.warning("none of the %d test images decodes: no figures for them", len(data.test))
        number = pretrained.model.num_classes
        classes = {"num_old": data.num_old, "num_classes": number}
        train, test, bias = corrected(data.train, train, test, **classes, strength=adjustment)
        train = {} if split == "test" else train  # it was read for the correction only
        figures = discovery_figures(data, train, test, num_classes=number, seed=self.config.seed)
        trees = ClassTrees({}, None)
        if train:
            figures |= bias
            with optional("the trees of classes"):
                trees = class_trees(data, train, pretrained.model)
                figures |= purities(trees)
        figures |= figures_of_stages(self.epoch_state)  # empty unless the run has just been trained
        return Findings(finite_figures(figures), Answer(trees, train, test))

    def table(self, figures: Figures, title: str, *, model: nn.Module) -> str:
        adjusted = bool(self.config.discovery.get("prior_adjustment"))  # missing in older runs
        if "predicted_old/share" in figures:  # it may not have been possible
            adjusted = "predicted_old/offset" in figures
        tables = (format_discovery(figures, title, adjusted=adjusted), format_stages(figures, adjusted=adjusted))
        return "\n".join(filter(None, tables))

    def draw(self, findings: Findings, folder: Path, pretrained: Pretrained, *, logger: Any, step: int) -> None:
        """Save the predicted classes of the images, and the trees they form, as text and as plots."""
        answer = findings.details
        with optional(CLUSTERS):
            save_clusters(
                folder / CLUSTERS,
                self.data,
                answer.train,
                answer.test,
                num_classes=pretrained.model.num_classes,
                root=self.config.data.get("root"),
            )
            log.info("the predicted class of every image: %s", folder / CLUSTERS)
        save_trees(folder / TREES, answer.trees)

    def draw_trees(self, pretrained: Pretrained, folder: Path) -> list[Path]:
        """Save these trees again in the given folder; returns the files.

        Raises:
            UserError: if no image decodes, or there are fewer than three predicted classes.
        """
        seen = self.features(self.data.train, pretrained)
        if not seen:
            raise UserError(f"no training image of {self.config.data.root} decodes: restore the images")
        classes = {"num_old": self.data.num_old, "num_classes": pretrained.model.num_classes}
        strength = self.config.discovery.get("prior_adjustment", 0.0)
        seen, _, _ = corrected(self.data.train, seen, {}, **classes, strength=strength)
        trees = class_trees(self.data, seen, pretrained.model)
        if not trees.trees:
            raise UserError("the model predicts fewer than three classes, which form no tree: train it longer")
        return save_trees(folder, trees)

    # ---------------------------------------------------------------- images

    def features(
        self,
        split: DiscoverySplit,
        pretrained: Pretrained,
        *,
        pixels: CachedPixels | None = None,
        classes: int | None = None,
    ) -> dict[str, Tensor]:
        """Features of the images of a split, or of its cached pixels; see `read_features`."""
        images = discovery_evaluation_loader(
            split,
            pixels=pixels,
            rows=self.cached_images(split.images, pretrained.transforms.evaluation),
            transform=pretrained.transforms.evaluation,
            batch_size=self.config.evaluation.batch_size,
            **self.reading(),
        )
        options = {"num_old": self.data.num_old, "classes": classes}
        return read_features(pretrained.model, images, device=self.device, **options)
