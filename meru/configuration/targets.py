"""Reads the arguments of `_target_` functions and classes, and the keys of configs/, without imports.

Importing the targets would import PyTorch, which takes seconds; this way a mistyped key is reported at once.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import yaml  # comes with OmegaConf

from meru.files import CONFIGS, PACKAGE

LOADERS = ("data.load", "data.load_discovery", "data.load_labelled")  # sections that say how data are read


class Arguments(NamedTuple):
    """Names of keyword arguments, and whether others are allowed (`**…`)."""

    names: frozenset[str]
    others: bool


@functools.cache
def arguments_of(target: str) -> Arguments | None:
    """Arguments of a function or class of this project; None for targets elsewhere or not found."""
    module, _, name = target.rpartition(".")
    tree = _module(module)
    if tree is None:
        return None
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return _of_function(node)
        if isinstance(node, ast.ClassDef) and node.name == name:
            return _of_class(node, module, tree)
    return None


@functools.cache
def _module(name: str) -> ast.Module | None:
    if name.partition(".")[0] != "meru" or not all(part.isidentifier() for part in name.split(".")):
        return None
    path = PACKAGE.parent.joinpath(*name.split(".")).with_suffix(".py")
    return ast.parse(path.read_text(encoding="utf-8")) if path.is_file() else None


@functools.cache
def names_in(table: str) -> tuple[str, ...]:
    """The keys of a dict that stands in a module of this project or in one of its classes, in the order written there.

    Args:
        table: Its dotted path, `meru.geometry.spaces.SPACES`.
    """
    module, _, name = table.rpartition(".")
    tree = _module(module) or _module(module.rpartition(".")[0])
    assigned = (node for node in ast.walk(tree) if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Dict))
    written = next(node.value for node in assigned if isinstance(node.target, ast.Name) and node.target.id == name)
    return tuple(ast.literal_eval(key) for key in written.keys)


def _of_function(node: ast.FunctionDef) -> Arguments:
    names = {argument.arg for argument in [*node.args.args, *node.args.kwonlyargs]} - {"self", "cls"}
    return Arguments(frozenset(names), node.args.kwarg is not None)


def _of_class(node: ast.ClassDef, module: str, tree: ast.Module) -> Arguments | None:
    """Arguments of a constructor, and of its base classes as far as it passes `**…` on."""
    own = next((_of_function(each) for each in node.body if getattr(each, "name", "") == "__init__"), None)
    if own and not own.others:
        return own
    base = next((each.id for each in node.bases if isinstance(each, ast.Name)), None)
    imported = {
        alias.asname or alias.name: f"{each.module}.{alias.name}"
        for each in tree.body
        if isinstance(each, ast.ImportFrom)
        for alias in each.names
    }
    inherited = arguments_of(imported.get(base, f"{module}.{base}")) if base else None
    if own is None or inherited is None:
        return own or inherited
    return Arguments(own.names | inherited.names, inherited.others)


@functools.cache
def timm_models() -> frozenset[str]:
    """Names of the networks of the installed timm, including old names; empty if timm is not found."""
    spec = importlib.util.find_spec("timm")
    places = [Path(place) / "models" for place in (spec.submodule_search_locations or [])] if spec else []
    text = "\n".join(path.read_text(encoding="utf-8") for place in places for path in sorted(place.glob("*.py")))
    made = re.findall(r"^@register_model\s+def (\w+)", text, re.MULTILINE)
    renamed = re.findall(r"^\s+['\"](\w+)['\"]:\s*['\"]", text, re.MULTILINE)
    return frozenset([*made, *renamed])


class File(NamedTuple):
    """The contents of a file in a group of configs/, including its defaults.

    Attributes:
        name: `meru` for configs/model/meru.yaml.
        keys: The leaves by their place in the configuration, such as `loss.entailment.weight`.
        targets: Values of `_target_` keys.
    """

    name: str
    keys: frozenset[str]
    targets: frozenset[str]


@functools.cache
def files_of(group: str) -> tuple[File, ...]:
    """All files of `configs/<group>/` except bases (`_…`)."""
    folder = CONFIGS / group
    return tuple(_file(path, group) for path in sorted(folder.glob("*.yaml")) if not path.stem.startswith("_"))


def built_on(group: str, base: str) -> list[str]:
    """The files of `configs/<group>/` that build directly or indirectly on a base `_…`."""
    names: list[str] = []
    for path in sorted((CONFIGS / group).glob("*.yaml")):
        if base in (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("defaults", []):
            names += built_on(group, path.stem) if path.stem.startswith("_") else [path.stem]
    return names


def _file(path: Path, group: str) -> File:
    read: dict[str, object] = {}
    waiting = [path]
    while waiting:
        text = waiting.pop().read_text(encoding="utf-8")
        section = yaml.safe_load(text) or {}
        waiting += [path.with_name(f"{name}.yaml") for name in section.pop("defaults", []) if isinstance(name, str)]
        place = "" if "# @package _global_" in text else f"{group}."
        read = {place + name: value for name, value in leaves(section)} | read  # a file overrides its bases
    targets = {value for name, value in read.items() if name.endswith("._target_")}
    return File(path.stem, frozenset(read), frozenset(targets))


def leaves(section: Mapping, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Flatten a section: `{"a": {"b": 1}}` → `("a.b", 1)`; an empty section is a leaf."""
    for name, value in section.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def value_at(section: Mapping, key: str) -> object:
    """The value of a dotted key in nested sections; None if it is not there."""
    value: object = section
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
