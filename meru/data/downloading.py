"""Downloads large files: an interrupted download goes on where it stopped, and a finished one is verified."""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import urllib.error
import urllib.request
from pathlib import Path

from tqdm import tqdm

from meru.errors import UserError
from meru.files import os_error_message

TIMEOUT = 60.0  # seconds without a byte, after which a connection counts as dead
ATTEMPTS = 5  # connections in a row that bring nothing new
_READ = 2**20  # bytes at a time
_RANGE_NOT_SATISFIABLE = 416

log = logging.getLogger("meru")


def download(address: str, path: Path, *, md5: str) -> None:
    """Download a file to `path`, or what is missing of it: bytes that are there already are kept.

    If it breaks off, it is tried again from there, and `path` keeps the bytes for the next call. Servers that cannot
    send a part of a file begin anew.

    Args:
        address: Of the file, http or https.
        path: In a folder that exists. It holds the complete, verified file afterwards.
        md5: Of the whole file, in hexadecimal digits.

    Raises:
        UserError: if the server cannot be reached or does not have the file, the disk is full, or the file is another
            one, in which case it is deleted.
    """
    if path.is_file() and _md5(path) == md5:
        return
    failures = 0
    while True:
        before = _size(path)
        try:
            _fetch(address, path)
            break
        except urllib.error.HTTPError as error:
            raise UserError(f"download of {address} failed ({error})", exit_code=1) from error
        except (OSError, http.client.HTTPException) as error:
            failures = failures + 1 if _size(path) == before else 0
            reason = os_error_message(error) if isinstance(error, OSError) else str(error) or type(error).__name__
            if failures >= ATTEMPTS or _is_of_disk(error):
                raise UserError(f"download of {address} failed ({reason}); {_kept(path)}", exit_code=1) from error
            log.warning("the download broke off (%s): going on at %s", reason, _megabytes(_size(path)))
    if (found := _md5(path)) != md5:
        path.unlink()
        raise UserError(
            f"download of {address} failed (its MD5 is {found}, not {md5}): it is deleted, try again", exit_code=1
        )


def _fetch(address: str, path: Path) -> None:
    """Append what is missing; raises ConnectionError if the server closes the connection before the end."""
    begun = _size(path)
    request = urllib.request.Request(address, headers={"Range": f"bytes={begun}-"} if begun else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if begun and error.code == _RANGE_NOT_SATISFIABLE:  # the file has no more bytes
            return
        raise
    with response:
        goes_on = response.status == http.HTTPStatus.PARTIAL_CONTENT
        if begun:
            log.info("going on at %s" if goes_on else "this server cannot go on at %s: from the start",
                     _megabytes(begun))  # fmt: skip
        done = begun if goes_on else 0
        left = response.headers.get("Content-Length")
        total = None if left is None else done + int(left)
        with (
            open(path, "ab" if goes_on else "wb") as file,
            tqdm(total=total, initial=done, unit="B", unit_scale=True, disable=None) as bar,
        ):
            while block := response.read(_READ):
                file.write(block)
                done += len(block)
                bar.update(len(block))
    if total is not None and done < total:
        raise ConnectionError(f"the connection ended at {_megabytes(done)} of {_megabytes(total)}")


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(_READ):
            digest.update(block)
    return digest.hexdigest()


def _is_of_disk(error: Exception) -> bool:
    """Whether an error is of writing the file; errors of connections have no file name."""
    return isinstance(error, OSError) and (error.filename is not None or "No space left" in str(error))


def _kept(path: Path) -> str:
    size = _size(path)
    return f"{_megabytes(size)} are kept in {path}, the same command goes on from there" if size else "try again"


def _size(path: Path) -> int:
    return os.path.getsize(path) if path.is_file() else 0


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
