"""Some images of a split with their captions, classes and families, as points of a model's space: for figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms.v2 import Compose

from meru.assemble import Pretrained
from meru.data.families import families_by_name
from meru.data.loading import ordered_loader, read_or_skip, reading_options
from meru.data.records import ImageRecord, ImageTextData
from meru.data.sampling import evenly_spread
from meru.data.workers import worker_options
from meru.errors import UserError
from meru.evaluation.image_text import embed_captions, embed_images
from meru.geometry.spaces import Space

CAPTIONS_OF_IMAGE = 5
BATCH_SIZE = 64


@dataclass(frozen=True)
class Group:
    """Classes, families, or everything: averages of the captions of several images.

    Attributes:
        names: G names.
        points: `(G, D)`.
        members: Rows of the sample's images in each group.
    """

    names: tuple[str, ...]
    points: Tensor
    members: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Texts:
    """Captions of some images, and what they have in common.

    Attributes:
        records: The images, n of them.
        captions: m captions, those of each image together.
        points: `(m, D)`.
        image_of: Row of each caption's image, int64 `(m,)`, ascending.
        groups: `class`, `family` and `everything`; only those that the data have.
    """

    records: tuple[ImageRecord, ...]
    captions: tuple[str, ...]
    points: Tensor
    image_of: Tensor
    groups: Mapping[str, Group]

    def first(self) -> Tensor:
        """Row of the first caption of each image, `(n,)`."""
        return torch.searchsorted(self.image_of, torch.arange(len(self.records), device=self.image_of.device))


@dataclass(frozen=True)
class Sample:
    """Points of some images and of texts about them.

    Attributes:
        space: Where the points lie.
        images: Points of n images, `(n, D)`.
        texts: Their captions and groups; `texts.records` are the images.
    """

    space: Space
    images: Tensor
    texts: Texts

    @property
    def records(self) -> tuple[ImageRecord, ...]:
        """The images."""
        return self.texts.records


class Subjects:
    """A model and data to take samples of.

    Args:
        pretrained: The model, with a text tower, and its transforms.
        data: Images with captions.
        section: The configuration's section `data`.
        device: The model's device.
    """

    def __init__(self, pretrained: Pretrained, data: ImageTextData, section: Mapping, *, device: torch.device):
        self.pretrained, self.data, self.section, self.device = pretrained, data, section, device
        self.model = pretrained.model

    def records(self, split: str, count: int) -> list[ImageRecord]:
        """At most `count` images, evenly spread over a split.

        Raises:
            UserError: if the split is empty.
        """
        every = getattr(self.data, split)
        if not every:
            raise UserError(f"split={split}: the data have no {split} images; choose another split")
        return [every[index] for index in evenly_spread(len(every), count)]

    def embed_images(
        self, records: Sequence[ImageRecord], change: Callable[[Tensor], Tensor] | None = None
    ) -> dict[str, Tensor]:
        """As `meru.evaluation.image_text.embed_images`; `change` is applied to each image before the transform.

        Raises:
            UserError: if no image decodes.
        """
        transform, reading = self.pretrained.transforms.evaluation, reading_options(self.section)
        if reading["on_error"] == "skip" and all(read_or_skip(each.path, **reading) is None for each in records):
            raise UserError(f"none of the {len(records)} images decodes (first: {records[0].path}): restore them")
        batches = ordered_loader(
            [record.path for record in records],
            {"class_index": torch.tensor([record.class_index for record in records])},
            transform=Compose([change, transform]) if change else transform,
            batch_size=BATCH_SIZE,
            **worker_options(self.section),
            **reading,
        )
        return embed_images(self.model, batches, device=self.device)

    @torch.no_grad()
    def embed_image(self, image: Tensor) -> Tensor:
        """Point `(D,)` of an image, uint8 RGB `(3, H, W)`."""
        picture = self.pretrained.transforms.evaluation(image)
        return self.model.embed_image(picture[None].to(self.device))[0]

    def embed_captions(self, captions: Sequence[str]) -> Tensor:
        """Points of captions, `(m, D)`."""
        tokenize = self.pretrained.tokenizer.batch
        return embed_captions(self.model, captions, tokenizer=tokenize, device=self.device)

    def sample(self, split: str, count: int) -> Sample:
        """Embed at most `count` images of a split, and captions of them; the model must be in evaluation mode.

        Raises:
            UserError: if the split is empty, or no image decodes.
        """
        records = self.records(split, count)
        found = self.embed_images(records)
        kept = [records[index] for index in found["image_index"].tolist()]
        return Sample(self.model.space, found["embeddings"], self.texts(kept))

    @torch.no_grad()
    def texts(self, records: Sequence[ImageRecord], *, captions_of_image: int = CAPTIONS_OF_IMAGE) -> Texts:
        """Embed the first captions of each image, and average them by class, by family, and all."""
        captions = [record.captions[:captions_of_image] for record in records]
        flat = [caption for some in captions for caption in some]
        points = self.embed_captions(flat)
        counts = torch.tensor([len(some) for some in captions])
        image_of = torch.arange(len(records)).repeat_interleave(counts).to(self.device)
        groups = self.groups([record.class_index for record in records], points, image_of)
        return Texts(tuple(records), tuple(flat), points, image_of, groups)

    def groups(self, classes: Sequence[int], texts: Tensor, image_of: Tensor) -> dict[str, Group]:
        """The averages of captions by class, by family of at least two classes, and of all.

        Args:
            classes: Class of each image.
            texts: Points of captions, `(m, D)`.
            image_of: Row of the image of each caption, `(m,)`.
        """
        everything = Group(("all captions",), self.model.average(texts)[None], (tuple(range(len(classes))),))
        found = {"everything": everything}
        if self.data.class_kind != "class":
            return found
        names = self.data.class_names
        families = families_by_name(names, self.section.get("families"))
        found["class"] = self._averages([names[index] for index in classes], texts, image_of)
        if families:
            of_image = [families[index] for index in classes]
            count = Counter(families[index] for index in set(classes))
            several = {family for family, number in count.items() if number > 1}
            if several:
                labels = [family if family in several else None for family in of_image]
                found["family"] = self._averages(labels, texts, image_of)
        return found

    def _averages(self, labels: Sequence[str | None], texts: Tensor, image_of: Tensor) -> Group:
        """The average of the captions of all images with a label; images without one are left out."""
        names = tuple(dict.fromkeys(label for label in labels if label is not None))
        members = tuple(tuple(row for row, label in enumerate(labels) if label == name) for name in names)
        points = [texts[torch.isin(image_of, torch.tensor(rows, device=image_of.device))] for rows in members]
        return Group(names, torch.stack([self.model.average(each) for each in points]), members)
