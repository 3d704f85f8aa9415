"""The commands `meru-train` and `meru-evaluate`; in the repository, scripts/train.py and scripts/evaluate.py."""

from __future__ import annotations

from omegaconf import DictConfig

from meru.command_line import hydra_main


def train() -> None:
    """Train a model by the overrides on the command line."""
    hydra_main(_train, config_name="train")


def evaluate() -> None:
    """Evaluate a finished run by the overrides on the command line."""
    hydra_main(_evaluate, config_name="evaluate")


def _train(config: DictConfig) -> None:
    """One run, new or resumed, from the data to the figures on the test split."""
    # Imported here, so that --help and a mistyped key do not wait for PyTorch.
    from hydra.core.hydra_config import HydraConfig

    from meru import distributed
    from meru.assemble import is_discovery
    from meru.configuration import absolute_paths
    from meru.configuration.saved import check_targets
    from meru.runs.folder import require_data, resumed_config
    from meru.runs.train import train
    from meru.tasks.discovery import train_discovery

    device = distributed.start()
    check_targets(config, source="the command line")
    absolute_paths(config)
    if config.resume:
        config = resumed_config(config, HydraConfig.get().overrides.task)
        require_data(config, key="data.root")
    (train_discovery if is_discovery(config) else train)(config, device=device)
    distributed.stop()  # not after a failure: others would fail for want of this process before it has said why


def _evaluate(config: DictConfig) -> None:
    """Load a run, evaluate it on a split, print the table and write the figures beside the model."""
    from meru.runs.evaluate import evaluate_run

    evaluate_run(config)
