"""Optional parts of a run: a failure is reported in one line, and the run goes on."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from meru.errors import UserError
from meru.files import os_error_message

log = logging.getLogger("meru")


@contextlib.contextmanager
def optional(what: str) -> Iterator[None]:
    """Run a block and turn its failure into a warning: "`what` left out: the reason"."""
    try:
        yield
    except Exception as error:  # a failed plot must not end the training
        log.warning("%s left out: %s", what, reason_of(error))


def reason_of(error: Exception) -> str:
    """The reason for an error on one line; errors other than the user's begin with their type."""
    if isinstance(error, OSError):
        return os_error_message(error)
    message = " ".join(str(error).split())
    return message if isinstance(error, UserError) else f"{type(error).__name__}: {message}"
