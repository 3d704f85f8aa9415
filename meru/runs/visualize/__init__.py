"""Plots of finished runs: `scripts/visualize.py`."""

from meru.runs.visualize.command import visualize

__all__ = ["visualize"]
