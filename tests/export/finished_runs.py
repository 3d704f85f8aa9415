"""Run folders with random weights, made without training, for the tests of export."""

from pathlib import Path

import torch
from omegaconf import OmegaConf

from meru.assemble import build
from meru.configuration.saved import save_config
from meru.run_layout import ASKED, FIGURES, MODEL
from meru.training.checkpoint import save_weights

SMALL = (
    "encoder.image.name=test_resnet", "encoder.image.image_size=32", "encoder.text.architecture=L2_W32_A2",
    "encoder.embedding_dimension=16", "logger=none",
)  # fmt: skip


def make_run(folder: Path, config, *, seed: int = 0, figures: str | None = None) -> Path:
    """A finished run of a configuration; its scalars are moved a little from where they start."""
    folder.mkdir(parents=True)
    if "discovery" in config:
        config.discovery.num_classes = 5
    save_config(folder, config)
    (folder / ASKED).unlink()  # reading both takes twice as long
    torch.manual_seed(seed)
    model = build(OmegaConf.load(folder / "config.yaml")).model
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    save_weights(folder / MODEL, model.state_dict())
    if figures is not None:
        (folder / FIGURES).write_text(figures)
    return folder
