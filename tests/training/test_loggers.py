"""wandb: offline without a key, never a prompt, never the end of a run."""

import logging
import os
import shlex
import shutil
import sys
import types

import pytest
import torch
from PIL import Image

from meru.errors import UserError
from meru.training.loggers.base import NoLogger, finite_histogram, readable_name
from meru.training.loggers.wandb_logger import WandbLogger, run_identity


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

    def finish(self, exit_code=None):
        self.calls.append("finished" if exit_code is None else f"failed with {exit_code}")


@pytest.fixture
def wandb(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))
    recorder = Recorder()
    monkeypatch.setitem(sys.modules, "wandb", recorder.module())
    return recorder


def make(tmp_path, **arguments):
    arguments = {"name": "a run", "identity": "a-run", "config": {"seed": 0}, **arguments}
    return WandbLogger(folder=tmp_path, **arguments)


def test_without_a_key_it_is_offline_and_says_how_to_send(wandb, tmp_path, caplog):
    logger = make(tmp_path)
    with caplog.at_level(logging.INFO, logger="meru"):
        logging.getLogger("meru").propagate = True
        logger.finish()
    assert wandb.started["mode"] == "offline"
    assert "wandb sync" in caplog.text


@pytest.mark.parametrize("source", ["environment", "token", "netrc", "wandb"])
def test_with_a_log_in_it_is_online(wandb, tmp_path, monkeypatch, source):
    if source == "environment":
        monkeypatch.setenv("WANDB_API_KEY", "k")
    elif source == "token":
        monkeypatch.setenv("WANDB_IDENTITY_TOKEN_FILE", "token")
    elif source == "netrc":
        (tmp_path / "netrc").write_text("machine api.wandb.ai login user password k\n")
    else:
        sys.modules["wandb"].login = lambda prompt, verify: not prompt and not verify
    make(tmp_path)
    assert wandb.started["mode"] == "online"


@pytest.mark.parametrize(
    ("variables", "asked", "expected"),
    [
        ({"WANDB_MODE": "disabled"}, "auto", None),
        ({"WANDB_DISABLED": "true"}, "auto", None),
        ({"WANDB_DISABLED": "false"}, "auto", "online"),
        ({"WANDB_MODE": "offline"}, "auto", "offline"),
        ({"WANDB_MODE": "dryrun"}, "auto", "offline"),
        ({"WANDB_MODE": "nonsense"}, "auto", "online"),
        ({"WANDB_MODE": "disabled"}, "offline", "offline"),
        ({"WANDB_MODE": "offline"}, "online", "online"),
        ({"WANDB_MODE": "online"}, "disabled", None),
        ({"WANDB_MODE": "online", "WANDB_API_KEY": ""}, "auto", "offline"),
        ({"WANDB_API_KEY": ""}, "online", "offline"),
    ],
)
def test_the_mode_is_that_of_the_key_or_else_of_wandbs_variables(
    wandb, tmp_path, monkeypatch, variables, asked, expected
):
    for name, value in {"WANDB_API_KEY": "k", **variables}.items():
        monkeypatch.setenv(name, value)
    logger = make(tmp_path / "run", mode=asked) if expected is None else make(tmp_path, mode=asked)
    logger.log({"loss": 1.0}, step=1)
    logger.finish()
    if expected is None:
        assert wandb.started is None and not (tmp_path / "run").exists()
    else:
        assert wandb.started["mode"] == expected


def test_a_mode_that_wandb_lacks_is_a_mistake(wandb, tmp_path):
    with pytest.raises(UserError, match="logger.mode=of: choose one of auto, online, offline, disabled"):
        make(tmp_path, mode="of")


def test_what_wandb_offline_left_in_its_settings_counts(wandb, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "k")
    settings = types.SimpleNamespace(mode="offline")
    sys.modules["wandb"].setup = lambda: types.SimpleNamespace(settings=settings)
    make(tmp_path)
    assert wandb.started["mode"] == "offline"


def test_wandbs_variables_count_where_no_key_is_given(wandb, tmp_path, monkeypatch):
    make(tmp_path, name="birds_meru/2026-01-02")
    assert wandb.started["project"] == "meru" and wandb.started["name"] == "birds_meru/2026-01-02"
    assert wandb.started["dir"] == str(tmp_path) and wandb.started["resume"] == "allow"
    for name in ("PROJECT", "NAME", "DIR", "RESUME", "ENTITY", "TAGS", "RUN_GROUP"):
        monkeypatch.setenv(f"WANDB_{name}", f"my {name}")
    make(tmp_path)
    assert [wandb.started[name] for name in ("project", "name", "dir")] == ["my PROJECT", "my NAME", "my DIR"]
    given = {"resume": None, "entity": None, "tags": None, "group": None}
    assert {name: wandb.started[name] for name in given} == given  # wandb takes its variables
    make(tmp_path, project="p", entity="e", tags=["t"], group="g")
    given = {"project": "p", "entity": "e", "tags": ["t"], "group": "g"}
    assert {name: wandb.started[name] for name in given} == given


def test_in_a_sweep_the_agent_decides(wandb, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SWEEP_ID", "s")
    monkeypatch.setenv("WANDB_RUN_ID", "from-agent")
    make(tmp_path, project="p")
    assert wandb.started["id"] == "from-agent"
    assert [wandb.started[name] for name in ("project", "entity", "name", "resume")] == [None] * 4


def test_runs_of_one_name_are_two_and_a_resumed_one_goes_on(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_RUN_ID", raising=False)
    first, second = tmp_path / "a" / "seed0", tmp_path / "b" / "seed0"
    first.mkdir(parents=True), second.mkdir(parents=True)
    ids = [run_identity(folder, older="seed0") for folder in (first, second)]
    assert ids[0] != ids[1] and "seed0" not in ids
    assert [run_identity(folder, older="seed0") for folder in (first, second)] == ids
    moved = shutil.move(first, tmp_path / "moved")
    assert run_identity(moved, older="moved") == ids[0]
    copied = shutil.copytree(moved, tmp_path / "copied")
    other = run_identity(copied, older="copied")
    assert other not in ids and run_identity(copied, older="copied") == other
    assert run_identity(moved, older="moved") == ids[0]


def test_the_id_of_a_variable_is_kept_for_later(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_RUN_ID", "mine")
    assert run_identity(tmp_path, older="x") == "mine"
    monkeypatch.delenv("WANDB_RUN_ID")
    assert run_identity(tmp_path, older="x") == "mine"


def test_a_run_of_an_older_version_goes_on_under_its_old_id(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_RUN_ID", raising=False)
    (tmp_path / "wandb").mkdir()
    assert run_identity(tmp_path, older="2026-01-02_03-04-05") == "2026-01-02_03-04-05"


def test_a_folder_that_says_little_is_named_with_the_one_above(tmp_path):
    assert readable_name("birds_meru/seed0", tmp_path / "rate_a" / "seed0") == "birds_meru/rate_a/seed0"
    assert readable_name("birds_meru/2026-01-02", tmp_path / "birds_meru" / "2026-01-02") == "birds_meru/2026-01-02"


def test_what_cannot_be_online_is_logged_offline(wandb, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_API_KEY", "k")

    def start(**arguments):
        if arguments["mode"] == "online":
            raise TimeoutError("timed out\nafter 60 s")
        wandb.started = arguments
        return wandb

    monkeypatch.setitem(sys.modules, "wandb", wandb.module(init=start))
    logger = make(tmp_path)
    logger.log({"loss": 1.0}, step=1)
    logging.getLogger("meru").propagate = True
    with caplog.at_level(logging.INFO, logger="meru"):
        logger.finish()
    assert wandb.started["mode"] == "offline" and len(wandb.calls) == 2
    assert "wandb: not online (timed out after 60 s), logged offline; to upload: wandb sync" in caplog.text


def test_a_run_that_failed_is_closed_as_failed_and_once(wandb, tmp_path):
    logger = make(tmp_path)
    logger.finish(exit_code=1)
    logger.finish()
    assert wandb.calls == ["failed with 1"]


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
    assert caplog.text.count("wandb failed (no space)") == 1


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
    logger.finish(exit_code=1)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_the_real_wandb_logs_offline(monkeypatch, tmp_path, caplog, elsewhere):
    monkeypatch.setenv("WANDB_MODE", "offline")
    place = tmp_path / "run folder"
    if elsewhere:
        place = tmp_path / "else where"
        monkeypatch.setenv("WANDB_DIR", str(place))
    logging.getLogger("meru").propagate = True
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run folder").mkdir()
    logger = make(tmp_path / "run folder")
    assert logger.run is not None
    logger.log({"loss": 0.5, "norm/text": torch.ones(7)}, step=1)
    picture = tmp_path / "bird.png"
    Image.new("RGB", (8, 8)).save(picture)
    logger.images("retrieved", [["a bird", picture]], ["caption", "found 1"], step=1)
    with caplog.at_level(logging.INFO, logger="meru"):
        logger.finish()
    assert "wandb failed" not in caplog.text and "API key" not in caplog.text
    (written,) = place.glob("wandb/offline-run-*/*.wandb")
    assert shlex.split(caplog.messages[-1])[-3:] == ["wandb", "sync", str(written.parent)]
    assert (tmp_path / "run folder" / "wandb").exists() == (not elsewhere)
