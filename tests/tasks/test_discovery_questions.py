"""Runs of category discovery with wrong labels, other proportions, or a correction; and the ablations that use them."""

import json
import logging

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from process_groups import results_of

import meru
from meru.configuration import check
from meru.errors import UserError
from meru.runs.ablation_file import read_ablation
from meru.runs.ablation_plan import base_overrides, planned_runs
from meru.runs.evaluate import evaluate_run
from meru.runs.figure_names import figure_names, require_figures
from meru.runs.train import train
from meru.tasks.discovery import Discovery

DEVICE = torch.device("cpu")
NEAREST = ("data.label_noise=0.4", "data.label_noise_kind=nearest")


@pytest.fixture(scope="module")
def birds(tmp_path_factory):
    from meru.data.synthetic.birds.load import draw_birds

    return draw_birds(tmp_path_factory.mktemp("questions") / "birds", images_per_species=6, image_size=32)


@pytest.fixture
def configuration(compose, birds, tmp_path):
    def make(*overrides, experiment="birds_hypgcd", folder="run"):
        return compose(
            f"experiment={experiment}",
            f"data.root={birds}",
            "+data.load_discovery.images_per_species=6",
            "+data.load_discovery.image_size=32",
            "encoder.image.image_size=32",
            "model.projection_dimension=8",
            "data.batch_size=16",
            "data.workers=0",
            "trainer.epochs=1",
            "logger=none",
            f"data.cache={tmp_path / 'cache'}",
            f"folder={tmp_path / folder}",
            *overrides,
        )

    return make


def given(config):
    task = Discovery(config, device=DEVICE)
    task.complete_config()
    return task.data.train.given


def given_in_group(rank, config):
    return given(config)


@pytest.mark.parametrize("kind", ["symmetric", "nearest"])
def test_wrong_labels_are_the_same_for_every_method_seed_and_number_of_processes(kind, configuration):
    noise = ("data.label_noise=0.4", f"data.label_noise_kind={kind}")
    first = given(configuration(*noise))
    task = Discovery(configuration(), device=DEVICE)
    assert 0.35 < (first != task.data.train.labels)[task.data.train.labelled].double().mean() < 0.45
    for overrides, experiment in ((["seed=7"], "birds_simgcd"), (["discovery.num_classes=60"], "birds_hypcd")):
        torch.manual_seed(3)
        assert torch.equal(given(configuration(*noise, *overrides, experiment=experiment)), first)
    assert not torch.equal(given(configuration(*noise, "data.split_seed=1")), first)
    for other in results_of(given_in_group, configuration(*noise)) if kind == "nearest" else ():
        assert torch.equal(other, first)


def test_a_resumed_run_with_wrong_labels_has_the_weights_of_one_that_was_not_stopped(
    configuration, tmp_path, train_until_step_3
):
    overrides = ["trainer.epochs=2", *NEAREST, "model.projection_width=16"]
    train(configuration(*overrides, folder="whole"), device=DEVICE)
    config = configuration(*overrides, "trainer.checkpoint_every=3", folder="stopped")
    train_until_step_3(config)
    config.resume, config.folder = str(tmp_path / "stopped"), None
    train(config, device=DEVICE)
    whole, stopped = (meru.load(tmp_path / name).model.state_dict() for name in ("whole", "stopped"))
    assert all(torch.equal(whole[name], stopped[name]) for name in whole)


def test_an_estimated_number_of_classes_reads_the_wrong_labels(configuration, monkeypatch):
    seen = {}

    def estimate(features, labels, labelled, num_old, **options):
        seen.update(labels=labels, labelled=labelled)
        return 50, {}

    monkeypatch.setattr("meru.tasks.discovery.estimate_num_classes", estimate)
    task = Discovery(configuration("discovery.num_classes=estimate", "data.label_noise=0.4"), device=DEVICE)
    task.complete_config()
    assert torch.equal(seen["labels"], task.data.train.given) and seen["labelled"].any()
    assert "with a wrong label (symmetric)" in task.describe()


def test_validation_and_other_proportions_have_wrong_labels_too(configuration):
    task = Discovery(
        configuration("discovery.validation=true", "discovery.imbalance=2", "data.label_noise=0.5"), device=DEVICE
    )
    task.complete_config()
    train_split = task.data.train
    wrong = (train_split.given != train_split.labels) & train_split.labelled
    assert wrong.sum() == round(0.5 * int(train_split.labelled.sum()))
    assert (train_split.given[wrong] < task.data.num_old).all()


def test_a_run_with_all_of_it_says_so_and_is_evaluated_again_with_the_same_figures(
    configuration, compose, tmp_path, caplog
):
    overrides = (
        "discovery.old_share=0.25", "discovery.imbalance=2", "data.label_noise=0.25", "model.projection_width=16",
        "loss.supervised_classification.robust=0.7",
    )  # fmt: skip
    with caplog.at_level(logging.INFO, logger="meru"):
        figures = train(configuration(*overrides), device=DEVICE)
    assert "with a wrong label (symmetric); 12 old and 36 new classes of 2 to 4 images, 48 in" in caplog.text
    assert "images of old classes taken for new ones, after clusters are assigned to classes: " in caplog.text
    assert "unlabelled images predicted as old classes by the rows of the classifier: " in caplog.text
    assert "predicted_old/offset" not in figures
    run = f"run={tmp_path / 'run'}"
    again = evaluate_run(compose(run, "workers=0", name="evaluate"))
    assert again == json.loads((tmp_path / "run" / "test.json").read_text())
    adjusted = evaluate_run(compose(run, "workers=0", "prior_adjustment=1", name="evaluate"))
    assert adjusted["predicted_old/share"] == pytest.approx(adjusted["predicted_old/expected_share"], abs=0.02)
    test_only = evaluate_run(compose(run, "workers=0", "prior_adjustment=1", "split=test", name="evaluate"))
    assert {name for name in test_only if name.startswith(("discovery/", "kmeans/"))} == set()
    assert test_only["inductive/all/accuracy"] == adjusted["inductive/all/accuracy"]
    assert set(figures) | set(adjusted) <= set(figure_names({"task": "discovery"}))


def test_a_correction_in_training_is_that_of_an_evaluation(configuration, compose, tmp_path):
    plain = train(configuration("model.projection_width=16", folder="plain"), device=DEVICE)
    corrected = train(
        configuration("model.projection_width=16", "discovery.prior_adjustment=1", folder="corrected"), device=DEVICE
    )
    run = f"run={tmp_path / 'plain'}"
    assert evaluate_run(compose(run, "workers=0", "prior_adjustment=1", name="evaluate")) == corrected
    run = f"run={tmp_path / 'corrected'}"
    assert evaluate_run(compose(run, "workers=0", "prior_adjustment=0", name="evaluate")) == plain


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.label_noise=1.2"], "data.label_noise=1.2: give a number from 0 to 1"),
        (["data.label_noise_kind=far"], "data.label_noise_kind=far: give one of symmetric, nearest"),
        (["discovery.imbalance=0.5"], "discovery.imbalance=0.5: give a number from 1 to"),
        (["discovery.old_share=1.0"], "discovery.old_share=1.0: give a number above 0 and below 1"),
        (["discovery.prior_adjustment=2"], "discovery.prior_adjustment=2: give a number from 0 to 1"),
        (["loss.supervised_classification.robust=-1"], "loss.supervised_classification.robust=-1: give a number from"),
    ],
)
def test_values_out_of_range_are_one_line(overrides, message, configuration):
    with pytest.raises(UserError) as raised:
        check(configuration(*overrides), command="train")
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_a_share_without_an_old_class_is_one_line(configuration):
    with pytest.raises(UserError, match="old_share=0.75: 36 of 48 classes would be old, but the data have 24"):
        Discovery(configuration("discovery.old_share=0.75"), device=DEVICE)


def test_runs_of_images_and_captions_have_no_labels_to_be_wrong(compose, tmp_path):
    with pytest.raises(UserError, match="data.label_noise=0.2: a run of images and captions reads no labels"):
        check(compose("experiment=birds_meru", "data.label_noise=0.2"), command="train")


@pytest.mark.parametrize("name", ["label_noise", "long_tails", "old_class_bias"])
@pytest.mark.parametrize("experiment", [None, "birds_hypgcd"])
def test_the_ablations_compose_on_photographs_and_on_birds(name, experiment, tmp_path):
    ablation = read_ablation(name)
    assert ablation.experiment == "cub_mobilenetv2_hypgcd_light" and ablation.seeds == [0, 1, 2, 3, 4]
    base = base_overrides(experiment or ablation.experiment, ablation.overrides, [])
    runs = planned_runs(ablation.variants, ablation.starts, base, [0], tmp_path)
    assert len({run.folder for run in runs}) == len(runs) == len(ablation.variants)
    assert len({yaml.safe_dump(run.configuration) for run in runs}) == len(runs)  # no two rows are the same
    trained = [figure for figure in ablation.columns.values() if ": " not in figure]  # others are of suites
    require_figures(trained, [run.configuration for run in runs], place=name)


@pytest.mark.parametrize("name", ["label_noise", "long_tails", "old_class_bias"])
def test_a_row_of_each_ablation_trains_on_few_birds(name, configuration, tmp_path):
    ablation = read_ablation(name)
    _, variant = max(ablation.variants.items(), key=lambda item: len(item[1].overrides))
    figures = train(configuration("model.projection_width=16", *variant.overrides), device=DEVICE)
    wanted = {figure for figure in ablation.columns.values() if figure in figure_names({"task": "discovery"})}
    assert wanted <= set(figures)


def test_a_run_whose_unlabelled_images_are_all_of_unknown_classes_ends_with_the_bias(compose, tmp_path, caplog):
    generator = np.random.default_rng(0)
    for folder, number in (("own/ant", 4), ("own/bee", 4), ("own/cat", 4), ("unknown", 6)):
        (tmp_path / folder).mkdir(parents=True)
        for place in range(number):
            picture = Image.fromarray(generator.integers(0, 255, (32, 32, 3), dtype=np.uint8))
            picture.save(tmp_path / folder / f"{place}.png")
    config = compose(
        "experiment=own_hypgcd", f"data.root={tmp_path / 'own'}", f"data.unlabelled={tmp_path / 'unknown'}",
        "discovery.num_classes=5", "encoder=small", "encoder.image.image_size=32", "model.projection_width=16",
        "model.projection_dimension=8", "data.batch_size=4", "data.workers=0", "trainer.epochs=1", "logger=none",
        f"folder={tmp_path / 'run'}",
    )  # fmt: skip
    with caplog.at_level(logging.INFO, logger="meru"):
        figures = train(config, device=DEVICE)
    assert 0 <= figures["predicted_old/share"] <= 1 and "num_classes" not in figures
    assert "unlabelled images predicted as old classes by the rows of the classifier: " in caplog.text
