"""Weight files: read safely, checked against the module, one line of explanation where they do not fit."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from meru.errors import UserError
from meru.files import user_path

CHECKSUM = "blake2b"  # key of the metadata


@contextmanager
def quietly() -> Iterator[None]:
    """Inside, nothing is logged: hub clients report every retry, and one line of ours at the end is enough."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def read_weights(path: str | Path, *, what: str) -> dict[str, Tensor]:
    """The state dict in a `.safetensors` file or a PyTorch checkpoint (`weights_only=True`: no code is run).

    Args:
        path: The file. A PyTorch checkpoint may hold the weights directly or under `model` or `state_dict`.
        what: The config key or argument that named the file, for messages.

    Raises:
        UserError: if the file is missing, truncated or holds no weights.
    """
    path = user_path(path)
    if not path.is_file():
        raise UserError(f"{what}: no file {path}")
    try:
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the two libraries raise for a broken file is the file's fault
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{what}: {path} is truncated or no weight file ({reason[:160]})") from error
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise UserError(f"{what}: {path} holds no state dict")
    return content


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        expected = (file.metadata() or {}).get(CHECKSUM)
    if expected is not None and expected != checksum(weights):
        raise ValueError("its checksum does not match")
    return weights


def checksum(weights: dict[str, Tensor]) -> str:
    """Of the names, types, shapes and bytes of tensors in main memory: what safetensors files of ours carry."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(weights):
        tensor = weights[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy() if tensor.numel() else b"")
    return digest.hexdigest()


def load_weights(module: nn.Module, path: str | Path, *, what: str) -> None:
    """Load a file strictly into a module.

    Raises:
        UserError: as `read_weights`, and if names or shapes differ; the module is then left as it was.
    """
    fit(module, read_weights(path, what=what), source=str(path), what=what)


def fit(module: nn.Module, weights: dict[str, Tensor], *, source: str, what: str) -> None:
    """Load a state dict strictly; a user error names the first thing that differs."""
    own = module.state_dict()
    missing = sorted(own.keys() - weights.keys())
    unexpected = sorted(weights.keys() - own.keys())
    shapes = [name for name in own if name in weights and own[name].shape != weights[name].shape]
    for names, how in ((missing, "lacks"), (unexpected, "also holds"), (shapes, "has another shape of")):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise UserError(f"{what}: {source} is of another architecture: it {how} {names[0]}{more}")
    module.load_state_dict(weights)
