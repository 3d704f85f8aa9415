"""`scripts/ablate.py`: what an ablation file may say, common starts, and tuning, with a stub in place of training."""

import json

import pytest
import yaml
from ablation_stub import calls, make_workplace

from meru.errors import UserError
from meru.runs import ablation, ablation_file
from meru.runs import tuning as tuning_module
from meru.runs.ablation_file import read_ablation
from meru.runs.ablation_plan import merged
from meru.runs.ablation_queue import Run
from meru.runs.tuning import check_selection, selected_validation, validation_figure

TWO = {"MERU": [], "CLIP": ["model=clip"]}
RATES = [["optim.learning_rate=0.01"], ["optim.learning_rate=0.03"], ["optim.learning_rate=0.02"]]


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """Two variants whose training is a stub; returns how to start the script, and its output folder."""
    for module in (ablation, tuning_module):  # the stub saves no configuration to compare
        monkeypatch.setattr(module, "check_unchanged", lambda run: None)
    return make_workplace(tmp_path, monkeypatch)


def trained(output):
    """Folder name → overrides of the runs, in the order in which they began."""
    return {words[-1].rpartition("/")[2]: words[:-1] for words, _, _ in calls(output)}


def test_the_file_gives_experiment_seeds_and_overrides_and_the_command_line_wins(workplace):
    start, output = workplace
    common = {"experiment": "birds_meru", "seeds": [3], "overrides": ["trainer.epochs=7", "data.batch_size=8"]}
    assert start("trainer.epochs=2", **common) == 0
    assert trained(output)["meru_3"] == [
        "experiment=birds_meru", "trainer.epochs=7", "data.batch_size=8", "trainer.epochs=2", "seed=3"
    ]  # fmt: skip
    assert start("seeds=4", "experiment=cub_meru", f"output={output}2", **common) == 0
    assert trained(output.with_name("runs2"))["meru_4"][0] == "experiment=cub_meru"


def test_a_key_added_twice_has_the_last_value():
    assert merged(["+a.b=1", "c=2", "+a.b=3"]) == ["c=2", "+a.b=3"]
    assert merged(["+a.b=1", "a.b=3"]) == ["+a.b=3"]
    assert merged(["a.b=1", "a.b=3", "~c"]) == ["a.b=1", "a.b=3", "~c"]


# ---------------------------------------------------------------- start


def test_a_start_is_trained_once_per_seed_and_given_to_the_variants(workplace, capsys):
    start, output = workplace
    own = {"overrides": ["trainer.epochs=4"], "start": {"overrides": ["model=clip", "trainer.epochs=9"]}}
    variants = {**TWO, "own": own, "alone": {"overrides": [], "start": None}}
    words = ["seeds=0,1", "jobs=1", "trainer.epochs=2"]
    assert start(*words, variants=variants, start={"overrides": ["model=clip", "trainer.epochs=5"]}) == 0
    runs = trained(output)
    assert [name for name in runs if name.endswith("_1")] == [
        "start_1", "start_own_1", "meru_1", "clip_1", "own_1", "alone_1"
    ]  # fmt: skip
    assert len(calls(output)) == 12
    assert runs["start_0"][-3:] == ["model=clip", "trainer.epochs=5", "seed=0"] and "encoder.init" not in str(
        runs["start_0"]
    )
    assert (
        f"encoder.init={output / 'start_1'}" in runs["meru_1"]
        and f"encoder.init={output / 'start_0'}" in runs["clip_0"]
    )
    assert f"encoder.init={output / 'start_own_0'}" in runs["own_0"] and "encoder.init" not in str(runs["alone_0"])
    assert "the start of MERU, CLIP, own: 1.5 minutes each" in (output / "ablation.md").read_text("utf-8")
    assert "| start" not in capsys.readouterr().out  # no row of the table
    assert start(*words, variants=variants, start={"overrides": ["model=clip", "trainer.epochs=5"]}) == 0
    assert len(calls(output)) == 12


def test_a_start_with_a_seed_is_trained_once_for_all_seeds_and_for_tuning(workplace):
    start, output = workplace
    of_tuning = tuning(grids={"MERU": RATES, "CLIP": None})  # nothing to tune in CLIP
    shared = {"overrides": ["model=clip"], "seed": 7}
    assert start("seeds=0,1", "jobs=1", "tune=true", variants=TWO, start=shared, tuning=of_tuning) == 0
    runs = trained(output)
    assert sorted(runs) == ["clip_0", "clip_1", "meru_0", "meru_1", "start_7"] and runs["start_7"][-1] == "seed=7"
    assert "the start of every row: 1.5 minutes, not" in (output / "ablation.md").read_text("utf-8")
    candidates = trained(output / "tuning")
    assert sorted(candidates) == ["meru_1_100", "meru_2_100", "meru_3_100"]
    begun = [words for name, words in (runs | candidates).items() if name != "start_7"]
    assert all(f"encoder.init={output / 'start_7'}" in words for words in begun)


def test_runs_whose_start_failed_are_left_out(workplace, capsys):
    start, output = workplace
    assert start("seeds=0", variants=TWO, start={"overrides": ["name=fail"]}) == 1
    seen = capsys.readouterr()
    assert "MERU, seed 0: left out, because start, seed 0 failed" in seen.err
    assert "3 of 3 runs failed: start, seed 0; MERU, seed 0; CLIP, seed 0" in seen.err
    assert list(trained(output)) == ["start_0"]


def test_a_half_finished_ablation_trains_the_rest(workplace, capsys):
    start, output = workplace
    common = {"variants": TWO, "start": {"overrides": ["model=clip"]}}
    assert start("seeds=0", **common) == 0
    (output / "clip_0" / "test.json").unlink()
    capsys.readouterr()
    assert start("seeds=0,1", "jobs=1", **common) == 0
    shown = capsys.readouterr().out
    assert "start, seed 0: already finished" in shown and "MERU, seed 0: already finished" in shown
    assert "6 runs: 2 finished, 4 to do, 1 at a time with 8 threads each" in shown
    assert "about " in shown and "minutes left" in shown
    names = [words[-1].rpartition("/")[2] for words, _, _ in calls(output)[3:]]
    assert names == ["clip_0", "start_1", "meru_1", "clip_1"]


# ---------------------------------------------------------------- tuning


def tuning(**changes):
    grids = {"MERU": RATES, "CLIP": {"same_as": "MERU"}}
    return {"select": "text_to_image/image/recall@1", "overrides": ["trainer.epochs=3"], "grids": grids, **changes}


def test_tuning_chooses_by_validation_and_later_commands_keep_the_choice(workplace, capsys):
    start, output = workplace
    common = {"variants": TWO, "tuning": tuning()}
    assert start("seeds=0", "tune=true", **common) == 0
    shown = capsys.readouterr().out
    assert (
        "| MERU | optim.learning_rate=0.03 | **6.5** |" in shown
        and "| CLIP | optim.learning_rate=0.01 | 5.5 |" in shown
    )
    runs = trained(output / "tuning")
    assert list(runs) and set(runs) == {f"{name}_{number}_100" for name in ("meru", "clip") for number in (1, 2, 3)}
    assert runs["clip_2_100"] == [
        "experiment=birds_meru", "trainer.epochs=3", "model=clip", "optim.learning_rate=0.03", "seed=100"
    ]  # fmt: skip
    written = yaml.safe_load((output / "tuning.yaml").read_text("utf-8"))
    assert written["chosen"] == {"MERU": ["optim.learning_rate=0.03"], "CLIP": ["optim.learning_rate=0.03"]}
    assert written["candidates"]["MERU"][0] == {"overrides": ["optim.learning_rate=0.01"], "validation": 0.055}
    assert trained(output)["meru_0"] == ["experiment=birds_meru", "optim.learning_rate=0.03", "seed=0"]
    assert start("seeds=0,1", **common) == 0  # without tune=true
    assert trained(output)["clip_1"] == ["experiment=birds_meru", "model=clip", "optim.learning_rate=0.03", "seed=1"]
    assert len(calls(output / "tuning")) == 6
    other = {"MERU": [["optim.learning_rate=0.5"]], "CLIP": [["optim.learning_rate=0.5"]]}
    assert start("seeds=0", variants=TWO, tuning=tuning(grids=other)) == 2
    assert "was made from another section `tuning:`: write it again with tune=true" in capsys.readouterr().err


def test_tuning_begins_with_a_start_of_its_own_seed(workplace):
    start, output = workplace
    common = {"variants": TWO, "tuning": tuning(), "start": {"overrides": ["model=clip", "trainer.epochs=9"]}}
    assert start("seeds=0", "tune=true", **common) == 0
    runs = trained(output / "tuning")
    assert runs["start_100"][-3:] == ["model=clip", "trainer.epochs=9", "seed=100"]
    assert f"encoder.init={output / 'tuning' / 'start_100'}" in runs["meru_1_100"]
    assert f"encoder.init={output / 'start_0'}" in trained(output)["meru_0"]


def test_equal_validation_figures_leave_the_first_candidate(workplace):
    start, output = workplace
    grids = {name: [["trainer.warmup_epochs=2"], ["trainer.warmup_epochs=1"]] for name in TWO}
    assert start("seeds=0", "tune=true", variants=TWO, tuning=tuning(grids=grids)) == 0
    assert yaml.safe_load((output / "tuning.yaml").read_text("utf-8"))["chosen"]["CLIP"] == ["trainer.warmup_epochs=2"]


@pytest.mark.parametrize(
    ("words", "changes", "message"),
    [
        (["tune=yes"], {}, "tune=yes: give true or false"),
        (["tune=true", "seeds=0,100"], {}, "seed 100 is also a seed of the table"),
        (["tune=true"], {"select": "nothing"}, "tuning.select: nothing: these runs have no such figure"),
        (["tune=true"], {"seeds": []}, "seeds needs a list of whole numbers"),
    ],
)
def test_a_mistake_in_tuning_is_one_line(words, changes, message, workplace, capsys):
    start, _ = workplace
    assert start("seeds=0", *words, variants=TWO, tuning=tuning(**changes)) == 2
    seen = capsys.readouterr()
    assert message in seen.err and seen.err.count("\n") == 1


def test_tuning_needs_candidates(workplace, capsys):
    start, output = workplace
    assert start("tune=true") == 2
    assert "this ablation has no section `tuning:`" in capsys.readouterr().err and not output.exists()


@pytest.mark.parametrize("validating", [True, False])
def test_discovery_is_tuned_on_held_out_classes_only(validating, tmp_path):
    (tmp_path / "test.json").write_text(json.dumps({"discovery/all/accuracy": 0.4}))
    configuration = {"task": "discovery", "discovery": {"validation": validating}}
    run = Run("SimGCD 1", 100, tmp_path, [], configuration)
    if validating:
        check_selection("discovery/all/accuracy", [run], ["SimGCD 1"])
        assert validation_figure(run, "discovery/all/accuracy") == 0.4
    else:
        with pytest.raises(UserError, match=r"add discovery\.validation=true"):
            validation_figure(run, "discovery/all/accuracy")
        with pytest.raises(UserError, match=r"add discovery\.validation=true"):  # before anything is trained
            check_selection("discovery/all/accuracy", [run], ["SimGCD 1"])


# ---------------------------------------------------------------- the file


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("grids: {x: [[a=1]]}, select: f", "grids needs candidates for every variant and no other: x, y"),
        ("grids: {x: [[a=1]], y: [[a=1], [a=2]]}, select: f", "every method gets the same budget.*x 1, y 2"),
        ("grids: {x: [[a=1]], y: {same_as: z}}, select: f", "same_as: z: name a variant with a list of candidates"),
        ("grids: {x: [[a=1]], y: []}, select: f", "'y' needs a list of candidates"),
        ("grids: {x: [a=1], y: [a=1]}, select: f", "'x' needs a list of key=value"),
        ("grids: {x: [[a=1]], y: [[a=1]]}", "needs `select:`"),
        ("grids: {x: null, y: null}, select: f", "grids has no candidates"),
        ("grids: {x: [[seed=1]], y: [[a=1]]}, select: f", "seed=1: every run has its own"),
        ("grids: {x: [[a=1]], y: [[a=1]]}, select: f/tree_induced_error", "its lowest value is best"),
        ("grids: {x: [[a=1]], y: [[a=1]]}, select: f, seed: 3", "no such section 'seed'"),
    ],
)
def test_candidates_are_checked(section, message, tmp_path, monkeypatch):
    monkeypatch.setattr(ablation_file, "ABLATIONS", tmp_path)
    (tmp_path / "mine.yaml").write_text(f"columns: {{a: b}}\nvariants: {{x: [], y: []}}\ntuning: {{{section}}}")
    with pytest.raises(UserError, match=message):
        read_ablation("mine")


def test_a_file_in_another_encoding_and_a_figure_without_a_name_are_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(ablation_file, "ABLATIONS", tmp_path)
    (tmp_path / "mine.yaml").write_bytes("columns: {a: b}\nvariants: {é: []}".encode("latin-1"))
    with pytest.raises(UserError, match="is not valid YAML"):
        read_ablation("mine")
    (tmp_path / "mine.yaml").write_text("columns: {R: null}\nvariants: {x: []}")
    with pytest.raises(UserError, match="columns: 'R' needs the name of a figure"):
        read_ablation("mine")


def test_damaged_lines_and_figures_of_a_metrics_file_are_left_out(tmp_path):
    lines = ['{"step": 1, "validation/a": 0.2}', '{"validation/a": NaN}', '{"validation/a": "x"}', "[1]", '{"validat']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    assert selected_validation(tmp_path, monitor="a") == {"a": 0.2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("variants: {x: []}\nstarts: {}", "no such section 'starts'; there are experiment, seeds"),
        ("variants: {x: {over: []}}", "variant 'x': no such section 'over'"),
        ("variants: {x: []}\nseeds: [a]", "seeds needs a list of whole numbers"),
        ("variants: {x: []}\nstart: [model=clip]", "start needs `overrides:`"),
        ("variants: {start: []}\nstart: {overrides: []}", "the same folder name"),
        ("variants: {x: [], x: [a=1]}", "'x' is there twice"),
        ("variants: {1: [], '1': [a=1]}", "'1' is there twice"),
        ("variants: {x: [+resume=a]}", "resume=a: every run has its own"),
        ("variants: {x: []}\noverrides: [folder=a]", "folder=a: every run has its own"),
        ("variants: " + "[" * 3000, "is not valid YAML"),
    ],
)
def test_other_sections_are_checked(text, message, tmp_path, monkeypatch):
    monkeypatch.setattr(ablation_file, "ABLATIONS", tmp_path)
    (tmp_path / "mine.yaml").write_text(f"columns: {{a: b}}\n{text}")
    with pytest.raises(UserError, match=message):
        read_ablation("mine")
