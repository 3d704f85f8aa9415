"""Image–text models and category discovery in hyperbolic space."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meru.assemble import Pretrained

__version__ = "0.1.0"


def load(run: str | Path) -> Pretrained:
    """Load the finished model of a run folder with its tokenizer and image transforms; see `meru.assemble.load`."""
    from meru.assemble import load  # imported here to keep `import meru` fast

    return load(run)
