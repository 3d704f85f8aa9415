"""Image–text models and category discovery in hyperbolic space."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meru.assemble import Pretrained

__version__ = "0.1.0"


def load(source: str | Path) -> Pretrained:
    """Load a model with its tokenizer and image transforms, in evaluation mode.

    Args:
        source: The folder of a finished run, or another source that `meru.sources.opening.open_source` lists.

    Raises:
        meru.errors.UserError: if it cannot be read; the message says why on one line.
    """
    from meru.sources.opening import load  # imported here to keep `import meru` fast

    return load(source)


from_pretrained = load
