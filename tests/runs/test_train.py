"""A run as `meru.runs.train` conducts it: what is validated, exported and drawn are the same weights and figures."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from meru.evaluation import examples
from meru.runs import evaluate as evaluating
from meru.runs import train as running

CPU = torch.device("cpu")


@pytest.fixture
def configuration(compose, cub_folder, tmp_path):
    return compose(
        "experiment=birds_meru_patches",
        "encoder.image.image_size=32",
        "encoder.text.architecture=L1_W16_A2",
        f"data.root={cub_folder}",
        "data.load._target_=meru.data.datasets.cub.load_cub",
        "data.batch_size=4",
        "data.workers=0",
        "trainer.epochs=2",
        "trainer.evaluate_every=1",
        "trainer.ema_decay=0.5",
        "trainer.precision=bf16",
        "logger=none",
        f"folder={tmp_path / 'run'}",
    )


class Pictures:
    """A logger that is not `NoLogger`, for which pictures are drawn."""

    def log(self, figures, *, step):
        """Nothing."""

    def images(self, name, rows, columns, *, step):
        """Nothing."""

    def finish(self):
        """Nothing."""


def test_pictures_are_of_the_exported_weights(configuration, monkeypatch):
    drawn = []
    monkeypatch.setattr(running, "make_logger", lambda *_: Pictures())
    for name, place in (("retrieved_images", 0), ("save_attention", 3)):
        draw = getattr(examples, name)

        def watched(*arguments, draw=draw, place=place, **options):
            drawn.append({name: value.clone() for name, value in arguments[place].model.state_dict().items()})
            return draw(*arguments, **options)

        monkeypatch.setattr(examples, name, watched)
    running.train(configuration, device=CPU)
    exported = load_file(Path(configuration.folder) / "model.safetensors")
    assert len(drawn) == 2
    for weights in drawn:
        assert all(torch.equal(weights[name], exported[name]) for name in exported)


def test_evaluating_the_validation_split_again_repeats_its_figures(configuration, compose):
    running.train(configuration, device=CPU)
    folder = Path(configuration.folder)
    best = torch.load(folder / "last.pt", weights_only=True)["best"]["step"]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    (line,) = [line for line in lines if line["step"] == best and "loss" not in line]
    again = evaluating.evaluate_run(compose(f"run={folder}", "split=validation", "workers=0", name="evaluate"))
    assert {f"validation/{name}": value for name, value in again.items()} == {
        name: value for name, value in line.items() if name != "step"
    }
