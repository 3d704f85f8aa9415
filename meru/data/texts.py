"""Reads the lists and captions of data sets, in the encodings and with the line ends of any system."""

from __future__ import annotations

import codecs
import json
import os
import stat
from pathlib import Path

from meru.errors import UserError
from meru.files import os_error_message

_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_text(
    path: str | Path,
    *,
    encoding: str | None = None,
    advice: str = "convert it to UTF-8, or restore the file",
    needed: str = ": the data set needs this file",
) -> str:
    """The text of a file; line ends become LF.

    Args:
        path: The file.
        encoding: Python's name of its encoding; None: UTF-8, or UTF-16 with a byte order mark.
        advice: What to do if it is in another encoding.
        needed: What the message about a file that cannot be read ends with.

    Raises:
        UserError: if the file is missing, not an ordinary file, or in another encoding; the message names it.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # reading a pipe might never end
            raise UserError(f"{path} is not an ordinary file{needed}")
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        reason = error.strerror or os_error_message(error)
        raise UserError(f"{path} cannot be read ({reason}){needed}") from None
    if content.startswith(b"version https://git-lfs"):
        raise UserError(f"{path} is a Git LFS pointer: run `git lfs pull`")
    encoding = encoding or ("utf-16" if content.startswith(_UTF_16) else "utf-8-sig")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not {encoding.removesuffix('-sig').upper()} (byte {error.start}): {advice}"
        ) from None
    if "\0" in text:
        raise UserError(f"{path} is not UTF-8 but UTF-16 without a byte order mark, or not text: convert it to UTF-8")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: Path) -> object:
    """The value in a JSON file; for JSON Lines, the list of values.

    Raises:
        UserError: as `read_text`; or if the file is not JSON.
    """
    text = read_text(path)
    try:
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            lines = [line for line in text.split("\n") if line.strip()]
            if error.msg != "Extra data" or len(lines) < 2:
                raise
            return [json.loads(line) for line in lines]
    except ValueError as error:
        raise UserError(f"{path} cannot be read as JSON ({error}): restore the file") from None
    except RecursionError:
        raise UserError(f"{path} cannot be read as JSON (nested too deeply): restore the file") from None
