"""Reports of runs: of any kind and version, finished or not, with files missing or damaged."""

import json
import re
import shutil
import tarfile

import pytest
from PIL import Image

from meru.errors import UserError
from meru.files import PROJECT
from meru.runs.record import read_clusters, read_curves, read_record
from meru.runs.report import report, write_report

OLDER = PROJECT / "tests" / "golden" / "runs"
SAFELY = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
KEY, EVIL = "text_to_image/class/recall@1", "<script>alert(1)</script>"


def write_run(folder, *, name="cub_meru", seed=0, share=0.2, finished=True, **settings):
    folder.mkdir(parents=True)
    keys = {"name": name, "seed": seed, "folder": str(folder), **settings}
    (folder / "config.yaml").write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in keys.items()))
    lines = [{"step": step, "loss": 3.0 / step, "curvature": 1.0} for step in (1, 2, 3)]
    lines.append({"step": 3, f"validation/{KEY}": share / 2, "validation/text_to_image/class/chance_recall@1": 0.01})
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    if finished:
        figures = {KEY: share, "text_to_image/class/chance_recall@1": 0.01}
        (folder / "test.json").write_text(json.dumps(figures))
    return folder


def words_of(text):
    """What a reader sees in English, one space between the cells."""
    text = re.sub(r'<span lang="zh">.*?</span>|<style>.*?</style>', "", text, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", text).split())


@pytest.mark.parametrize("name", ["image_text", "patches", "gahr", "discovery"])
def test_a_run_of_an_older_version_has_a_report(name, tmp_path):
    with tarfile.open(OLDER / f"{name}.tar.xz") as archive:
        archive.extractall(tmp_path, **SAFELY)
    path = write_report(str(tmp_path / name))
    text = words_of(path.read_text(encoding="utf-8"))
    assert path == tmp_path / name / "report.html"
    assert "chance" in text and "loss/" in text and "trainer.epochs 1 default 20" in text


def test_seeds_are_averaged_and_models_stand_side_by_side(tmp_path):
    runs = [write_run(tmp_path / f"a{seed}", seed=seed, share=0.1 * seed) for seed in (1, 2, 3)]
    runs.append(write_run(tmp_path / "b", name="cub_clip", share=0.5))
    path = write_report(",".join(map(str, runs)))
    assert path == tmp_path / "report.html"
    text = words_of(path.read_text(encoding="utf-8"))
    assert "cub_meru 3 seeds cub_clip text→image class R@1 20.0 ± 10.0 chance 1.0 50.0 chance 1.0" in text


def test_runs_of_one_name_are_told_apart_by_what_differs(tmp_path):
    for number, rate in enumerate((0.1, 0.2)):
        write_run(tmp_path / str(number), optim={"learning_rate": rate})
    text = words_of(write_report(str(tmp_path / "*")).read_text(encoding="utf-8"))
    assert "cub_meru (learning_rate=0.1)" in text and "cub_meru (learning_rate=0.2)" in text
    assert "optim.learning_rate 0.1 0.2" in text


def test_an_unfinished_run_shows_its_last_validation(tmp_path):
    run = write_run(tmp_path / "run", finished=False)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "loss": NaN}\n{"step": 5, "lo')  # killed while it wrote
    text = words_of(report([read_record(run)]))
    assert "the run is not finished" in text
    assert "the last validation cub_meru text→image class R@1 10.0 chance 1.0" in text


@pytest.mark.parametrize("damage", [b"", b"\xff\xfe\x00{", b"[1]", b"{}", b'{"a": "b"}', b"[" * 100_000])
def test_files_that_are_damaged_are_left_out(damage, tmp_path):
    run = write_run(tmp_path / "run")
    (run / "tree").mkdir()
    for file in ("test.json", "metrics.jsonl", "duration.json", "environment.json", "clusters.csv", "tree/a.png"):
        (run / file).write_bytes(damage)
    assert "cub_meru" in words_of(report([read_record(run)]))


def test_a_folder_with_its_configuration_only_has_a_report(tmp_path):
    run = write_run(tmp_path / "run", finished=False)
    (run / "metrics.jsonl").unlink()
    text = words_of(report([read_record(run)]))
    assert "There are no figures yet." in text and "Nothing was logged." in text


def test_names_from_run_folders_cannot_become_elements(tmp_path):
    run = write_run(tmp_path / EVIL.replace("/", "-"), name=EVIL, note=EVIL, **{EVIL: EVIL})
    for file in ("test.json", "metrics.jsonl"):
        line = {"step": 1, f"loss/{EVIL}": 1.0} if file == "metrics.jsonl" else {KEY: 0.5, EVIL: 0.5}
        (run / file).write_text(json.dumps(line))
    (run / "environment.json").write_text(json.dumps({EVIL: EVIL}))
    (run / "clusters.csv").write_text(f"image,predicted,confidence,labelled,class,split\na,{EVIL},{EVIL},no,{EVIL},x\n")
    for folder in ("attention", "tree"):
        (run / folder).mkdir()
        Image.new("RGB", (4, 4)).save(run / folder / f"{EVIL.replace('/', '-')}.png")
    text = report([read_record(run)])
    assert "<script" not in text and text.count("&lt;script&gt;") > 10


def test_clusters_are_summed_up(tmp_path):
    path = tmp_path / "clusters.csv"
    rows = ["a,duck,0.5,yes,duck,train", "b,duck,0.7,no,gull,train", "c,duck,,no,duck,test", "d,new 1,x,no,,test"]
    path.write_text("\n".join(["image,predicted,confidence,labelled,class,split", *rows]))
    duck, new = read_clusters(path)
    assert duck[:3] == ("duck", 3, 1) and duck.confidence == pytest.approx(0.6)
    assert (duck.class_name, duck.share) == ("duck", pytest.approx(2 / 3))
    assert new == ("new 1", 1, 0, None, None, 0.0)


def test_pictures_are_limited_and_the_rest_is_counted(tmp_path):
    run = write_run(tmp_path / "run")
    (run / "attention").mkdir()
    for number in range(11):
        Image.new("RGB", (4, 4)).save(run / "attention" / f"{number:02d}.png")
    text = report([read_record(run)])
    assert text.count("<img") == 8 and "3 more in" in text and 'alt="Where words attend, 00"' in text


def test_a_resumed_run_counts_every_step_once(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 2, "loss": 1}\n{"step": 1, "loss": 5}\n{"step": 2, "loss": 3, "odd": true}\n7\n')
    assert read_curves(path) == {"loss": [(1, 5), (2, 3)]}


@pytest.mark.parametrize("run", ["{here}/none", "{here}", "{here}/x*", "{here}/run,{here}/none"])
def test_what_is_no_run_folder_is_refused(run, tmp_path):
    write_run(tmp_path / "run")
    with pytest.raises(UserError, match="no run folder has this name"):
        write_report(run.format(here=tmp_path))


def test_a_damaged_configuration_and_a_wrong_output_are_refused(tmp_path):
    run = write_run(tmp_path / "run")
    with pytest.raises(UserError, match="written as HTML"):
        write_report(str(run), output=str(tmp_path / "report.pdf"))
    with pytest.raises(UserError, match="lang=fr: choose one of en, zh"):
        write_report(str(run), lang="fr")
    broken = shutil.copytree(run, tmp_path / "broken")
    (broken / "config.yaml").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        write_report(str(broken))
    assert not list(tmp_path.rglob("report.*"))
