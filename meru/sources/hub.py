"""Downloads from the model hub: the weights of a repository and what describes them, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

from meru.encoders.weight_files import FOLDER_NAMES
from meru.encoders.weights import first_cause, quietly
from meru.errors import UserError
from meru.sources.hub_folder import HUB_CONFIG
from meru.sources.open_clip_models import OPEN_CLIP_CONFIG
from meru.sources.opened import WITHOUT_NETWORK

PREFIX = "hf-hub:"
_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_DESCRIPTIONS = (HUB_CONFIG, OPEN_CLIP_CONFIG)
_ENDINGS = (".safetensors", ".pth", ".pt", ".bin")


def is_hub_id(source: str) -> bool:
    """Whether a word has the form `hf-hub:org/name`, `org/name`, or these with a file behind a further slash."""
    return source.startswith(PREFIX) or _parts(source) is not None


def _parts(source: str) -> tuple[str, str] | None:
    """The repository and the file in it, or an empty string."""
    words = source.removeprefix(PREFIX).split("/")
    name, file = "/".join(words[:2]), "/".join(words[2:])
    if not _ID.fullmatch(name) or ".." in name or (file and not file.endswith(_ENDINGS)):
        return None
    return name, file


def downloaded(source: str) -> Path:
    """The folder or file that an id of the hub names, from the local cache or downloaded into it.

    Args:
        source: `org/name`, or `org/name/file` if the repository has several files of weights.

    Raises:
        UserError: if it cannot be reached and is not in the cache, or holds no weights, or several.
    """
    if (parts := _parts(source)) is None:
        raise UserError(f"run={source}: write the id of a repository as {PREFIX}org/name, or {PREFIX}org/name/file")
    name, file = parts
    try:
        from huggingface_hub import hf_hub_download, snapshot_download
    except ImportError:
        raise UserError(f"run={source}: install huggingface_hub: pip install huggingface_hub") from None
    try:
        with quietly():
            if file:
                return Path(hf_hub_download(name, file))
            return Path(snapshot_download(name, allow_patterns=_wanted(name, source)))
    except UserError:
        raise
    except Exception as error:  # hub clients pass on the errors of their network libraries, which have no common base
        raise UserError(_unreachable(source, error)) from error


def _wanted(name: str, source: str) -> list[str]:
    """The files to download: descriptions and one file of weights, or those of an index."""
    files = _files(name)
    described = [each for each in _DESCRIPTIONS if each in files]
    if usual := next((each for each in FOLDER_NAMES if each in files), None):
        shards = [f"*{Path(usual.removesuffix('.index.json')).suffix}"] if usual.endswith(".index.json") else []
        return [*described, usual, *shards]
    weights = [each for each in files if each.endswith(_ENDINGS)]
    if len(weights) != 1:
        listed = ", ".join(f"{PREFIX}{name}/{each}" for each in weights[:6])
        found = f"several files of weights; name one: {listed}" if weights else "no weights"
        raise UserError(f"run={source} has {found}")
    return [*described, *weights]


def _files(name: str) -> list[str]:
    """Names of the repository's files, or of those in the cache if there is no network."""
    from huggingface_hub import list_repo_files, snapshot_download

    try:
        folder = Path(snapshot_download(name, local_files_only=True))
    except Exception:  # as above
        folder = None
    try:
        return list_repo_files(name)
    except Exception:
        if folder is None:
            raise
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


def _unreachable(source: str, error: Exception) -> str:
    kind = type(error).__name__
    if kind in ("RepositoryNotFoundError", "EntryNotFoundError", "GatedRepoError", "RemoteEntryNotFoundError"):
        why = "the hub has no such repository or file, or it needs a login (hf auth login)"
    else:
        why = f"it is not in the local cache, and the hub cannot be reached ({first_cause(error)})"
    return f"run={source}: there is no such folder, and of the hub: {why}; {WITHOUT_NETWORK}"
