"""A configuration composed for weights that bring none."""

from __future__ import annotations

from collections.abc import Mapping

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from meru.configuration.composing import compose


def composed_config(*choices: str, **values: object) -> DictConfig:
    """The configuration of `configs/train.yaml` with these choices and values, as `read_config` gives it.

    Args:
        choices: Files of the groups, such as `encoder=vit_small`.
        values: Values by key, with `__` in place of the dots; a mapping replaces what is there.
    """
    # The script that is running may be in the middle of a configuration of its own.
    before = GlobalHydra.instance().hydra, HydraConfig.instance().cfg
    GlobalHydra.instance().clear()
    try:
        config, _ = compose([*choices, "logger=none", "name=published"])
    finally:
        GlobalHydra.instance().hydra, HydraConfig.instance().cfg = before
    for key, value in values.items():
        place = key.replace("__", ".")
        OmegaConf.update(config, place, value, merge=not isinstance(value, Mapping), force_add=True)
    return config
