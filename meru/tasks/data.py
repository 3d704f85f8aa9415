"""Load the data that a run's configuration describes."""

from __future__ import annotations

import inspect
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig

from meru import distributed
from meru.configuration.facts import require_loader
from meru.configuration.targets import files_of
from meru.data.datasets.labelled_own import of_pairs
from meru.data.discovery.described import described
from meru.data.discovery.proportions import with_imbalance, with_old_share
from meru.data.discovery.splits import DiscoveryData, validation_data
from meru.data.heads import hide_heads
from meru.data.records import ImageTextData
from meru.errors import UserError
from meru.evaluation.suite import CAPTIONS, DESCRIBED, HEADS, LABELS, Need
from meru.tasks.training_captions import evaluated_data


def load_data(config: DictConfig) -> ImageTextData:
    """Load the splits of images and captions as evaluation sees them: see `evaluated_data` and `hide_heads`."""
    require_loader(config.data, discovering=False)
    data = _loaded(config.data.load, ImageTextData, key="data.load")
    if config.data.get("hidden_heads"):
        data = hide_heads(data, config.data)
    return evaluated_data(data, config.data)


def load_discovery_data(config: DictConfig) -> DiscoveryData:
    """Load the images, and the labels of some, in the proportions that the section `discovery` asks for.

    With `discovery.validation` they are images of old classes only.
    """
    require_loader(config.data, discovering=True)
    _refuse_hidden_heads(config)
    data = _loaded(config.data.load_discovery, DiscoveryData, key="data.load_discovery")
    seed = config.data.get("split_seed", 0)  # missing in configurations of older runs, as are the next keys
    data = with_old_share(data, config.discovery.get("old_share"), seed=seed)
    data = with_imbalance(data, config.discovery.get("imbalance"), seed=seed)
    if config.discovery.get("validation"):
        data = validation_data(data)
    return data.grouped(config.data.families)


def load_for_suite(config: DictConfig, need: Need, *, suite: str) -> Any:
    """Load the kind of data that a suite needs.

    Args:
        config: A training configuration, with the section `data` to evaluate on.
        need: Of `meru.evaluation.suite`.
        suite: The suite's name, for the message.

    Raises:
        UserError: if the section has no such data; the message names files of configs/data that have.
    """
    if need is LABELS and need.key not in config.data and "load" in config.data:
        return of_pairs(load_data(config), families=config.data.get("families"))
    if need.key not in config.data:
        key = f"data.{need.key}._target_"
        known = [file.name for file in files_of("data") if key in file.keys]
        some = f"such as data={', data='.join(known[:5])}" if known else "of your own"
        raise UserError(f"suite={suite} needs {need.what}, which these data do not have: choose others, {some}")
    if need is CAPTIONS:
        return load_data(config)
    if need is not HEADS:
        _refuse_hidden_heads(config)
    if need is DESCRIBED:
        require_loader(config.data, discovering=False)
        images = _loaded(config.data.load_discovery, DiscoveryData, key="data.load_discovery")
        grouped = images.grouped(config.data.get("families"))
        return described(grouped, load_data(config), source=config.data.get("root", "data"))
    if need is CAPTIONS:
        return load_data(config)
    return _loaded(config.data[need.key], need.kind, key=f"data.{need.key}")


def _refuse_hidden_heads(config: DictConfig) -> None:
    if how := config.data.get("hidden_heads"):
        raise UserError(f"data.hidden_heads={how} hides the heads of images with captions only: leave the key out here")


def _loaded(section: DictConfig, kind: type, *, key: str):
    """Call the loader of a section; for faulty loaders outside this project, the error is one line."""
    own = not section._target_.startswith("meru.")
    if own:
        _check_call(section, key=key)
    data = instantiate_in_turn(section)
    if own and not isinstance(data, kind):
        wanted = f"{kind.__module__}.{kind.__name__}"
        raise UserError(f"{key}: {section._target_} returned {type(data).__name__}; it must return {wanted}")
    return data


def _check_call(section: DictConfig, *, key: str) -> None:
    """Check that a loader takes the keys of its section as keyword arguments."""
    try:
        loader = get_object(section._target_)
    except Exception as error:  # an import may raise anything
        raise UserError(f"{key}._target_={section._target_} cannot be imported ({_short(error)})") from error
    arguments = {name: value for name, value in section.items() if not name.startswith("_")}
    try:
        inspect.signature(loader).bind(**arguments)
    except TypeError as error:
        raise UserError(
            f"{key}: {section._target_} is called with the keys of {key} as keyword arguments ({', '.join(arguments)}) "
            f"and does not take them: {error}"
        ) from None
    except ValueError:  # a loader in C has no signature
        pass


def _short(error: Exception) -> str:
    """The innermost reason of an error, on one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())[:200] or type(error).__name__


def instantiate_in_turn(section: DictConfig):
    """Instantiate a section, in the main process first, which may generate or unpack data for all processes."""
    made = []
    distributed.decided_by_main(lambda: made.append(_instantiate(section)))
    return made[0] if distributed.is_main() else _instantiate(section)


def _instantiate(section: DictConfig):
    try:
        return instantiate(section)
    except InstantiationException as error:  # wraps the loader's own error
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        raise
