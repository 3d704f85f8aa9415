"""What the user names for a plot: images, a source of a model, and its file."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig
from torch import Tensor

from meru import distributed
from meru.assemble import is_discovery
from meru.configuration import absolute_paths
from meru.configuration.saved import change
from meru.data.images import OR_SKIP, read_image
from meru.errors import UserError
from meru.evaluation.sample import Subjects
from meru.files import output_file, user_path
from meru.runs.folder import require_data
from meru.sources.opened import Opened
from meru.sources.opening import open_source
from meru.tasks.data import load_data


def plot_file(output: str, *, example: str) -> Path:
    """The file of a plot, PNG or SVG; see `output_file`."""
    return output_file(output, example=example, also=(".svg",))


def open_with_data(run: str, root: str | None) -> tuple[Opened, Subjects]:
    """A run of images and captions, its model in evaluation mode on its device, and its data.

    Args:
        run: As for `open_source`.
        root: The folder of the data, if it has moved; None: where it was.

    Raises:
        UserError: if it is another kind of model, or its data are unknown or missing.
    """
    opened = open_source(run)
    config = opened.config
    if is_discovery(config):
        raise UserError(
            f"run={run} is a run of {model_of(config)}, which discovers classes and has no text tower: draw the tree "
            "of its classes with `visualize.py tree`"
        )
    if not opened.has_data:
        raise UserError(f"run={run} says nothing of its data: name the folder of a run")
    if root:
        change(config, "data.root", str(user_path(root)))
    absolute_paths(config)
    require_data(config, key="root")
    config.data.workers = 0  # a few hundred images: starting processes takes as long
    pretrained = opened.pretrained
    if pretrained.tokenizer is None:
        raise UserError(f"run={run} has no text tower, so it has no captions to draw: name an image-text model")
    device = distributed.start()
    pretrained.model.to(device).eval()
    return opened, Subjects(pretrained, load_data(config), config.data, device=device)


def place_of(image: str, *, key: str = "image") -> Path:
    """The path of an image that the user names; an error if there is none."""
    path = user_path(image)
    if not path.is_file():
        raise UserError(f"{key}={image}: there is no such file")
    return path


def photograph(path: Path) -> Tensor:
    """An image, uint8 RGB `(3, H, W)`; the error says nothing of data sets."""
    try:
        return read_image(path)
    except UserError as error:
        raise UserError(str(error).removesuffix(OR_SKIP), exit_code=error.exit_code) from None


def model_of(config: DictConfig) -> str:
    """The name of the class of a model."""
    return config.model._target_.rpartition(".")[2]
