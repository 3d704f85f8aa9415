"""The changes that a discovery run makes to its data: wrong labels, and what the log says of them."""

from __future__ import annotations

from collections.abc import Mapping

from omegaconf import DictConfig
from torch import Tensor

from meru.data.discovery.noise import with_wrong_labels
from meru.data.discovery.proportions import class_sizes
from meru.data.discovery.splits import DiscoveryData
from meru.errors import UserError


def split_seed(config: DictConfig) -> int:
    """The seed of all choices of images, the same for every training seed; 0 in configurations of older runs."""
    return config.data.get("split_seed", 0)


def label_noise(config: DictConfig) -> tuple[float, str]:
    """The share of wrong labels and their kind; none in configurations of older runs."""
    return config.data.get("label_noise", 0.0), config.data.get("label_noise_kind", "symmetric")


def with_label_noise(data: DiscoveryData, config: DictConfig, read: Mapping[str, Tensor]) -> DiscoveryData:
    """The data with the wrong labels that the configuration asks for.

    Args:
        data: With true labels.
        config: The run's.
        read: Result of `read_features` for the training images by the tower before training, for the kind `nearest`.

    Raises:
        UserError: if a class cannot be wrong, or an image that `nearest` needs does not decode.
    """
    share, kind = label_noise(config)
    features = read.get("features")
    if share and kind == "nearest" and (features is None or len(features) < len(data.train)):
        raise UserError(
            "data.label_noise_kind=nearest needs every training image to decode: choose symmetric, or restore them"
        )
    return with_wrong_labels(data, share=share, kind=kind, seed=split_seed(config), features=features)


def described_noise(data: DiscoveryData, config: DictConfig) -> str:
    """How many labels are wrong, as part of a sentence; empty without `data.label_noise`."""
    share, kind = label_noise(config)
    if not share:
        return ""
    wrong = int((data.train.training_labels != data.train.labels)[data.train.labelled].sum())
    return f", {wrong} of these with a wrong label ({kind})"


def described_sizes(data: DiscoveryData, config: DictConfig) -> str:
    """The sizes of the classes, as part of a sentence; empty without `discovery.imbalance`."""
    if config.discovery.get("imbalance") is None:
        return ""
    smallest, largest = class_sizes(data)
    return f" of {smallest} to {largest} images"
