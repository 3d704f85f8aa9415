"""Opens what `run=` and `meru.load` are given: a run folder, weights of other projects, a tag or an id of the hub."""

from __future__ import annotations

import os
from pathlib import Path

from torch import Tensor

from meru.assemble import Pretrained, build, load_run, without_pretrained_weights
from meru.configuration.saved import read_config
from meru.encoders.run_weights import is_run_folder
from meru.encoders.weight_files import FOLDER_NAMES
from meru.encoders.weights import load_weights, read_weights
from meru.errors import UserError
from meru.files import user_path
from meru.run_layout import CONFIG
from meru.sources import hub, image_only, open_clip_models
from meru.sources.hub_folder import is_hub_folder, read_hub_folder
from meru.sources.opened import Opened
from meru.sources.published import is_published, open_published

KINDS = (
    "the folder of a finished run, a folder or file of published weights (MERU, CLIP, HyCoCLIP, UNCHA), open_clip's "
    "<model>/<tag>, timm:<name>, or hf-hub:<org>/<name>"
)


def open_source(source: str | Path) -> Opened:
    """Open a source of a model; its weights are loaded when `pretrained` is first used.

    A path that exists is preferred to a tag or an id of the same form.

    Args:
        source: One of
            - the folder of a finished run;
            - a Hub folder of this project (`scripts/export.py format=hub`), or open_clip's;
            - a published checkpoint of MERU, CLIP, HyCoCLIP or UNCHA, or OpenAI's or open_clip's weights: a file, or
              a folder with one;
            - `ViT-B-16/openai` or `open_clip:ViT-B-16/openai`: a model and a tag of open_clip;
            - `timm:<name>`: an image tower, without text;
            - `org/name` or `hf-hub:org/name`, with `/file` behind it if there are several: a repository of the hub.

    Raises:
        UserError: if there is no such source, or it cannot be read; the message names it.
    """
    if not isinstance(source, (str, os.PathLike)):
        raise UserError(f"run={source!r}: give {KINDS}")
    path = user_path(source)
    if path.exists() or path.is_symlink():
        return _open_path(path)
    word = str(source)
    if word.startswith(image_only.PREFIX):
        return image_only.open_timm(word)
    if open_clip_models.is_tag(word):
        return open_clip_models.open_tag(word)
    if hub.is_hub_id(word) and not _looks_like_a_path(word):
        return _open_path(hub.downloaded(word), name=word.removeprefix(hub.PREFIX))
    raise UserError(f"run={source}: there is no such file or folder {path}; give {KINDS}")


def load(source: str | Path) -> Pretrained:
    """The model of a source, see `open_source`, in evaluation mode."""
    return open_source(source).pretrained


def _looks_like_a_path(word: str) -> bool:
    """Whether a word like `runs/first` begins with a folder that exists, so that it is a mistyped path."""
    return not word.startswith(hub.PREFIX) and Path(word.partition("/")[0]).is_dir()


def _open_path(path: Path, *, name: str | None = None) -> Opened:
    if is_run_folder(path):
        return Opened(read_config(path), path.name, path, has_data=True, load=lambda: load_run(path))
    if is_hub_folder(path):
        return _open_hub_folder(path, name=name or path.name)
    if (path / open_clip_models.OPEN_CLIP_CONFIG).is_file():
        return open_clip_models.open_folder(path, label=name or path.name)
    if path.is_dir() and not _has_weights(path):
        raise UserError(f"run={path} is not a run folder: {path / CONFIG} is missing; it holds no weights either")
    return _open_weights(path, name=name or path.name)


def _has_weights(folder: Path) -> bool:
    endings = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")
    return any(each.suffix in endings or each.name in (*FOLDER_NAMES, "data.pkl") for each in folder.iterdir())


def _open_hub_folder(folder: Path, *, name: str) -> Opened:
    config, weights = read_hub_folder(folder)

    def load() -> Pretrained:
        pretrained = build(without_pretrained_weights(config))
        load_weights(pretrained.model, weights, what="run")
        pretrained.model.eval()
        return pretrained

    return Opened(config, name, None, has_data=True, load=load)


def _open_weights(path: Path, *, name: str) -> Opened:
    """A file of weights that brings no configuration, or a folder with one."""
    weights = read_weights(path, what="run")
    if open_clip_models.is_open_clip(weights):
        return open_clip_models.open_file(path, weights, label=name)
    if is_published(weights):
        return open_published(weights, source=str(path), name=name)
    raise UserError(f"run={path} {_what_it_is(weights)}; give {KINDS}")


def _what_it_is(weights: dict[str, Tensor]) -> str:
    """What weights of an unknown kind probably are, from their names."""
    names = list(weights)
    first = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
    hints = {
        "vision_encoder.backbone.": "holds Hyper3-CLIP, whose text tower and projections this project does not have",
        "text_model.": "holds a model of Hugging Face's transformers: name open_clip's tag of the same weights",
        "blocks.": "holds an image tower alone: use it as encoder.image.weights of a training, or name timm:<name>",
        "visual.": "holds an image tower that is no plain vision transformer: name the folder of its run",
    }
    for mark, hint in hints.items():
        if any(each.startswith(mark) for each in names):
            return f"{hint} (its {len(names)} names begin with {first})"
    return f"holds {len(names)} tensors of no known kind ({first})"
