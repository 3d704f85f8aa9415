"""SwanLab and TensorBoard: the same figures, images and tables; a failure is one warning, and the run goes on."""

import logging
import os
import sys
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from meru.errors import UserError
from meru.files import CONFIGS
from meru.runs.train import make_logger
from meru.training.loggers.base import NoLogger, SeveralLoggers
from meru.training.loggers.swanlab_logger import SwanlabLogger
from meru.training.loggers.tensorboard_logger import TensorboardLogger

COLUMNS = ["caption", "where its words look"]


def rows(tmp_path):
    Image.new("RGB", (6, 4), (255, 0, 0)).save(tmp_path / "bird.png")
    return [["a red bird", tmp_path / "bird.png"], ["a | b", torch.full((3, 4, 6), 255, dtype=torch.uint8)]]


def fill(logger, tmp_path, first_step=1):
    logger.log({"loss": 2.5, "norms": torch.tensor([1.0, float("nan"), 3.0])}, step=first_step)
    logger.images("attention", rows(tmp_path), COLUMNS, step=first_step + 1)
    logger.finish()


def arguments(tmp_path):
    return {"folder": tmp_path, "config": {"seed": 0}, "name": "birds/run", "identity": "run"}


def read_events(folder):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return events


def test_tensorboard_has_curves_histograms_pictures_and_the_text_of_the_table(tmp_path):
    fill(TensorboardLogger(**arguments(tmp_path)), tmp_path)
    events = read_events(tmp_path)
    assert [(each.step, each.value) for each in events.Scalars("loss")] == [(1, 2.5)]
    assert events.Histograms("norms")[0].histogram_value.num == 2
    pictures = [f"attention/{number:03d}/{COLUMNS[1]}" for number in (0, 1)]
    assert [(each.width, each.height) for name in pictures for each in events.Images(name)] == [(6, 4), (6, 4)]
    text = events.Tensors("attention/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "| 0 | a red bird | (image) |" in text and "a \\| b" in text


def test_a_resumed_run_replaces_in_tensorboard_what_came_after_its_checkpoint(tmp_path):
    first = TensorboardLogger(**arguments(tmp_path))
    for step in (1, 2, 3):
        first.log({"loss": float(step)}, step=step)
    first.finish()
    second = TensorboardLogger(**arguments(tmp_path))
    second.log({"loss": 20.0}, step=2)
    second.finish()
    assert [(each.step, each.value) for each in read_events(tmp_path).Scalars("loss")] == [(1, 1.0), (2, 20.0)]


class Recorder(SimpleNamespace):
    """Stands for swanlab: writes down what it is given."""

    def __init__(self, fails=()):
        super().__init__(calls=[], started=[], fails=set(fails))
        self.Image = lambda image, caption: ("image", image.size, caption)
        self.echarts = SimpleNamespace(Bar=Chart, Table=Chart)

    def init(self, **started):
        self.started.append(started)
        if started["mode"] in self.fails:
            raise RuntimeError("no route\nto host")
        return SimpleNamespace(dir="run-1", url="https://example.org")

    def log(self, figures, step):
        self.calls.append((step, figures))

    def finish(self, **state):
        self.calls.append(("finished", state))


class Chart:
    def __init__(self):
        self.content = []

    def add(self, columns, cells):
        self.content += [columns, cells]

    def add_xaxis(self, edges):
        self.content.append(edges)

    def add_yaxis(self, name, counts):
        self.content.append((name, counts))


@pytest.fixture
def swanlab(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("SWANLAB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    recorder = Recorder()
    monkeypatch.setitem(sys.modules, "swanlab", recorder)
    return recorder


def test_swanlab_without_a_key_is_offline_and_says_how_to_send(swanlab, tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="meru"):
        fill(SwanlabLogger(**arguments(tmp_path)), tmp_path)
    assert swanlab.started[0]["mode"] == "offline" and swanlab.started[0]["project"] == "meru"
    assert "no API key, logged offline; to upload: swanlab sync" in caplog.text
    (_, figures), (_, pictures), (step, table), finished = swanlab.calls
    assert figures["loss"] == 2.5 and sum(figures["norms"].content[1][1]) == 2
    assert pictures["attention"][0] == ("image", (6, 4), "where its words look | a red bird")
    assert step == 2 and table["attention_table"].content[1][0] == ["a red bird", "(image)"]
    assert finished == ("finished", {})


def test_swanlab_with_a_key_is_online_and_offline_if_the_service_fails(swanlab, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("SWANLAB_API_KEY", "key")
    SwanlabLogger(**arguments(tmp_path))
    swanlab.fails = {"online"}
    logger = SwanlabLogger(**arguments(tmp_path))
    with caplog.at_level(logging.INFO, logger="meru"):
        logger.finish(exit_code=1)
    assert [each["mode"] for each in swanlab.started] == ["online", "online", "offline"]
    assert "not online (no route to host), logged offline" in caplog.text
    assert swanlab.calls[-1][1]["state"] == "crashed"


def test_swanlab_keeps_its_id_and_can_be_disabled(swanlab, tmp_path, monkeypatch):
    SwanlabLogger(**arguments(tmp_path))
    SwanlabLogger(**arguments(tmp_path), mode="offline")
    assert swanlab.started[0]["id"] == swanlab.started[1]["id"] and len(swanlab.started[0]["id"]) == 21
    monkeypatch.setenv("SWANLAB_MODE", "disabled")
    assert SwanlabLogger(**arguments(tmp_path)).run is None
    with pytest.raises(UserError, match=r"logger\.mode=cloudy"):
        SwanlabLogger(**arguments(tmp_path), mode="cloudy")


def test_a_failure_is_one_warning_and_nothing_more_is_logged(swanlab, tmp_path, caplog):
    swanlab.fails = {"offline"}
    fill(SwanlabLogger(**arguments(tmp_path)), tmp_path)
    assert [record.getMessage() for record in caplog.records] == [
        "SwanLab failed (no route to host); training goes on, figures are in metrics.jsonl"
    ]
    assert swanlab.calls == []


@pytest.mark.parametrize(
    ("logger", "module"), [(SwanlabLogger, "swanlab"), (TensorboardLogger, "torch.utils.tensorboard")]
)
def test_a_missing_package_is_one_warning_with_what_to_install(logger, module, tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setenv("SWANLAB_MODE", "")
    fill(logger(**arguments(tmp_path)), tmp_path)
    assert len(caplog.records) == 1 and "pip install" in caplog.text


def test_several_loggers_get_the_same_and_the_first_is_not_doubled(swanlab, tmp_path):
    section = OmegaConf.load(CONFIGS / "logger" / "tensorboard.yaml")
    section.also = ["tensorboard", "swanlab"]
    config = OmegaConf.create({"name": "birds", "logger": section})
    logger = make_logger(config, tmp_path, torch.device("cpu"))
    assert isinstance(logger, SeveralLoggers) and len(logger.loggers) == 2
    fill(logger, tmp_path)
    assert read_events(tmp_path).Scalars("loss")[0].value == swanlab.calls[0][1]["loss"]
    assert swanlab.started[0]["config"]["environment"]["python"]


def test_one_logger_alone_is_not_wrapped(tmp_path):
    config = OmegaConf.create({"name": "birds", "logger": {"_target_": "meru.training.loggers.base.NoLogger"}})
    assert isinstance(make_logger(config, tmp_path, torch.device("cpu")), NoLogger)
