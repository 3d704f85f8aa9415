"""wandb: offline without a key, never a prompt, never the end of a run."""

import logging
import sys
import types

import pytest
import torch
from PIL import Image

from meru.training.loggers import NoLogger, WandbLogger, finite_histogram


class Recorder:
    """Stands for wandb: writes down what it is given."""

    def __init__(self):
        self.calls, self.started = [], None
        self.url = "https://example.org/run"
        self.define_metric = lambda *arguments, **keywords: None

    def module(self, init=None):
        module = types.ModuleType("wandb")
        module.Settings = lambda **keywords: keywords
        module.Histogram = lambda np_histogram: ("histogram", np_histogram[0].sum())
        module.Image = lambda picture: ("image", getattr(picture, "shape", picture))
        module.Table = lambda columns, rows: ("table", columns, rows)
        module.init = init or (lambda **arguments: setattr(self, "started", arguments) or self)
        return module

    def log(self, figures):
        self.calls.append(figures)

    def finish(self):
        self.calls.append("finished")


@pytest.fixture
def wandb(monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))
    recorder = Recorder()
    monkeypatch.setitem(sys.modules, "wandb", recorder.module())
    return recorder


def make(tmp_path, **arguments):
    arguments = {"project": "meru", "name": "a run", "identity": "a-run", "config": {"seed": 0}, **arguments}
    return WandbLogger(folder=tmp_path, **arguments)


def test_without_a_key_it_is_offline_and_says_how_to_send(wandb, tmp_path, caplog):
    logger = make(tmp_path)
    with caplog.at_level(logging.INFO, logger="meru"):
        logging.getLogger("meru").propagate = True
        logger.finish()
    assert wandb.started["mode"] == "offline"
    assert "wandb sync" in caplog.text


@pytest.mark.parametrize("source", ["environment", "netrc"])
def test_with_a_key_it_is_online(wandb, tmp_path, monkeypatch, source):
    if source == "environment":
        monkeypatch.setenv("WANDB_API_KEY", "k")
    else:
        (tmp_path / "netrc").write_text("machine api.wandb.ai login user password k\n")
    make(tmp_path)
    assert wandb.started["mode"] == "online"


def test_scalars_are_curves_and_vectors_are_histograms(wandb, tmp_path):
    make(tmp_path).log({"loss": 0.5, "curvature": torch.tensor(2.0), "norm/text": torch.ones(7)}, step=3)
    assert wandb.calls == [{"step": 3, "loss": 0.5, "curvature": 2.0, "norm/text": ("histogram", 7)}]


@pytest.mark.parametrize(
    ("values", "count"),
    [
        (4.123 + 4e-7 * (torch.arange(128) % 3), 128),  # equal but for rounding: too narrow for numpy's own range
        (torch.zeros(5), 5),
        (torch.tensor([1.0, float("nan"), float("inf"), -2.0]), 2),
        (torch.empty(0), 0),
        (torch.linspace(-1, 1, 100).view(10, 10), 100),
    ],
)
def test_histograms_count_every_finite_value(values, count):
    import wandb

    counts, edges = finite_histogram(values)
    assert counts.sum() == count and len(edges) == len(counts) + 1 == 65
    assert wandb.Histogram(np_histogram=(counts, edges)).histogram == counts.tolist()


def test_a_table_shows_files_as_pictures(wandb, tmp_path):
    make(tmp_path).images("retrieved", [["a bird", tmp_path / "x.jpg"]], ["caption", "1"], step=3)
    (call,) = wandb.calls
    assert call["retrieved"] == ("table", ["caption", "1"], [["a bird", ("image", str(tmp_path / "x.jpg"))]])


def test_a_logger_that_fails_is_dropped_and_training_goes_on(wandb, tmp_path, caplog):
    logger = make(tmp_path)
    wandb.log = lambda figures: (_ for _ in ()).throw(RuntimeError("no space"))
    with caplog.at_level(logging.WARNING, logger="meru"):
        logging.getLogger("meru").propagate = True
        logger.log({"loss": 1.0}, step=1)
        logger.log({"loss": 1.0}, step=2)
        logger.finish()
    assert caplog.text.count("wandb gave up (no space)") == 1


def test_a_logger_that_cannot_start_costs_nothing(monkeypatch, wandb, tmp_path):
    def refuse(**_):
        raise ConnectionError("no network")

    monkeypatch.setitem(sys.modules, "wandb", wandb.module(init=refuse))
    logger = make(tmp_path)
    logger.log({"loss": 1.0}, step=1)
    logger.finish()
    assert wandb.calls == []


def test_no_logger_takes_what_wandb_takes(tmp_path):
    logger = NoLogger(folder=tmp_path, config={}, name="a", identity="b")
    logger.log({"loss": 1.0}, step=1)
    logger.images("x", [], [], step=1)
    logger.finish()


def test_the_real_wandb_logs_offline(monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("WANDB_MODE", "offline")
    logging.getLogger("meru").propagate = True
    monkeypatch.setenv("HOME", str(tmp_path))
    logger = make(tmp_path, mode="offline")
    assert logger.run is not None
    logger.log({"loss": 0.5, "norm/text": torch.ones(7)}, step=1)
    picture = tmp_path / "bird.png"
    Image.new("RGB", (8, 8)).save(picture)
    logger.images("retrieved", [["a bird", picture]], ["caption", "found 1"], step=1)
    with caplog.at_level(logging.INFO, logger="meru"):
        logger.finish()
    assert "gave up" not in caplog.text and "to send: wandb sync" in caplog.text
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
