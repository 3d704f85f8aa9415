"""Where a model comes from: the weights that it started from with their licences, and the command of its run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import timm
from omegaconf import DictConfig, OmegaConf

from meru.configuration.composing import compose
from meru.configuration.overrides import override
from meru.configuration.saved import choices_of, leaves, read_config
from meru.encoders.run_weights import is_run_folder
from meru.errors import UserError
from meru.files import user_path
from meru.sources.hub_folder import without_paths

OPENAI_LICENCE = "mit"
_MACHINE = ("output", "folder", "resume", "data.root", "data.workers", "data.cache", "logger", "name")


class Origin(NamedTuple):
    """Weights that a model started from.

    Attributes:
        what: Their description.
        licence: Its id on the Hub, such as `apache-2.0`; None if it is not known.
    """

    what: str
    licence: str | None


def origins(config: DictConfig, depth: int = 4) -> list[Origin]:
    """The pretrained weights that a configuration starts from; empty for a model trained from scratch.

    Runs named by `encoder.init` are followed through `depth` generations.
    """
    init = config.encoder.get("init")
    if init and is_run_folder(init):
        before = [Origin(f"a run of {read_config(init).model._target_.rpartition('.')[2]}", None)]
        return (origins(read_config(init), depth - 1) if depth else before) or []
    if init:
        return [Origin(f"the file {Path(init).name}", None)]
    found = [_origin(config.encoder[tower]) for tower in ("image", "text") if config.encoder.get(tower)]
    return list(dict.fromkeys(each for each in found if each))


def _origin(tower: DictConfig) -> Origin | None:
    if tower.get("random_weights"):
        return None
    if weights := tower.get("weights"):
        return Origin(f"the file {user_path(weights).name} for {tower.get('name')}", None)
    tag = tower.get("pretrained")
    if not tag:
        return None
    if tag is True:
        licence = timm.models.get_pretrained_cfg(tower.name).license
        return Origin(f"timm's weights of {tower.name}", licence)
    licence = OPENAI_LICENCE if tag in ("openai",) or str(tag).startswith("laion") else None
    return Origin(f"open_clip's weights of {tower.name}, tag {tag}", licence)


def common_licence(found: list[Origin]) -> str | None:
    """The licence of all these weights; None without weights, or if one is unknown or they differ."""
    licences = {origin.licence for origin in found}
    return licences.pop() if len(licences) == 1 else None


def command_of(folder: Path, config: DictConfig) -> str | None:
    """The command that begins a run like this one, without paths of this machine; None if it cannot be told.

    The run's choices of configs/ are composed again, and values that differ are added.
    """
    choices = choices_of(folder)
    if not choices:
        return None
    try:
        words = _words(choices)
        raw = OmegaConf.to_container(compose(words)[0], resolve=False)
        words += [override(key, OmegaConf.select(config, key)) for key, value in leaves(raw) if value == "???"]
        composed = OmegaConf.to_container(compose(words)[0], resolve=True)
    except (UserError, KeyError):
        return None
    before = dict(leaves(composed))
    changed = {
        key: value
        for key, value in leaves(OmegaConf.to_container(config, resolve=True))
        if before.get(key, _ABSENT) != value and not _of_machine(key) and not key.startswith("model.loss.")
    }
    # Keys interpolated from a changed one follow by themselves.
    own = OmegaConf.to_container(compose(words)[0], resolve=False)
    literal = {key for key, raw in leaves(own) if "${" not in str(raw)}
    for key, value in changed.items():
        if key in literal:
            words.append(override(key, value) if isinstance(value, str) else f"{key}={_literal(value)}")
    return without_paths(" ".join(["python scripts/train.py", *words]))


_ABSENT = object()


def _words(choices: dict[str, str]) -> list[str]:
    """The fewest words that choose these files of configs/: groups that the recipe or the defaults choose are left."""
    words = [f"experiment={choices['experiment']}"] if "experiment" in choices else []
    chosen = compose(words)[1]
    differing = {group: name for group, name in choices.items() if group not in ("experiment", "logger")}
    return words + [f"{group}={name}" for group, name in differing.items() if chosen.get(group) != name]


def _of_machine(key: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in _MACHINE)


def _literal(value: object) -> str:
    """A number, a truth value, null or a list of such in Hydra's syntax."""
    return json.dumps(value, ensure_ascii=False).replace(" ", "")
