"""The commands `meru-train` and `meru-evaluate`; in the repository, scripts/train.py and scripts/evaluate.py."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from omegaconf import DictConfig

from meru.command_line import hydra_main


def train() -> None:
    """Train a model with the overrides on the command line."""
    hydra_main(_train, config_name="train")


def evaluate() -> None:
    """Evaluate a finished run with the overrides on the command line."""
    hydra_main(_evaluate, config_name="evaluate")


def _train(config: DictConfig) -> None:
    """Train and evaluate a new or resumed run."""
    # Imported here, so that --help and a mistyped key do not wait for PyTorch.
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    with _missing("wandb"):  # timm imports it, which takes half a second; the logger does so if it is chosen
        import timm  # noqa: F401
    from meru.runs.train import start_or_resume

    hydra = HydraConfig.get()
    start_or_resume(config, hydra.overrides.task, restartable=hydra.mode == RunMode.RUN)


def _evaluate(config: DictConfig) -> None:
    """Load a run, evaluate it on a split, print the table and write the figures to the run folder."""
    from meru import distributed
    from meru.runs.evaluate import evaluate_run

    evaluate_run(config)
    distributed.stop()  # not after a failure: other processes would report errors before this one


@contextlib.contextmanager
def _missing(package: str) -> Iterator[None]:
    """Let imports of a package fail inside, as if it were not installed; does nothing if it has been imported."""
    known = package in sys.modules
    if not known:
        sys.modules[package] = None
    try:
        yield
    finally:
        if not known:
            del sys.modules[package]
