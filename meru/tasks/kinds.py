"""Which kind of training a configuration describes."""

from __future__ import annotations

from omegaconf import DictConfig

from meru.assemble import is_discovery
from meru.tasks.contract import Task
from meru.tasks.discovery import Discovery
from meru.tasks.image_text import ImageText


def task_of(config: DictConfig) -> type[Task]:
    """The kind of training that a configuration describes."""
    return Discovery if is_discovery(config) else ImageText
