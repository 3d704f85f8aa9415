"""Runs on cached views: what is shared, what makes a new file, and that the figures are those of the images."""

import pytest
import timm
import torch
from safetensors.torch import save_file

import meru
from meru.assemble import build
from meru.data.sampling import BatchPlan
from meru.errors import UserError
from meru.runs.train import train
from meru.tasks.kinds import task_of

DEVICE = torch.device("cpu")
SMALL = (
    "experiment=cub_mobilenetv2_meru",
    "encoder.image.name=mobilenetv2_035",
    "encoder.image.arguments=null",
    "encoder.image.image_size=64",
    "encoder.text.architecture=L1_W16_A1",
    "encoder.embedding_dimension=32",
    "data.validation_fraction=0.25",
    "data.batch_size=4",
    "data.workers=0",
    "data.cached_views=2",
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


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "mobilenetv2_035.safetensors"
    save_file(timm.create_model("mobilenetv2_035", num_classes=0).state_dict(), path)
    return path


@pytest.fixture
def configuration(compose, cub_folder, weights, tmp_path):
    def make(*overrides, folder="run"):
        places = {"encoder.image.weights": weights, "data.root": cub_folder, "data.cache": tmp_path / "cache"}
        given = [f"{key}={path}" for key, path in {**places, "folder": tmp_path / folder}.items()]
        return compose(*SMALL, *given, *overrides)

    return make


@pytest.mark.parametrize("name", MODELS)
def test_figures_at_the_end_are_those_of_the_images(name, configuration, tmp_path):
    figures = train(configuration(*MODELS[name]), device=DEVICE)
    assert list((tmp_path / "cache").glob("*.bin"))
    config = configuration(*MODELS[name], folder="again")
    task = task_of(config)(config, device=DEVICE)
    of_images = task.evaluate(meru.load(tmp_path / "run")).figures  # no cache: it reads the images
    assert of_images.keys() == figures.keys()
    chances = [abs(of_images[each] - figures[each]) for each in figures if figures[each] is not None]
    assert sum(chances) / len(chances) < 0.02


def files(tmp_path):
    return {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache").glob("*.bin")}


def test_seeds_and_methods_share_files_and_other_views_do_not(configuration, tmp_path):
    train(configuration(folder="first"), device=DEVICE)
    before = files(tmp_path)
    assert len(before) == 3  # training views, validation and test images
    train(configuration("seed=1", "trainer.epochs=2", folder="second"), device=DEVICE)
    train(configuration("model=clip", folder="third"), device=DEVICE)
    assert files(tmp_path) == before
    train(configuration("model=hycoclip", folder="fourth"), device=DEVICE)
    assert len(files(tmp_path)) == 4  # the parts are new, the whole images are not
    train(configuration("data.flip=false", folder="fifth"), device=DEVICE)
    assert len(files(tmp_path)) == 5


@pytest.mark.parametrize("name", ["meru", "hycoclip"])
def test_a_run_stopped_within_an_epoch_goes_on_to_the_same_weights(name, configuration, tmp_path, train_until_step_3):
    overrides = [*MODELS[name], "trainer.epochs=2", "trainer.checkpoint_every=3"]
    train(configuration(*overrides, folder="whole"), device=DEVICE)
    config = configuration(*overrides, folder="stopped")
    train_until_step_3(config)
    config.resume, config.folder = str(tmp_path / "stopped"), None
    before = files(tmp_path)
    train(config, device=DEVICE)
    weights = [meru.load(tmp_path / folder).model.state_dict() for folder in ("whole", "stopped")]
    assert all(torch.equal(weights[0][each], weights[1][each]) for each in weights[0])
    assert files(tmp_path) == before


def test_cells_of_a_grid_cannot_be_cached(configuration):
    with pytest.raises(UserError, match="model=meru_grid cuts every image"):
        train(configuration("model=meru_grid"), device=DEVICE)


def test_the_batches_of_a_resumed_run_are_those_of_one_that_was_not_stopped(configuration):
    """Captions are those of a run without the cache."""
    runs = [configuration(), configuration("data.cached_views=0")]
    batches = []
    for config in runs:
        task = task_of(config)(config, device=DEVICE)
        torch.manual_seed(0)
        plan = BatchPlan.of(config.data, images=len(task.data.train), world_size=1)
        pretrained = build(config)
        whole = list(task.batches(pretrained, plan, 0))
        later = list(task.batches(pretrained, plan, 1))
        pairs = zip(whole[1:], later, strict=True)
        assert all(torch.equal(one[key], other[key]) for one, other in pairs for key in one)
        batches.append(whole)
    cached, read = batches
    for key in ("tokens", "image_index", "class_index"):
        assert all(torch.equal(one[key], other[key]) for one, other in zip(cached, read, strict=True))
    assert cached[0]["image"].dtype == torch.float16
