"""`scripts/ablate.py`: one key at a time (`curves:`) and suites on every finished run (`suites:`), with stubs."""

import json

import pytest
import yaml
from ablation_stub import calls, make_workplace

from meru.errors import UserError
from meru.metrics.statistics import paired_difference
from meru.reports.over_seeds import Runs
from meru.reports.sensitivity import sensitivity_figure, sensitivity_markdown
from meru.runs import ablation, ablation_queue
from meru.runs.ablation_plan import check_unchanged, configuration_of
from meru.runs.ablation_queue import Run

RECALL = "text_to_image/image/recall@1"
CURVE = {"key": "loss.entailment.weight", "values": [0.0, 0.2, 1.0]}
EVALUATE = """
import json, pathlib, sys
words = dict(word.split("=", 1) for word in sys.argv[1:])
run = pathlib.Path(words["run"])
with (run.parent / "suites.jsonl").open("a") as asked:
    asked.write(json.dumps(sys.argv[1:]) + "\\n")
if words.get("batch_size") == "7":
    sys.exit("error: no such device")
share = 0.2 * (1 + int(str(run)[-1]))
found = {"fog/3/recall@1": share, "fog/3/chance_recall@1": 0.01, "fog/rank_correlation": None}
pathlib.Path(words["output"]).write_text(json.dumps(found))
"""


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """Stubs in place of training and evaluation; returns how to start the script, and its output folder."""
    monkeypatch.setattr(ablation, "check_unchanged", lambda run: None)
    (tmp_path / "evaluate.py").write_text(EVALUATE)
    monkeypatch.setattr(ablation_queue, "EVALUATE", tmp_path / "evaluate.py")
    return make_workplace(tmp_path, monkeypatch)


def test_every_value_of_a_curve_is_a_variant_except_the_usual_one(workplace, capsys):
    start, output = workplace
    curves = {"entailment": CURVE, "fixed c": {**CURVE, "overrides": ["model.learn_curvature=false"]}}
    assert start("seeds=0,1", variants={"MERU": ["trainer.epochs=3"]}, curves=curves) == 0
    words = {call[0][-1].rpartition("/")[2]: call[0] for call in calls(output)}
    assert sorted(name for name in words if name.endswith("_0")) == [
        "entailment_0_0_0", "entailment_1_0_0", "fixed_c_0_0_0", "fixed_c_0_2_0", "fixed_c_1_0_0", "meru_0"
    ]  # fmt: skip
    assert "loss.entailment.weight=1.0" in words["entailment_1_0_0"] and "trainer.epochs=3" in words["entailment_1_0_0"]
    assert "model.learn_curvature=false" in words["fixed_c_0_2_0"]
    shown = capsys.readouterr().out
    assert "What to touch first, by R@1 (as usual: 15.0 ± 7.1)" in shown
    assert "| entailment | 0.0, 0.2, 1.0 |" in shown and "as usual" in shown
    assert (output / "sensitivity.md").is_file() and (output / "ablation_curves.png").stat().st_size > 5000


def test_the_usual_value_of_each_curve_is_marked(workplace, monkeypatch):
    start, _ = workplace
    marked = {}
    draw = sensitivity_figure
    monkeypatch.setattr(
        "meru.reports.sensitivity.sensitivity_figure",
        lambda *given, usual: marked.update(usual) or draw(*given, usual=usual),
    )
    curves = {"entailment": CURVE, "fixed c": {**CURVE, "overrides": ["model.learn_curvature=false"]}}
    assert start("seeds=0", variants={"MERU": []}, curves=curves) == 0
    assert marked == {"entailment": "0.2", "fixed c": None}
    runs = Runs({0: {RECALL: 0.5}}, {})
    panel = draw({"a": {"1": runs, "2": runs}}, {"R@1": RECALL}, usual={"a": "2"}).axes[0]
    assert [line.get_xdata()[0] for line in panel.lines if line.get_alpha() == 0.25] == [1]


def test_the_key_that_moves_the_figure_most_is_first():
    usual = Runs({0: {RECALL: 0.5}, 1: {RECALL: 0.7}}, {})
    little = Runs({0: {RECALL: 0.5}, 1: {RECALL: 0.72}}, {})
    much = Runs({0: {RECALL: 0.1}, 1: {RECALL: 0.3}}, {})
    curves = {"a": {"1": usual, "2": little}, "b": {"1": usual, "9": much}}
    rows = sensitivity_markdown(curves, {"R@1": RECALL}, usual).splitlines()[4:]
    assert [row.split(" | ")[0] for row in rows] == ["| b", "| a"]
    assert rows[0].endswith("| 40.0 |") and "9: 20.0 ± 14.1" in rows[0]
    assert "**-40.0 [-40.0, -40.0]** \\*" in rows[0] and "+1.0 [-11.7, +13.7]" in rows[1]
    assert paired_difference(usual.known(RECALL), little.known(RECALL)).mean == pytest.approx(0.01)
    alone = sensitivity_markdown({"c": {"9": much}}, {"R@1": RECALL}, usual).splitlines()[-1]
    assert "usual: 60.0" in alone and "as usual" in alone and alone.endswith("| 40.0 |")  # the curve leaves it out
    figure = sensitivity_figure(curves, {"R@1": RECALL}, usual={"a": "1", "b": None})
    assert [axis.get_title() for axis in figure.axes] == ["a", "b"]
    assert figure.axes[1].lines[0].get_ydata().tolist() == pytest.approx([0.6, 0.2])


def test_every_panel_has_room_for_the_highest_figure_and_starts_at_0():
    low, high = (Runs({seed: {RECALL: share} for seed in (0, 1)}, {}) for share in (0.2, 0.9))
    curves = {"a": {"1": low, "2": low}, "b": {"1": low, "9": high}}
    for axis in sensitivity_figure(curves, {"R@1": RECALL}, usual={"a": None, "b": None}).axes:
        assert axis.get_ylim()[0] == 0 and axis.get_ylim()[1] >= 0.9


def test_a_number_is_the_same_however_it_is_written_and_keeps_its_sign(workplace):
    start, output = workplace
    rate = {"key": "optim.learning_rate", "values": [0.00001, 0.002]}  # YAML's 0.00001 is the word 1e-05 to Python
    usual = {"MERU": ["optim.learning_rate=1.0e-5"]}
    assert start("seeds=0", variants=usual, curves={"rate": rate}) == 0
    bias = {"key": "loss.contrastive.bias", "values": [-1, 1, -0.5]}
    assert start("seeds=0", variants=usual, curves={"b": bias}) == 0
    names = {call[0][-1].rpartition("/")[2] for call in calls(output)}
    assert names == {"meru_0", "rate_0_002_0", "b_minus_1_0", "b_1_0", "b_minus_0_5_0"}


def test_a_value_that_changes_nothing_is_not_called_usual_and_one_without_figures_is_left_out():
    usual, same = Runs({0: {RECALL: 0.5}, 1: {RECALL: 0.7}}, {}), Runs({0: {RECALL: 0.5}, 1: {RECALL: 0.7}}, {})
    diverged = Runs({0: {RECALL: None}, 1: {RECALL: None}}, {})
    row = sensitivity_markdown({"a": {"2": same}}, {"R@1": RECALL}, usual).splitlines()[4]
    assert "as usual" not in row and row.count("+0.0 [+0.0, +0.0]") == 2
    curves = {"a": {"1": usual, "9": diverged, "2": same}}
    (line,) = sensitivity_figure(curves, {"R@1": RECALL}, usual={"a": None}).axes[0].lines
    assert line.get_xdata().tolist() == [0, 2] and line.get_ydata().tolist() == pytest.approx([0.6, 0.6])


@pytest.mark.parametrize(
    ("curves", "message"),
    [
        ([], "curves needs titles"),
        ({"a": {"key": "", "values": [1, 2]}}, "'a' needs `key:`"),
        ({"a": {"key": "model.curvature", "values": [0.00001, "1e-5"]}}, "one of them is there twice"),
        ({"a": {"key": "model.curvature", "values": ["@"]}}, "variant 'a = @'"),
        ({"a": {"key": "model.curvature"}}, "'a' needs `key:`"),
        ({"a": {"key": "model.curvature", "values": [1, 1]}}, "one of them is there twice"),
        ({"a": {"key": "model.curvature", "values": [[1]]}}, "give a number or a word"),
        ({"a": {"key": "seed", "values": [1, 2]}}, "every run has its own"),
        ({"a": {"key": "model.no", "values": [1, 2]}}, "variant 'a = 1'"),
        ({"a": {**CURVE, "more": 1}}, "no such section 'more'"),
        ({"a b": CURVE, "a_b": CURVE}, "same folder name"),
    ],
)
def test_mistakes_in_curves_are_one_line_before_anything_is_trained(curves, message, workplace, capsys):
    start, output = workplace
    assert start(curves=curves) == 2
    assert message in capsys.readouterr().err and not (output / "calls.jsonl").exists()


def test_curves_and_tuning_do_not_go_together(workplace, capsys):
    start, _ = workplace
    tuning = {"select": "text_to_image/class/recall@1", "grids": {"MERU": [[]], "without entailment": None}}
    assert start(curves={"a": CURVE}, tuning=tuning) == 2
    assert "curves: they start from the first variant as it is" in capsys.readouterr().err


def test_suites_are_evaluated_once_on_every_finished_run_and_give_columns(workplace, capsys):
    start, output = workplace
    columns = {"R@1": RECALL, "in fog": "robustness: fog/3/recall@1"}
    suites = {"robustness": ["batch_size=8"], "cut": ["suite=robustness", "captions_per_image=1"]}
    assert start("seeds=0,1", columns=columns, suites=suites) == 0
    asked = [json.loads(line) for line in (output / "suites.jsonl").read_text().splitlines()]
    assert len(asked) == 8 and len(calls(output)) == 4
    own = [words for words in asked if words[0] == "suite=robustness" and f"run={output / 'meru_1'}" in words]
    own = sorted(own, key=lambda words: words[1])  # they ran at the same time
    assert [words[1] for words in own] == ["batch_size=8", "captions_per_image=1"]
    assert f"output={output / 'meru_1' / 'cut.json'}" in own[1]
    table = (output / "ablation.md").read_text("utf-8").splitlines()
    assert table[2] == "| MERU | 2 | 15.0 ± 7.1 | 30.0 ± 14.1 | 1.5 |" and table[4] == "| chance | | 2.0 | 1.0 | |"
    assert start("seeds=0,1", columns=columns, suites=suites) == 0
    assert len((output / "suites.jsonl").read_text().splitlines()) == 8  # nothing is done twice
    capsys.readouterr()
    assert start("seeds=0,1", columns=columns, suites={**suites, "cut": ["suite=geometry"]}) == 2
    assert "cut had other overrides when" in capsys.readouterr().err


def test_a_figure_that_a_suite_leaves_undefined_is_a_dash_and_no_failure(workplace):
    start, output = workplace
    columns = {"R@1": RECALL, "order": "robustness: fog/rank_correlation"}
    assert start("seeds=0", columns=columns, suites={"robustness": []}) == 0
    assert "| MERU | 1 | 10.0 | – | 1.5 |" in (output / "ablation.md").read_text("utf-8")


def test_a_failed_suite_leaves_the_figures_of_training(workplace, capsys):
    start, output = workplace
    columns = {"R@1": RECALL, "in fog": "robustness: fog/3/recall@1"}
    assert start("seeds=0", columns=columns, suites={"robustness": ["batch_size=7"]}) == 1
    told = capsys.readouterr().err
    assert "MERU, seed 0, robustness: failed with exit code 1" in told and "no such device" in told
    assert "| MERU | 1 | 10.0 | – | 1.5 |" in (output / "ablation.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("suites", "columns", "message"),
    [
        ({"robust": []}, None, "suites: robust: suite=robust"),
        ({"robustness": ["workers=-1"]}, None, "suites: robustness: workers"),
        ({"robustness": ["run=x"]}, None, "every run has its own"),
        ({"a/b": []}, None, "a file will have this name"),
        ({"test": ["suite=retrieval"]}, None, "suites: 'test': every run has a file test.json already"),
        ({"Duration": ["suite=retrieval"]}, None, "every run has a file duration.json already"),
        ([], None, None),
        ({"robustness": []}, {"fog": "weather: fog/3/recall@1"}, "there is no suite 'weather'"),
    ],
)
def test_mistakes_in_suites_are_one_line_before_anything_is_trained(suites, columns, message, workplace, capsys):
    start, output = workplace
    assert start(columns=columns, suites=suites) == 2
    assert (message or "suites needs names") in capsys.readouterr().err and not (output / "calls.jsonl").exists()


def test_a_run_of_an_older_version_without_the_newest_keys_counts_as_unchanged(tmp_path):
    words = ["experiment=birds_hypgcd", "seed=0"]
    now, _ = configuration_of(words)
    older = yaml.safe_load(yaml.safe_dump(now))
    del older["discovery"]["stages"], older["data"]["label_noise"]
    run = Run("HypGCD", 0, tmp_path / "hypgcd_0", words, now)
    run.folder.mkdir()
    (run.folder / "config.yaml").write_text(yaml.safe_dump(older), encoding="utf-8")
    check_unchanged(run)
    older["discovery"]["stages"] = 3
    (run.folder / "config.yaml").write_text(yaml.safe_dump(older), encoding="utf-8")
    with pytest.raises(UserError, match=r"discovery.stages=3, which would now be 1"):
        check_unchanged(run)
