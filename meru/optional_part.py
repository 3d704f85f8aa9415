"""What a run can do without: where it fails, one line says so, and the rest goes on."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from meru.errors import UserError
from meru.files import os_error_message

log = logging.getLogger("meru")


@contextlib.contextmanager
def optional(what: str) -> Iterator[None]:
    """Run a block whose failure is a warning: "`what` left out: the reason"."""
    try:
        yield
    except Exception as error:  # the training is worth more than any picture of it
        log.warning("%s left out: %s", what, reason_of(error))


def reason_of(error: Exception) -> str:
    """What went wrong, on one line; of an error that is not the user's, with its kind."""
    if isinstance(error, OSError):
        return os_error_message(error)
    message = " ".join(str(error).split())
    return message if isinstance(error, UserError) else f"{type(error).__name__}: {message}"
