"""`scripts/ablate.py`: a small real ablation, and the rest with a stub in place of training."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml
from ablation_stub import SCRIPTS, calls, make_workplace

from meru.configuration.overrides import read_override
from meru.errors import UserError
from meru.files import PROJECT
from meru.runs import ablation, ablation_file, ablation_plan, ablation_queue

TINY = [
    "encoder.image.image_size=32", "encoder.text.architecture=L1_W16_A2", "encoder.embedding_dimension=16",
    "data.load._target_=meru.data.datasets.cub.load_cub", "data.batch_size=4", "data.workers=0", "trainer.epochs=1",
    "evaluation.pointing=false", "logger=none",
]  # fmt: skip


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """Two variants whose training is a stub; returns how to start the script, and its output folder."""
    return make_workplace(tmp_path, monkeypatch)


def test_a_real_ablation_is_trained_tabulated_and_not_repeated(workplace, cub_folder, warm_python, monkeypatch, capsys):
    start, output = workplace
    monkeypatch.setattr(sys, "executable", str(warm_python))
    monkeypatch.setattr(ablation_queue, "TRAIN", SCRIPTS / "train.py")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    words = ["seeds=0", *TINY, f"data.root={cub_folder}"]
    columns = {"class R@1": "text_to_image/class/recall@1", "zero-shot": "zero_shot/accuracy@1"}
    assert start(*words, columns=columns) == 0
    table = (output / "ablation.md").read_text("utf-8")
    assert table in capsys.readouterr().out
    names = [line.split(" | ")[0][2:] for line in table.splitlines()[2:]]
    assert names[:3] == ["MERU", "without entailment", "chance"] and "| chance | | 33.3 | 33.3 | |\n" in table
    assert "with one seed, there is no interval" in table and (output / "meru_0" / "duration.json").is_file()
    trained = yaml.safe_load((output / "without_entailment_0" / "config.yaml").read_text("utf-8"))
    assert trained["loss"]["entailment"]["weight"] == 0 and trained["seed"] == 0
    assert start(*words, columns=columns) == 0
    again = capsys.readouterr().out
    assert again.count("already finished") == 2 and table in again
    assert start(*words, "trainer.epochs=2", columns=columns) == 2
    assert "meru_0 holds a run with trainer.epochs=1, which would now be 2" in capsys.readouterr().err


def test_the_script_explains_itself(warm_python):
    done = subprocess.run([warm_python, SCRIPTS / "ablate.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "seeds=0,1,2" in done.stdout and not done.stderr


def test_every_variant_runs_with_every_seed_and_variants_win(workplace, capsys):
    start, output = workplace
    assert start("seeds=0,2", "jobs=1", "trainer.epochs=3", "loss.entailment.weight=0.3") == 0
    words = [call[0] for call in calls(output)]
    assert [made[-1].rpartition("/")[2] for made in words] == [
        "meru_0", "without_entailment_0", "meru_2", "without_entailment_2"
    ]  # fmt: skip
    assert words[1][:-1] == [
        "experiment=birds_meru", "trainer.epochs=3", "loss.entailment.weight=0.3", "loss.entailment.weight=0", "seed=0"
    ]  # fmt: skip
    shown = capsys.readouterr().out
    assert "without entailment, seed 2: finished after 0.0 minutes" in shown and "number 4 of 4" in shown
    assert (output / "ablation.md").read_text("utf-8").splitlines() == [
        "| variant | seeds | R@1 | minutes |", "|---|---|---|---|", "| MERU | 2 | 20.0 ± 14.1 | 1.5 |",
        "| without entailment | 2 | 20.0 ± 14.1 | 1.5 |", "| chance | | 2.0 | |", "",
        "Difference to MERU, for shares in percentage points: mean over the seeds that both have, with its 95 % "
        "interval by Student's t for paired figures.", "",
        "| variant | R@1 |", "|---|---|", "| without entailment | +0.0 [+0.0, +0.0] |",
    ]  # fmt: skip
    rows = list(csv.DictReader((output / "ablation.csv").open(encoding="utf-8")))
    assert {key: value for key, value in rows[0].items() if value} == {
        "variant": "MERU", "seeds": "2", "R@1, mean": "20.000", "R@1, deviation": "14.142", "R@1, chance": "2.000",
        "minutes": "1.5", "CPU minutes": "3.0",
    }  # fmt: skip
    assert rows[1]["R@1, difference"] == "0.000" and rows[1]["R@1, pairs"] == "2" and rows[2]["R@1, mean"] == "2.000"
    single = list(csv.DictReader((output / "ablation_runs.csv").open(encoding="utf-8")))
    assert [(row["variant"], row["seed"]) for row in single][1] == ("MERU", "2")
    assert float(single[1]["text_to_image/image/recall@1"]) == pytest.approx(0.3) and single[1]["CPU minutes"] == "3.0"


def test_a_failing_run_shows_its_last_lines_and_does_not_stop_the_others(workplace, capsys):
    start, output = workplace
    assert start("seeds=0,1", variants={"broken": ["name=fail"], "whole": []}) == 1
    seen = capsys.readouterr()
    assert "broken, seed 0: failed with exit code 1" in seen.err and "    error: the disk is full" in seen.err
    assert seen.err.splitlines()[-1] == (
        "error: 2 of 4 runs failed: broken, seed 0; broken, seed 1; no run of broken is finished, so nothing can be "
        "compared with it"
    )
    assert "| whole | 2 | 15.0 ± 7.1 |" in seen.out and "| broken" not in seen.out
    assert (output / "broken_0.log").exists()


def test_a_mistake_is_not_repeated_with_every_seed(workplace, capsys):
    start, output = workplace
    assert start("seeds=0,1,2", "jobs=1", variants={"whole": [], "wrong": ["name=misuse"]}) == 1
    seen = capsys.readouterr()
    assert len(calls(output)) == 4  # three of the right variant, one of the wrong one
    assert "wrong, seed 1, wrong, seed 2: left out, because the same would be wrong" in seen.err
    assert "3 of 6 runs failed: wrong, seed 0; wrong, seed 1; wrong, seed 2" in seen.err


@pytest.mark.parametrize(
    ("gpus", "jobs", "environments"),
    [
        ([], "", [{"OMP_NUM_THREADS": "2"}] * 4),
        ([], "1", [{"OMP_NUM_THREADS": "8"}]),
        ([], "3", [{"OMP_NUM_THREADS": "2"}] * 3),
        (["2", "5"], "", [{"CUDA_VISIBLE_DEVICES": gpu, "OMP_NUM_THREADS": "4"} for gpu in "25"]),
        (["2", "5"], "1", [{"CUDA_VISIBLE_DEVICES": "2", "OMP_NUM_THREADS": "8"}]),
    ],
)
def test_a_run_has_a_gpu_or_its_share_of_the_cores(gpus, jobs, environments, workplace, monkeypatch):
    monkeypatch.setattr(ablation_queue, "visible_gpus", lambda: gpus)
    assert ablation_queue.slots_of(jobs, 4) == environments


def test_without_a_gpu_the_cores_are_filled_with_runs_of_one_thread(workplace, monkeypatch):
    assert ablation_queue.slots_of("", 20) == [{"OMP_NUM_THREADS": "1"}] * 8
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert ablation_queue.slots_of("", 20) == [{"OMP_NUM_THREADS": "4"}] * 2


def test_more_runs_than_gpus_share_them(workplace, monkeypatch, capsys):
    monkeypatch.setattr(ablation_queue, "visible_gpus", lambda: ["0", "1"])
    slots = ablation_queue.slots_of("3", 9)
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in slots] == ["0", "1", "0"]
    assert {slot["OMP_NUM_THREADS"] for slot in slots} == {"2"}


def test_figures_that_no_run_gives_are_refused_before_training(workplace, capsys):
    start, output = workplace
    for words, sections, message in (
        ([], {"columns": {"top-1": "zero_shot/acuracy@1"}}, "columns: zero_shot/acuracy@1: these runs have no such "),
        ([], {"columns": {"All": "discovery/all/accuracy"}}, "columns: discovery/all/accuracy: these runs"),
        (["job=2"], {}, "job: no such key; did you mean jobs=?"),
        (["nonsense=2"], {}, "nonsense: no such key; this script has experiment, seeds"),
    ):
        assert start("seeds=0", *words, **sections) == 2
        assert message in capsys.readouterr().err
    assert not output.exists()


def test_begun_runs_are_resumed_by_their_own_configuration(workplace):
    start, output = workplace
    wanted, _ = ablation_plan.configuration_of(["experiment=birds_meru", "+data.load.images_per_species=5", "seed=0"])
    (output / "meru_0").mkdir(parents=True)
    (output / "meru_0" / "config.yaml").write_text(yaml.safe_dump({**wanted, "folder": "elsewhere"}))
    assert start("seeds=0", "+data.load.images_per_species=5", variants={"MERU": []}) == 0
    # What was added by + is no key that could be added again.
    assert calls(output)[0][0] == ["experiment=birds_meru", f"resume={output / 'meru_0'}"]
    assert start("seeds=0", variants={"MERU": []}) == 2  # the same folder, other pictures


def test_interrupted_runs_save_and_the_same_command_goes_on(workplace, tmp_path, capsys):
    start, output = workplace
    output.mkdir()
    wanted, _ = ablation_plan.configuration_of(["experiment=birds_meru", "name=wait", "seed=0"])
    (output / "slow_0.expected").write_text(yaml.safe_dump(wanted))
    child = os.fork()
    if child == 0:  # interrupts this process once its run is under way
        for _ in range(600):
            time.sleep(0.05)
            if (output / "slow_0" / "waiting").exists():
                os.kill(os.getppid(), signal.SIGTERM)
                break
        os._exit(0)
    try:
        assert start("seeds=0", variants={"slow": ["name=wait"]}) == 130
    finally:
        os.waitpid(child, 0)
    assert "repeat the command" in capsys.readouterr().err
    assert (output / "slow_0" / "last.pt").exists() and not (output / "slow_0" / "test.json").exists()
    assert start("seeds=0", variants={"slow": ["name=wait"]}) == 0
    assert calls(output)[1][0] == ["experiment=birds_meru", f"resume={output / 'slow_0'}"]
    assert "slow, seed 0: goes on" in capsys.readouterr().out


def test_two_commands_do_not_train_the_same_runs(workplace, capsys):
    import fcntl

    start, output = workplace
    output.mkdir()
    with (output / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert start("seeds=0") == 2
    assert "is in use" in capsys.readouterr().err and not (output / "calls.jsonl").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["experiment=birds_mary"], "Could not find 'experiment/birds_mary'"),
        (["ablation=nothing"], "ablation=nothing: "),
        (["seeds=0,one"], "seeds=0,one: give whole numbers"),
        (["seeds=-1"], "seeds=-1: give whole numbers"),
        (["jobs=0"], "jobs=0: give a whole number from 1 to 1000"),
        (["seed=3"], "every run has its own seed"),
        (["jobs=9999999999"], "jobs=9999999999: give a whole number from 1 to 1000"),
        (["jobs="], "jobs=: give a whole number"),
        (["seeds="], "seeds=: give whole numbers"),
        (["seeds=5000000000"], "seed=5000000000: give a whole number from 0 to 4294967295"),
        (["output="], "output=: give the path of a folder"),
        (["trainer.epoch=3"], "trainer.epoch: no such key; did you mean trainer.epochs?"),
        (["trainer.epochs=abc"], "trainer.epochs=abc: give a whole number from 1 to 100000"),
        (["-m"], "'-m': expected key=value"),
        (["experiment="], "experiment=: give the name of a recipe"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_trained(words, message, workplace, capsys):
    start, output = workplace
    assert start(*words) == 2
    seen = capsys.readouterr()
    assert message in seen.err and seen.err.count("\n") == 1 and seen.err.startswith("error: ")
    assert not output.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model.norm_exponent=7", "variant 'second', seed 0: model.norm_exponent=7: give a number from 0 to 1"),
        ("trainer.epoch=3", "variant 'second', seed 0: trainer.epoch: no such key; did you mean trainer.epochs?"),
        ("+loss.cyclic.weight=1", "variant 'second', seed 0: loss.cyclic.weight: this model (model=meru) has no"),
        ("seed=1,2", "variant 'second': seed=1,2: every run has its own"),
    ],
)
def test_every_variant_is_checked_before_the_first_is_trained(change, message, workplace, capsys):
    start, output = workplace
    assert start("seeds=0", variants={"first": [], "second": [change]}) == 2
    seen = capsys.readouterr()
    assert message in seen.err and seen.err.count("\n") == 1
    assert not output.exists()


@pytest.mark.parametrize("name", ["鸟类", "lr=1e-4", "copy (1)", "a,b", "with space", "[x]"])
def test_folders_reach_the_training_as_they_are(name, tmp_path):
    folder = tmp_path / name / "MERU_0"
    run = ablation_queue.Run("MERU", 0, folder, ["experiment=birds_meru"], {})
    assert read_override(run.command()[-1]) == ("folder", str(folder))
    folder.mkdir(parents=True)
    (folder / "config.yaml").touch()
    assert read_override(run.command()[-1]) == ("resume", str(folder))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("columns: [", "is not valid YAML"),
        ("columns: {a: b}", "needs `columns:`"),
        ("columns: {a: b}\nvariants: {x: {}}", "variant 'x' needs a list"),
        ("columns: {a: b}\nvariants: {x y: [], x_y: []}", "the same folder name"),
    ],
)
def test_a_broken_ablation_is_named(text, message, tmp_path, monkeypatch):
    monkeypatch.setattr(ablation_file, "ABLATIONS", tmp_path)
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        ablation_file.read_ablation("mine")


@pytest.mark.parametrize("path", sorted((PROJECT / "configs" / "ablation").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_ablations_there_are_can_be_read(path):
    assert ablation_file.read_ablation(path.stem).variants


@pytest.mark.parametrize("experiment", ["birds_meru", "cub_meru", "pedestrians_gahr", "birds_hypgcd"])
def test_recipes_find_the_ablation_of_their_model(experiment):
    _, model = ablation_plan.configuration_of([f"experiment={experiment}"])
    assert ablation_file.read_ablation(ablation.default_ablation(model)).variants


def test_a_figure_that_no_run_has_is_named_below_the_table(workplace, capsys):
    start, output = workplace
    assert start("seeds=0", columns={"R@1": "text_to_image/image/recall@1", "R@5": "text_to_image/image/recall@5"}) == 1
    seen = capsys.readouterr()
    assert "columns: 'R@5': no run has a figure text_to_image/image/recall@5" in seen.err
    assert "| – |" in seen.out and (output / "ablation.md").read_text().strip() in seen.out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "had no test images"),
        ("", "is damaged"),
        ("[1]", "holds no figures by name"),
        ('{"text_to_image/image/recall@1": null, "text_to_image/image/chance_recall@1": NaN}', None),
    ],
)
def test_one_run_without_figures_leaves_the_table_of_the_others(text, message, tmp_path):
    rows = {}
    for variant in ("MERU", "CLIP"):
        runs = [ablation_queue.Run(variant, seed, tmp_path / f"{variant}_{seed}", [], {}) for seed in (0, 1)]
        rows[variant] = runs
        for run in runs:
            run.folder.mkdir()
            chance = {"text_to_image/image/chance_recall@1": 0.02}
            figures = {"text_to_image/image/recall@1": 0.1 + 0.1 * run.seed, **chance}
            (run.folder / "test.json").write_text(json.dumps(figures))
    (tmp_path / "MERU_0" / "test.json").write_text(text)
    columns = {"R@1": "text_to_image/image/recall@1"}
    figures, missing = ablation.read_table(rows)
    table = ablation.write_tables(columns, figures, tmp_path, reference="MERU")
    assert not ablation.gaps(columns, figures, reference="MERU")
    assert table.splitlines()[2:5] == [
        "| MERU | 2 | 20.0 (of 1) | – |", "| CLIP | 2 | 15.0 ± 7.1 | – |", "| chance | | 2.0 | |"
    ]  # fmt: skip
    assert table.endswith("| CLIP | +0.0 (1 pair) |")
    assert [message in line and "MERU_0" in line for line in missing] == ([True] if message else [])
    with (tmp_path / "ablation.csv").open() as file:
        numbers = [row[2:4] for row in csv.reader(file)]
    assert numbers[1:] == [["20.000", ""], ["15.000", "7.071"], ["2.000", ""]]
    (tmp_path / "MERU_1" / "test.json").write_text('{"text_to_image/image/recall@1": NaN}')
    missing = ablation.gaps(columns, ablation.read_table(rows)[0], reference="MERU")
    assert "columns: 'R@1': no run of MERU has a finite figure text_to_image/image/recall@1" in missing


@pytest.mark.parametrize("before", [None, "estimate", 48])
@pytest.mark.parametrize("now", [None, "estimate", 48])
def test_the_number_of_classes_asked_for_is_compared_not_the_one_found(before, now, tmp_path):
    saved = {"discovery": {"num_classes": 48, "asked_num_classes": before}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(saved))
    run = ablation_queue.Run("HypGCD", 0, tmp_path, [], {"discovery": {"num_classes": now}})
    if before == now:
        ablation_plan.check_unchanged(run)
    else:
        with pytest.raises(UserError, match=f"discovery.num_classes={before}, which would now be {now}"):
            ablation_plan.check_unchanged(run)
