"""Hub folders: a finished model with its configuration in the files that model hubs expect.

    config.json         {"library_name": "meru", "meru": the resolved training configuration, …}
    model.safetensors   the weights
    README.md           the model card

The configuration in it names no place of the machine that it was written on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from meru.configuration.older import modernised
from meru.configuration.saved import LARGEST, SECTIONS, check_targets
from meru.errors import UserError
from meru.files import PROJECT, os_error_message, user_path, write_text
from meru.run_layout import MODEL

HUB_CONFIG = "config.json"
LIBRARY = "meru"
CARD = "README.md"
# Files and tags that a model was made from: it has its weights now, and the files exist elsewhere only by chance.
_ORIGINS = ("encoder.init", "encoder.image.weights", "encoder.text.weights")
_PLACES = ("folder", "resume")
# An absolute path of Unix or Windows or one of a home folder, alone or inside a longer text; no web address.
_PATH = re.compile(r"""(?<![\w/.:)}\]])(?:file:|~\w*(?=[\\/])|[A-Za-z]:(?=[\\/]))?[\\/]+[^\s'"`,;|]+""")
_MARK = re.compile(rf'"library_name"\s*:\s*"{LIBRARY}"|"{LIBRARY}"\s*:\s*\{{')


def is_hub_folder(path: str | Path) -> bool:
    """Whether a path is a folder with a `config.json` of this project."""
    file = user_path(path) / HUB_CONFIG
    try:
        if not file.is_file():
            return False
        with file.open(encoding="utf-8", errors="replace") as content:
            return _MARK.search(content.read(LARGEST)) is not None
    except OSError:
        return False


def read_hub_folder(path: str | Path) -> tuple[DictConfig, Path]:
    """The training configuration in a Hub folder, and the path of its weights.

    Raises:
        UserError: if a file is missing or damaged, or the configuration has a target that is not permitted.
    """
    folder = user_path(path)
    file, weights = folder / HUB_CONFIG, folder / MODEL
    config = _section(file)
    for section in SECTIONS:
        if not isinstance(config.get(section), DictConfig):
            raise UserError(f"{file}: meru.{section} is missing: download or export the folder again")
    check_targets(config, source=file)
    if not weights.is_file():
        raise UserError(f"{folder} has no weights ({MODEL} is missing): download or export the folder again")
    return config, weights


def _section(file: Path) -> DictConfig:
    try:
        if file.stat().st_size > LARGEST:
            raise UserError(f"{file} has {file.stat().st_size:,} bytes and is not a configuration: download it again")
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(os_error_message(error)) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is damaged ({' '.join(str(error).split())[:160]}): download it again") from None
    section = content.get(LIBRARY) if isinstance(content, Mapping) else None
    if not isinstance(section, Mapping):
        raise UserError(f"{file} is not of this project: it has no section {LIBRARY}")
    try:
        config = modernised(OmegaConf.create(dict(section)))
        OmegaConf.to_container(config, resolve=True)
    except (OmegaConfBaseException, RecursionError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"{file} is damaged ({reason}): download it again") from None
    return config


def write_hub_config(folder: Path, config: DictConfig, **others: object) -> None:
    """Write `config.json`.

    Args:
        folder: Exists.
        config: A training configuration; saved resolved, by `without_places`.
        others: Further entries beside the section, JSON values.
    """
    section = OmegaConf.to_container(without_places(config), resolve=True)
    content = {"library_name": LIBRARY, **others, LIBRARY: section}
    write_text(folder / HUB_CONFIG, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def without_places(config: DictConfig) -> DictConfig:
    """A resolved copy that names no place on this machine.

    Paths inside the checkout become relative to it, of others the last part stays; files of initial weights and run
    folders become null.
    """
    clean = OmegaConf.create(_clean(OmegaConf.to_container(config, resolve=True)))
    for key in (*_ORIGINS, *_PLACES):
        if OmegaConf.select(clean, key) is not None:
            OmegaConf.update(clean, key, None)
    return clean


def _clean(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _clean(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_clean(child) for child in value]
    return without_paths(value) if isinstance(value, str) else value


def without_paths(text: str) -> str:
    """A text in which every absolute path is shortened: see `without_places`."""
    text = text.replace(f"{PROJECT}/", "")
    if text.startswith(("../", "..\\")) or _PATH.match(text):
        return _last_part(text)
    return _PATH.sub(lambda found: _last_part(found[0]), text)


def _last_part(path: str) -> str:
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1] or "."
