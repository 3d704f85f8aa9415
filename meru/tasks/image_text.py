"""Training on images and captions: CLIP, MERU and the models that extend them."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig
from torch import Tensor, nn
from torch.utils.data import DataLoader

from meru import distributed
from meru.assemble import Pretrained
from meru.configuration.facts import validation_figures
from meru.data.augmentation import CaptionAugmentation, caption_augmentation
from meru.data.caption_queries import query_entries
from meru.data.families import families_by_name
from meru.data.loading import read_or_skip, reading_options, training_options
from meru.data.pairs import TrainingPairs, WordsOfViews, evaluation_loader, training_loader
from meru.data.parts import CropParts, PartWords, part_places
from meru.data.records import ImageRecord, ImageTextData
from meru.data.sampling import BatchPlan, evenly_spread
from meru.encoders.run_weights import brings_scales
from meru.errors import UserError
from meru.evaluation.image_text import evaluate_image_text
from meru.optional_part import optional
from meru.reports.tables import finite_figures, format_table
from meru.run_layout import ATTENTION
from meru.tasks.contract import Figures, Findings, Task
from meru.tasks.data import load_data
from meru.tasks.training_captions import taught_data
from meru.training.initial_radius import start_at_initial_radius
from meru.training.loggers.base import NoLogger

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger("meru")

SPLITS = ("test", "validation", "train")


class ImageText(Task):
    """Image–text runs; the validation split selects the weights, and the test split is used once."""

    validates = True
    data: ImageTextData

    def load_data(self) -> ImageTextData:
        return load_data(self.config)

    @cached_property
    def taught(self) -> Sequence[ImageRecord]:
        """The training images with the captions to train on, which evaluation does not see."""
        return taught_data(self.data, self.config.data).train

    # ---------------------------------------------------------------- training

    def complete_config(self) -> DictConfig:
        """The configuration with the figure that selects the weights, which depends on whether there are classes."""
        if self.data.shards:
            self.data.shards.check(self.config)
        train = self.taught  # here, so that what is wrong with its captions is said before a run begins
        if crops := self.crops():
            crops.check(train, self.config.data.root)
        kind, monitor = self.data.class_kind, self.config.trainer.monitor
        if monitor is None:
            completed = copy.deepcopy(self.config)
            completed.trainer.monitor = f"text_to_image/{kind}/recall@1"
            return completed
        if kind == "image" and monitor not in (names := validation_figures(kind=kind)):
            raise UserError(f"trainer.monitor={monitor}: these data have no classes; choose {names[0]} or {names[5]}")
        return self.config

    def crops(self) -> CropParts | None:
        """The source of crops for models that train on them; None for other models."""
        if not (parts := self.config.get("parts")):
            return None
        return CropParts(PartWords.of(self.config.data), crops=parts.crops, window=parts.window)

    def queries(self, pretrained: Pretrained) -> Callable[[str], dict[str, Tensor]] | None:
        """The queries of a caption as entries of its sample, for models that train on them; None for other models."""
        if not pretrained.model.reads_caption_queries:
            return None
        return partial(query_entries, words=PartWords.of(self.config.data), tokenize=pretrained.tokenizer)

    def describe(self) -> str:
        data = self.data
        if data.shards:
            return f"{data.shards.describe()}, {len(data.validation)} validation and {len(data.test)} test images"
        counted = f"{len(data.train)} training, {len(data.validation)} validation and {len(data.test)} test images"
        if data.class_kind == "image":
            return f"{counted} without classes"
        kind = "identities" if data.class_kind == "identity" else "classes"
        return f"{counted} of {len(data.class_names)} {kind}"

    def images_per_epoch(self) -> int:
        if self.data.shards:
            return self.data.shards.samples_per_epoch(world_size=distributed.world_size())
        return super().images_per_epoch()

    def prepare(self, pretrained: Pretrained, *, begun: bool) -> None:
        """Log how many captions are truncated, and set the initial radius of a hyperbolic model."""
        model, tokenizer, train = pretrained.model, pretrained.tokenizer, self.taught
        captions = [caption for record in train for caption in record.captions]
        if cut := tokenizer.count_cut(captions):
            log.info(
                "%d of %d training captions exceed the context length and are truncated", cut, len(captions)
            )
        if model.initial_radius and not begun and not brings_scales(self.config.encoder.init):
            self.use_cached_views(pretrained)
            sample = [train[index] for index in evenly_spread(len(train), 256)]
            images = self.images_of(sample, pretrained)
            captions = [record.captions[0] for record in sample]
            start_at_initial_radius(model, images, captions, tokenizer, device=self.device)

    def batches(self, pretrained: Pretrained, plan: BatchPlan, start: int) -> Iterable[dict[str, Tensor]]:
        self.use_cached_views(pretrained)
        augment_text = caption_augmentation(self.config.data.get("text_augmentation"))
        if self.data.shards:
            return self.streamed_batches(pretrained, augment_text, self.loader_options(plan, start))
        paths = [record.path for record in self.taught]
        return training_loader(
            self.taught,
            transform=pretrained.transforms.training,
            tokenize=pretrained.tokenizer,
            parts=self.crops(),
            augment_text=augment_text,
            pixels=self.cached_pixels(paths),
            views=self.cached_training_views(paths, pretrained.transforms),
            view_parts=self.cached_parts(paths, pretrained, augment_text),
            queries=self.queries(pretrained),
            **self.loader_options(plan, start),
        )

    def streamed_batches(
        self, pretrained: Pretrained, augment_text: CaptionAugmentation | None, options: Mapping[str, Any]
    ) -> Iterable[dict[str, Tensor]]:
        """Batches from shards, for `loader_options`."""
        reading = {**reading_options(self.config.data), **training_options(self.config.data)}
        pairs = TrainingPairs(
            (),
            transform=pretrained.transforms.training,
            tokenize=pretrained.tokenizer,
            seed=options["seed"],
            parts=self.crops(),
            queries=self.queries(pretrained),
            augment_text=augment_text,
            **reading,
        )
        options = {name: value for name, value in options.items() if name not in reading}
        return self.data.shards.loader(pairs, state=self.epoch_state, **options)

    def cached_parts(
        self, paths: Sequence[Path], pretrained: Pretrained, augment_text: CaptionAugmentation | None
    ) -> tuple[Tensor, WordsOfViews] | None:
        """Cached rows of a part in every view, and the words; None without a cache, and for models without parts."""
        if self.cache is None or not (parts := self.crops()):
            return None
        words = WordsOfViews(self.taught, parts, augment_text)
        rows = self.cache.rows(
            paths,
            pretrained.transforms.training,
            views=self.cache.views,
            what="parts of training images",
            window=words.window,
            window_facts=words.facts(),
        )
        distributed.wait_for_all()
        return rows, words

    def validation(self, pretrained: Pretrained) -> Callable[[nn.Module], Figures] | None:
        records = self.data.validation
        if not self.any_decodes(records):
            if records:
                log.warning("none of the %d validation images decodes: the last weights will be used", len(records))
            return None
        return lambda model: self.figures(pretrained._replace(model=model), records)

    # ---------------------------------------------------------------- figures

    def records(self, split: str | None) -> Sequence[ImageRecord]:
        """The images of a split; None: the test images."""
        return getattr(self.data, split or "test")

    def require_images(self, split: str | None) -> None:
        split = split or "test"
        records = self.records(split)
        if not records:
            others = [other for other in SPLITS if self.records(other)]
            raise UserError(f"split={split}: this run's data have no {split} images; choose {' or '.join(others)}")
        if not self.any_decodes(records):
            raise UserError(
                f"none of the {len(records)} {split} images decodes (first: {records[0].path}): restore them"
            )

    def name_of(self, split: str | None) -> str:
        return f"{split or 'test'} split"

    def evaluate(self, pretrained: Pretrained, *, split: str | None = None) -> Findings:
        records = self.records(split)
        if not self.any_decodes(records):
            missing = f"none of {len(records)} images decodes" if records else "there are no images"
            log.warning("%s: no figures", missing)
            return Findings({})
        return Findings(self.figures(pretrained, records))

    def figures(self, pretrained: Pretrained, records: Sequence[ImageRecord]) -> Figures:
        """Compute all figures on records of which at least one decodes."""
        settings = self.config.evaluation
        captions = [record.captions for record in records]
        figures = evaluate_image_text(
            pretrained.model,
            self.images_of(records, pretrained),
            captions=captions,
            class_names=self.data.class_names,
            class_kind=self.data.class_kind,
            families=families_by_name(self.data.class_names, self.config.data.get("families")),
            tokenizer=pretrained.tokenizer.batch,
            device=self.device,
            captions_per_image=settings.captions_per_image,
            templates=settings.templates or self.config.data.prompts or (),
        )
        part_of_word = PartWords.of(self.config.data).part_of
        if settings.get("pointing") and part_of_word:
            from meru.evaluation.pointing import pointing_game  # here: its figures would delay the first step

            maximum_pixels = reading_options(self.config.data)["maximum_pixels"]
            places, centres = part_places(records, pretrained.transforms.evaluation, maximum_pixels=maximum_pixels)
            figures |= pointing_game(
                pretrained.model,
                self.images_of(records, pretrained),
                captions=captions,
                places=places,
                centres=centres,
                part_of_word=part_of_word,
                tokenize=pretrained.tokenizer.batch,
                words=pretrained.tokenizer.words,
                device=self.device,
            )
        return finite_figures(figures)

    def table(self, figures: Figures, title: str, *, model: nn.Module) -> str:
        """Format retrieval and classification, and the pointing game if the model trains word attention."""
        return format_table(figures, title, pointing=model.has_word_attention)

    def plots(self, names: Sequence[str], pretrained: Pretrained, *, finished: bool) -> dict[str, Figure]:
        from meru.evaluation.sample import Subjects
        from meru.evaluation.sample_plots import sample_plots

        splits = SPLITS if finished else SPLITS[1:]
        split = next(each for each in splits if self.records(each))
        subjects = Subjects(pretrained, self.data, self.config.data, device=self.device)
        return sample_plots(names, subjects, split=split, title=f"{self.config.name}, {split} split")

    def draw(self, findings: Findings, folder: Path, pretrained: Pretrained, *, logger: Any, step: int) -> None:
        """Log a table of retrieved images, and save attention maps of words."""
        from meru.evaluation.examples import retrieved_images, save_attention

        data = self.data
        if not isinstance(logger, NoLogger) and (records := data.validation or data.test):
            with optional("the table of retrieved images"):
                images = self.images_of(records, pretrained)
                rows = retrieved_images(pretrained, images, records, device=self.device)
                columns = ["caption", "its image", *(f"found {n}" for n in range(1, len(rows[0]) - 1))]
                logger.images("retrieved", rows, columns, step=step)
        if pictures := self.config.evaluation.get("attention_pictures"):  # missing in configurations of older runs
            with optional("attention maps"):
                records = data.test or data.validation or data.train
                reading = reading_options(self.config.data)
                rows = save_attention(pictures, folder / ATTENTION, records, pretrained, **reading)
                logger.images("attention", rows, ["caption", "where its words look"], step=step)

    # ---------------------------------------------------------------- images

    def any_decodes(self, records: Sequence[ImageRecord]) -> bool:
        """Whether there is an image to evaluate on; undecodable images count unless they are skipped."""
        reading = reading_options(self.config.data)
        if reading["on_error"] != "skip":
            return bool(records)
        return any(read_or_skip(record.path, **reading) is not None for record in records)

    def images_of(self, records: Sequence[ImageRecord], pretrained: Pretrained) -> DataLoader:
        """Load the records' images in order, with the evaluation transform."""
        return evaluation_loader(
            records,
            rows=self.cached_images([record.path for record in records], pretrained.transforms.evaluation),
            transform=pretrained.transforms.evaluation,
            batch_size=self.config.evaluation.batch_size,
            **self.reading(),
        )
