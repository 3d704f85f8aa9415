"""Names that keys and targets had in older versions.

Run folders of those versions are read under the new names; whoever types an old name is told the new one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TypeAlias

from omegaconf import DictConfig, OmegaConf

Names: TypeAlias = tuple  # of a key: a name may hold a dot itself: multipliers of `local.predictor`

# Modules that a `_target_` may name → where they are now.
MOVED_MODULES = {
    "meru.data.birds": "meru.data.synthetic.birds.load",
    "meru.data.cub": "meru.data.datasets.cub",
    "meru.data.discovery_fine_grained": "meru.data.datasets.fine_grained",
    "meru.data.discovery_generic": "meru.data.datasets.generic",
    "meru.data.pedestrians": "meru.data.synthetic.pedestrians.load",
    "meru.data.person_search": "meru.data.datasets.person_search",
}
# Keys, or sections with all that is in them → their name now.
RENAMED_KEYS: dict[str, str] = {}


def new_target(target: object) -> object:
    """The present name of what a `_target_` names; the same where nothing was renamed."""
    module, _, name = str(target).rpartition(".")
    return f"{MOVED_MODULES[module]}.{name}" if module in MOVED_MODULES else target


def new_key(key: str) -> str | None:
    """The present name of a key of an older version; None if it is not one."""
    section, rest = key, ""
    while section:
        if section in RENAMED_KEYS:
            return RENAMED_KEYS[section] + rest
        section, _, last = section.rpartition(".")
        rest = f".{last}{rest}"
    return None


def modernised(config: DictConfig) -> DictConfig:
    """The configuration of a run of any version, under the present names; interpolations stay what they are.

    Args:
        config: As read from a file of a run folder.
    """
    values = {key: _with_new_names(value) for key, value in _leaves(OmegaConf.to_container(config, resolve=False))}
    return OmegaConf.create(_nested(_with_new_keys(values)))


def _with_new_keys(values: Mapping[Names, object]) -> dict[Names, object]:
    """Leaves under their present keys; an old key's value counts where the new one was interpolated from it."""
    renamed = {path: tuple(new.split(".")) for path in values if (new := new_key(".".join(path)))}
    kept = {path: value for path, value in values.items() if path not in renamed}
    for old, new in renamed.items():
        to_itself = f"${{{'.'.join(new)}}}"
        if kept.get(new, to_itself) == to_itself:
            kept[new] = values[old]
    return kept


def _with_new_names(value: object) -> object:
    """A value with the present names in what it interpolates, or as a target."""
    if not isinstance(value, str):
        return value
    value = re.sub(r"\$\{([\w.]+)\}", lambda form: f"${{{new_key(form[1]) or form[1]}}}", value)
    return new_target(value)


def _leaves(section: Mapping, prefix: Names = ()) -> Iterator[tuple[Names, object]]:
    for name, value in section.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, (*prefix, name))
        else:
            yield (*prefix, name), value


def _nested(values: Mapping[Names, object]) -> dict:
    nested: dict = {}
    for path, value in values.items():
        section = nested
        for name in path[:-1]:
            section = section.setdefault(name, {})
        section[path[-1]] = value
    return nested
