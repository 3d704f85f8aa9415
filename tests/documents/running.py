"""Runs commands of the documents as they stand there, but for the changes of their row in the table."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

from pages import RUN
from table import Row

from meru.files import PROJECT


def execute(
    words: list[str], *, here: Path, python: Path, exit_code: int = 0, project: Path = PROJECT
) -> tuple[str, str]:
    """Run a command of a document from another directory, by that Python of a virtual environment: what it prints."""
    script = next(place for place, word in enumerate(words) if (project / word).is_file())
    words = [*words[:script], str(project / words[script]), *words[script + 1 :]]
    words[0] = str(python) if words[0] == "python" else words[0]
    environment = {
        **os.environ, "VIRTUAL_ENV": str(python.parent.parent), "OMP_NUM_THREADS": "1", "NGPU": "0",
    }  # fmt: skip
    done = subprocess.run(words, cwd=here, env=environment, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == exit_code, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout, done.stderr


def try_small(command: str, row: Row, fill: Callable[[str], str], here: Path, **environment) -> None:
    """Run a command with the changes of its row, and look at what it leaves."""
    for pattern, instead in ((RUN, "{run}"), *row.change):
        command = re.sub(pattern, instead, command)
    words = [fill(word) for word in (*shlex.split(command), *row.add)]
    output = execute(words, here=here, exit_code=row.exit_code, **environment)
    assert row.says in "".join(output)
    assert not row.makes or list(here.glob(row.makes))
