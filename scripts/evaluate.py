"""Evaluate a finished run again: `python scripts/evaluate.py run=runs/birds_clip/<date> split=validation`."""

import check_environment  # noqa: F401 (one line instead of a traceback if packages are missing)

from meru.runs.commands import evaluate

if __name__ == "__main__":
    evaluate()
