"""What a model card says of the data: a data set's name, or a user's own data and how many images they are."""

from __future__ import annotations

import torch
from omegaconf import OmegaConf

from meru.configuration import absolute_paths
from meru.configuration.saved import choices_of
from meru.errors import UserError
from meru.files import user_path
from meru.sources.hub_folder import without_paths
from meru.sources.opened import Opened
from meru.tasks.kinds import task_of

# Files of configs/data that read a user's own data → the key that names their place.
OWN = {
    "pairs": "data.path", "person_list": "data.path", "folder_discovery": "data.root", "image_folder": "data.root",
    "shards": "data.urls",
}  # fmt: skip
COUNTED = ("pairs", "person_list", "folder_discovery")


def is_own(opened: Opened) -> bool:
    """Whether the run was trained on data of the user's own, which have no published name."""
    return _chosen(opened) in OWN


def data_name(opened: Opened) -> str | None:
    """The file of configs/data of the run, or the last part of the data's path; None if the source does not say."""
    if not opened.has_data:
        return None
    chosen = _chosen(opened)
    if chosen and chosen not in OWN:
        return chosen
    place = OmegaConf.select(opened.config, OWN.get(chosen or "", "data.root"))
    if not place:
        return None
    parts = str(place).partition("::")[0].rstrip("/").split("/")  # of several patterns of shards the first
    return without_paths(parts[-2] if ".tar" in parts[-1] and len(parts) > 1 else parts[-1])


def data_line(opened: Opened) -> str | None:
    """The name, for own data with the form in which they were read and, if they are still there, their counts."""
    name = data_name(opened)
    if name is None or not is_own(opened):
        return name
    counts = _counts(opened)
    return f"{name}, the author's own images (data={_chosen(opened)}){f': {counts}' if counts else ''}"


def _chosen(opened: Opened) -> str | None:
    return choices_of(opened.folder).get("data") if opened.folder else None


def _counts(opened: Opened) -> str | None:
    """The images of each split, read again; None if they are elsewhere by now."""
    config, chosen = opened.config.copy(), _chosen(opened)
    place = OmegaConf.select(config, OWN.get(chosen or "", "data.root"))
    if chosen not in COUNTED or not place or not user_path(place).exists():
        return None
    absolute_paths(config)
    try:
        return f"{task_of(config)(config, device=torch.device('cpu')).describe()}, counted at the export"
    except UserError:  # changed since the training
        return None
