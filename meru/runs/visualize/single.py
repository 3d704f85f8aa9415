"""Attention maps of words, and the tree of classes."""

from __future__ import annotations

from meru import distributed
from meru.assemble import is_discovery
from meru.configuration import absolute_paths
from meru.configuration.saved import change
from meru.errors import UserError
from meru.evaluation.examples import draw_attention
from meru.files import output_folder, user_path
from meru.reports.attention import save_figure
from meru.run_layout import TREES
from meru.runs.folder import require_data
from meru.runs.visualize.arguments import model_of, photograph, place_of, plot_file
from meru.sources.opening import open_source
from meru.tasks.discovery import Discovery


def attention(*, run: str, image: str, text: str, output: str = "attention.png") -> str:
    """Save attention maps of each word of `text` in `image`."""
    path, place = plot_file(output, example="attention.png"), place_of(image)
    opened = open_source(run)
    if is_discovery(opened.config):
        raise UserError(
            f"run={run} is a run of {model_of(opened.config)}, which discovers classes and has no text tower: "
            "draw the tree of its classes with `visualize.py tree`"
        )
    pretrained = opened.pretrained
    if pretrained.tokenizer is None:
        raise UserError(f"run={run} has no text tower, so words have no attention maps: name an image-text model")
    figure = draw_attention(pretrained, photograph(place), text)
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
            f"run={run} is a run of {model_of(config)}, which does not discover classes: draw the attention of "
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
