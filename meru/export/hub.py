"""Writes the files of a Hub folder that `meru.load` reads, and uploads a folder, only on request."""

from __future__ import annotations

import json
import re
from pathlib import Path

from omegaconf import DictConfig
from safetensors.torch import save
from torch import nn

import meru
from meru.encoders.weights import CHECKSUM, checksum, first_cause, quietly
from meru.errors import UserError
from meru.files import write_atomically
from meru.run_layout import MODEL
from meru.sources.hub_folder import LIBRARY, write_hub_config

_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"


def write_model(folder: Path, config: DictConfig, model: nn.Module, **others: object) -> None:
    """Write `config.json` and `model.safetensors`.

    Args:
        folder: Exists.
        config: The training configuration of the model.
        model: Its weights are saved with a checksum that `meru.encoders.weights.read_weights` verifies.
        others: Further entries of `config.json` and of the metadata of the weights, JSON values.
    """
    facts = {"version": meru.__version__, "architecture": type(model).__name__, **others}
    write_hub_config(folder, config, **facts)
    # safetensors refuses tensors that share or skip memory
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in facts.items()}
    content = save(plain, metadata={"format": "pt", "library": LIBRARY, CHECKSUM: checksum(plain), **texts})
    write_atomically(folder / MODEL, lambda file: file.write(content))


def check_target(repository: str) -> None:
    """Raise a `UserError` unless a name can be that of a repository, `organisation/name`."""
    if not re.fullmatch(f"{_PART}/{_PART}", repository) or "--" in repository or ".." in repository:
        raise UserError(
            f"push_to_hub={repository}: give organisation/name (or user/name), of letters, digits, '-', '_' and '.'"
        )
    try:
        import huggingface_hub  # noqa: F401
    except ImportError:
        raise UserError("push_to_hub needs huggingface_hub: pip install huggingface_hub") from None


def push(folder: Path, repository: str, *, private: bool) -> str:
    """Upload a folder to a repository of the Hub, which is made if it is not there; returns a line with its address.

    Raises:
        UserError: without a token, permission or network; the folder itself is complete by then.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        with quietly():
            api.create_repo(repository, private=private, exist_ok=True)
            address = api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Upload the model")
    except Exception as error:  # the client passes on the errors of its network library
        raise UserError(
            f"push_to_hub={repository}: not uploaded ({_reason(error)}); the folder {folder} is complete: log in with "
            f"`hf auth login`, then `hf upload {repository} {folder}`",
            exit_code=1,
        ) from error
    return f"uploaded: {getattr(address, 'commit_url', address)}"


def _reason(error: Exception) -> str:
    """A word on the usual causes, and the innermost error."""
    cause = first_cause(error)
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403) or "token" in str(error).lower():
        return "no token, or one without permission to write"
    return cause
