"""A discovery run whose classes arrive in stages, from its data to its figures, on few drawn birds."""

import json

import pytest
import torch
from process_groups import results_of

import meru
from meru.errors import UserError
from meru.models.simgcd import SimGCD
from meru.runs.train import train
from meru.tasks.discovery import Discovery
from meru.training.trainer import Trainer

DEVICE = torch.device("cpu")
TOWER = (
    "encoder.image.name=mobilenetv2_035", "+encoder.image.train_last_blocks=1", "+encoder.image.random_weights=true"
)  # fmt: skip


@pytest.fixture(scope="module")
def birds(tmp_path_factory):
    from meru.data.synthetic.birds.load import draw_birds

    return draw_birds(tmp_path_factory.mktemp("stages") / "birds", images_per_species=4, image_size=32)


@pytest.fixture
def configuration(compose, birds, tmp_path):
    """Three stages of two steps."""

    def make(*overrides, model="hypgcd", folder="run"):
        return compose(
            "experiment=birds_hypgcd", f"model={model}", f"data.root={birds}",
            "+data.load_discovery.images_per_species=4", "+data.load_discovery.image_size=32",
            "encoder.image.image_size=32", "model.projection_width=16", "model.projection_dimension=8",
            "data.batch_size=16", "data.workers=0", "trainer.epochs=1", "trainer.log_every=1", "logger=none",
            "discovery.stages=3", f"data.cache={tmp_path / 'cache'}", f"folder={tmp_path / folder}", *overrides,
        )  # fmt: skip

    return make


def lines_of(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    timed = ("images_per_second",)
    return [{name: value for name, value in line.items() if name not in timed} for line in lines]


def weights_of(folder):
    return meru.load(folder).model.state_dict()


@pytest.mark.parametrize(
    ("sampler", "earlier"), [("weighted", "all"), ("uniform", "sample"), ("neighbours", "none"), ("weighted", "none")]
)
def test_a_run_has_finite_losses_and_the_figures_of_every_stage(sampler, earlier, configuration, tmp_path, caplog):
    config = configuration(f"discovery.sampler={sampler}", f"discovery.earlier_images={earlier}")
    with caplog.at_level("INFO", logger="meru"):
        figures = train(config, device=DEVICE)
    assert figures == json.loads((tmp_path / "run" / "test.json").read_text())
    for stage, classes in enumerate((32, 40, 48), start=1):
        assert figures[f"stage/{stage}/classes"] == classes
        for name in ("all", "old", "new", "new_now"):
            assert 0 <= figures[f"stage/{stage}/{name}/accuracy"] <= 1
    assert figures["forgetting"] == figures["stage/3/forgetting"] and "stage/1/forgetting" not in figures
    assert figures["stage/3/all/accuracy"] == figures["inductive/all/accuracy"]  # the same weights, classes and images
    assert f"3 stages, of earlier images {earlier} remain" in caplog.text and "stage 2, 40 classes" in caplog.text
    assert caplog.text.count("stage 3, 48 classes") == 1  # in the table at the end
    lines = lines_of(tmp_path / "run")
    assert [line["step"] for line in lines if "stage/2/all/accuracy" in line] == [len(lines) // 4 * 2]
    rates = [line["learning_rate"] for line in lines if "loss" in line]
    steps = len(rates) // 3
    assert rates[:steps] == rates[steps : 2 * steps] == rates[2 * steps :]  # each stage has the schedule of a run


@pytest.mark.parametrize("model", ["simgcd", "hypcd", "hypgcd_released"])
def test_other_models_learn_without_any_label_in_later_stages(model, configuration, monkeypatch):
    seen, forward = [], SimGCD.forward

    def watched(self, batch):
        output = forward(self, batch)
        seen.append((batch["classes"], int(batch["labelled"].sum()), float(batch["epoch"]), output.loss.item()))
        return output

    monkeypatch.setattr(SimGCD, "forward", watched)
    width = ["model.projection_width=null"] if model == "hypcd" else []
    train(configuration("discovery.earlier_images=none", *width, model=model), device=DEVICE)
    steps = len(seen) // 3
    assert [classes for classes, *_ in seen] == [32] * steps + [40] * steps + [48] * steps
    assert all(labelled for _, labelled, *_ in seen[:steps]) and not any(count for _, count, *_ in seen[steps:])
    assert [epoch for *_, epoch, _ in seen] == pytest.approx(3 * [step / steps for step in range(steps)])
    assert torch.tensor([loss for *_, loss in seen]).isfinite().all()


def test_classes_that_have_not_arrived_are_not_trained(configuration, tmp_path, monkeypatch):
    """Two runs whose later rows of the classifier differ do not differ in the first stage."""
    ends, figures = [], []
    at_stage_end = Discovery.at_stage_end

    def watched(self, pretrained, model, stage):
        ends.append({name: value.clone() for name, value in model.state_dict().items()})
        figures.append(at_stage_end(self, pretrained, model, stage))
        return figures[-1]

    monkeypatch.setattr(Discovery, "at_stage_end", watched)
    train(configuration("optim.weight_decay=0"), device=DEVICE)
    monkeypatch.setattr("meru.runs.train.build", _with_other_rows(32))
    train(configuration("optim.weight_decay=0", folder="other"), device=DEVICE)
    first, other = ends[0], ends[3]
    rows = {name: (first[name], other[name]) for name in first}
    one, two = rows.pop("classifier.weight")
    assert all(torch.equal(*pair) for pair in rows.values())
    assert torch.equal(one[:32], two[:32]) and not torch.equal(one[32:], two[32:])
    assert figures[0] == figures[3]
    assert not torch.equal(ends[1]["classifier.weight"][32:40], one[32:40])


def _with_other_rows(first):
    from meru.assemble import build

    def changed(config):
        pretrained = build(config)
        with torch.no_grad():
            pretrained.model.classifier.weight[first:] += 1.0
        return pretrained

    return changed


@pytest.mark.parametrize(
    "more",
    [
        ["discovery.earlier_images=sample"],
        ["discovery.sampler=neighbours"],
        ["discovery.earlier_images=none", "data.cached_views=4", *TOWER],
        ["trainer.ema_decay=0.5", "discovery.sampler=uniform"],
    ],
)
def test_a_run_killed_in_a_later_stage_goes_on_to_the_same_weights_and_figures(
    more, configuration, tmp_path, train_until_step_3, caplog
):
    options = ["data.batch_size=22", "trainer.checkpoint_every=1", *more]
    whole = train(configuration(*options, folder="whole"), device=DEVICE)
    config = configuration(*options, folder="stopped")
    train_until_step_3(config)
    steps = len([line for line in lines_of(tmp_path / "whole") if "loss" in line]) // 3
    assert steps == 2  # step 3 is in the second stage
    config.resume, config.folder = str(tmp_path / "stopped"), None
    assert train(config, device=DEVICE) == whole
    first, second = weights_of(tmp_path / "whole"), weights_of(tmp_path / "stopped")
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert lines_of(tmp_path / "whole") == lines_of(tmp_path / "stopped")


def test_a_run_killed_at_the_end_of_a_stage_goes_on_with_the_next(configuration, tmp_path, monkeypatch):
    options = ["data.batch_size=22", "trainer.checkpoint_every=0"]
    whole = train(configuration(*options, folder="whole"), device=DEVICE)
    save = Trainer._save

    def save_then_stop(trainer):
        save(trainer)
        if trainer.step == 2:
            raise KeyboardInterrupt

    config = configuration(*options, folder="stopped")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Trainer, "_save", save_then_stop)
        train(config, device=DEVICE)
    config.resume, config.folder = str(tmp_path / "stopped"), None
    assert train(config, device=DEVICE) == whole
    with pytest.raises(UserError, match="trainer.epochs=3: the stages of this run have 1 epochs each; leave it so"):
        config.trainer.epochs = 3
        train(config, device=DEVICE)


def test_one_stage_is_a_run_without_stages(configuration, tmp_path):
    """Whatever the other keys of stages say."""
    plain = train(configuration("discovery.stages=1"), device=DEVICE)
    again = train(configuration("discovery.stages=1", "discovery.earlier_images=none", folder="other"), device=DEVICE)
    assert plain == again and not any("stage" in name or "forgetting" in name for name in plain)


def test_settings_are_chosen_without_test_images(configuration):
    config = configuration("discovery.validation=true", "discovery.stages=2", "data.batch_size=8")
    figures = train(config, device=DEVICE)
    assert figures["stage/2/all/images"] == figures["discovery/all/images"] > figures["stage/1/all/images"]
    assert figures["stage/2/all/accuracy"] == figures["discovery/all/accuracy"]


def test_a_finished_run_is_evaluated_by_its_last_weights(configuration, tmp_path):
    config = configuration()
    figures = train(config, device=DEVICE)
    config = Discovery(config, device=DEVICE).complete_config()
    again = Discovery(config, device=DEVICE).evaluate(meru.load(tmp_path / "run")).figures
    assert again == {name: figure for name, figure in figures.items() if "stage/" not in name and name != "forgetting"}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["discovery.stages=30"], "discovery.stages=30: every stage brings new classes, and the data have 24 of them"),
        (["discovery.num_classes=estimate"], "discovery.stages=3: discovery.num_classes=estimate would use images"),
        (["discovery.num_classes=26"], "every stage opens a new class, so give at least 27"),
        (["data.batch_size=48", "discovery.earlier_images=none"], "discovery.stages=3, stage 2: a batch of 48 images"),
        (["discovery.sampler=neighbours", "discovery.neighbours=99"], "discovery.neighbours=99: a stage has"),
    ],
)
def test_stages_that_cannot_be_leave_no_run_folder(overrides, message, configuration, tmp_path):
    with pytest.raises(UserError, match=message):
        train(configuration(*overrides), device=DEVICE)
    assert not (tmp_path / "run").exists()


def trained(rank, config):
    return train(config, device=DEVICE)


def test_two_processes_have_the_figures_of_all_stages(configuration, tmp_path):
    alone = train(configuration("trainer.precision=fp32"), device=DEVICE)
    main, other = results_of(trained, configuration("trainer.precision=fp32", folder="two"), processes=2)
    assert other is None and main.keys() == alone.keys()
    losses = [[line["loss"] for line in lines_of(tmp_path / name) if "loss" in line] for name in ("run", "two")]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
