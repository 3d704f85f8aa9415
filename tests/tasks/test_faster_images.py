"""Runs with cached pixels, scaled decoding and views on the device: the same captions, nearly the same images."""

import pytest
import torch

from meru.assemble import build
from meru.data.sampling import BatchPlan
from meru.runs.train import train
from meru.tasks.kinds import task_of
from meru.training.arriving import arriving

DEVICE = torch.device("cpu")
SMALL = (
    "encoder=small",
    "encoder.image.image_size=32",
    "trainer.epochs=1",
    "trainer.log_every=1",
    "evaluation.pointing=false",
    "evaluation.figures=null",
    "logger=none",
    "data.workers=0",
    "data.batch_size=4",
    "data.validation_fraction=0.25",
)


@pytest.fixture(scope="module")
def birds(tmp_path_factory):
    return tmp_path_factory.mktemp("birds")


@pytest.fixture
def configuration(compose, cub_folder, tmp_path):
    def make(*overrides, data="cub"):
        places = (f"data.root={cub_folder}", f"data.cache={tmp_path / 'cache'}", f"folder={tmp_path / 'run'}")
        return compose(f"data={data}", *SMALL, *places, *overrides)

    return make


def first_batch(config):
    task = task_of(config)(config, device=DEVICE)
    pretrained = build(config)
    plan = BatchPlan.of(config.data, images=task.images_per_epoch(), world_size=1, accumulate=1)
    return next(arriving(task.batches(pretrained, plan, 0), DEVICE))


@pytest.mark.parametrize("model", ["meru", "hycoclip"])
def test_the_device_makes_the_batch_of_the_workers(model, configuration):
    text = ("encoder.text.architecture=L1_W16_A1", f"model={model}")
    workers = first_batch(configuration(*text))
    device = first_batch(configuration(*text, "data.augment_on=device"))
    assert workers.keys() == device.keys()
    for name, value in workers.items():
        if isinstance(value, int):
            assert value == device[name]
            continue
        allowed = 1 if "image" in name and value.dim() == 4 else 0
        assert value.shape == device[name].shape and (value.float() - device[name].float()).abs().max() <= allowed


def test_cached_pixels_give_the_same_samples_from_smaller_images(configuration, tmp_path):
    text = "encoder.text.architecture=L1_W16_A1"
    whole = first_batch(configuration(text))
    cached = first_batch(configuration(text, "data.image_cache=36"))
    assert list((tmp_path / "cache").glob("*.bin"))
    assert torch.equal(whole["tokens"], cached["tokens"]) and torch.equal(whole["image_index"], cached["image_index"])
    assert not torch.equal(whole["image"], cached["image"])
    assert (whole["image"].float() - cached["image"].float()).abs().mean() < 8


def test_a_run_with_all_of_them_ends_with_figures(configuration):
    faster = ("data.image_cache=36", "data.augment_on=device", "data.decode=scaled")
    figures = train(configuration("encoder.text.architecture=L1_W16_A1", *faster), device=DEVICE)
    assert 0 <= figures["text_to_image/class/recall@1"] <= 1


@pytest.mark.parametrize("sampler", ["weighted", "neighbours"])
def test_category_discovery_uses_them_too(sampler, compose, birds, tmp_path):
    config = compose(
        "experiment=birds_simgcd",
        "+data.load_discovery.images_per_species=4",
        "+data.load_discovery.image_size=32",
        "encoder.image.image_size=24",
        "model.projection_width=16",
        "trainer.epochs=1",
        "logger=none",
        "data.workers=0",
        "data.batch_size=16",
        f"discovery.sampler={sampler}",
        f"data.root={birds}",
        f"data.cache={tmp_path / 'cache'}",
        f"folder={tmp_path / 'run'}",
        "data.image_cache=28",
        "data.augment_on=device",
    )
    assert 0 <= train(config, device=DEVICE)["discovery/all/accuracy"] <= 1
    assert list((tmp_path / "cache").glob("*.bin"))
