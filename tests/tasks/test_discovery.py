"""A discovery run from its data to its table, on drawn birds few enough for a test."""

import json

import pytest
import timm
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file

import meru
from meru.assemble import build
from meru.configuration import check
from meru.data.discovery.loading import weighted_view_loader
from meru.errors import UserError
from meru.evaluation.classes import class_trees, purities, save_trees
from meru.runs.train import train
from meru.tasks.discovery import Discovery
from meru.tasks.discovery_batches import nearest_images, released_neighbours

DEVICE = torch.device("cpu")


@pytest.fixture(scope="module")
def birds(tmp_path_factory):
    from meru.data.synthetic.birds.load import draw_birds

    return draw_birds(tmp_path_factory.mktemp("discovery") / "birds", images_per_species=4, image_size=32)


@pytest.fixture
def configuration(compose, birds, tmp_path):
    def make(*overrides, experiment="birds_hypgcd", folder="run"):
        return compose(
            f"experiment={experiment}",
            f"data.root={birds}",
            "+data.load_discovery.images_per_species=4",
            "+data.load_discovery.image_size=32",
            "encoder.image.image_size=32",
            "model.projection_width=16",
            "model.projection_dimension=8",
            "data.batch_size=16",
            "data.workers=0",
            "trainer.epochs=1",
            "trainer.log_every=1",
            "logger=none",
            f"data.cache={tmp_path / 'cache'}",
            f"folder={tmp_path / folder}",
            *overrides,
        )

    return make


@pytest.mark.parametrize(
    ("experiment", "sampler"),
    [("birds_simgcd", "weighted"), *(("birds_hypgcd", sampler) for sampler in ("weighted", "uniform", "neighbours"))],
)
def test_a_run_leaves_its_model_and_figures(experiment, sampler, configuration, tmp_path):
    config = configuration(f"discovery.sampler={sampler}", experiment=experiment)
    figures = train(config, device=DEVICE)
    assert figures == json.loads((tmp_path / "run" / "test.json").read_text())
    assert figures["num_classes"] == figures["true_num_classes"] == 48
    for name in ("discovery/all/accuracy", "kmeans/new/accuracy", "inductive/old/accuracy"):
        assert 0 <= figures[name] <= 1
    loaded = meru.load(tmp_path / "run")
    assert loaded.tokenizer is None
    assert Discovery(config, device=DEVICE).evaluate(loaded).figures == figures


@pytest.mark.parametrize("experiment", ["birds_simgcd", "birds_hypgcd"])
def test_trees_of_the_predicted_classes_are_written(experiment, configuration, tmp_path):
    config = configuration("discovery.num_classes=48", experiment=experiment)
    torch.manual_seed(0)
    task, pretrained = Discovery(config, device=DEVICE), build(config)
    data, model = task.data, pretrained.model
    everything = task.features(data.train, pretrained)
    first = [int((everything["label"] == label).nonzero()[0]) for label in range(48)]
    with torch.no_grad():  # an image of each class as its weight: predictions that differ
        model.classifier.weight.copy_(everything["features"][first] - everything["features"].mean(dim=0))
    seen = task.features(data.train, pretrained)
    trees = class_trees(data, seen, model)
    figures = purities(trees)
    save_trees(tmp_path / "tree", trees)
    written = {path.name for path in (tmp_path / "tree").iterdir()}
    of_features = {"feature_tree.nwk", "feature_tree.json", "feature_tree.png"}
    of_ball = {"tree.nwk", "tree.json", "tree.png", "poincare_disk.png"}
    assert written == (of_features | of_ball if experiment == "birds_hypgcd" else of_features)
    assert all(0 < figures[f"feature_tree/{kind}dendrogram_purity"] <= 1 for kind in ("", "chance_"))
    newick = (tmp_path / "tree" / "feature_tree.nwk").read_text()
    leaves = newick.count(",") + 1
    assert leaves >= 3 and newick.rstrip().endswith(";")
    assert len(json.loads((tmp_path / "tree" / "feature_tree.json").read_text())["nodes"]) == 2 * leaves - 1


def test_a_wrong_or_estimated_number_of_classes(configuration):
    figures = train(configuration("discovery.num_classes=60", folder="more"), device=DEVICE)
    assert figures["num_classes"] == 60 and 0 < figures["discovery/all/accuracy"] < 1
    estimate = configuration("discovery.num_classes=estimate", "discovery.maximum_classes=60", folder="estimate")
    found = train(estimate, device=DEVICE)["num_classes"]
    saved = OmegaConf.load(f"{estimate.folder}/config.yaml").discovery
    assert 24 <= found <= 60 and saved.num_classes == found and saved.asked_num_classes == "estimate"


def test_neighbours_are_in_the_order_of_the_data_and_begin_with_the_image_itself(configuration):
    config = configuration("discovery.num_classes=48")
    task = Discovery(config, device=DEVICE)
    images = len(task.data.train)
    nearest = nearest_images(task.features(task.data.train, build(config)), images=images, count=5)
    assert nearest.shape == (images, 5)
    assert torch.equal(nearest[:, 0], torch.arange(images))


def test_released_neighbours_are_places_in_a_weighted_draw(configuration, monkeypatch):
    """What the released code takes for indices of images; the sampler of `model=hypgcd_released` takes them, too."""
    config = configuration("discovery.num_classes=48", "model=hypgcd_released", "discovery.sampler=neighbours")
    torch.manual_seed(0)
    data, pretrained = Discovery(config, device=DEVICE).data, build(config)
    model, transforms = pretrained.model, pretrained.transforms
    found = released_neighbours(config, data.train, model, transforms, epoch=0, device=DEVICE)
    assert found.shape == (len(data.train), 5) and torch.equal(found[:, 0], torch.arange(len(data.train)))
    loader = weighted_view_loader(
        data.train, transform=transforms.training, epoch=0, batch_size=50, seed=0, workers=0, on_error="raise"
    )
    drawn = torch.cat([batch["image_index"] for batch in loader])
    again = (drawn[:, None] == drawn).sum(dim=1) > 1  # drawn more than once: other views of it are near
    alike = (drawn[found[:, 1:]] == drawn[:, None]).any(dim=1)[again].float().mean()
    assert alike > 0.2 and (drawn != torch.arange(len(drawn))).float().mean() > 0.9
    asked = []
    monkeypatch.setattr(
        "meru.tasks.discovery.released_neighbours",
        lambda *arguments, epoch, **options: asked.append(epoch) or found,
    )
    train(config, device=DEVICE)
    assert asked == [0]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["discovery.num_classes=20"], "there are 24 old classes already"),
        (["data.batch_size=4000"], "larger than the training set"),
        (["discovery.sampler=random"], "choose one of weighted, uniform, neighbours"),
    ],
)
def test_settings_that_cannot_be(overrides, message, configuration):
    with pytest.raises(UserError, match=message):
        train(configuration(*overrides), device=DEVICE)


def test_data_without_captions_and_data_without_a_discovery_split(compose):
    with pytest.raises(UserError, match="no captions, only classes to discover"):
        check(compose("model=meru", "data=cifar10"), command="train")
    with pytest.raises(UserError, match="no split for discovery"):
        check(compose("model=hypgcd", "data=pedestrians"), command="train")


TOWER = ("encoder.image.name=mobilenetv2_035", "+encoder.image.train_last_blocks=1")
RANDOM = "+encoder.image.random_weights=true"
KEPT = (*TOWER, RANDOM)


@pytest.mark.parametrize("sampler", ["weighted", "neighbours"])
def test_a_run_on_kept_views(sampler, configuration):
    config = configuration(*KEPT, "data.cached_views=4", f"discovery.sampler={sampler}", experiment="birds_simgcd")
    assert 0 <= train(config, device=DEVICE)["discovery/all/accuracy"] <= 1


@pytest.mark.parametrize(
    ("views", "more"),
    [
        (0, ["discovery.sampler=weighted"]),
        (2, ["discovery.sampler=uniform"]),
        (0, ["discovery.sampler=neighbours"]),  # those that the epoch began with
        (0, ["discovery.sampler=neighbours", "model=hypgcd_released"]),
    ],
)
def test_a_run_stopped_within_an_epoch_goes_on_to_the_same_weights(
    views, more, configuration, tmp_path, train_until_step_3
):
    """Also one that began with the weights of a file, which are not read again."""
    overrides = ["trainer.epochs=2", f"data.cached_views={views}", *more]
    if views:
        weights = tmp_path / "weights.safetensors"
        save_file(timm.create_model("mobilenetv2_035", num_classes=0).state_dict(), weights)
        overrides += [*TOWER, f"+encoder.image.weights={weights}"]
    train(configuration(*overrides, folder="whole"), device=DEVICE)
    config = configuration(*overrides, "trainer.checkpoint_every=3", folder="stopped")
    train_until_step_3(config)
    config.resume, config.folder = str(tmp_path / "stopped"), None
    train(config, device=DEVICE)
    weights = [meru.load(tmp_path / name).model.state_dict() for name in ("whole", "stopped")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.cached_views=2"], "ResNet cannot be split"),
        (["data.cached_views=2", KEPT[0]], "set encoder.image.train_last_blocks"),
    ],
)
def test_views_that_cannot_be_kept(overrides, message, configuration):
    with pytest.raises(UserError, match=message):
        train(configuration(*overrides), device=DEVICE)


def test_a_configuration_that_describes_no_model_is_named_when_it_is_loaded(configuration, tmp_path):
    train(configuration(), device=DEVICE)
    path = tmp_path / "run" / "config.yaml"
    whole = path.read_text()
    for before, after in (("projection_width: ", "projection_width: wide"), ("  name: test_resnet", "  name: [a]")):
        assert before in whole
        path.write_text(whole.replace(before, after))
        with pytest.raises(UserError, match="config.yaml describes a model that cannot be built"):
            meru.load(tmp_path / "run")
