"""Evaluate a finished run again: `python scripts/evaluate.py run=runs/birds_clip/<date> split=validation`."""

from __future__ import annotations

from omegaconf import DictConfig

from meru.command_line import hydra_main


def main(config: DictConfig) -> None:
    """Load a run, evaluate it on a split, print the table and write the figures beside the model."""
    from meru.runs.evaluate import evaluate_run

    evaluate_run(config)


if __name__ == "__main__":
    hydra_main(main, config_name="evaluate")
