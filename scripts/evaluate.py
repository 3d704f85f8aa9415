"""Evaluate a finished run again: `python scripts/evaluate.py run=runs/birds_clip/<date> split=validation`."""

from meru.runs.commands import evaluate

if __name__ == "__main__":
    evaluate()
