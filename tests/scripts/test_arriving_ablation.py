"""configs/ablation/arriving.yaml: every variant can be run, and its columns are figures of the runs."""

import pytest
import torch

from meru.configuration import check
from meru.runs.ablation_file import read_ablation
from meru.runs.figure_names import require_figures
from meru.runs.train import train

SMALL = (
    "+data.load_discovery.images_per_species=4", "+data.load_discovery.image_size=32", "encoder.image.image_size=32",
    "model.projection_width=16", "model.projection_dimension=8", "data.batch_size=16", "data.workers=0",
    "trainer.epochs=1", "logger=none",
)  # fmt: skip


@pytest.mark.parametrize("experiment", ["birds_hypgcd", None])
def test_every_variant_is_a_run_with_these_columns(experiment, compose):
    ablation = read_ablation("arriving")
    for variant in ablation.variants.values():
        words = (*ablation.overrides, *variant.overrides)
        config = compose(f"experiment={experiment or ablation.experiment}", *words)
        check(config, command="train")
        require_figures(ablation.columns.values(), [config], place="columns")


@pytest.mark.parametrize("name", ["SimGCD, none", "HypGCD, none"])
def test_the_smallest_form_has_a_figure_in_every_column(name, compose, tmp_path):
    ablation = read_ablation("arriving")
    words = (*ablation.overrides, *ablation.variants[name].overrides)
    folders = (f"data.root={tmp_path / 'birds'}", f"folder={tmp_path / 'run'}")
    figures = train(compose("experiment=birds_hypgcd", *SMALL, *folders, *words), device=torch.device("cpu"))
    assert all(-1 <= figures[figure] <= 1 for figure in ablation.columns.values())
    terms = "loss.category.weight=0" in words
    assert terms == name.startswith("SimGCD")
