"""Paths given by the user, and atomic writing of files."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from meru.errors import UserError

PACKAGE = Path(__file__).resolve().parent
# The repository; None in an installed wheel, which has its own copy of configs/ inside the package.
CHECKOUT = None if (PACKAGE / "configs").is_dir() else PACKAGE.parent
CONFIGS = (CHECKOUT or PACKAGE) / "configs"
# Base of relative paths in configs/, such as those of data: the repository, or else the working directory.
PROJECT = CHECKOUT or Path.cwd()

_LEFTOVER = re.compile(r"\..+\.(\d+)\.tmp")
_NO_FSYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOSYS)
_ENDINGS_OF_FILES = {
    *(".safetensors", ".onnx", ".pth", ".pt", ".bin", ".json", ".jsonl", ".yaml", ".csv", ".md", ".txt", ".log"),
    *(".png", ".jpg", ".jpeg", ".svg", ".pdf"),
}
_DEVICES = (Path("/dev"), Path("/dev/fd"), Path("/proc/self/fd"))
_ADVICE = {
    errno.ENOSPC: "the disk is full: make room and start again",
    errno.EDQUOT: "the disk quota is used up: delete something, or write elsewhere",
    errno.EROFS: "the file system is read-only: choose another place",
    errno.EACCES: "no permission: choose another place, or change its permissions",
    errno.EPERM: "no permission: choose another place, or change its permissions",
    errno.EMFILE: "too many open files: raise the limit (`ulimit -n 4096`), or lower data.workers",
    errno.ENFILE: "too many open files on this machine: lower data.workers",
    errno.EFBIG: "the file would be larger than `ulimit -f` or the file system allows",
    errno.ENOMEM: "not enough memory: lower data.workers or data.batch_size",
    errno.EAGAIN: "no more processes or memory: lower data.workers, or raise `ulimit -u`",
    errno.EIO: "the disk or network drive failed: check it, then start again",
    errno.ESTALE: "the network drive is no longer mounted: mount it again, then start again",
    errno.ENOTCONN: "the network drive is no longer mounted: mount it again, then start again",
    errno.ENAMETOOLONG: "the name is too long: choose a shorter one",
    errno.ELOOP: "symbolic links point at each other: repair them",
    errno.ENOTDIR: "a part of the path is a file: choose another place",
    errno.EISDIR: "it is a folder: name a file",
    errno.ENOENT: "it does not exist: check the path",
    errno.EEXIST: "something else has that name: choose another place",
}


def user_path(path: str | Path) -> Path:
    """Make a user's path absolute: `~` is the home folder, relative paths start at the working directory.

    Symbolic links are not resolved.

    Raises:
        UserError: for an unknown home folder, or a path that no file system accepts.
    """
    if "\0" in str(path):
        raise UserError(f"{str(path)!r}: a path cannot hold a NUL character")
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError:
        raise UserError(f"{path}: the home folder behind ~ is unknown: write the whole path") from None


def output_file(output: str | Path, *, example: str, also: tuple[str, ...] = ()) -> Path:
    """The path of a file that the user names for a result, refused before any work if it cannot be written.

    Args:
        output: The user's value of `output`. Devices and pipes, such as /dev/stdout, are accepted.
        example: A name with the ending that the file must have, as other programs recognise its format by it.
        also: Other endings that the file may have, such as `.svg`.

    Raises:
        UserError: for a folder, another ending, or a place that is in no folder or without permission.
    """
    path, ending = user_path(output), Path(example).suffix
    if path.is_dir():
        raise UserError(f"output={output} is a folder: name a file in it, {path / example}")
    if _is_no_file(path):
        return path
    if path.suffix.lower() not in (ending, *also):
        named, formats = path.with_suffix(ending).name, " or ".join(each[1:].upper() for each in (ending, *also))
        raise UserError(f"output={output}: the file is written as {formats}: name it, for instance, {named}")
    _require_place(path, output)
    return path


def output_folder(output: str | Path) -> Path:
    """The path of a folder that the user names for results, which need not exist.

    Raises:
        UserError: if it is a file, named like one, or in a place that is no folder or without permission.
    """
    path = user_path(output)
    if path.is_file():
        raise UserError(f"output={output} is a file: name a folder")
    if path.suffix.lower() in _ENDINGS_OF_FILES and not path.is_dir():
        raise UserError(f"output={output} is named like a file: name a folder, {path.with_suffix('')}")
    _require_place(path, output)
    return path


def _require_place(path: Path, output: str | Path) -> None:
    above = next(each for each in path.parents if each.exists())
    if not above.is_dir():
        raise UserError(f"output={output}: {above} is a file, not a folder: choose another place")
    if not os.access(above, os.W_OK | os.X_OK):
        raise UserError(f"output={output}: no permission to write in {above}: choose another place")


def os_error_message(error: OSError) -> str:
    """Describe on one line what went wrong, where, and what to do."""
    number = errno.ENOSPC if "No space left" in str(error) else error.errno
    reason = error.strerror or " ".join(str(error).split()) or type(error).__name__
    places = [str(name) for name in (error.filename, error.filename2) if name is not None]
    where = f"{' → '.join(places)}: " if places else ""
    advice = _ADVICE.get(number)
    return f"{where}{reason}{f' ({advice})' if advice else ''}"


def write_atomically(path: Path, write: Callable[[BinaryIO], object], *, advice: str | None = None) -> None:
    """Call `write` with a temporary file beside `path`, force the bytes to disk, then rename.

    A process that is killed meanwhile leaves the temporary file behind: see `remove_leftovers`. The file's mode follows
    the umask. Devices and pipes, such as /dev/null, are written to directly and not replaced.

    Args:
        path: The file, in a folder that exists.
        write: Called with a binary file, open for writing.
        advice: What to do if writing fails; appended to the error message.

    Raises:
        UserError: if the file cannot be written; a previous file at `path` is kept.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if _is_no_file(path):
            with path.open("wb") as file:
                write(file)
            return
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:  # torch's zip writer turns disk errors into a RuntimeError
        reason = error if isinstance(error, OSError) else error.__context__
        if not isinstance(reason, OSError):
            reason = OSError(str(error).splitlines()[0])
        kept = f"; the previous {path.name} is kept" if path.is_file() else ""
        raise UserError(
            f"cannot write {path}: {os_error_message(_without_place(reason))}{kept}{f': {advice}' if advice else ''}",
            exit_code=1,
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _is_no_file(path: Path) -> bool:
    """Whether a path is a device, a pipe, or a name like /dev/stdout, which may refer to a file."""
    return path.parent in _DEVICES or (path.exists() and not path.is_file() and not path.is_dir())


def make_folder_of(path: Path) -> None:
    """Make the parent folders of a file that the user named.

    Raises:
        UserError: if one cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {path}: {os_error_message(_without_place(error))}", exit_code=1) from None


def write_text(path: Path, text: str, *, advice: str | None = None) -> None:
    """Write a text atomically in UTF-8, with LF line endings on every system."""
    write_atomically(path, lambda file: file.write(text.encode("utf-8", "surrogateescape")), advice=advice)


def leftovers(folder: Path) -> list[Path]:
    """Temporary files that `write_atomically` could not remove, because its process was killed."""
    return [path for path in folder.iterdir() if _LEFTOVER.fullmatch(path.name)]


def remove_leftovers(folder: Path) -> None:
    """Delete those files. Call this only for a folder that no other process writes into."""
    for path in leftovers(folder):
        with suppress(OSError):
            path.unlink()


def _sync_folder(folder: Path) -> None:
    """Make a rename durable where the file system supports it; SMB, FUSE and WSL's mounts do not."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows cannot open folders
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FSYNC:
            raise
    finally:
        os.close(descriptor)


def _without_place(error: OSError) -> OSError:
    """The same error without the temporary file's name, which would mean nothing to a user."""
    return OSError(error.errno, error.strerror) if error.errno else error
