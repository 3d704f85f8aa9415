"""Recipes that start from CLIP's weights keep its temperature, and their points start at the radius asked for."""

import json
import math

import open_clip
import pytest
import torch

import meru
from meru.assemble import build
from meru.data.images import read_image
from meru.encoders.pretrained_clip import _load
from meru.runs.train import train
from meru.tasks.image_text import ImageText
from meru.training.checkpoint import save_weights
from meru.training.trainer import Trainer

TOWERS = "ViT-S-32-alt"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def clip_weights(tmp_path_factory):
    """A file as OpenAI's: temperature 1/100, and projected features of norm 10 or so."""
    torch.manual_seed(0)
    model = open_clip.create_model(TOWERS, force_quick_gelu=True).eval()
    with torch.no_grad():
        model.logit_scale.fill_(math.log(100))
        model.visual.proj.mul_(10 / model.encode_image(torch.zeros(1, 3, 224, 224)).norm())
        model.text_projection.mul_(9 / model.encode_text(open_clip.get_tokenizer(TOWERS)(["a red bird"])).norm())
    path = tmp_path_factory.mktemp("weights") / "clip.pt"
    torch.save(model.state_dict(), path)
    yield path
    _load.cache_clear()


@pytest.fixture
def configuration(compose, cub_folder, clip_weights, tmp_path):
    def make(experiment, *overrides, folder="run"):
        return compose(
            f"experiment={experiment}",
            f"encoder.image.name={TOWERS}",
            f"encoder.image.weights={clip_weights}",
            "encoder.embedding_dimension=256",
            f"data.root={cub_folder}",
            "data.batch_size=4",
            "data.workers=0",
            "logger=none",
            f"folder={tmp_path / folder}",
            *overrides,
        )

    return make


@pytest.fixture
def small(compose, cub_folder, tmp_path):
    """Small towers from scratch, asked for a radius all the same."""

    def make(*overrides, folder="run"):
        return compose(
            "experiment=birds_meru",
            "model.initial_radius=0.25",
            "encoder.image.image_size=32",
            "encoder.text.architecture=L1_W16_A2",
            f"data.root={cub_folder}",
            "data.load._target_=meru.data.datasets.cub.load_cub",
            "data.batch_size=4",
            "data.workers=0",
            "trainer.epochs=2",
            "trainer.log_every=1",
            "logger=none",
            f"folder={tmp_path / folder}",
            *overrides,
        )

    return make


def steps(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line]


def test_cub_meru_starts_at_clips_temperature_and_radius_1_and_its_curvature_moves(configuration, tmp_path):
    short = ("trainer.epochs=2", "trainer.evaluate_every=2", "trainer.log_every=1", "evaluation.pointing=false")
    config = configuration("cub_meru", *short)
    train(config, device=CPU)
    first, last = steps(tmp_path / "run")[0], steps(tmp_path / "run")[-1]
    assert first["logit_scale"] == pytest.approx(100, rel=0.01)
    assert abs(last["moved/curv"]) > 2e-3  # the towers' rate allows 4e-5 at most
    assert last["moved_share/curv"] > 0.3


def points(model, transforms, tokenizer, records):
    images = torch.stack([transforms.evaluation(read_image(record.path)) for record in records])
    with torch.no_grad():
        return model.embed_image(images), model.embed_text(tokenizer.batch([r.captions[0] for r in records]))


def test_points_of_the_training_images_start_at_radius_1(configuration, monkeypatch):
    """Measured on the model that the trainer gets, before the first step."""
    seen = {}
    monkeypatch.setattr(Trainer, "run", lambda self: bool(seen.update(model=self.model)))
    config = configuration("cub_meru")
    train(config, device=CPU)
    built = build(config)
    records = ImageText(config, device=CPU).data.train
    model = seen["model"].eval()
    for each in points(model, built.transforms, built.tokenizer, records):
        assert model.radius(each).mean().item() == pytest.approx(1.0, rel=0.02)
    assert model.logit_scale.exp().item() == pytest.approx(100)
    at_paper = built.model.eval()  # built, but not measured
    radii = [at_paper.radius(each).mean() for each in points(at_paper, built.transforms, built.tokenizer, records)]
    assert max(radii) < 0.8


@pytest.mark.parametrize("experiment", ["cub_clip", "cub_meru_patches", "cub_gahr", "cuhk_pedes_gahr"])
def test_every_model_starts_at_clips_temperature(experiment, configuration):
    model = build(configuration(experiment)).model
    assert model.logit_scale.exp().item() == pytest.approx(100)
    if experiment != "cub_clip":
        assert model.initial_radius == (None if experiment == "cuhk_pedes_gahr" else 1)  # as released
        assert build(configuration(experiment, "model.initial_radius=null")).model.initial_radius is None
        assert "curv" in model.log_scalars


def test_on_the_sphere_there_is_no_radius_to_measure(configuration):
    assert build(configuration("cub_gahr", "model.space=sphere")).model.initial_radius is None


def test_a_temperature_in_the_configuration_counts_more_than_the_weights(configuration):
    assert build(configuration("cub_meru", "model.logit_scale=20")).model.logit_scale.exp().item() == pytest.approx(20)


def test_a_resumed_run_measures_nothing_and_goes_on_to_the_same_weights(
    small, tmp_path, monkeypatch, train_until_step_3
):
    train(small(folder="whole"), device=CPU)
    config = small("trainer.checkpoint_every=1", folder="stopped")
    train_until_step_3(config)
    monkeypatch.setattr("meru.tasks.image_text.start_at_initial_radius", lambda *_, **__: pytest.fail("measured again"))
    config.resume, config.folder = str(tmp_path / "stopped"), None
    train(config, device=CPU)
    whole, stopped = (meru.load(tmp_path / name).model.state_dict() for name in ("whole", "stopped"))
    assert all(torch.equal(whole[name], stopped[name]) for name in whole)


def test_measuring_draws_no_random_numbers(small, monkeypatch):
    states = []
    monkeypatch.setattr(Trainer, "run", lambda self: bool(states.append((torch.get_rng_state(), self.model))))
    for number, radius in enumerate(("null", "0.25")):
        train(small(f"model.initial_radius={radius}", folder=f"run{number}"), device=CPU)
    (unmeasured, paper), (measured, model) = states
    assert torch.equal(measured, unmeasured)
    assert paper.visual_alpha.exp().item() == pytest.approx(128**-0.5) != pytest.approx(model.visual_alpha.exp().item())


def test_alphas_of_a_whole_model_are_kept(small, tmp_path):
    whole = build(small()).model.state_dict()
    whole["visual_alpha"].fill_(-1.5)
    whole["logit_scale"].fill_(math.log(33))
    save_weights(tmp_path / "model.safetensors", whole)
    train(small(f"encoder.init={tmp_path / 'model.safetensors'}", "optim.learning_rate=0"), device=CPU)
    first = steps(tmp_path / "run")[0]
    assert first["alpha/image"] == pytest.approx(math.exp(-1.5))
    assert first["logit_scale"] == pytest.approx(33)
