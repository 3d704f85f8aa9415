"""Models of open_clip: a tag (`ViT-B-16/openai`), a file of weights, or a folder with `open_clip_config.json`."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path

import open_clip
from torch import Tensor

from meru.assemble import Pretrained, build
from meru.encoders.weight_files import weight_file
from meru.errors import UserError
from meru.sources.composed import composed_config
from meru.sources.opened import Opened, obtaining_weights

log = logging.getLogger("meru")

PREFIX = "open_clip:"
OPEN_CLIP_CONFIG = "open_clip_config.json"
_IN_ARCHIVE = "input_resolution"  # OpenAI's archives store it among the weights; their towers have QuickGELU


def is_tag(source: str) -> bool:
    """Whether a word is `open_clip:<model>/<tag>`, or `<model>/<tag>` of a model that open_clip has."""
    return source.startswith(PREFIX) or source.partition("/")[0] in open_clip.list_models()


def open_tag(source: str) -> Opened:
    """A model of open_clip by its name and tag, downloaded at the first use.

    Raises:
        UserError: for an unknown model, or a tag that it does not have.
    """
    name, _, tag = source.removeprefix(PREFIX).partition("/")
    if name not in open_clip.list_models():
        raise UserError(f"run={source}: open_clip has no model {name}; see open_clip.list_models()")
    tags = open_clip.list_pretrained_tags_by_model(name)
    if tag not in tags:
        known = f"write one of {', '.join(f'{name}/{each}' for each in tags)}" if tags else "it has no weights"
        raise UserError(f"run={source}: open_clip has no such weights of {name}; {known}")
    return _opened(f"{name}/{tag}", name, pretrained=tag)


def is_open_clip(weights: Mapping[str, Tensor]) -> bool:
    """Whether names are those of a CLIP model with a vision transformer by OpenAI or open_clip."""
    return "visual.conv1.weight" in weights and "positional_embedding" in weights


def open_file(path: Path, weights: Mapping[str, Tensor], *, label: str) -> Opened:
    """A local file with OpenAI's or open_clip's weights; the model is found by its shapes.

    Args:
        path: The file, or a folder with one.
        weights: Its weights.
        label: The source's name in titles.

    Raises:
        UserError: if names are missing, or open_clip has no model of these shapes.
    """
    shape = _shape_of_weights(weights, source=path)
    names = [name for name in open_clip.list_models() if _shape_of_config(open_clip.get_model_config(name)) == shape]
    if not names:
        listed = ", ".join(f"{value} {what}" for value, what in zip(shape, _SHAPE, strict=True))
        raise UserError(f"run={path}: open_clip has no model of these shapes: {listed}")
    plain = [name for name in names if "quickgelu" not in name.lower()]
    name = min(plain or names, key=len)
    archived = _IN_ARCHIVE in weights
    how = "with QuickGELU, as OpenAI's archives" if archived else "with GELU; for other activations give its tag"
    log.info("%s is read as open_clip's %s, %s", path.name, name, how)
    return _opened(label, name, pretrained="openai" if archived else None, weights=path)


def open_folder(folder: Path, *, label: str) -> Opened:
    """A folder of the Hub with `open_clip_config.json` and weights; `label` is its name in titles.

    Raises:
        UserError: if one of the files is missing or damaged, or open_clip has no such model.
    """
    file = folder / OPEN_CLIP_CONFIG
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        wanted, preparation = content["model_cfg"], content.get("preprocess_cfg") or {}
        described = _described(wanted)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"run={folder}: {OPEN_CLIP_CONFIG} is damaged ({error!r}): download it again") from None
    weight_file(folder, what="run")
    names = [name for name in open_clip.list_models() if _described(open_clip.get_model_config(name)) == described]
    if not names:
        raise UserError(f"run={folder}: open_clip has no model with this model_cfg: update open_clip")
    return _opened(label, names[0], weights=folder, mean=preparation.get("mean"), std=preparation.get("std"))


def _opened(
    label: str,
    name: str,
    *,
    pretrained: str | None = None,
    weights: Path | None = None,
    mean: list[float] | None = None,
    std: list[float] | None = None,
) -> Opened:
    described = open_clip.get_model_config(name)
    config = composed_config(
        "encoder=clip_vit_b16",
        "model=clip",
        encoder__image__name=name,
        encoder__image__pretrained=pretrained,
        encoder__image__weights=str(weights) if weights else None,
        encoder__image__pixel_mean=mean,
        encoder__image__pixel_std=std,
        encoder__embedding_dimension=described["embed_dim"],
    )

    def load() -> Pretrained:
        with obtaining_weights(label):
            made = build(config)
        made.model.eval()
        return made

    return Opened(config, label, None, has_data=False, load=load)


# What the numbers of a shape are.
_SHAPE = (
    "image width", "image blocks", "pixels a patch", "pixels an image", "text width", "text blocks", "tokens known",
    "tokens a text", "dimensions of the embedding",
)  # fmt: skip


def _shape_of_weights(weights: Mapping[str, Tensor], *, source: Path) -> tuple[int, ...]:
    """The numbers of `_SHAPE`."""
    try:
        kernel, positions = weights["visual.conv1.weight"], weights["visual.positional_embedding"]
        projection, words = weights["text_projection"], weights["token_embedding.weight"]
        context = weights["positional_embedding"]
        patch = kernel.shape[3]
        size = round((len(positions) - 1) ** 0.5) * patch
        layers = [len({name.split(".")[at] for name in weights if name.startswith(start)}) for start, at in _BLOCKS]
        shape = (len(kernel), layers[0], patch, size, words.shape[1], layers[1], len(words), len(context))
        return (*shape, projection.shape[1])
    except (KeyError, IndexError) as error:
        raise UserError(f"run={source} is only a part of a CLIP model: it lacks {error}") from None


_BLOCKS = (("visual.transformer.resblocks.", 3), ("transformer.resblocks.", 2))


def _shape_of_config(config: Mapping) -> tuple[int, ...] | None:
    """The same of a configuration of open_clip; None for towers of other libraries and residual networks."""
    image, text = config["vision_cfg"], config["text_cfg"]
    if "timm_model_name" in image or "hf_model_name" in text or not isinstance(image.get("layers", 12), int):
        return None
    keys = (("width", 768), ("layers", 12), ("patch_size", 16), ("image_size", 224))
    text_keys = (("width", 512), ("layers", 12), ("vocab_size", 49408), ("context_length", 77))
    return (*(image.get(*key) for key in keys), *(text.get(*key) for key in text_keys), config["embed_dim"])


def _described(config: Mapping) -> tuple:
    """What distinguishes models with the same names of parameters; of other towers the whole configuration."""
    shape = _shape_of_config(config)
    return (shape, bool(config.get("quick_gelu"))) if shape else (dict(config),)
