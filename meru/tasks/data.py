"""The data of a run, as its configuration describes them."""

from __future__ import annotations

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig

from meru import distributed
from meru.data.discovery.splits import DiscoveryData
from meru.data.records import ImageTextData
from meru.errors import UserError


def load_data(config: DictConfig) -> ImageTextData:
    """The splits of images and captions."""
    if "load" not in config.data:
        raise UserError("this data set has no captions, only classes to discover: choose model=simgcd or model=hypgcd")
    return instantiate_in_turn(config.data.load)


def load_discovery_data(config: DictConfig) -> DiscoveryData:
    """The images, and the labels of some."""
    if "discovery" not in config.data:
        raise UserError("this data set has no split for discovery: choose another, say data=cub or data=birds")
    return instantiate_in_turn(config.data.discovery)


def instantiate_in_turn(section: DictConfig):
    """What a section of the configuration makes: in the main process first, which may draw or unpack data for all."""
    made = []
    distributed.decided_by_main(lambda: made.append(_instantiate(section)))
    return made[0] if distributed.is_main() else _instantiate(section)


def _instantiate(section: DictConfig):
    try:
        return instantiate(section)
    except InstantiationException as error:  # around what the loader itself says
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        raise
