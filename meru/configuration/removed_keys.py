"""Finds required keys that `~key` on the command line removed from a configuration."""

from __future__ import annotations

import functools

import yaml

from meru.configuration.targets import LOADERS, files_of, leaves, value_at
from meru.errors import UserError
from meru.files import CONFIGS

# Groups whose files have few keys in common.
NEEDED = (
    "encoder.image._target_", "encoder.image.name", "encoder.embedding_dimension", "encoder.initial_radius",
    "encoder.init", "optim.optimizer._target_", "optim.optimizer._partial_", "optim.learning_rate",
    "optim.weight_decay", "logger._target_",
)  # fmt: skip


def check_needed(plain: dict) -> None:
    """Refuse a configuration from which `~key` on the command line removed a required key."""
    needed = [*_own_keys(), *NEEDED]
    targets = {
        "data": {value_at(plain, f"{loader}._target_") for loader in LOADERS},
        "model": {value_at(plain, "model._target_")},
    }
    for group, values in targets.items():
        found = [file for file in files_of(group) if file.targets & values]
        if found:
            common = frozenset.intersection(*(file.keys for file in found))
            needed += sorted(key for key in common if not key.startswith(LOADERS))
    if key := next((key for key in needed if not _is_present(plain, key)), None):
        raise UserError(f"{key} was removed, and a run needs it: leave ~{key} out, or give {key}=<value>")


def _is_present(plain: dict, key: str) -> bool:
    """Whether the configuration has the key, or one of its sections is null."""
    for name in key.split("."):
        if plain is None:
            return True
        if not isinstance(plain, dict) or name not in plain:
            return False
        plain = plain[name]
    return True


@functools.cache
def _own_keys() -> tuple[str, ...]:
    read = yaml.safe_load((CONFIGS / "train.yaml").read_text(encoding="utf-8"))
    return tuple(key for key, _ in leaves(read) if not key.startswith(("hydra", "defaults")))
