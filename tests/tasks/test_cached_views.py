"""Runs on cached views: what is shared, what makes a new file, and that the figures are those of the images."""

import pytest
import torch

from meru.runs.train import train
from meru.tasks.kinds import task_of

DEVICE = torch.device("cpu")
SMALL = (
    "experiment=cub_mobilenetv2_meru",
    "encoder.image.name=mobilenetv2_035",
    "encoder.image.arguments=null",
    "encoder.image.image_size=64",
    "encoder.text.architecture=L1_W64_A1",
    "encoder.embedding_dimension=32",
    "+encoder.image.random_weights=true",
    "data.validation_fraction=0.25",
    "data.batch_size=4",
    "data.workers=0",
    "data.cached_views=2",
    "evaluation.attention_pictures=0",
    "trainer.epochs=1",
    "trainer.log_every=1",
    "logger=none",
)
MODELS = {
    "meru": (),
    "hycoclip": ("model=hycoclip",),
    "meru_patches": ("model=meru_patches", "encoder.image.patch_level=3"),
    "late_patches": ("model=meru_patches",),
}


@pytest.fixture
def configuration(compose, cub_folder, tmp_path):
    def make(*overrides, folder="run"):
        overrides = [word for word in (*SMALL, *overrides) if not word.startswith("evaluation.attention")]
        return compose(*overrides, f"data.root={cub_folder}", f"data.cache={tmp_path / 'cache'}",
                       f"folder={tmp_path / folder}")  # fmt: skip

    return make


@pytest.mark.parametrize("name", MODELS)
def test_figures_at_the_end_are_those_of_the_images(name, configuration, tmp_path):
    figures = train(configuration(*MODELS[name]), device=DEVICE)
    assert list((tmp_path / "cache").glob("*.bin"))
    import meru

    config = configuration(*MODELS[name], folder="again")
    task = task_of(config)(config, device=DEVICE)
    of_images = task.evaluate(meru.load(tmp_path / "run")).figures  # no cache: it reads the images
    assert of_images.keys() == figures.keys()
    chances = [abs(of_images[each] - figures[each]) for each in figures if figures[each] is not None]
    assert sum(chances) / len(chances) < 0.02
