"""Make, lock, describe and resume run folders. `meru.run_layout` defines the names of their files."""

from __future__ import annotations

import atexit
import errno
import json
import os
import platform
import socket
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import IO

import torch
from omegaconf import DictConfig, OmegaConf

from meru import distributed
from meru.configuration import absolute_paths, check, declaration, fixed_on_resume
from meru.configuration.kinds import FilePath
from meru.configuration.overrides import read_override
from meru.configuration.saved import change, choices_of, read_config, save_config
from meru.errors import UserError
from meru.files import CHECKOUT, CONFIGS, leftovers, os_error_message, remove_leftovers, user_path, write_text
from meru.run_layout import ASKED, CHECKPOINT, ENVIRONMENT, LOCK
from meru.runs.occupied import occupied

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_ABSENT = object()
_held: dict[Path, IO[str]] = {}


def make_run_folder(config: DictConfig, *, asked: DictConfig | None = None) -> Path:
    """Make a new folder with the configuration, locked by this run; the main process chooses its name for all.

    Args:
        config: The configuration for training.
        asked: The configuration as composed, if different.

    Raises:
        UserError: if the folder named by `folder` is not empty or cannot be made.
    """
    return distributed.decided_by_main(lambda: _make(config, asked))


def _make(config: DictConfig, asked: DictConfig | None) -> Path:
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    wanted = user_path(config.folder or Path(config.output) / config.name / stamp)
    try:
        folder = wanted if config.folder else _first_free(wanted)
        folder.mkdir(parents=True, exist_ok=True)
        hold(folder)
        if any(path.name not in (LOCK, ASKED) for path in set(folder.iterdir()) - set(leftovers(folder))):
            release(folder)
            raise UserError(occupied(folder, config))
        remove_leftovers(folder)
    except OSError as error:
        raise UserError(f"cannot make a run folder: {os_error_message(error)}", exit_code=1) from None
    save_config(folder, config, asked=asked)
    return folder


def _first_free(folder: Path) -> Path:
    """Make the folder, or the first free one with -2, -3, … appended, because runs may start in the same second."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    for number in count(1):
        name = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        with suppress(FileExistsError):
            name.mkdir()
            return name
    raise AssertionError("count has no end")


def save_changes(folder: Path, config: DictConfig) -> None:
    """Save the changed configuration of a resumed run, for later evaluation or resumption."""
    if OmegaConf.to_container(config, resolve=True) != OmegaConf.to_container(read_config(folder), resolve=True):
        save_config(folder, config)


def hold(folder: Path) -> None:
    """Lock a run folder against other runs until `release`, or until this process ends in any way.

    Uses a kernel lock on the file `.lock`; on file systems without locks, none.

    Raises:
        UserError: if another process holds the lock; the message names that process.
    """
    if fcntl is None or folder in _held:
        return
    path = folder / LOCK
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            # A record lock, not flock, because worker processes do not inherit it; they may end a little later.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            with file:
                if error.errno not in (errno.EACCES, errno.EAGAIN):  # no locks on this file system
                    path.unlink(missing_ok=True)
                    return
                file.seek(0)
                holder = file.read().strip() or "another process"
            message = f"{folder} is in use by {holder}: wait until that run ends, or end it"
            raise UserError(message, exit_code=1) from None
        with suppress(OSError):
            if os.fstat(file.fileno()).st_ino == path.stat().st_ino:
                break
        file.close()  # the holder has deleted the file meanwhile
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    _held[folder] = file


def release(folder: Path) -> None:
    """Unlock a run folder."""
    if file := _held.pop(folder, None):
        with suppress(OSError):
            (folder / LOCK).unlink()
        file.close()


@atexit.register
def _release_all() -> None:
    for folder in list(_held):
        release(folder)


def resumed_folder(config: DictConfig) -> Path | None:
    """The folder of the run to resume; None for a new run."""
    return user_path(config.resume) if config.resume else None


def has_begun(folder: Path) -> bool:
    """Whether there is a checkpoint to resume from."""
    return (folder / CHECKPOINT).exists()


def resumed_config(config: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The configuration of the run to resume, with the command line's overrides applied; locks the run folder.

    Called by the main process alone, which may be the only one that sees the folder.

    A recipe (`experiment`) on the command line has no effect now, but its model must be the run's. Every other override
    is applied, or refused.

    Args:
        config: The configuration as composed from the command line.
        overrides: The command line.

    Raises:
        UserError: if `resume` names a folder that is in use or is not a run folder, or a run of another model, or if a
            key is not in its configuration or can no longer change.
    """
    folder = user_path(config.resume)
    resumed, choices = read_config(folder), choices_of(folder)
    model = resumed.model._target_.rpartition(".")[2]
    words = {read_override(word)[0] for word in overrides}
    if {"experiment", "model"} & words and resumed.model._target_ != config.model._target_:
        raise UserError(f"resume={folder} is a run of {model}: use the command that began it")
    for typed in overrides:
        key, value = read_override(typed)
        word = typed.removeprefix("++")  # perhaps added by `readable`
        before = OmegaConf.select(resumed, key, default=_ABSENT)
        if word.startswith("~"):
            if before is _ABSENT:
                continue
            raise UserError(f"{word}: a resumed run keeps all its keys: leave it out")
        if key in ("resume", "experiment"):
            continue
        if (CONFIGS / key).is_dir():
            if key == "logger":
                resumed.logger = config.logger
            elif choices.get(key, value) != value:
                raise UserError(f"{word}: this run began with {key}={choices[key]}, and a resumed run keeps it")
            continue
        fixed = fixed_on_resume(key)
        # Runs of older versions lack keys that may be set now, such as data.on_error.
        known = typed.startswith("+") or OmegaConf.select(config, key, default=_ABSENT) is not _ABSENT
        if before is _ABSENT and (fixed or not known):
            raise UserError(f"{word}: the resumed run's configuration has no key {key}: leave it out")
        if not fixed:
            change(resumed, key, value)
        elif not _is_repeated(key, OmegaConf.select(config, key), resumed, folder):
            raise UserError(f"{word}: this run has {key}={before}; to change it, begin a new run")
    absolute_paths(resumed)
    check(resumed, command="train", partial=True)
    resumed.resume = str(folder)
    hold(folder)
    remove_leftovers(folder)
    return resumed


def require_data(config: DictConfig, *, key: str) -> None:
    """Check that the data of a run are in their place; a loader would generate synthetic data again elsewhere.

    Raises:
        UserError: if neither the folder exists nor the table `data.path`; the message tells the user to set `key`.
    """
    root, path = config.data.get("root"), config.data.get("path")
    if root and not user_path(root).is_dir() and not (path and user_path(path).is_file()):
        raise UserError(f"the data of this run are not at {root}: set their place with {key}=<folder>")


def _is_repeated(key: str, value: object, resumed: DictConfig, folder: Path) -> bool:
    """Whether the command line repeats a fixed key's value, either the original or the current one."""
    said = [OmegaConf.select(resumed, key)]
    if key == "folder":
        said.append(str(folder))  # the folder may have been moved
    if key == "discovery.num_classes" and "asked_num_classes" in resumed.discovery:
        said.append(resumed.discovery.asked_num_classes)
    if isinstance(declaration(key).kind, FilePath):
        value, *said = (str(user_path(each)) if isinstance(each, str) else each for each in (value, *said))
    return value in said


def environment(device: torch.device) -> dict[str, str]:
    """The device, versions and commit of a run, for reproducing its figures."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return {
        "commit": commit(),
        "device": f"{distributed.world_size()} × {name}",
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def save_environment(folder: Path, device: torch.device) -> str:
    """Write the environment into the run folder, in the main process; returns it as text on one line."""
    facts = environment(device)
    if distributed.is_main():
        write_text(folder / ENVIRONMENT, json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
    return ", ".join(f"{name} {value}" for name, value in facts.items())


def commit() -> str:
    """The checkout's commit; "unknown" without git or a checkout, or if git fails."""
    if CHECKOUT is None:
        return "unknown"
    command = ["git", "-C", str(CHECKOUT), "describe", "--always", "--dirty"]
    try:
        described = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return described.stdout.strip() or "unknown"
