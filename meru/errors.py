"""The exception for users' mistakes: scripts print it as a single line and exit with its code."""

from __future__ import annotations

from collections.abc import Sequence


class UserError(Exception):
    """An error that the user can fix: the message says what is wrong, where, and what to do.

    Args:
        message: One line, complete in itself; shown without a traceback.
        exit_code: 2 for wrong usage or configuration (the default), 1 for failures at run time.
    """

    def __init__(self, message: str, *, exit_code: int = 2):
        super().__init__(message)
        self.exit_code = exit_code


def require(value: str, choices: Sequence[str], *, key: str) -> None:
    """Raise a `UserError` about the configuration's `key` unless its value is one of the choices."""
    if value not in choices:
        raise UserError(f"{key}={value}: choose one of {', '.join(choices)}")
