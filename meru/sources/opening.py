"""Opens what `run=` and `meru.load` are given: a run folder, weights of other projects, a tag or an id of the Hub."""

from __future__ import annotations

from pathlib import Path

from meru.assemble import Pretrained, load_run
from meru.configuration.saved import read_config
from meru.files import user_path
from meru.sources.opened import Opened


def open_source(source: str | Path) -> Opened:
    """Open a source of a model; its weights are loaded when `pretrained` is first used.

    Args:
        source: The folder of a finished run.

    Raises:
        UserError: if there is no such source, or it cannot be read; the message names it.
    """
    folder = user_path(source)
    return Opened(read_config(folder), folder.name, folder, has_data=True, load=lambda: load_run(folder))


def load(source: str | Path) -> Pretrained:
    """The model of a source, see `open_source`, in evaluation mode."""
    return open_source(source).pretrained
