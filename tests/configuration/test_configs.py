"""Every recipe composes and takes two steps; the sections mean what their comments say."""

import shutil
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from meru.assemble import build
from meru.configuration import check
from meru.errors import UserError
from meru.files import PROJECT
from meru.runs.train import train
from meru.training.checkpoint import save_weights
from meru.training.optimizer import warmup_cosine

EVERY = sorted(path.stem for path in (PROJECT / "configs" / "experiment").glob("[!_]*.yaml"))
OWN = [name for name in EVERY if name.startswith("own_")]  # whose data are the user's; trained in tests/data
DISCOVERING = [name for name in EVERY if name not in OWN and name.endswith(("gcd", "hypcd", "gcd_light"))]
EXPERIMENTS = [name for name in EVERY if name not in (*OWN, *DISCOVERING)]
# Recipes that differ from others in their data alone.
LIKE_OTHERS = ("aircraft_", "cars_", "cifar10_", "herbarium_", "icfg_", "imagenet100_", "rstpreid_")
# Small enough for a test: the recipes' towers by other sizes.
PERSON_SIZES = {
    "meru.data.synthetic.pedestrians.load.load_pedestrians": [
        "+data.load.identities=13", "+data.load.images_per_identity=1",
    ],
}
SMALL = ["encoder.image.image_size=64", "encoder.text.architecture=L1_W16_A2"]


def without_repetition(names):
    """The names as parameters; those of `LIKE_OTHERS` only among the slow tests."""
    return [pytest.param(name, marks=pytest.mark.slow) if name.startswith(LIKE_OTHERS) else name for name in names]


def test_there_are_recipes():
    assert {"birds_meru", "birds_clip", "cub_meru", "cub_clip"} <= set(EXPERIMENTS)


@pytest.mark.parametrize("experiment", OWN)
def test_recipes_for_ones_own_data_need_only_their_place(experiment, compose):
    with pytest.raises(UserError, match=r"data\.(path|root)=null: give the path"):
        check(compose(f"experiment={experiment}"), command="train")
    key = "data.root" if "hypgcd" in experiment else "data.path"
    check(compose(f"experiment={experiment}", f"{key}=somewhere"), command="train")


@pytest.mark.parametrize("experiment", without_repetition(EXPERIMENTS))
def test_every_recipe_takes_two_steps(
    experiment, compose, cub_folder, person_folder, small_clip, mobilenet_weights, tmp_path
):
    composed = compose(f"experiment={experiment}")
    check(composed, command="train")
    towers = small_clip if composed.encoder.image._target_.endswith("clip_image_encoder") else SMALL
    if "mobilenetv2" in experiment:
        towers = [*SMALL, f"encoder.image.weights={mobilenet_weights}"]
    persons = composed.data.monitor.startswith("text_to_image/identity")
    if persons:
        source = [f"data.root={person_folder}"]
        if "layout" in composed.data.load:
            source.append("data.load.layout=cuhk_pedes")
    else:
        source = [f"data.root={cub_folder}", "data.load._target_=meru.data.datasets.cub.load_cub"]
    config = compose(
        f"experiment={experiment}",
        *towers,
        *source,
        *PERSON_SIZES.get(composed.data.load._target_, []),
        f"evaluation.attention_pictures={min(1, composed.evaluation.attention_pictures)}",
        "data.batch_size=4",
        "data.workers=0",
        "trainer.epochs=1",
        "trainer.log_every=1",
        "logger=none",
        f"folder={tmp_path / 'run'}",
    )
    check(config, command="train")
    figures = train(config, device=torch.device("cpu"))
    first = "text_to_image/identity/recall@1" if persons else "zero_shot/accuracy@1"
    assert 0 <= figures[first] <= 1
    steps = [line for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines() if '"loss"' in line]
    assert len(steps) == 2
    assert (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.parametrize("experiment", without_repetition(DISCOVERING))
def test_every_recipe_of_discovery_takes_two_steps(experiment, compose, cub_folder, tmp_path):
    check(compose(f"experiment={experiment}"), command="train")
    config = compose(
        f"experiment={experiment}",
        "encoder=small",
        "encoder.image.image_size=32",
        "+encoder.image.random_weights=true",
        "model.projection_width=16",
        "data.cached_views=0",
        "data.batch_size=5",
        "data.workers=0",
        "trainer.epochs=1",
        "trainer.log_every=1",
        "logger=none",
        f"folder={tmp_path / 'run'}",
    )
    check(config, command="train")
    config.data.load_discovery = {
        "_target_": "meru.data.datasets.fine_grained.load_cub_discovery",
        "root": str(cub_folder),
        "old_classes": ["002.Red_bird_0", "005.Green_bird_1"],
    }
    figures = train(config, device=torch.device("cpu"))
    assert 0 < figures["discovery/all/accuracy"] <= 1
    steps = [line for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines() if '"loss"' in line]
    assert len(steps) == 2


@pytest.mark.parametrize("choice", ["model=hycoclip", "model=meru_grid", "model=meru_patches"])
def test_other_parts_take_two_steps(choice, compose, cub_folder, tmp_path):
    config = compose(
        "experiment=birds_meru",
        choice,
        *SMALL,
        f"data.root={cub_folder}",
        "data.load._target_=meru.data.datasets.cub.load_cub",
        "data.batch_size=4",
        "data.workers=1",
        "trainer.epochs=1",
        "trainer.log_every=1",
        "evaluation.attention_pictures=2",
        "logger=none",
        f"folder={tmp_path / 'run'}",
    )
    train(config, device=torch.device("cpu"))
    assert len(list((tmp_path / "run" / "attention").glob("*.png"))) == 2


@pytest.mark.parametrize(
    ("missing", "model", "message"),
    [
        ("bounding_boxes.txt", "hycoclip", "needs bounding_boxes.txt"),
        ("parts", "hycoclip", "needs parts/part_locs.txt"),
        ("bounding_boxes.txt", "meru_patches", None),
        ("parts", "meru_patches", None),
    ],
)
def test_crops_need_boxes_and_parts_and_patches_do_not(missing, model, message, compose, make_cub_folder, tmp_path):
    folder = make_cub_folder()
    gone = folder / missing
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    config = compose(
        "experiment=birds_meru",
        f"model={model}",
        *SMALL,
        f"data.root={folder}",
        "data.load._target_=meru.data.datasets.cub.load_cub",
        "data.batch_size=4",
        "data.workers=0",
        "trainer.epochs=1",
        "logger=none",
        f"folder={tmp_path / 'run'}",
    )
    if message:
        with pytest.raises(UserError, match=message):
            train(config, device=torch.device("cpu"))
        assert not (tmp_path / "run").exists()
    else:
        train(config, device=torch.device("cpu"))


@pytest.mark.parametrize("name", sorted(path.stem for path in (PROJECT / "configs" / "encoder").glob("*.yaml")))
def test_every_encoder_builds(name, compose):
    empty = ["+encoder.image.random_weights=true", "+encoder.text.random_weights=true"]
    config = compose("model=meru", f"encoder={name}", *empty)
    if "architecture" in config.encoder.text:  # which the tests of the text tower build
        config.encoder.text.architecture = "L1_W16_A2"
    pretrained = build(config)
    image = pretrained.transforms.evaluation(torch.zeros(3, 300, 400, dtype=torch.uint8))
    assert image.shape in ((3, 96, 96), (3, 160, 160), (3, 224, 224))
    assert pretrained.model.visual_proj.out_features == config.encoder.embedding_dimension


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_every_optimizer_builds(name, compose):
    section = instantiate(compose(f"optim={name}").optim, _convert_="all")
    optimizer = section["optimizer"]([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    assert isinstance(optimizer, torch.optim.Optimizer)


def test_names_of_runs_follow_data_and_model(compose):
    assert compose("experiment=cub_clip").name == "cub_clip"
    assert compose("experiment=cub_meru", "data=birds").name == "birds_meru"


def test_a_recipe_overrides_the_defaults_and_the_command_line_overrides_the_recipe(compose):
    recipe = compose("experiment=cub_mobilenetv2_meru")
    assert recipe.trainer.evaluate_every == 4
    assert compose("experiment=cub_mobilenetv2_meru", "trainer.evaluate_every=5").trainer.evaluate_every == 5


@pytest.mark.parametrize("experiment", ["birds_meru", "cub_mobilenetv2_meru", "cub_vit_tiny_meru"])
def test_norms_stay_out_of_the_space_where_meru_is_trained_from_scratch_and_only_there(experiment, compose):
    assert compose(f"experiment={experiment}").model.norm_exponent == 0
    assert compose(f"experiment={experiment}", "model.norm_exponent=1").model.norm_exponent == 1
    assert "norm_exponent" not in compose(f"experiment={experiment}", "model=clip").model
    for other in ("hycoclip", "meru_patches", "meru"):  # parts must be able to lie nearer the origin than wholes
        assert compose(f"experiment={experiment}", f"model={other}").model.norm_exponent == 1


@pytest.mark.parametrize("experiment", DISCOVERING)
def test_recipes_of_discovery_have_the_released_schedule(experiment, compose):
    trainer = compose(f"experiment={experiment}").trainer
    assert (trainer.rate_changes, trainer.warmup_epochs, trainer.final_learning_rate) == ("epoch", 0, 0.001)


@pytest.mark.parametrize("model", ["clip", "meru", "gahr", "hypgcd"])
def test_the_category_loss_has_the_factor_that_its_published_weight_is_meant_with(model, compose):
    assert compose(f"model={model}").loss.category.riemannian


def test_only_the_model_with_patches_draws_attention_by_itself(compose):
    assert compose("experiment=birds_meru").evaluation.attention_pictures == 0
    assert compose("experiment=birds_meru_patches").evaluation.attention_pictures == 8
    assert compose("model=hycoclip").evaluation.attention_pictures == 0


def test_a_recipe_from_clips_weights_is_also_one_of_the_ablation(compose, cub_folder, small_clip, tmp_path):
    """CLIP has neither a curvature nor a radius, which the recipe of MERU sets."""
    config = compose(
        "experiment=cub_meru",
        "model=clip",
        *small_clip,
        f"data.root={cub_folder}",
        "data.batch_size=4",
        "data.workers=0",
        "trainer.epochs=1",
        "logger=none",
        f"folder={tmp_path / 'run'}",
    )
    assert train(config, device=torch.device("cpu"))


FROM_CLIP = ["cub_meru", "cub_clip", "cub_meru_patches", "cub_gahr"]
AS_RELEASED = ["cuhk_pedes_gahr", "icfg_pedes_gahr", "rstpreid_gahr"]  # scalars at the towers' rate, alphas at 1/√D


@pytest.mark.parametrize("experiment", FROM_CLIP)
def test_scalars_of_recipes_from_clips_weights_can_move_by_a_factor(experiment, compose):
    """Adam moves a logarithm by about the rate a step, so the rates must sum to 1 at least for a factor of e."""
    config = compose(f"experiment={experiment}")
    per_epoch = 5395 // config.data.batch_size  # nine tenths of CUB's training images
    total, warmup = config.trainer.epochs * per_epoch, round(config.trainer.warmup_epochs * per_epoch)
    final = config.trainer.final_learning_rate
    factors = (warmup_cosine(step, total_steps=total, warmup_steps=warmup, final=final) for step in range(total))
    reach = config.optim.learning_rate * config.optim.multipliers.scalars * sum(factors)
    assert 1.4 < reach < 2.0


def test_every_recipe_from_clips_weights_is_among_them(compose):
    def from_clip(name):
        return compose(f"experiment={name}").encoder.image._target_.endswith("clip_image_encoder")

    assert {name for name in EXPERIMENTS if from_clip(name)} == {*FROM_CLIP, *AS_RELEASED}
    for name in AS_RELEASED:
        config = compose(f"experiment={name}")
        assert config.optim.multipliers.scalars == 1 and config.model.initial_radius is None


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["encoder=mobilenetv2"], "encoder.image.train_last_blocks=0: part of mobilenetv2_100 would keep random"),
        (["experiment=cub_mobilenetv2_meru"], "train_last_blocks=3"),
        (["experiment=cub_mobilenetv2_hypgcd", "discovery.num_classes=5"], "train_last_blocks=1"),
        (["encoder=mobilenetv2", "encoder.image.train_last_blocks=null"], "freeze_batch_norm=True"),
        (["encoder=vit_tiny", "encoder.image.train_last_blocks=2"], "train_last_blocks=2: part of vit_tiny"),
        (["encoder=dino_vitb16", "encoder.image.pretrained=false", "model=simgcd"], "train_last_blocks=1"),
        (["encoder=clip_vit_b16", "encoder.image.pretrained=null", "encoder.image.train_last_blocks=1"], "ViT-B-16"),
    ],
)
def test_a_frozen_tower_without_weights_is_refused(overrides, message, compose):
    remedy = "weights=<file>, encoder.image.pretrained or encoder.init"
    with pytest.raises(UserError, match=f"{message}.*{remedy}") as caught:
        build(compose(*overrides))
    assert "\n" not in str(caught.value)


def test_a_frozen_tower_may_get_its_weights_from_a_file_or_a_whole_model(compose, mobilenet_weights, tmp_path):
    towers = ["encoder=mobilenetv2", "encoder.image.image_size=64", "encoder.text.architecture=L1_W16_A2"]
    given = build(compose(*towers, f"encoder.image.weights={mobilenet_weights}"))
    save_weights(tmp_path / "model.safetensors", given.model.state_dict())
    whole = build(compose(*towers, f"encoder.init={tmp_path / 'model.safetensors'}"))
    assert torch.equal(whole.model.visual.conv_stem.weight, given.model.visual.conv_stem.weight)
    assert build(compose(*towers, "+encoder.image.random_weights=true"))


def test_configuration_is_plain_data(compose):
    text = OmegaConf.to_yaml(compose("experiment=birds_meru"), resolve=True)
    assert "${" not in text
    assert str(Path(PROJECT / "data" / "birds")) in text


@pytest.mark.parametrize(("model", "weight"), [("meru_patches", 0.0), ("meru_grid", 0.1)])
def test_part_entailment_is_off_where_it_teaches_nothing_and_never_without_a_floor(model, weight, compose):
    loss = compose(f"model={model}").loss
    assert loss.part_entailment.weight == weight and loss.part_entailment.apex_floor > 1
    assert loss.entailment.apex_floor == compose("model=meru").loss.entailment.apex_floor == 0  # as published
