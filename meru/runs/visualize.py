"""Plots of a finished run: attention maps of words, and the tree of classes: `scripts/visualize.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig
from torch import Tensor

from meru import distributed
from meru.assemble import is_discovery
from meru.configuration import absolute_paths
from meru.configuration.saved import change
from meru.data.images import OR_SKIP, read_image
from meru.errors import UserError
from meru.evaluation.examples import draw_attention
from meru.files import output_file, output_folder, user_path
from meru.reports.attention import save_figure
from meru.run_layout import TREES
from meru.runs.folder import require_data
from meru.sources.opening import open_source
from meru.tasks.discovery import Discovery


@dataclass(frozen=True)
class Picture:
    """A plot that a user can request.

    Attributes:
        draw: Saves the plot; takes the user's arguments by name, and returns a line with the path.
        required, optional: Names of the arguments.
    """

    draw: Callable[..., str]
    required: tuple[str, ...]
    optional: tuple[str, ...]


def visualize(name: str, given: Mapping[str, str]) -> str:
    """Draw a plot; returns a line with its path.

    Args:
        name: Name of the plot.
        given: The user's arguments.

    Raises:
        UserError: for an unknown name, unknown or missing arguments, and other failures that the user can fix.
    """
    if name not in PICTURES:
        raise UserError(f"{name}: choose one of {', '.join(PICTURES)}; see --help")
    picture = PICTURES[name]
    known = picture.required + picture.optional
    if unknown := [key for key in given if key not in known]:
        raise UserError(f"{unknown[0]}=: {name} takes {', '.join(known)}; see --help")
    if missing := [key for key in picture.required if key not in given]:
        raise UserError(f"{missing[0]}= is missing; see --help")
    return picture.draw(**given)


def attention(*, run: str, image: str, text: str, output: str = "attention.png") -> str:
    """Save attention maps of each word of `text` in `image`."""
    path, place = output_file(output, example="attention.png"), _place_of(image)
    opened = open_source(run)
    if is_discovery(opened.config):
        raise UserError(
            f"run={run} is a run of {_model_of(opened.config)}, which discovers classes and has no text tower: "
            "draw the tree of its classes with `visualize.py tree`"
        )
    pretrained = opened.pretrained
    if pretrained.tokenizer is None:
        raise UserError(f"run={run} has no text tower, so words have no attention maps: name an image-text model")
    figure = draw_attention(pretrained, _photograph(place), text)
    save_figure(figure, path)
    return f"attention maps: {path}"


def tree(*, run: str, root: str | None = None, output: str | None = None) -> str:
    """Save the tree of the classes that a discovery run predicts: Newick, JSON, dendrogram and Poincaré disk."""
    asked = output_folder(output) if output else None
    opened = open_source(run)
    folder = asked or opened.output(TREES)
    config = opened.config
    if not is_discovery(config):
        raise UserError(
            f"run={run} is a run of {_model_of(config)}, which does not discover classes: draw the attention of "
            "words with `visualize.py attention`"
        )
    if folder is None:
        raise UserError(f"run={run} is no run folder: name one for the plots with output=")
    if root:
        change(config, "data.root", str(user_path(root)))
    absolute_paths(config)
    require_data(config, key="root")
    pretrained = opened.pretrained
    device = distributed.start()
    pretrained.model.to(device)
    written = Discovery(config, device=device).draw_trees(pretrained, folder)
    return f"the tree of classes: {', '.join(path.name for path in written)} in {folder}"


def _place_of(image: str) -> Path:
    path = user_path(image)
    if not path.is_file():
        raise UserError(f"image={image}: there is no such file")
    return path


def _photograph(path: Path) -> Tensor:
    try:
        return read_image(path)
    except UserError as error:
        raise UserError(str(error).removesuffix(OR_SKIP), exit_code=error.exit_code) from None


def _model_of(config: DictConfig) -> str:
    return config.model._target_.rpartition(".")[2]


PICTURES = {
    "attention": Picture(attention, ("run", "image", "text"), ("output",)),
    "tree": Picture(tree, ("run",), ("root", "output")),
}
