"""Image towers of timm without text: `timm:<name>`."""

from __future__ import annotations

import timm
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.nn import functional as F

from meru.assemble import Pretrained
from meru.data.transforms import EvaluationTransform, Transforms, training_transform
from meru.encoders.image import ImageEncoder, encode_image
from meru.errors import UserError
from meru.sources.composed import composed_config
from meru.sources.opened import Opened, obtaining_weights

PREFIX = "timm:"


class ImageTower(nn.Module):
    """An image tower alone: embeds images by the directions of its features.

    Args:
        image: The tower.
    """

    def __init__(self, image: ImageEncoder):
        super().__init__()
        self.visual = image.network
        self.image_size = image.image_size
        self.register_buffer("pixel_mean", torch.tensor(image.pixel_mean).view(3, 1, 1))
        self.register_buffer("pixel_std", torch.tensor(image.pixel_std).view(3, 1, 1))

    def image_features(self, images: Tensor) -> Tensor:
        """Pooled features `(B, W)`, float32, of RGB images `(B, 3, S, S)`: uint8, or floating point in [0, 1]."""
        images = images.float() / 255 if images.dtype == torch.uint8 else images
        return encode_image(self.visual, (images - self.pixel_mean) / self.pixel_std)[0].float()

    def embed_image(self, images: Tensor) -> Tensor:
        """`image_features` of norm 1, `(B, W)`."""
        return F.normalize(self.image_features(images), dim=-1)

    def similarity(self, queries: Tensor, gallery: Tensor) -> Tensor:
        """Cosines of every query with every gallery item, `(Q, W)`, `(N, W)` → `(Q, N)`, float32."""
        return F.normalize(queries.float(), dim=-1) @ F.normalize(gallery.float(), dim=-1).t()


def open_timm(source: str) -> Opened:
    """An image tower with timm's weights, downloaded at the first use.

    Args:
        source: `timm:<name>`, optionally with a dot and timm's tag.

    Raises:
        UserError: if timm has no such model, or no weights for it.
    """
    name = source.removeprefix(PREFIX)
    if not timm.is_model(name.split(".")[0]):
        near = ", ".join(timm.list_models(f"*{name.split('_')[0]}*")[:5]) if name else ""
        raise UserError(f"run={source}: timm has no such model; {near or 'see timm.list_models()'} …")
    try:
        described = timm.get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError:  # an unknown tag
        described = None
    if described is None or not described.has_weights:
        tags = timm.list_pretrained(f"{name.split('.')[0]}.*")
        known = f"there are {', '.join(tags[:6])}" if tags else "it has none"
        raise UserError(f"run={source}: timm has no weights of that name; {known}")
    config = composed_config(
        "encoder=dino_vitb16",
        "model=clip",
        encoder__image__name=name,
        encoder__image__image_size=described.input_size[-1],
        encoder__image__train_last_blocks=None,
        encoder__image__train_final_layers=None,
    )
    share = described.crop_pct or 1.0
    return Opened(config, name, None, has_data=False, load=lambda: _load(config, crop_share=share))


def _load(config: DictConfig, *, crop_share: float) -> Pretrained:
    with obtaining_weights(config.encoder.image.name):
        image = instantiate(config.encoder.image, _convert_="all")
    model = ImageTower(image).eval()
    evaluation = EvaluationTransform(image.image_size, crop_share=crop_share)
    return Pretrained(model, None, Transforms(training_transform(image.image_size), evaluation))
