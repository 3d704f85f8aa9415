"""Makes pictures small enough to stand within a page."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

from PIL import Image

LONGEST_SIDE = 1100  # pixels
MOST_PIXELS, MOST_BYTES = 60_000_000, 64_000_000
QUALITY = 82


def embedded(path: Path) -> tuple[bytes, str] | None:
    """A picture as WebP with a limited size: its bytes and the name of its format; None if it cannot be read."""
    try:
        if path.stat().st_size > MOST_BYTES:
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                if image.width * image.height > MOST_PIXELS:
                    return None
                small = image.convert("RGBA" if "A" in image.getbands() or "transparency" in image.info else "RGB")
        small.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
        file = io.BytesIO()
        small.save(file, "WEBP", quality=QUALITY)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # what Pillow raises for damaged files
        return None
    return file.getvalue(), "webp"
