"""Models from configurations, run folders and published files."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, open_dict
from torch import Tensor, nn

from meru.configuration.overrides import pasteable
from meru.configuration.saved import read_config
from meru.data.augmentation import RandomPicks
from meru.data.corruptions.training import CorruptedViews
from meru.data.inputs import Picture, Preparation
from meru.data.transforms import EvaluationTransform, Transforms, discovery_transforms, training_transform
from meru.encoders.image import ImageEncoder
from meru.encoders.run_weights import is_run_folder, start_from_run
from meru.encoders.text import CaptionTokenizer, TextEncoder
from meru.encoders.weights import load_weights
from meru.errors import UserError
from meru.files import user_path
from meru.layers.low_rank import adapt
from meru.run_layout import CONFIG, MODEL

log = logging.getLogger("meru")


class Pretrained(NamedTuple):
    """A model with the tokenizer and the image transforms that prepare its inputs.

    Gradients flow through `encode_image` and `encode_text`, as in open_clip: call them under `torch.no_grad()` where
    none are needed.

    Attributes:
        model: Has `embed_image`, `embed_text` and `similarity`; a category discovery model has `predict` instead.
        tokenizer: `tokenizer(captions)` returns the token ids `(B, L)` of a list for `embed_text`; None for models
            without a text tower.
        transforms: Map uint8 RGB `(3, height, width)` to uint8 `(3, H, W)`; stack the results for `embed_image`.
    """

    model: nn.Module
    tokenizer: CaptionTokenizer | None
    transforms: Transforms

    @property
    def transform(self) -> Preparation:
        """Map an image (a path, an image of Pillow, or uint8 `(3, H, W)`) to the model's input, uint8 `(3, S, S)`."""
        return Preparation(self.transforms.evaluation)

    @property
    def device(self) -> torch.device:
        """Where the model's weights are."""
        return next(self.model.parameters()).device

    def to(self, device: str | torch.device) -> Pretrained:
        """Move the model; inputs of the methods here follow it."""
        self.model.to(device)
        return self

    def encode_image(self, images: Picture | Sequence[Picture]) -> Tensor:
        """Embeddings `(B, D)`, float32, of images: points of the model's space.

        Args:
            images: Inputs as `transform` gives them, `(B, 3, S, S)`; or images as `transform` takes them, one or a
                list. A category discovery model gives its features `(B, W)`.

        Raises:
            UserError: for images of another size or range, and files that cannot be read.
        """
        inputs = self.transform.batch(images).to(self.device)
        return self.model.embed_image(inputs) if hasattr(self.model, "embed_image") else self.model.features(inputs)

    def encode_text(self, texts: str | Sequence[str] | Tensor) -> Tensor:
        """Embeddings `(B, D)`, float32, of sentences or of their token ids `(B, L)`: points of the model's space.

        Raises:
            UserError: if the model has no text tower, and for token ids that are not a tokenizer's.
        """
        if self.tokenizer is None:
            raise UserError(f"{type(self.model).__name__} has no text tower: it embeds images only")
        if not isinstance(texts, Tensor):
            texts = self.tokenizer([texts] if isinstance(texts, str) else texts)
        tokens = texts[None] if texts.dim() == 1 else texts
        self.tokenizer.check(tokens)
        return self.model.embed_text(tokens.to(self.device))

    def similarity(self, text: Tensor, image: Tensor) -> Tensor:
        """Similarity of every text to every image, embeddings `(T, D)`, `(I, D)` → `(T, I)`, float32.

        Cosines for CLIP, and negative distances for models in hyperbolic space; larger is more similar.
        """
        text, image = (each[None] if each.dim() == 1 else each for each in (text, image))
        return self.model.similarity(text.to(self.device), image.to(self.device))


def build(config: DictConfig) -> Pretrained:
    """Build the model that a configuration describes; load its towers' pretrained weights or `encoder.init`.

    Args:
        config: With the sections `encoder`, `model`, `loss` and `data`; for category discovery also with a number in
            `discovery.num_classes`.

    Raises:
        UserError: if weights are missing or do not fit, or if a partly frozen tower has no pretrained weights.
    """
    _require_weights_of_frozen_tower(config)
    image = instantiate(config.encoder.image, _convert_="all")
    if is_discovery(config):
        return _build_discovery(config, image)
    text = instantiate(config.encoder.text, _convert_="all")
    # `_partial_`, because Hydra would treat the encoders, which are dataclasses, as configurations.
    model = instantiate(config.model, _partial_=True, _convert_="all")(image=image, text=text)
    _load_initial_weights(model, config)
    _adapt(model, image=image, text=text)
    if augmentation := config.data.get("image_augmentation"):  # missing in configurations of older runs
        training = RandomPicks(image.image_size, **augmentation)
    else:
        training = training_transform(image.image_size, scale=config.data.crop_scale, flip=config.data.flip)
    transforms = Transforms(
        training=_corrupted(training, config),
        evaluation=EvaluationTransform(image.image_size, squash=config.data.squash),
    )
    return Pretrained(model, text.tokenizer, transforms)


def _corrupted(training: nn.Module, config: DictConfig) -> nn.Module:
    """A transform for training with the corruptions of `data.corruptions`, if there are any."""
    families = config.data.get("corruptions")  # missing in configurations of older runs
    if not families:
        return training
    return CorruptedViews(training, families=families, share=config.data.corruption_share)


def _load_initial_weights(model: nn.Module, config: DictConfig) -> None:
    """Load `encoder.init`: a file with all weights of this model, or a finished run of any model."""
    init = config.encoder.init
    if init and is_run_folder(init):
        start_from_run(model, config)
    elif init:
        load_weights(model, init, what="encoder.init", resample=True)


def _adapt(model: nn.Module, *, image: ImageEncoder, text: TextEncoder | None = None) -> None:
    """Freeze the towers with a `lora_rank`, now that their weights are loaded, and give them low-rank updates."""
    towers = {"image": (image, model.visual)} | ({"text": (text, model.textual)} if text else {})
    for name, (encoder, network) in towers.items():
        if encoder.low_rank:
            updates = adapt(network, encoder.low_rank, key=f"encoder.{name}.lora_rank")
            log.info("encoder.%s.lora_rank=%d: %d weights are updated", name, encoder.low_rank.rank, updates)
    if any(encoder.low_rank for encoder, _ in towers.values()):
        parameters = list(model.parameters())
        trained = sum(each.numel() for each in parameters if each.requires_grad)
        log.info("%d of %d parameters are trained", trained, sum(each.numel() for each in parameters))


def _require_weights_of_frozen_tower(config: DictConfig) -> None:
    """Refuse to freeze random weights, unless `random_weights` is set because a checkpoint follows or for a test."""
    for name in ("image", "text"):
        tower = config.encoder.get(name) or {}
        if tower.get("lora_rank") and not _brings_weights(config, tower):
            raise UserError(
                f"encoder.{name}.lora_rank={tower.lora_rank}: the {name} tower would keep random weights, little "
                f"changed; give weights by encoder.init, or for a tower of CLIP or timm by encoder.image.pretrained or "
                f"encoder.image.weights, or set encoder.{name}.lora_rank=null"
            )
    tower = config.encoder.image
    trained_whole = {"train_last_blocks": "null", "freeze_batch_norm": "false"}
    freezing = [key for key in trained_whole if tower.get(key) is not None and tower.get(key) is not False]
    if freezing and not _brings_weights(config, tower):
        whole = " ".join(f"encoder.image.{key}={trained_whole[key]}" for key in freezing)
        raise UserError(
            f"encoder.image.{freezing[0]}={tower[freezing[0]]}: part of {tower.name} would keep random weights; set "
            "encoder.image.weights=<file>, encoder.image.pretrained or encoder.init=<checkpoint>, or train all of it "
            f"with {whole}"
        )


def _brings_weights(config: DictConfig, tower: DictConfig) -> bool:
    """Whether a tower gets trained weights, now or from a checkpoint."""
    keys = ("weights", "pretrained", "random_weights")
    return bool(config.encoder.get("init")) or any(tower.get(key) for key in keys)


def is_discovery(config: DictConfig) -> bool:
    """Whether a configuration describes category discovery, which uses no captions."""
    return config.get("task") == "discovery"


def _build_discovery(config: DictConfig, image: ImageEncoder) -> Pretrained:
    number = config.discovery.num_classes
    model = instantiate(config.model, _partial_=True, _convert_="all")(image=image, num_classes=number)
    _load_initial_weights(model, config)
    _adapt(model, image=image)
    transforms = discovery_transforms(image.image_size, flip=config.data.flip)
    return Pretrained(model, None, transforms._replace(training=_corrupted(transforms.training, config)))


def load_run(run: str | Path) -> Pretrained:
    """Load the finished model of a run folder, in evaluation mode.

    Args:
        run: The folder, with `config.yaml` and `model.safetensors`.

    Raises:
        UserError: if one of the files is missing, broken, or does not fit the other.
    """
    run = user_path(run)
    config = read_config(run)
    if not (run / MODEL).is_file():
        finish = pasteable("resume", run)
        raise UserError(f"{run} holds no finished run ({MODEL} is missing); finish it with {finish}")
    try:
        pretrained = build(without_pretrained_weights(config))
    except Exception as error:  # classes raise anything for unsuitable arguments
        cause = error.__cause__ if isinstance(error, InstantiationException) else error
        if isinstance(cause, UserError):
            raise cause from None
        reason = " ".join(str(cause).split())[:160]
        raise UserError(
            f"{run / CONFIG} describes a model that cannot be built ({reason}): restore the file"
        ) from error
    load_weights(pretrained.model, run / MODEL, what="run")
    pretrained.model.eval()
    return pretrained


def without_pretrained_weights(config: DictConfig, *, low_rank: bool = False) -> DictConfig:
    """A copy that loads no pretrained weights: the run has its own, and the original files may be gone.

    Low-rank updates are switched off, because the weights of a finished run contain them; `low_rank` keeps them, for a
    run that goes on.
    """
    config = copy.deepcopy(config)
    config.encoder.init = None
    for tower in (config.encoder.image, config.encoder.text):
        with open_dict(tower):
            tower.random_weights = True
            if not low_rank and "lora_rank" in tower:
                tower.lora_rank = tower.lora_alpha = None
    return config
