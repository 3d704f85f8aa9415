"""What every logger offers; a failure of a logger never stops a run."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

log = logging.getLogger("meru")


class NoLogger:
    """A logger that does nothing, so that figures are only in `metrics.jsonl`; accepts the others' arguments."""

    def __init__(self, **_: object):
        pass

    def log(self, figures: Mapping[str, float | Tensor], *, step: int) -> None:
        """Do nothing."""

    def images(self, name: str, rows: list[list], columns: list[str], *, step: int) -> None:
        """Do nothing."""

    def finish(self, exit_code: int = 0) -> None:
        """Do nothing."""


class ServiceLogger:
    """A logger that writes to another program's format or service, and is switched off when that fails.

    Attributes:
        service: Its name in messages.
        run: The open run; None if there is none, or after a failure.
    """

    service: ClassVar[str]
    run: Any = None

    def guarded(self, call: Callable[[], object]) -> None:
        """Call a function; after an error, say so once and log nothing more here."""
        try:
            call()
        except Exception as error:  # no failure of logging may end the training
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            log.warning("%s failed (%s); training goes on, figures are in metrics.jsonl", self.service, reason)
            self.run = None

    def require(self, package: str) -> None:
        """Say that a package is missing; the run goes on without this logger."""
        log.warning(
            "%s needs a package that is not installed; training goes on, figures are in metrics.jsonl. To install it: "
            "pip install %s",
            self.service,
            package,
        )


class SeveralLoggers:
    """Passes everything to several loggers, the first of which `logger=` names and the others `logger.also`."""

    def __init__(self, loggers: Sequence[NoLogger | ServiceLogger]):
        self.loggers = tuple(loggers)

    def log(self, figures: Mapping[str, float | Tensor], *, step: int) -> None:
        """Log figures with every logger."""
        for logger in self.loggers:
            logger.log(figures, step=step)

    def images(self, name: str, rows: list[list], columns: list[str], *, step: int) -> None:
        """Log a table with every logger."""
        for logger in self.loggers:
            logger.images(name, rows, columns, step=step)

    def finish(self, exit_code: int = 0) -> None:
        """Close every logger."""
        for logger in self.loggers:
            logger.finish(exit_code)


AnyLogger: TypeAlias = NoLogger | ServiceLogger | SeveralLoggers


def finite_histogram(values: Tensor, *, bins: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Histogram of the finite values of a tensor of any shape: counts per bin, and the bins' edges.

    The range is wider than numpy's, which fails if values differ only by rounding, as radii of clipped points do.
    """
    numbers = values.detach().double().cpu().numpy()
    numbers = numbers[np.isfinite(numbers)]
    low, high = (numbers.min(), numbers.max()) if numbers.size else (0.0, 0.0)
    margin = 1e-3 * max(abs(low), abs(high)) or 1.0
    return np.histogram(numbers, bins=bins, range=(low - margin, high + margin))


def readable_name(name: str, folder: Path) -> str:
    """The name, with the parent folder's added if the run folder's own says little, such as `seed0` or `run_3`."""
    says_little = re.fullmatch(r"(seed|run|fold|split|trial|job|version)?[-_ ]?\d*", folder.name)
    return f"{name.removesuffix(folder.name)}{folder.parent.name}/{folder.name}" if says_little else name


def is_picture(cell: object) -> bool:
    """Whether a cell of a table is shown as an image: a path, or a tensor `(3, H, W)`."""
    return isinstance(cell, Path | Tensor)


def picture(cell: Path | Tensor) -> Image.Image:
    """A cell as an RGB image; tensors are uint8 values `(3, H, W)`."""
    if isinstance(cell, Tensor):
        return Image.fromarray(cell.to(torch.uint8).permute(1, 2, 0).cpu().numpy())
    with Image.open(cell) as image:
        return image.convert("RGB")
