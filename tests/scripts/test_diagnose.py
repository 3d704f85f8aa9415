"""`scripts/diagnose.py`: a table of any finished run, or one line about what is wrong."""

import json
import subprocess

import pytest
import torch
from omegaconf import open_dict
from PIL import Image

from meru.assemble import build
from meru.configuration.saved import save_config
from meru.errors import UserError
from meru.files import PROJECT
from meru.runs.diagnosis import diagnose, means_of_gradients, read_gradients, run_folders
from meru.runs.train import train
from meru.training.checkpoint import save_weights

SCRIPT = PROJECT / "scripts" / "diagnose.py"
CPU = torch.device("cpu")
TOWERS = ("encoder.image.image_size=32", "encoder.text.architecture=L1_W16_A2", "encoder.embedding_dimension=16")
SMALL = ("data.batch_size=4", "data.workers=0", "trainer.epochs=1", "logger=none", "evaluation.batch_size=8")
FEWER_STEPS = ("data.batch_size=24",)
HEADS = ("model.projection_width=16", "model.projection_dimension=8")


@pytest.fixture(scope="module")
def birds(tmp_path_factory):
    from meru.data.synthetic.birds.load import draw_birds

    return draw_birds(tmp_path_factory.mktemp("diagnose") / "birds", images_per_species=3, image_size=32)


@pytest.fixture
def words(cub_folder, birds, person_folder):
    """The overrides of a model's smallest run."""

    def of(model):
        if model in ("simgcd", "hypgcd"):
            more = ["+data.load_discovery.images_per_species=3", "+data.load_discovery.image_size=32"]
            return [f"experiment=birds_{model}", f"data.root={birds}", TOWERS[0], *HEADS, *SMALL, *FEWER_STEPS, *more]
        if model == "gahr":
            more = ["+data.load.identities=13", "+data.load.images_per_identity=1"]
            return ["experiment=pedestrians_gahr", f"data.root={person_folder}", *TOWERS, *SMALL, *more]
        if model == "meru":
            more = ["+data.load.images_per_species=3", "+data.load.image_size=32", "data.validation_fraction=0.4"]
            return ["experiment=birds_meru", f"data.root={birds}", *TOWERS, *SMALL, *FEWER_STEPS, *more]
        loader = "data.load._target_=meru.data.datasets.cub.load_cub"
        return ["experiment=birds_meru", f"model={model}", f"data.root={cub_folder}", *TOWERS, *SMALL, loader]

    return of


@pytest.fixture
def untrained(compose, words, tmp_path):
    """A run folder with a model as it was made."""

    def make(model):
        folder = tmp_path / model
        folder.mkdir()
        config = compose(*words(model), f"folder={folder}")
        if config.get("task") == "discovery":
            with open_dict(config):
                config.discovery.num_classes = 48
        torch.manual_seed(0)
        save_weights(folder / "model.safetensors", build(config).model.state_dict())
        save_config(folder, config)
        return folder

    return make


def run_script(*arguments, cwd, python):
    return subprocess.run([python, SCRIPT, *arguments], cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("model", "row", "term"), [("meru", "radius/part_phrase", "entailment"), ("hypgcd", "share_at_clip", "hierarchy")]
)
def test_a_run_of_each_task_from_training_to_the_table(model, row, term, compose, words, tmp_path, warm_python):
    train(compose(*words(model), "trainer.diagnose_every=4", f"folder={tmp_path / 'run'}"), device=CPU)
    done = run_script(f"run={tmp_path / 'run'}", "workers=0", cwd=tmp_path, python=warm_python)
    assert done.returncode == 0, done.stderr
    for shown in (f"\n{row} ", f"\ngradient_norm/{term} ", f"\ncosine_to_total/{term} ", "What stands out:\n- "):
        assert shown in done.stdout
    folder = tmp_path / "run" / "diagnosis"
    written = json.loads((folder / "diagnosis.json").read_text())
    assert written["images"] == ("validation split" if model == "meru" else "training images")
    assert f"gradient_norm/{term}/visual" in written["figures"]
    assert all(Image.open(folder / f"{name}.png").size[0] > 300 for name in ("radii", "gradients"))


@pytest.mark.parametrize("model", ["clip", "hycoclip", "meru_patches", "gahr", "simgcd"])
def test_a_run_without_measured_gradients_has_its_geometry(model, untrained):
    folder = untrained(model)
    table = diagnose(str(folder), workers=0)
    assert "No gradients were recorded" in table and "gradient_norm" not in table
    assert sorted(path.name for path in (folder / "diagnosis").iterdir()) == ["diagnosis.json", "radii.png"]
    figures = json.loads((folder / "diagnosis" / "diagnosis.json").read_text())["figures"]
    discovers = model == "simgcd"
    assert ("share_of_new_in_old" if discovers else "angle/matched/50") in figures
    assert ("half_aperture/50" in figures) == (model not in ("clip", "simgcd"))
    assert ("effective_rank/class_name" in figures) == (model not in ("gahr", "simgcd"))


def test_runs_side_by_side(untrained, tmp_path, monkeypatch):
    first, second = untrained("hycoclip"), untrained("clip")
    (tmp_path / "notes.txt").touch()
    monkeypatch.chdir(tmp_path)
    table = diagnose("*", split="test", workers=0)
    assert table.splitlines()[0] == "test split of clip, hycoclip"
    assert table.splitlines()[1].split() == ["clip", "hycoclip"]
    assert "What stands out in hycoclip:" in table
    assert list(run_folders(f"{first},{second}")) == [first, second] == list(run_folders(f"hycoclip,{second},hy*"))


def test_a_pattern_leaves_out_what_cannot_be_measured_and_named_folders_are_checked_first(
    untrained, tmp_path, caplog, monkeypatch
):
    whole, unfinished, damaged = untrained("clip"), untrained("hycoclip"), untrained("meru_patches")
    (unfinished / "model.safetensors").unlink()
    (damaged / "diagnosis.jsonl").write_text("nonsense\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="meru_patches/diagnosis.jsonl, line 1"):
        diagnose("clip,meru_patches", workers=0)
    with pytest.raises(UserError, match="holds no finished run"):
        diagnose("clip,hycoclip,*", workers=0)
    with pytest.raises(UserError, match="no run can be measured: hycoclip .not finished."):
        diagnose("hy*", workers=0)
    assert not (whole / "diagnosis").exists()
    caplog.clear()
    assert "validation" in diagnose("*", workers=0).splitlines()[0]
    messages = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert [message.startswith("left out: hycoclip (not finished); meru_patches (") for message in messages] == [True]
    assert (whole / "diagnosis" / "diagnosis.json").is_file()


def test_each_run_is_saved_as_soon_as_it_is_measured(untrained, monkeypatch):
    first, second = untrained("clip"), untrained("simgcd")

    def fail(*_):
        raise UserError("no image can be decoded")

    monkeypatch.setattr("meru.runs.diagnosis.geometry_of_discovery", fail)
    with pytest.raises(UserError, match="no image can be decoded"):
        diagnose(f"{first},{second}", workers=0)
    assert (first / "diagnosis" / "diagnosis.json").is_file()


def test_the_factor_of_the_cones_is_the_one_of_the_run(untrained):
    folder = untrained("hycoclip")

    def aperture():
        diagnose(str(folder), workers=0)
        figures = json.loads((folder / "diagnosis" / "diagnosis.json").read_text())["figures"]
        return figures["half_aperture/50"]

    published = aperture()
    for name in ("asked.yaml", "config.yaml"):
        text = (folder / name).read_text()
        assert "across_aperture: 0.7" in text
        (folder / name).write_text(text.replace("across_aperture: 0.7", "across_aperture: 0.35"))
    assert aperture() == pytest.approx(published / 2)


def test_means_are_over_the_steps_that_have_a_figure(tmp_path):
    path = tmp_path / "diagnosis.jsonl"
    assert read_gradients(path) == []
    path.write_text('{"step": 1, "cosine_to_total/a": 0.5}\n{"step": 3, "cosine_to_total/a": null}\n{"step": 5, "co')
    assert means_of_gradients(read_gradients(path)) == {"cosine_to_total/a": 0.5}
    odd = {f"gradient_norm/{name}": 1.0 for name in ("all", "a", "a/b/all", "a\x1b/all")}
    odd |= {"gradient_norm/a/all": None, "gradient_norm/b/all": -1.0, "weighted/a": float("inf"), "loss": 1.0}
    path.write_text(json.dumps({"step": 1, **odd, "gradient_norm/c/all": 2.0}) + "\n{" + '"step": 1' + "}\n")
    assert read_gradients(path) == [{"step": 1, "gradient_norm/c/all": 2.0}, {"step": 1}]
    path.write_text('{"step": 1}\nnonsense\n')
    with pytest.raises(UserError, match="diagnosis.jsonl, line 2 has no figures of a step"):
        read_gradients(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["split=test"], "run= is missing"),
        (["run=nowhere"], "nowhere is not a run folder"),
        (["run=runs/*"], "run=runs/*: no run folder matches"),
        (["run=,"], "run=,: name at least one run folder"),
        (["run=x", "size=3"], "'size=3': expected key=value with one of run, split, root, workers"),
        (["run=x", "split=all"], "split=all: give one of test, validation, train"),
        (["run=x", "workers=-1"], "workers=-1: give"),
    ],
)
def test_wrong_usage_is_one_line(arguments, message, warm_python, tmp_path):
    done = run_script(*arguments, cwd=tmp_path, python=warm_python)
    assert done.returncode == 2
    assert message in done.stderr and done.stderr.count("\n") == 1


def test_an_unfinished_run_missing_data_and_a_split_without_images_are_one_line(untrained, tmp_path):
    folder = untrained("simgcd")
    with pytest.raises(UserError, match="has no validation split"):
        diagnose(str(folder), split="validation", workers=0)
    with pytest.raises(UserError, match="the data of this run are not at .*: set their place with root="):
        diagnose(str(folder), root=str(tmp_path / "elsewhere"), workers=0)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="holds no finished run"):
        diagnose(str(folder), workers=0)
