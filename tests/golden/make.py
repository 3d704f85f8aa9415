"""Rewrites the pinned values: `python tests/golden/make.py losses|recipes|pictures|runs`.

Only for a change that is meant to alter them; the difference that git then shows is what the change alters.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[level]) for level in (1, 2)]

KINDS = ("losses", "recipes", "pictures", "runs")

if __name__ == "__main__":
    if not sys.argv[1:] or not set(sys.argv[1:]) <= set(KINDS):
        sys.exit(f"usage: python tests/golden/make.py {'|'.join(KINDS)} …")
    for kind in sys.argv[1:]:
        importlib.import_module(f"golden.test_{kind}").rewrite()
