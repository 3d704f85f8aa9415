"""Train an image–text model: `python scripts/train.py experiment=birds_meru trainer.epochs=10`.

All keys: `python scripts/train.py --cfg job`; recipes: configs/experiment/.
"""

from __future__ import annotations

import sys
from pathlib import Path

from omegaconf import DictConfig

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # works from a checkout that is not installed too

from meru.command_line import hydra_main  # noqa: E402


def main(config: DictConfig) -> None:
    """One run, new or resumed, from the data to the figures on the test split."""
    # Imported here, so that --help and a mistyped key do not wait for PyTorch.
    from hydra.core.hydra_config import HydraConfig

    from meru import distributed, running

    device = distributed.start()
    try:
        if config.resume:
            config = running.resumed_config(config, HydraConfig.get().overrides.task)
        running.train(config, device=device)
    finally:
        distributed.stop()


if __name__ == "__main__":
    hydra_main(main, config_name="train")
