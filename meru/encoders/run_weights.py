"""Weights of a finished run as the start of another model: what both models have is taken, and the rest is named."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from meru.configuration.kinds import text_sizes
from meru.configuration.overrides import pasteable
from meru.configuration.saved import read_config
from meru.encoders.sizes import image_size_of, with_resampled_positions
from meru.encoders.weights import fit, read_weights
from meru.errors import UserError
from meru.files import user_path
from meru.run_layout import CONFIG, MODEL

log = logging.getLogger("meru")

# What two towers of the same architecture and tokenizer have in common; other image sizes are possible.
_OF_IMAGE = (
    "encoder.image._target_", "encoder.image.name", "encoder.image.arguments", "encoder.image.norm_epsilon",
)  # fmt: skip
_OF_TEXT = (
    "encoder.text._target_", "encoder.text.name", "encoder.text.architecture", "encoder.text.context_length",
)  # fmt: skip
_OF_OPEN_CLIP = "meru.encoders.pretrained_clip.clip_image_encoder"
_PIXELS = ("pixel_mean", "pixel_std")
_DIMENSION = "encoder.embedding_dimension"
_TOWERS = ("visual", "textual")


def is_run_folder(path: str | Path) -> bool:
    """Whether a path is a run folder of this project, finished or not, rather than a file or folder of weights."""
    return (user_path(path) / CONFIG).is_file()


def start_from_run(model: nn.Module, config: DictConfig, *, what: str = "encoder.init") -> None:
    """Take the weights of the run that `encoder.init` names, as far as both models have them.

    Towers must agree; of the rest (projections, scales, other modules), what has the same name and shape is taken. One
    log line names the parameters that keep their initial values and those of the run that are not used.

    Args:
        model: Left unchanged if an error is raised.
        config: Configuration of the model, with the run folder in `encoder.init`.
        what: The config key, for messages.

    Raises:
        UserError: if the run is unfinished, or its towers, tokenizer or embedding dimension are others.
    """
    folder = user_path(config.encoder.init)
    _require_finished(folder, what=what)
    source = read_config(folder)
    weights = read_weights(folder / MODEL, what=what)
    size = source.encoder.image.get("image_size")
    weights = with_resampled_positions(model, weights, what=what, trained_for=size and image_size_of(size))
    own = model.state_dict()
    shared_text = _has(own, "textual") and _has(weights, "textual")
    _require_same_encoder(config, source, folder, text=shared_text, what=what)
    towers = [tower for tower in _TOWERS if _has(own, tower) and _has(weights, tower)]
    if not towers:
        raise UserError(f"{what}: {folder} has no tower in common with {type(model).__name__}: name another run")
    required = {name for name in own if name.partition(".")[0] in towers}
    taken = {
        name: weights[name] if name in weights and (name in required or weights[name].shape == tensor.shape) else tensor
        for name, tensor in own.items()
    }
    _require_whole_towers(required, own, weights, folder, what=what)
    if "visual" in towers:
        _require_same_pixels(own, weights, folder, what=what)
    fit(model, taken, source=str(folder), what=what, finite=True)
    kept = [name for name in own if taken[name] is own[name]]
    unused = [name for name in weights if name not in own or name in kept]
    log.info(
        "%s: %d of %d parameters taken from %s; left at their initial values: %s; not used of the run: %s",
        what,
        len(own) - len(kept),
        len(own),
        folder,
        _modules(kept),
        _modules(unused),
    )
    ours, theirs = (OmegaConf.select(each, "model.norm_exponent") for each in (config, source))
    if None not in (ours, theirs) and ours != theirs:
        log.info("%s: the run has model.norm_exponent=%s and this one %s: points begin elsewhere", what, theirs, ours)


def brings_scales(init: str | Path | None) -> bool:
    """Whether `encoder.init` sets the scales of features (alphas) of a hyperbolic model.

    Files hold a whole model with its alphas. A run has them if it trained them: CLIP has none, and those of a model on
    the sphere keep their initial values.
    """
    if not init:
        return False
    if not is_run_folder(init):
        return True
    trained = read_config(init).model
    return "space" in trained and trained.space != "sphere"


def _require_finished(folder: Path, *, what: str) -> None:
    if not (folder / MODEL).is_file():
        raise UserError(
            f"{what}: the run {folder} is not finished ({MODEL} is missing): finish it with "
            f"{pasteable('resume', folder)}, or name another run"
        )


def _require_same_encoder(config: DictConfig, source: DictConfig, folder: Path, *, text: bool, what: str) -> None:
    """Compare the configurations of towers and tokenizer, whose weights could fit by name and mean something else."""
    for key in (*_OF_IMAGE, *(_OF_TEXT if text else ()), *((_DIMENSION,) if text else ())):
        ours, theirs = (OmegaConf.select(each, key) for each in (config, source))
        if (text_sizes(ours) or ours) != (text_sizes(theirs) or theirs):
            raise UserError(
                f"{what}: {folder} is a run with {key}={theirs}, and this one has {ours}: give both the same encoder, "
                "or name another run"
            )
    key = "encoder.image.pretrained"
    ours, theirs = (OmegaConf.select(each, key) for each in (config, source))
    if config.encoder.image._target_ == _OF_OPEN_CLIP and "openai" in (ours, theirs) and ours != theirs:
        raise UserError(
            f"{what}: {folder} is a run with {key}={theirs}, and this one has {ours}: the tag openai chooses the "
            f"activation QuickGELU, so set {key}={'null' if theirs is None else theirs}"
        )


def _require_same_pixels(own: Mapping[str, Tensor], weights: Mapping[str, Tensor], folder: Path, *, what: str) -> None:
    """Compare the normalisation of images, by which the tower's weights mean something."""
    for name in (name for name in _PIXELS if name in own and name in weights):
        ours, theirs = ([round(value, 4) for value in each[name].flatten().tolist()] for each in (own, weights))
        if ours != theirs:
            listed = str(theirs).replace(" ", "")
            raise UserError(f"{what}: {folder} normalises images by another {name}: set encoder.image.{name}={listed}")


def _require_whole_towers(
    required: Iterable[str], own: Mapping[str, Tensor], weights: Mapping[str, Tensor], folder: Path, *, what: str
) -> None:
    for name in sorted(required):
        theirs = weights.get(name)
        if theirs is None or (theirs.shape != own[name].shape and theirs.numel() != own[name].numel()):
            found = "is missing" if theirs is None else f"has shape {tuple(theirs.shape)}"
            raise UserError(
                f"{what}: {folder} is a run of another architecture: its {name} {found}, {tuple(own[name].shape)} is "
                f"needed; give the keys of encoder as in {folder / CONFIG}, or name another run"
            )


def _has(weights: Iterable[str], part: str) -> bool:
    return any(name.startswith(f"{part}.") for name in weights)


def _modules(names: list[str]) -> str:
    """The modules of parameters with their numbers: `curv, local (12)`."""
    counts = Counter(name.partition(".")[0] for name in names)
    listed = [module if count == 1 else f"{module} ({count})" for module, count in counts.items()]
    return ", ".join(listed) or "none"
