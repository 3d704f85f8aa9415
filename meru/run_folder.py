"""Run folders: made, described, taken up again."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from meru import distributed
from meru.command_line import PROJECT
from meru.errors import UserError
from meru.files import user_path, write_text
from meru.overrides import pasteable, read_override
from meru.pretrained import read_config


def make_run_folder(config: DictConfig) -> Path:
    """A new folder with `config.yaml` in it; the main process decides its name for all.

    Raises:
        UserError: if the folder named by `folder` holds something already.
    """
    folder = None
    if distributed.is_main():
        stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        folder = user_path(config.folder or Path(config.output) / config.name / stamp)
        if not config.folder:
            folder = next(name for name in _numbered(folder) if not name.exists())
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            go_on = pasteable("resume", folder)
            raise UserError(f"folder={folder} is not empty: choose another, or go on with {go_on}")
        folder.mkdir(parents=True, exist_ok=True)
        save_config(folder, config)
    return distributed.broadcast(folder)


def _numbered(folder: Path) -> Iterator[Path]:
    """The name itself, then with -2, -3, …: two runs may start in the same second."""
    yield folder
    for number in range(2, 10_000):
        yield folder.with_name(f"{folder.name}-{number}")


def save_config(folder: Path, config: DictConfig) -> None:
    """Write `config.yaml`, everything resolved, so that the run can be read without this checkout's configs/."""
    text = OmegaConf.to_yaml(config, resolve=True)
    write_text(folder / "config.yaml", text)


def resumed_config(config: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The configuration of the run to be resumed, with the command line's `key=value` overrides on top.

    Choices of groups on the command line (`experiment=cub_meru`, `data=birds`) were made when the run began, and
    count for nothing now; only the model must be the same.

    Raises:
        UserError: if `resume` names no run folder, a run of another model, or a key is not in its configuration.
    """
    folder = user_path(config.resume)
    resumed = read_config(folder)
    model = resumed.model._target_.rpartition(".")[2]
    if resumed.model._target_ != config.model._target_:
        raise UserError(f"resume={folder} is a run of {model}: use the command that began it")
    for override in overrides:
        if override.startswith("~"):
            raise UserError(f"{override}: a resumed run keeps all its keys: leave it out")
        key, value = read_override(override)
        if key in ("resume", "experiment") or (PROJECT / "configs" / key).is_dir():
            continue
        if OmegaConf.select(resumed, key, default=override) is override:
            raise UserError(f"{override}: the resumed run's configuration has no key {key}")
        OmegaConf.update(resumed, key, value)
    resumed.resume = str(folder)
    return resumed


def environment(device: torch.device) -> dict[str, str]:
    """Where and by which code a run was made: what makes its figures repeatable."""
    commit = subprocess.run(
        ["git", "-C", str(PROJECT), "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return {
        "commit": commit.stdout.strip() or "unknown",
        "device": f"{distributed.world_size()} × {name}",
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
