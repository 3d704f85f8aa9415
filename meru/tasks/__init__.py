"""Kinds of training: what an image–text run and a discovery run do differently."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from meru.tasks.contract import Task


def task_of(config: DictConfig) -> type[Task]:
    """The kind of training that a configuration describes."""
    from meru.assemble import is_discovery  # here, so that `meru.tasks.columns` does not wait for PyTorch
    from meru.tasks.discovery import Discovery
    from meru.tasks.image_text import ImageText

    return Discovery if is_discovery(config) else ImageText
