"""Which kind of training a configuration describes."""

from __future__ import annotations

from omegaconf import DictConfig

from meru.assemble import is_discovery
from meru.tasks.contract import Task


def task_of(config: DictConfig) -> type[Task]:
    """The kind of training that a configuration describes."""
    # Imported here: what one kind needs would delay the first step of the other.
    if is_discovery(config):
        from meru.tasks.discovery import Discovery

        return Discovery
    from meru.tasks.image_text import ImageText

    return ImageText
