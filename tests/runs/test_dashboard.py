"""The dashboard in Weights & Biases: its panels name what runs log; without network, what would be sent."""

import json
import subprocess
import sys
import urllib.error
import urllib.request

import pytest
import torch

from meru.errors import UserError
from meru.files import PROJECT
from meru.runs import dashboard
from meru.runs.dashboard import SECTIONS, make_dashboard, metrics
from meru.runs.train import train
from meru.training.loggers import wandb_logger

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of wandb_workspaces
SCRIPT = PROJECT / "scripts" / "dashboard.py"


class Recorder:
    """A logger that keeps the names of what it is given."""

    def __init__(self):
        self.names = set()

    def log(self, figures, *, step):
        self.names |= set(figures)

    def images(self, name, rows, columns, *, step):
        self.names.add(name)

    def finish(self, exit_code=0):
        pass


def test_every_metric_of_the_dashboard_is_logged_by_a_run(compose, make_cub_folder, tmp_path, monkeypatch):
    folder = make_cub_folder(classes=6)  # top-5 needs more than five classes, pointing captions that name parts
    for path in folder.glob("text_c10/*/*.txt"):
        path.write_text("a bird with a red beak and a long tail\n" * 10)
    recorder = Recorder()
    monkeypatch.setattr("meru.runs.train.make_logger", lambda *_: recorder)
    config = compose(
        "experiment=birds_meru_patches", f"data.root={folder}", "data.load._target_=meru.data.datasets.cub.load_cub",
        "encoder.image.image_size=64", "encoder.text.architecture=L1_W16_A2", "data.batch_size=4", "data.workers=0",
        "trainer.epochs=1", "trainer.log_every=1", "evaluation.attention_pictures=0", f"folder={tmp_path / 'run'}",
    )  # fmt: skip
    train(config, device=torch.device("cpu"))
    assert [name for name in metrics() if name not in recorder.names] == []


@pytest.fixture
def sent(tmp_path):
    pytest.importorskip("wandb_workspaces", reason="needs wandb-workspaces")

    def make(**arguments):
        told = make_dashboard(entity="team", dry_run=True, output=str(tmp_path / "r.json"), **arguments)
        assert told == f"not sent: {tmp_path / 'r.json'}"
        return json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))

    return make


def grids(report):
    return [block for block in report["spec"]["blocks"] if block["type"] == "panel-grid"]


def test_what_would_be_sent_has_every_panel_and_the_runs_grouped_over_seeds(sent):
    report = sent(project="birds", runs="birds_meru, birds_clip")
    assert report["project"] == {"name": "birds", "entityName": "team"}
    *plots, comparer = grids(report)
    for grid, (_, wanted) in zip(plots, SECTIONS.items(), strict=True):
        (runset,) = grid["metadata"]["runSets"]
        assert runset["project"] == {"name": "birds", "entityName": "team"}
        assert runset["grouping"] == [{"section": "config", "name": "name.value"}]
        assert runset["filters"]["filters"][0]["value"] == ["birds_meru", "birds_clip"]
        panels = grid["metadata"]["panelBankSectionConfig"]["panels"]
        assert [panel["config"]["chartTitle"] for panel in panels] == [plot.title for plot in wanted]
        assert [tuple(panel["config"]["metrics"]) for panel in panels] == [plot.metrics for plot in wanted]
        places = [(panel["layout"]["x"], panel["layout"]["y"]) for panel in panels]
        assert len(set(places)) == len(places)
    (panel,) = comparer["metadata"]["panelBankSectionConfig"]["panels"]
    assert panel["viewType"] == "Run Comparer"
    assert comparer["metadata"]["runSets"][0].get("grouping", []) == []


def test_curves_are_over_the_step_that_runs_log_and_histograms_are_not_averaged(sent):
    panels = [each for grid in grids(sent()) for each in grid["metadata"]["panelBankSectionConfig"]["panels"]]
    lines = {panel["config"]["chartTitle"]: panel["config"] for panel in panels if "xAxis" in panel["config"]}
    assert {config["xAxis"] for config in lines.values()} == {"step"}
    assert "groupBy" not in lines["norms of images"] and lines["curvature"]["groupBy"] == "name.value"


def test_another_key_may_group_the_runs(sent):
    (first, *_) = grids(sent(group="model._target_"))
    assert first["metadata"]["runSets"][0]["grouping"] == [{"section": "config", "name": "model.value._target_"}]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"entity": "a b"}, "entity=a b: a name has letters"),
        ({"project": "x/y"}, "project=x/y: a name has letters"),
        ({"runs": "meru,'"}, "is no name of a run"),
        ({"output": "r.json"}, "only dry_run=true writes a file"),
        ({"output": "r.txt", "dry_run": True}, "the file is written as JSON"),
    ],
)
def test_wrong_names_are_refused_before_anything_else(arguments, message):
    with pytest.raises(UserError, match=message):
        make_dashboard(**{"entity": "team", **arguments})


def test_without_the_package_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    with pytest.raises(UserError, match="pip install wandb-workspaces"):
        make_dashboard(entity="team")


@pytest.fixture
def online(monkeypatch):
    """A log-in and an answering server, of which nothing is true."""
    pytest.importorskip("wandb_workspaces", reason="needs wandb-workspaces")
    monkeypatch.setattr(wandb_logger, "is_logged_in", lambda _: True)
    refusal = urllib.error.HTTPError("https://example.org", 404, "not found", {}, None)
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: (_ for _ in ()).throw(refusal))


def test_without_a_log_in_or_a_network_one_line_says_so(online, monkeypatch):
    nothing = urllib.error.URLError("Name or service not known")
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: (_ for _ in ()).throw(nothing))
    with pytest.raises(UserError, match=r"cannot be reached \(Name or service not known\): check the network"):
        make_dashboard(entity="team")
    monkeypatch.setattr(wandb_logger, "is_logged_in", lambda _: False)
    with pytest.raises(UserError, match="not logged in to W&B: run `wandb login`"):
        make_dashboard(entity="team")


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (None, "team/birds: there is no such project, or no access to it"),
        (RuntimeError("permission\ndenied"), "team/birds: W&B refused the report: RuntimeError: permission denied"),
    ],
)
def test_an_unknown_project_and_a_refusal_are_one_line(raised, message, online, monkeypatch):
    from wandb_workspaces.reports.v2 import interface

    def answer(*_, **__):
        if raised:
            raise raised
        return {"project": None}

    monkeypatch.setattr(interface, "_get_api", lambda: None)
    monkeypatch.setattr(interface, "execute_graphql", answer)
    with pytest.raises(UserError, match=message):
        make_dashboard(entity="team", project="birds")


def test_a_saved_report_is_named_by_its_address(online, monkeypatch):
    import wandb_workspaces.reports.v2 as library

    monkeypatch.setattr(
        dashboard, "_report", lambda *_, **__: type("Saved", (), {"save": lambda self: self, "url": "u"})()
    )
    assert library and make_dashboard(entity="team") == "report: u"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["project=x"], "entity= is missing: give a user or team"),
        (["entity=x", "dry_run=maybe"], "dry_run=maybe: choose one of true, false"),
        (["entity=x", "run=y"], "did you mean runs=?"),
    ],
)
def test_mistakes_of_the_script_are_one_line(words, message, warm_python):
    done = subprocess.run([warm_python, SCRIPT, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
