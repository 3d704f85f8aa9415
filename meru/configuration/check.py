"""Validates a whole configuration before a run begins: kinds, ranges, unknown keys, unused keys."""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Iterator
from difflib import get_close_matches
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from meru.configuration.declarations import DECLARED
from meru.configuration.facts import check_facts
from meru.configuration.key import Key
from meru.configuration.kinds import Plain, Section
from meru.configuration.older import replacement
from meru.configuration.removed_keys import check_needed
from meru.configuration.suite_settings import check_settings
from meru.configuration.targets import LOADERS, File, arguments_of, files_of, value_at
from meru.errors import UserError
from meru.files import user_path

GROUPS = ("data", "encoder", "model", "optim", "logger", "experiment")
# Sections whose keys are the arguments of their `_target_`.
CALLS = (*LOADERS, "encoder.image", "encoder.text", "model", "logger", "optim.optimizer")
OF_MODEL = ("loss", "parts", "discovery", "task", "evaluation.attention_pictures")
# Names of keys in other programs.
SHORT = {"lr": "optim.learning_rate", "wd": "optim.weight_decay", "num_workers": "data.workers"}
OPTIMIZERS = {  # those of configs/optim, listed here to avoid importing PyTorch
    "torch.optim.AdamW": {"betas", "eps", "amsgrad", "maximize", "foreach", "capturable", "differentiable", "fused"},
    "torch.optim.SGD": {"momentum", "dampening", "nesterov", "maximize", "foreach", "differentiable", "fused"},
}


def declaration(key: str, *, command: str = "train") -> Key | None:
    """The declaration of a key, by its own name or by an open section (`optim.multipliers.*`)."""
    declared = DECLARED[command]
    if key.startswith("model.loss."):  # a copy of `loss`
        key = key.removeprefix("model.")
    if key in declared:
        return declared[key]
    while key:
        key = key.rpartition(".")[0]
        if f"{key}.*" in declared:
            return declared[f"{key}.*"]
    return None


def fixed_on_resume(key: str) -> bool:
    """Whether a resumed run refuses another value for a key of configs/train.yaml."""
    known = declaration(key)
    return bool(known and known.fixed)


def check(config: DictConfig, *, command: str, partial: bool = False, typed: Collection[str] | None = None) -> None:
    """Raise an error for the first invalid key.

    Args:
        config: The composed configuration without the section `hydra`; interpolations must resolve.
        command: `train` or `evaluate`, which have different keys.
        partial: For configurations of older versions, which may have unknown keys and lack known ones.
        typed: Keys on the command line. Only these must be keys of this model or data set, because a recipe sets keys
            of its own model, which `model=clip` may have replaced. None: all keys must.

    Raises:
        UserError: with one line that names the key, its value and the allowed values.
    """
    try:
        plain = OmegaConf.to_container(config, resolve=True)
        nodes = list(_nodes(config, plain, command=command))
    except OmegaConfBaseException as error:
        if missing := re.search(r"Missing mandatory value: (\S+)", str(error)):
            raise UserError(f"{missing[1]}= is missing: give it a value") from error
        raise UserError(f"configuration: {' '.join(str(error).split())}") from error
    for literal in (True, False):  # report the key that was set, not one interpolated from it
        for key, value, is_literal in nodes:
            if is_literal == literal:
                own = typed is None or _is_typed(key, typed)
                _check_key(key, value, plain, command=command, partial=partial, own=own)
    if command == "train":
        if not partial:
            check_needed(plain)
        check_facts(plain)
    elif not partial:
        check_settings(plain)


def absolute_paths(config: DictConfig, *, command: str = "train") -> None:
    """Make every path absolute with `meru.files.user_path`, in place.

    Interpolations are kept, because they follow the key that they name.
    """
    plain = OmegaConf.to_container(config, resolve=False)
    for key, value, literal in _nodes(config, plain, command=command):
        known = declaration(key, command=command)
        if literal and known and known.kind.is_path and isinstance(value, str) and value != "???":
            OmegaConf.update(config, key, str(user_path(value)))


def unknown_key(key: str, *, command: str) -> UserError:
    """An error for an undeclared key that suggests the key that was probably meant."""
    if (command == "train" or key.startswith("data.")) and (now := replacement(key)):
        return UserError(f"{key}: this key is now {now}")
    names = [name for name in DECLARED[command] if not name.endswith("*")]
    if near := nearest_keys(key, command=command):
        return UserError(f"{key}: no such key; did you mean {' or '.join(near)}?")
    place = key.rpartition(".")[0]
    while place and place not in _sections(command):
        place = place.rpartition(".")[0]
    start = f"{place}." if place else ""
    inside = dict.fromkeys(name[len(start) :].partition(".")[0] for name in names if name.startswith(start))
    listed = ", ".join(list(inside)[:20]) + (", …" if len(inside) > 20 else "")
    return UserError(f"{key}: no such key; {place or 'the configuration'} has {listed} (all: docs/keys.md)")


def absent_key(key: str) -> UserError:
    """An error for a key, misspelt or not, that the chosen files of configs/ lack."""
    names = [name for name in DECLARED["train"] if not name.endswith("*")]
    if declaration(key) is None or (key not in names and nearest_keys(key, command="train")):
        return unknown_key(key, command="train")
    files = [f"{group}={file.name}" for group in ("data", "model") for file in files_of(group) if key in file.keys]
    if files:
        more = ", …" if len(files) > 6 else ""
        return UserError(f"{key}: the chosen files have no such key; it comes with {', '.join(files[:6])}{more}")
    return UserError(f"{key}: the chosen files leave this key out; to add it, write +{key}=<value>")


def nearest_keys(key: str, *, command: str) -> list[str]:
    """At most three keys that `key` may mean: of its name in another section, like it in its own, like it anywhere."""
    names = [name for name in DECLARED[command] if not name.endswith("*")]
    place, _, last = key.rpartition(".")
    elsewhere = [name for name in names if name.rpartition(".")[2] == last]
    if len(elsewhere) in (1, 2) and all(name.count(".") == key.count(".") for name in elsewhere):
        return elsewhere
    siblings = {name.rpartition(".")[2]: name for name in names if name.rpartition(".")[0] == place}
    if near := get_close_matches(last, siblings, n=1, cutoff=0.7):
        return [siblings[near[0]]]
    if last in SHORT:
        return [SHORT[last]]
    if len(elsewhere) in (1, 2):
        return elsewhere
    if place in _sections(command):
        return []
    deep = key.count(".")
    alike = [name for name in [*names, *sorted(_sections(command))] if name.count(".") == deep]
    if near := get_close_matches(key, alike, n=1, cutoff=0.8):
        return near
    if place.partition(".")[0] in _sections(command):
        return []
    return [name for name in names if name.endswith(f".{last}")][:3]


def _nodes(config: DictConfig, plain: dict, *, command: str, prefix: str = "") -> Iterator[tuple[str, Any, bool]]:
    """Every leaf: its key, its value, and whether the value is literal rather than interpolated."""
    for name in config:
        key, value = f"{prefix}{name}", plain[name]
        node = config._get_node(name)
        literal = not OmegaConf.is_interpolation(config, name)
        known = declaration(key, command=command)
        is_leaf = known is not None and not isinstance(known.kind, Section) and key not in _sections(command)
        if isinstance(value, dict) and value and not is_leaf:
            if literal:  # interpolated sections are checked at their origin
                yield from _nodes(node, value, command=command, prefix=f"{key}.")
        else:
            literal = literal and not (isinstance(node, ListConfig) and _has_interpolation(node))
            yield key, value, literal


def _has_interpolation(node: ListConfig) -> bool:
    return any(OmegaConf.is_interpolation(node, position) for position in range(len(node)))


def is_known(key: str, *, command: str) -> bool:
    """Whether a name is that of a key, a section or a group of files."""
    return key in GROUPS or is_section(key, command=command) or declaration(key, command=command) is not None


def is_section(key: str, *, command: str) -> bool:
    """Whether a name has keys below it."""
    return key in _sections(command)


@functools.cache
def _sections(command: str) -> set[str]:
    """Names that have keys below them."""
    parts = [name.split(".") for name in DECLARED[command]]
    return {".".join(each[:length]) for each in parts for length in range(1, len(each))} | {"model.loss"}


def _is_typed(key: str, typed: Collection[str]) -> bool:
    return any(key == each or key.startswith(f"{each}.") for each in typed)


def _check_key(key: str, value: object, plain: dict, *, command: str, partial: bool, own: bool) -> None:
    known = declaration(key, command=command)
    if known is None and key in _sections(command):
        if isinstance(value, dict):
            return
        raise UserError(f"{key}={shown(value)}: this is a section; give its keys: {key}.<key>=<value>")
    if known is None:
        if partial:
            return
        if not _is_argument(key, plain):
            raise unknown_key(key, command=command)
        known = Key(Plain(), null=True)
    if value == "???":
        raise UserError(f"{key}= is missing: give {known.allowed}")
    if not known.takes(value):
        dotted = isinstance(value, dict) and key.startswith("optim.multipliers.")
        hint = "; put a name with dots in braces: '+optim.multipliers={local.predictor: 1.0}'" if dotted else ""
        raise UserError(f"{key}={shown(value)}: give {known.allowed}{hint}")
    if command == "train" and not partial:
        _check_room(key, plain, own=own)


def shown(value: object) -> str:
    """Format a value as on the command line, shortened."""
    if isinstance(value, dict):
        text = "{" + ",".join(f"{name}: {shown(each)}" for name, each in value.items()) + "}"
    elif isinstance(value, (list, tuple)):
        text = "[" + ",".join(shown(each) for each in value) + "]"
    elif value is None or isinstance(value, bool):
        text = {None: "null", True: "true", False: "false"}[value]
    else:
        text = f"{value:g}" if isinstance(value, float) and abs(value) >= 1e6 else str(value)
    text = " ".join(text.replace("\0", "\\0").split())
    return text if len(text) <= 100 else f"{text[:99]}…"


# ---------------------------------------------------------------- unused keys


def _is_argument(key: str, plain: dict) -> bool:
    """Whether an undeclared key is an argument of a user's own function."""
    section = next((each for each in CALLS if key.startswith(f"{each}.")), None)
    if section is None or "." in key.removeprefix(f"{section}."):
        return False
    target = value_at(plain, f"{section}._target_")
    taken = arguments_of(target) if isinstance(target, str) else None
    if taken is None:
        return isinstance(target, str) and not target.startswith(("meru.", "torch."))
    return key.rpartition(".")[2] in taken.names


def _check_room(key: str, plain: dict, *, own: bool) -> None:
    """Refuse a declared key that this model, data set, tower or optimizer does not have.

    `own` says whether the user set it. A key from a recipe is refused only if a constructor would not accept it.
    """
    section = next((each for each in CALLS if key.startswith(f"{each}.")), None)
    if section:
        name = key.removeprefix(f"{section}.").partition(".")[0]
        target = value_at(plain, f"{section}._target_")
        if name in ("_target_", "_partial_") or not isinstance(target, str):
            return
        names, others = _taken(section, target)
        if names is not None and name not in names and not others:
            known = f"{section} may have {', '.join(sorted(names))}" if names else "it has no arguments"
            advice = known if own else f"the recipe sets it, so remove it with ~{key}"
            raise UserError(f"{key}: {target.rpartition('.')[2]} does not take it; {advice}")
        return
    if not own:
        return
    if key.startswith("data."):
        targets = {value_at(plain, f"{loader}._target_") for loader in LOADERS}
        _check_files(key, "data", targets)
    elif any(key == each or key.startswith(f"{each}.") for each in OF_MODEL):
        _check_files(key, "model", {value_at(plain, "model._target_")})


def _taken(section: str, target: str) -> tuple[set[str] | frozenset[str] | None, bool]:
    """Arguments of a target except those that the program sets; None if they are unknown."""
    if section == "optim.optimizer":
        return _optimizer_arguments(target), False
    taken = arguments_of(target)
    given = {"model": {"image", "text", "num_classes"}, "logger": {"folder", "config", "name", "identity"}}
    if taken is None:
        return None, True
    beside = {"also"} if section == "logger" else set()  # other loggers, which the run makes
    return taken.names - given.get(section, set()) | beside, taken.others and section != "logger"


def _optimizer_arguments(target: str) -> set[str] | None:
    if target in OPTIMIZERS or target.rpartition(".")[0] != "torch.optim":
        return OPTIMIZERS.get(target)
    import inspect

    import torch

    found = getattr(torch.optim, target.rpartition(".")[2], None)
    return set(inspect.signature(found).parameters) - {"params", "lr", "weight_decay"} if found else None


def _check_files(key: str, group: str, targets: set[str | None]) -> None:
    found = [file for file in files_of(group) if file.targets & targets]
    if not found or _has(found, key):
        return
    others = [file.name for file in files_of(group) if _has([file], key)]
    where = f": {', '.join(others[:6])}{', …' if len(others) > 6 else ''}" if others else ""
    what = "data set" if group == "data" else "model"
    raise UserError(
        f"{key}: this {what} ({group}={found[0].name}) has no such key{f'; those that have it{where}' if where else ''}"
    )


def _has(files: list[File], key: str) -> bool:
    place = key.rpartition(".")[0]
    open_section = f"{place}.*" in DECLARED["train"]
    return any(key in file.keys or (open_section and any(k.startswith(place) for k in file.keys)) for file in files)
