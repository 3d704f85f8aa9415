"""Saves, reads and changes the configuration of a run.

    asked.yaml    as requested, with interpolations, so that a changed key also changes keys interpolated from it
    config.yaml   fully resolved, readable without this checkout

A run folder may come from anyone, so the targets in its configuration are checked before they are instantiated.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from meru.configuration.composing import register_resolvers
from meru.configuration.older import modernised, new_target
from meru.configuration.targets import leaves
from meru.errors import UserError
from meru.files import CHECKOUT, CONFIGS, os_error_message, user_path, write_text
from meru.run_layout import ASKED, CONFIG

register_resolvers()

SECTIONS = ("data", "encoder", "model", "optim", "trainer", "evaluation")
LARGEST = 2**20  # maximum size of a configuration in bytes
# Section → what it may instantiate: the module, including those below it, and the kind of object.
TARGETS = {
    "data.load": ("meru.data", "ImageTextData"),
    "data.load_discovery": ("meru.data", "DiscoveryData"),
    "data.load_labelled": ("meru.data", "LabelledData"),
    "data.load_label_sets": ("meru.data", "LabelSets"),
    "encoder.image": ("meru.encoders", "ImageEncoder"),
    "encoder.text": ("meru.encoders", "TextEncoder"),
    "logger": ("meru.training.loggers", "object"),
    "model": ("meru.models", "Module"),
    "optim.optimizer": ("torch.optim", "Optimizer"),
}


def save_config(folder: Path, config: DictConfig, *, asked: DictConfig | None = None) -> None:
    """Write `asked.yaml` and `config.yaml`; with the latter, the folder is a run folder.

    Args:
        folder: The run folder.
        config: The configuration for training.
        asked: The configuration as composed, if different.
    """
    asked = (config if asked is None else asked).copy()
    # Cannot be resolved on resume, or not to the same: without a checkout, paths start at the working directory.
    passing = ("${hydra:", "${project:") if CHECKOUT is None else ("${hydra:",)
    for key, raw in leaves(OmegaConf.to_container(asked, resolve=False)):
        if any(start in str(raw) for start in passing):
            OmegaConf.update(asked, key, OmegaConf.select(asked, key))
    chosen = choices_of(folder) or choices()
    text = OmegaConf.to_yaml(asked)
    if chosen:  # the chosen file of each group of configs/; not a key of the configuration
        text += OmegaConf.to_yaml({"choices": chosen})
    write_text(folder / ASKED, text)
    write_text(folder / CONFIG, OmegaConf.to_yaml(config, resolve=True))


def read_config(run: str | Path) -> DictConfig:
    """Read the configuration of a run folder with its interpolations, so that `change` affects all keys concerned.

    Manual edits of `config.yaml` since the start of the run are respected.

    Raises:
        UserError: if it is missing or unreadable, or has a target that is not permitted.
    """
    folder = user_path(run)
    path = folder / CONFIG
    if not path.is_file():
        raise UserError(f"{run} is not a run folder: {path} is missing")
    became = read_yaml(path)
    for section in SECTIONS:
        if not isinstance(became.get(section), DictConfig):
            raise UserError(f"{path} has no section {section}: restore the file")
    config = became
    if (folder / ASKED).is_file():
        config = read_yaml(folder / ASKED)
        config.pop("choices", None)
        _take_up_edits(config, became)
    check_targets(config, source=path)
    return config


def choices_of(folder: Path) -> dict[str, str]:
    """The chosen file of each group of configs/ when the run of a folder began; empty if it was not saved."""
    path = folder / ASKED
    return dict(read_yaml(path).get("choices") or {}) if path.is_file() else {}


def choices() -> dict[str, str]:
    """The chosen file of each group of configs/ on the command line; empty without one."""
    if not HydraConfig.initialized():
        return {}
    chosen = HydraConfig.get().runtime.choices
    return {group: str(name) for group, name in chosen.items() if "hydra/" not in group and name is not None}


def read_yaml(path: Path) -> DictConfig:
    """Read a YAML file of a run folder of any version, with present names of keys and resolvable interpolations.

    Raises:
        UserError: for any other file; the message names it.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise UserError(f"{path} has {path.stat().st_size:,} bytes and is not a configuration: restore the file")
        text = path.read_text(encoding="utf-8")
        if _values(yaml.compose(text, Loader=yaml.SafeLoader), {}) > len(text) + 1:
            raise UserError(f"{path} has YAML aliases that expand to far too many values: restore the file")
        config = OmegaConf.load(path)
        if not isinstance(config, DictConfig):
            raise UserError(f"{path} holds no keys and values: restore the file")
        config = modernised(config)
        OmegaConf.to_container(config, resolve=True)
    except OSError as error:
        if error.errno is None:  # OmegaConf raises this for a file with a single value
            raise UserError(f"{path} holds no keys and values: restore the file") from None
        raise UserError(f"{os_error_message(error)}") from None
    except (yaml.YAMLError, UnicodeDecodeError, OmegaConfBaseException, RecursionError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"{path} is damaged or not a configuration ({reason}): restore the file") from None
    return config


def _values(node: yaml.Node | None, known: dict[int, int]) -> int:
    """Number of values of a YAML document after expansion of its aliases; `known` caches counts of nodes."""
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) not in known:
        children = [part for each in node.value for part in (each if isinstance(each, tuple) else (each,))]
        known[id(node)] = 1 + sum(_values(child, known) for child in children)
    return known[id(node)]


def _take_up_edits(asked: DictConfig, became: DictConfig) -> None:
    """Apply values of `config.yaml` that differ from those of `asked.yaml`."""
    # A moved checkout has its data elsewhere; values that depend on its location are not edits.
    moved = asked.copy()
    for key, raw in leaves(OmegaConf.to_container(asked, resolve=False)):
        if "${project:" in str(raw):
            OmegaConf.update(moved, key, "another checkout")
    elsewhere, by_itself = (dict(leaves(OmegaConf.to_container(each, resolve=True))) for each in (moved, asked))
    for key, value in leaves(OmegaConf.to_container(became, resolve=True)):
        if by_itself.get(key, _ABSENT) != value and by_itself.get(key) == elsewhere.get(key):
            _set(asked, key, value)


_ABSENT = object()


def change(config: DictConfig, key: str, value: object) -> None:
    """Set a key and all keys interpolated from it.

    Runs of older versions did not save interpolations. For these, the interpolations of this version's configs/ apply
    if both keys have the same value.
    """
    before = OmegaConf.select(config, key)
    _set(config, key, value)
    for follower in _followers().get(key, ()):
        if OmegaConf.select(config, follower, default=_ABSENT) == before:
            _set(config, follower, value)


def _set(config: DictConfig, key: str, value: object) -> None:
    OmegaConf.update(config, key, value, merge=not isinstance(value, Mapping), force_add=True)


@functools.cache
def _followers() -> dict[str, list[str]]:
    """Key → the keys that configs/ interpolates from it."""
    followers = defaultdict(list)
    for path in sorted(CONFIGS.rglob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        place = path.parent.relative_to(CONFIGS)
        prefix = "" if "@package _global_" in text or place == Path(".") else f"{place.as_posix()}."
        for name, raw in leaves(yaml.safe_load(text) or {}):
            if form := re.fullmatch(r"\$\{([\w.]+)\}", str(raw)):
                followers[form[1]].append(prefix + name)
    return followers


# ---------------------------------------------------------------- permitted targets


def check_targets(config: DictConfig, *, source: str | Path) -> None:
    """Check that every `_target_` is permitted in its section, because Hydra would call anything that can be imported.

    `MERU_TRUST=my_project,other` in the environment permits targets below these modules in all sections.

    Args:
        config: A complete configuration.
        source: Its origin, for the message.

    Raises:
        UserError: for the first target that is not permitted; the message names it.
    """
    for place, target in _targets(OmegaConf.to_container(config, resolve=True)):
        trusted = [name for name in os.environ.get("MERU_TRUST", "").split(",") if name]
        if any(str(target).startswith(f"{name}.") for name in trusted):
            continue
        module, kind = TARGETS.get(place, (None, None))
        if module is None or not _is_of(target, module, kind):
            if (now := new_target(target)) != target:
                raise UserError(f"{source}: {place}._target_={target}: it is now {now}")
            wanted = f"there it must be one of {module}" if module else "this section has no targets"
            if module and str(target).startswith(f"{module}."):
                raise UserError(f"{source}: {place}._target_={target} is not permitted: {module} has no such {kind}")
            raise UserError(
                f"{source}: {place}._target_={target} is not permitted: {wanted}; to use your own code, name its "
                "package in the environment, MERU_TRUST=<package>"
            )


def _targets(section: object, place: str = "") -> Iterator[tuple[str, object]]:
    children: list[tuple[object, object]] = []
    if isinstance(section, Mapping):
        children = list(section.items())
        if "_target_" in section:
            yield place, section["_target_"]
    elif isinstance(section, list):
        children = list(enumerate(section))
    for key, child in children:
        yield from _targets(child, f"{place}.{key}" if place else str(key))


def _is_of(target: object, package: str, kind: str) -> bool:
    """Whether `target` is a public class of that kind below `package`, or a public function that returns one."""
    module, _, name = str(target).rpartition(".")
    if not isinstance(target, str) or name.startswith("_") or not f"{module}.".startswith(f"{package}."):
        return False
    try:
        made = getattr(importlib.import_module(module), name, None)
    except (ImportError, ValueError):
        return False
    if not str(getattr(made, "__module__", "")).startswith(package):
        return False
    if inspect.isclass(made):
        return kind in (base.__name__ for base in made.__mro__)
    return inspect.isfunction(made) and inspect.get_annotations(made).get("return") == kind
