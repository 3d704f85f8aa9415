"""Train an image–text model, or one that discovers classes: `python scripts/train.py experiment=birds_meru`.

All keys: `python scripts/train.py --cfg job`; recipes: configs/experiment/.
"""

from __future__ import annotations

from omegaconf import DictConfig

from meru.command_line import hydra_main


def main(config: DictConfig) -> None:
    """One run, new or resumed, from the data to the figures at its end."""
    # Imported here, so that --help and a mistyped key do not wait for PyTorch.
    from hydra.core.hydra_config import HydraConfig

    from meru.runs.train import start_or_resume

    start_or_resume(config, HydraConfig.get().overrides.task)


if __name__ == "__main__":
    hydra_main(main, config_name="train")
