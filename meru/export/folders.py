"""An output folder of the user's that appears when it is complete: nothing half-written is left behind."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from meru.data.synthetic.folder import scratch_folder
from meru.errors import UserError
from meru.files import os_error_message, output_folder


def free_folder(output: str) -> Path:
    """The path of a folder to be made.

    Raises:
        UserError: if it is a file, named like one, or is there and not empty.
    """
    folder = output_folder(output)
    if folder.is_symlink() or folder.exists():
        if not folder.is_dir():
            raise UserError(f"output={output} is there and is no folder: choose another")
        if any(folder.iterdir()):
            raise UserError(f"output={output} is not empty: choose another folder, or empty it")
    return folder


@contextlib.contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of `folder` at the end; after an error nothing is left of it.

    Raises:
        UserError: if the folder cannot be made.
    """
    above = next(parent for parent in folder.parents if parent.exists())
    made = [parent for parent in folder.parents if parent.is_relative_to(above) and parent != above]
    try:
        with scratch_folder(folder) as scratch:
            filled = scratch / folder.name
            filled.mkdir()
            yield filled
            if folder.is_dir() and not folder.is_symlink():
                folder.rmdir()  # Windows renames onto no empty folder
            filled.rename(folder)
    except OSError as error:
        raise UserError(f"output={folder}: {os_error_message(error)}", exit_code=1) from error
    finally:
        if not folder.exists():
            for parent in made:
                with contextlib.suppress(OSError):  # not empty: another process uses it
                    parent.rmdir()
