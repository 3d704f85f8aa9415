"""A finished run evaluated again, of every kind; what makes no sense for it is one line."""

import dataclasses
import json
import subprocess

import pytest
import torch

import meru
from meru.configuration import check
from meru.configuration.saved import read_config
from meru.data.images import read_image
from meru.errors import UserError
from meru.files import PROJECT
from meru.reports.tables import finite_figures, format_table
from meru.runs.evaluate import evaluate_run
from meru.runs.train import train
from meru.runs.visualize import visualize
from meru.tasks import discovery
from meru.tasks.discovery import Discovery

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def discovery_run(compose, tmp_path_factory):
    """A finished run of HypGCD on drawn birds, and the folder of these."""
    from meru.data.synthetic.birds.load import draw_birds

    folder = tmp_path_factory.mktemp("again")
    birds = draw_birds(folder / "birds", images_per_species=3, image_size=32)
    config = compose(
        "experiment=birds_hypgcd", f"data.root={birds}", "+data.load_discovery.images_per_species=3",
        "+data.load_discovery.image_size=32", "encoder.image.image_size=32", "model.projection_width=16",
        "model.projection_dimension=8", "data.batch_size=16", "data.workers=0", "trainer.epochs=1", "logger=none",
        f"folder={folder / 'run'}",
    )  # fmt: skip
    train(config, device=CPU)
    return folder / "run", birds


@pytest.fixture(scope="module")
def person_run(compose, person_folder, tmp_path_factory):
    """A finished run of GAHR on drawn persons."""
    folder = tmp_path_factory.mktemp("persons") / "run"
    config = compose(
        "experiment=pedestrians_gahr", f"data.root={person_folder}", "+data.load.identities=13",
        "+data.load.images_per_identity=1", "encoder.image.image_size=64", "encoder.text.architecture=L1_W16_A2",
        "evaluation.attention_pictures=0", "data.batch_size=4", "data.workers=0", "trainer.epochs=1", "logger=none",
        f"folder={folder}",
    )  # fmt: skip
    train(config, device=CPU)
    return folder


def again(compose, run, *words):
    return evaluate_run(compose(f"run={run}", "workers=0", *words, name="evaluate"))


def test_a_discovery_run_evaluated_again_repeats_its_figures_to_the_bit(discovery_run, compose, tmp_path):
    run, _ = discovery_run
    figures = json.loads((run / "test.json").read_text())
    assert {"discovery/all/accuracy", "kmeans/all/accuracy", "inductive/all/accuracy"} <= figures.keys()
    output = tmp_path / "missing" / "again.json"
    assert again(compose, run, f"output={output}") == figures == json.loads(output.read_text())
    parts = [again(compose, run, f"split={split}") for split in ("train", "test")]
    numbers = {"num_classes", "true_num_classes"}
    assert parts[0] | parts[1] == figures and parts[0].keys() & parts[1].keys() == numbers
    assert {name.partition("/")[0] for name in parts[1].keys() - numbers} == {"inductive"}


def test_a_discovery_run_takes_root_and_batch_size(discovery_run, compose, tmp_path, monkeypatch):
    run, birds = discovery_run
    (tmp_path / "moved").symlink_to(birds)
    seen = []
    load, read = Discovery.load_data, discovery.discovery_evaluation_loader
    monkeypatch.setattr(Discovery, "load_data", lambda task: seen.append(load(task)) or seen[0])

    def loader(split, **options):
        seen.append(options)
        return read(split, **options)

    monkeypatch.setattr("meru.tasks.discovery.discovery_evaluation_loader", loader)
    figures = again(compose, run, f"root={tmp_path / 'moved'}", "batch_size=7", "split=test")
    assert seen[0].test.images[0].is_relative_to(tmp_path / "moved")
    assert seen[1]["batch_size"] == 7 and seen[1]["workers"] == 0
    assert figures["inductive/all/images"] == len(seen[0].test)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("suite=robustness", "suite=robustness: run is a run of category discovery, without captions"),
        ("captions_per_image=1", "captions_per_image=1: run is a run of category discovery, without captions"),
        ("templates=[a {}]", "templates=.* is a run of category discovery, without prompts"),
        ("split=validation", "split=validation: a discovery run has no validation split"),
    ],
)
def test_what_a_discovery_run_cannot_be_asked_names_the_key(word, message, discovery_run, compose):
    with pytest.raises(UserError, match=message):
        again(compose, discovery_run[0], word.replace("[a {}]", "['a {}']"))


def test_a_discovery_run_reads_no_sentences_and_says_so(discovery_run, warm_python, tmp_path):
    run, birds = discovery_run
    image = next((birds / "images").rglob("*.png"), None) or next((birds / "images").rglob("*.jpg"))
    command = [warm_python, PROJECT / "scripts" / "visualize.py", "attention", f"run={run}", f"image={image}", "text=x"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "is a run of HypGCD, which discovers classes and has no text tower" in done.stderr
    assert "visualize.py tree" in done.stderr


def test_the_tree_of_a_discovery_run_is_drawn_again(discovery_run, tmp_path, monkeypatch):
    run, birds = discovery_run
    with pytest.raises(UserError, match="predicts fewer than three classes"):  # after so short a training
        visualize("tree", {"run": str(run)})
    task, pretrained = Discovery(read_config(run), device=CPU), meru.load(run)
    seen = task.features(task.data.train, pretrained)
    with torch.no_grad():  # images as the weights of classes: predictions that differ
        pretrained.model.classifier.weight.copy_((seen["features"] - seen["features"].mean(dim=0))[:48])
    monkeypatch.setattr("meru.sources.opening.load_run", lambda _: pretrained)
    (tmp_path / "moved").symlink_to(birds)
    line = visualize("tree", {"run": str(run), "root": str(tmp_path / "moved"), "output": str(tmp_path / "trees")})
    assert line.startswith("the tree of classes: feature_tree.nwk, ") and line.endswith(f" in {tmp_path / 'trees'}")
    names = {path.name for path in (tmp_path / "trees").iterdir()}
    assert names >= {"tree.nwk", "tree.json", "tree.png", "poincare_disk.png"}


def test_a_discovery_run_is_loaded_with_what_predicts_classes(discovery_run):
    run, birds = discovery_run
    model, tokenizer, transforms = meru.load(run)
    image = transforms.evaluation(read_image(next((birds / "images").rglob("*.jpg"))))
    assert tokenizer is None and model.predict(image[None]).shape == (1, 48)


def test_a_discovery_run_without_test_images(discovery_run, compose, monkeypatch):
    run, _ = discovery_run
    load = Discovery.load_data

    def without_test(task):
        data = load(task)
        return dataclasses.replace(data, test=data.test.where(torch.zeros(len(data.test), dtype=torch.bool)))

    monkeypatch.setattr(Discovery, "load_data", without_test)
    with pytest.raises(UserError, match="split=test: this run's data have no test images"):
        again(compose, run, "split=test")
    every = json.loads((run / "test.json").read_text())
    assert again(compose, run) == {name: every[name] for name in every if not name.startswith("inductive")}


def test_a_run_on_persons_discovers_no_classes(person_run):
    with pytest.raises(UserError, match="which does not discover classes: .* with `visualize.py attention`"):
        visualize("tree", {"run": str(person_run)})


def test_runs_on_persons_are_evaluated_on_what_they_have(person_run, compose):
    assert again(compose, person_run) == json.loads((person_run / "test.json").read_text())
    figures = again(compose, person_run, "split=train")
    assert figures["text_to_image/identity/queries"] > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["batch_size=0"], "batch_size=0: give a whole number from 1 to"),
        (["workers=-1"], "workers=-1: give a whole number from 0 to"),
        (["workers=two"], "workers=two: give a whole number"),
        (["captions_per_image=0"], "captions_per_image=0: give a whole number from 1 to .*, or null"),
        (["split=valid"], "split=valid: give one of test, validation, train, or null"),
        (["output=/"], "output=/ is a folder: name a file in it"),
        (["suite=robustness", "output=figures.png"], "output=figures.png: the file is written as JSON"),
        (["output=figures.csv"], "output=figures.csv: the file is written as JSON: name it, for .*, figures.json"),
        ([f"output={__file__}/figures.json"], "is a file, not a folder"),
        (["suite=sturdy"], "suite=sturdy: give one of geometry, "),
        (["severities=[1]"], "an evaluation without suite= does not read it; leave it out, or choose suite=robustness"),
        (["suite=retrieval", "corruptions=[fog]"], "suite=retrieval does not read it; .* choose suite=robustness"),
        (["suite=zero_shot", "captions_per_image=1"], "suite=zero_shot does not read it; .* or leave out suite"),
        (["suite=words", "prior_adjustment=1"], "suite=words does not read it; leave it out, or leave out suite"),
        (["suite=geometry", "attack_images=5"], "choose suite=attacks or attacks_discovery"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_is_read(words, message, compose):
    config = compose("run=nowhere", *words, name="evaluate")
    with pytest.raises(UserError, match=message):
        check(config, command="evaluate")  # as the script does
        evaluate_run(config)


def test_a_table_is_printed_before_an_output_that_cannot_be_written(
    discovery_run, compose, tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr("meru.runs.evaluate.check_output", lambda config: None)  # the folder disappears meanwhile
    (tmp_path / "file").touch()
    with caplog.at_level("INFO", logger="meru"), pytest.raises(UserError, match="cannot write"):
        again(compose, discovery_run[0], "split=test", f"output={tmp_path / 'file' / 'a.json'}")
    assert "test images of run" in caplog.text


def test_figures_that_are_not_finite_become_null_and_a_dash(caplog):
    read = finite_figures({"zero_shot/accuracy@1": float("nan"), "a/recall@1": 0.5, "b": None, "c": float("inf")})
    assert read == {"zero_shot/accuracy@1": None, "a/recall@1": 0.5, "b": None, "c": None}
    assert "zero_shot/accuracy@1, c" in caplog.text
    assert format_table(read, "title").splitlines()[2].split()[-1] == "–"
