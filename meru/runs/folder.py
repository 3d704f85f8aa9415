"""Run folders: made, held, described, taken up again. The names of their files: `meru.run_layout`."""

from __future__ import annotations

import atexit
import errno
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
from meru.configuration.overrides import pasteable, read_override
from meru.configuration.saved import change, choices_of, read_config, save_config
from meru.errors import UserError
from meru.files import CHECKOUT, CONFIGS, leftovers, os_error_message, remove_leftovers, user_path
from meru.run_layout import ASKED, CHECKPOINT, LOCK

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_ABSENT = object()
_held: dict[Path, IO[str]] = {}


def make_run_folder(config: DictConfig, *, asked: DictConfig | None = None) -> Path:
    """A new folder with the configuration in it, held by this run; the main process decides its name for all.

    Args:
        config: As training uses it.
        asked: As it was composed, where that differs.

    Raises:
        UserError: if the folder named by `folder` holds something already, or cannot be made.
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
            go_on = pasteable("resume", folder)
            raise UserError(f"folder={folder} is not empty: choose another, or go on with {go_on}")
        remove_leftovers(folder)
    except OSError as error:
        raise UserError(f"no run folder can be made: {os_error_message(error)}", exit_code=1) from None
    save_config(folder, config, asked=asked)
    return folder


def _first_free(folder: Path) -> Path:
    """The name itself, then with -2, -3, …: two runs may start in the same second, and mkdir says who was first."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    for number in count(1):
        name = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        with suppress(FileExistsError):
            name.mkdir()
            return name
    raise AssertionError("count has no end")


def save_changes(folder: Path, config: DictConfig) -> None:
    """Keep what a resumed run does differently, for those who evaluate it or go on with it later."""
    if OmegaConf.to_container(config, resolve=True) != OmegaConf.to_container(read_config(folder), resolve=True):
        save_config(folder, config)


def hold(folder: Path) -> None:
    """Keep other runs out of a run folder until `release`, or until this process ends in whatever way.

    The lock is one of the kernel's on the file `.lock`. File systems that have no locks are worked in without.

    Raises:
        UserError: if another process holds it; it names that process.
    """
    if fcntl is None or folder in _held:
        return
    path = folder / LOCK
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            # A record lock, not flock: it is not handed down to worker processes, which may live a little longer.
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
        file.close()  # its holder has deleted it meanwhile
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    _held[folder] = file


def release(folder: Path) -> None:
    """Let others in again."""
    if file := _held.pop(folder, None):
        with suppress(OSError):
            (folder / LOCK).unlink()
        file.close()


@atexit.register
def _release_all() -> None:
    for folder in list(_held):
        release(folder)


def resumed_folder(config: DictConfig) -> Path | None:
    """The folder of the run that goes on; None for a new run."""
    return user_path(config.resume) if config.resume else None


def has_begun(folder: Path) -> bool:
    """Whether there is a checkpoint to go on from."""
    return (folder / CHECKPOINT).exists()


def resumed_config(config: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The configuration of the run to be resumed, with the command line's overrides on top; holds the run folder.

    What `experiment` chooses belongs to the run's beginning, and counts for nothing now; only the model must be the
    same, where the command line names one. Every other word acts, or is refused.

    Args:
        config: As the command line composes it.
        overrides: The command line.

    Raises:
        UserError: if `resume` names no run folder or one in use, a run of another model, or a key is not in its
            configuration or cannot change any more.
    """
    folder = user_path(config.resume)
    resumed, choices = read_config(folder), choices_of(folder)
    model = resumed.model._target_.rpartition(".")[2]
    words = {read_override(word)[0] for word in overrides}
    if {"experiment", "model"} & words and resumed.model._target_ != config.model._target_:
        raise UserError(f"resume={folder} is a run of {model}: use the command that began it")
    for word in overrides:
        key, value = read_override(word)
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
        # Runs of older versions lack keys that act from now on, say data.on_error.
        known = word.startswith("+") or OmegaConf.select(config, key, default=_ABSENT) is not _ABSENT
        if before is _ABSENT and (fixed or not known):
            raise UserError(f"{word}: the resumed run's configuration has no key {key}: leave it out")
        if not fixed:
            change(resumed, key, value)
        elif not _is_repeated(key, OmegaConf.select(config, key), resumed, folder):
            raise UserError(f"{word}: this run has {key}={before}, and a resumed run keeps it; else begin a new one")
    absolute_paths(resumed)
    check(resumed, command="train", partial=True)
    resumed.resume = str(folder)
    distributed.decided_by_main(lambda: _hold_for_resuming(folder))
    return resumed


def require_data(config: DictConfig, *, key: str) -> None:
    """See that the data of a run are where its configuration says: drawn ones would be drawn anew, anywhere.

    Raises:
        UserError: if the folder is not there; `key` says where they are instead.
    """
    root = config.data.get("root")
    if root and not user_path(root).is_dir():
        raise UserError(f"the data of this run are not at {root}: say where they are by {key}=<folder>")


def _is_repeated(key: str, value: object, resumed: DictConfig, folder: Path) -> bool:
    """Whether the command line says again what a key that is kept was when the run began, or has become since."""
    said = [OmegaConf.select(resumed, key)]
    if key == "folder":
        said.append(str(folder))  # it may have been moved
    if key == "discovery.num_classes" and "asked_num_classes" in resumed.discovery:
        said.append(resumed.discovery.asked_num_classes)
    if isinstance(declaration(key).kind, FilePath):
        value, *said = (str(user_path(each)) if isinstance(each, str) else each for each in (value, *said))
    return value in said


def _hold_for_resuming(folder: Path) -> None:
    hold(folder)
    remove_leftovers(folder)


def environment(device: torch.device) -> dict[str, str]:
    """Where and by which code a run was made: what makes its figures repeatable."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return {
        "commit": commit(),
        "device": f"{distributed.world_size()} × {name}",
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def commit() -> str:
    """The checkout's commit; "unknown" without git or checkout, or where git does not answer."""
    if CHECKOUT is None:
        return "unknown"
    command = ["git", "-C", str(CHECKOUT), "describe", "--always", "--dirty"]
    try:
        described = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return described.stdout.strip() or "unknown"
