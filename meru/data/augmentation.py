"""Augmentation of person images and their captions, as in TBPS-CLIP.

Cao et al., "An Empirical Study of CLIP for Text-based Person Search", AAAI 2024. All random numbers
come from torch's default generator, so a training sample stays a pure function of its seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from meru.data.records import ImageRecord
from meru.data.views import RandomCropView
from meru.encoders.sizes import ImageSize, sides
from meru.errors import UserError, require

INTERPOLATIONS = {mode: v2.InterpolationMode(mode) for mode in ("bilinear", "bicubic")}


def augmentation_pool(image_size: ImageSize, *, interpolation: str = "bicubic") -> dict[str, nn.Module]:
    """The operations that `RandomPicks` chooses from, by name; each maps uint8 `(3, H, W)` to the same shape."""
    return {
        "colour": v2.ColorJitter(brightness=0.1, contrast=0.1, saturation=0.1),
        "rotation": v2.RandomRotation(15),
        "crop": RandomCropView(image_size, scale=(0.9, 1.0), interpolation=INTERPOLATIONS[interpolation]),
        "grey": v2.RandomGrayscale(0.1),
        "flip": v2.RandomHorizontalFlip(),
        "erasing": v2.RandomErasing(scale=(0.1, 0.2)),  # fills with black
    }


class RandomPicks(nn.Module):
    """Resizes an image without cutting and applies operations drawn at random from a pool, with replacement.

    Args:
        image_size: Side of the result, or its height and width.
        pool: Names from `augmentation_pool`.
        picks: Number of operations applied.
        interpolation: For the resize and the crops: `bilinear`, as in TBPS-CLIP, or `bicubic`.

    Raises:
        UserError: for an unknown name, `picks` below 0, or another interpolation.
    """

    def __init__(self, image_size: ImageSize, *, pool: Sequence[str], picks: int = 2, interpolation: str = "bicubic"):
        super().__init__()
        require(interpolation, tuple(INTERPOLATIONS), key="data.image_augmentation.interpolation")
        known = augmentation_pool(image_size, interpolation=interpolation)
        if unknown := [name for name in pool if name not in known]:
            raise UserError(f"data.image_augmentation.pool has no {unknown[0]}: choose from {', '.join(known)}")
        if picks < 0:
            raise UserError(f"data.image_augmentation.picks={picks}: it must be at least 0")
        self.picks = picks if pool else 0
        self.resize = v2.Resize(sides(image_size), interpolation=INTERPOLATIONS[interpolation])
        self.pool = nn.ModuleList(known[name] for name in pool)

    def spare(self, height: int, width: int) -> float:
        """How many times smaller an image of that size may be without being enlarged."""
        down, across = self.resize.size
        return min(height / down, width / across)

    def forward(self, image: Tensor) -> Tensor:
        """uint8 `(3, height, width)` → uint8 `(3, H, W)`."""
        image = self.resize(image)
        for _ in range(self.picks):
            image = self.pool[int(torch.randint(len(self.pool), ()))](image)
        return image


class CaptionAugmentation:
    """Leaves out words of a caption, or replaces the caption with its back-translation.

    Args:
        word_deletion: Probability that a word is left out (Wei and Zou, "EDA", EMNLP 2019); one word always stays.
        back_translation: Probability that the back-translation replaces the caption, if there is one.

    Raises:
        UserError: for a probability outside [0, 1].
    """

    def __init__(self, *, word_deletion: float = 0.05, back_translation: float = 0.1):
        for key, value in (("word_deletion", word_deletion), ("back_translation", back_translation)):
            if not 0 <= value <= 1:
                raise UserError(f"data.text_augmentation.{key}={value}: it must be a probability, from 0 to 1")
        self.word_deletion, self.back_translation = word_deletion, back_translation

    def __call__(self, record: ImageRecord, number: int) -> str:
        """Caption `number` of the record, augmented."""
        caption = record.captions[number]
        if record.back_translations and torch.rand(()) < self.back_translation:
            caption = record.back_translations[number]
        words = caption.split()
        kept = torch.rand(len(words)) >= self.word_deletion
        if not kept.any():
            kept[torch.randint(len(words), ())] = True
        return " ".join(word for word, keep in zip(words, kept.tolist(), strict=True) if keep)


def caption_augmentation(settings: Mapping[str, float] | None) -> CaptionAugmentation | None:
    """The augmentation configured by `data.text_augmentation`; None without one."""
    return CaptionAugmentation(**settings) if settings else None
