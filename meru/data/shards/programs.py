"""Shards that a program writes to a pipe: curl for addresses, or a command of the user's."""

from __future__ import annotations

import subprocess
import tempfile
from contextlib import suppress

from meru.errors import UserError

_CURL = ("curl", "--connect-timeout", "30", "--retry", "30", "--retry-delay", "2", "-f", "-sS", "-L", "--")
_ENDED = (0, 23, 141, -13)  # also of a program whose pipe is closed before its end
_PATIENCE = 1.0  # seconds in which a program that has written everything ends


class ProgramOutput:
    """What a program writes, as a file to read.

    Args:
        url: `pipe:<command for the shell>`, or an address, which curl reads.

    Raises:
        UserError: if curl is not installed.
    """

    def __init__(self, url: str):
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `close`)
        command = url.removeprefix("pipe:")
        try:
            self._process = subprocess.Popen(
                command if command != url else [*_CURL, url],
                shell=command != url,
                stdout=subprocess.PIPE,
                stderr=self._said,
            )
        except FileNotFoundError:
            raise UserError(f"shard {url}: addresses are read with curl, which is not installed", exit_code=1) from None

    def read(self, size: int = -1) -> bytes:
        return self._process.stdout.read(size)

    def failure(self) -> str | None:
        """What the program said if it failed, on one line; None if it succeeded or is still writing."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_PATIENCE)
        code = self._process.poll()
        if code is None or code in _ENDED:
            return None
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        return " ".join(lines[-1].split())[:200] if lines else f"exit code {code}"

    def close(self) -> None:
        """End the program."""
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()
        self._said.close()
